/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel's list is text ("8080,9148-9150"); here it is a bit map, so that lists can be joined and parted.
 */
#include "control/reserved.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/state/state.h"

#define LIST_PATH "/proc/sys/net/ipv4/ip_local_reserved_ports"
#define PORTS     65536u
#define TEXT_MAX  (PORTS * 4u) /* no list is longer: every other port, five digits and a comma each */

struct port_set {
    bool has[PORTS];
};

static bool number_read(const char **at, uint32_t *ret_port) {
    char *end;
    unsigned long v = strtoul(*at, &end, 10);
    if (end == *at || v >= PORTS)
        return false;
    *at = end;
    *ret_port = (uint32_t)v;
    return true;
}

static int set_read(const char *text, struct port_set *ret_set) {
    uint32_t low, high;
    memset(ret_set, 0, sizeof *ret_set);
    while (*text != '\0' && *text != '\n') {
        if (!number_read(&text, &low))
            return -EBADMSG;
        high = low;
        if (*text == '-' && (text++, !number_read(&text, &high)))
            return -EBADMSG;
        for (; low <= high; low++)
            ret_set->has[low] = true;
        text += *text == ',';
    }
    return 0;
}

static void set_print(const struct port_set *set, char *ret_text) {
    size_t used = 0;
    ret_text[0] = '\0';
    for (uint32_t port = 0, end; port < PORTS; port = end) {
        for (end = port; end < PORTS && set->has[end];)
            end++;
        if (end == port) {
            end++;
            continue;
        }
        used += (size_t)snprintf(ret_text + used, TEXT_MAX - used, "%s%u", used > 0 ? "," : "", port);
        if (end - port > 1)
            used += (size_t)snprintf(ret_text + used, TEXT_MAX - used, "-%u", end - 1);
    }
}

static int list_read(char *ret_text) {
    int fd = open(LIST_PATH, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    size_t used = 0;
    ssize_t n;
    while ((n = read(fd, ret_text + used, TEXT_MAX - 1 - used)) > 0)
        used += (size_t)n;
    ret_text[used] = '\0';
    ret_text[strcspn(ret_text, "\n")] = '\0';
    (void)close(fd);
    return n < 0 ? -errno : 0;
}

/* In one call: the kernel takes each write for a whole list. */
static int list_write(const char *text) {
    int fd = open(LIST_PATH, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    const char *words = text[0] != '\0' ? text : "\n"; /* nothing at all would change nothing */
    ssize_t len = (ssize_t)strlen(words), n = write(fd, words, (size_t)len);
    int err = n == len ? 0 : n < 0 ? -errno : -EIO;
    (void)close(fd);
    return err;
}

struct lists {
    char text[TEXT_MAX], wanted[TEXT_MAX];
    struct port_set now, before, after;
};

static int take(struct lists *l, struct state_file *state, uint16_t low, uint16_t high) {
    int err = list_read(l->text);
    if (err == 0)
        err = set_read(l->text, &l->now);
    if (err != 0)
        return err;
    for (uint32_t port = low; port <= high; port++)
        l->now.has[port] = true;
    set_print(&l->now, l->wanted);
    if (strcmp(l->wanted, l->text) == 0)
        return 0; /* the administrator did it */
    err = state_reserved_note(state, l->text, l->wanted);
    if (err == 0)
        err = list_write(l->wanted);
    if (err != 0)
        state_reserved_forget(state);
    return err;
}

int reserved_take(struct state_file *state, uint16_t low, uint16_t high) {
    struct lists *l = malloc(sizeof *l);
    if (l == NULL)
        return -ENOMEM;
    int err = take(l, state, low, high);
    free(l);
    return err;
}

static int undo(struct lists *l, const char *before, const char *after) {
    int err = set_read(before, &l->before);
    if (err == 0)
        err = set_read(after, &l->after);
    if (err == 0)
        err = list_read(l->text);
    if (err == 0)
        err = set_read(l->text, &l->now);
    if (err != 0)
        return err;
    for (uint32_t port = 0; port < PORTS; port++)
        l->now.has[port] &= !l->after.has[port] || l->before.has[port];
    set_print(&l->now, l->wanted);
    return strcmp(l->wanted, l->text) == 0 ? 0 : list_write(l->wanted);
}

int reserved_undo(const char *before, const char *after) {
    struct lists *l = malloc(sizeof *l);
    if (l == NULL)
        return -ENOMEM;
    int err = undo(l, before, after);
    free(l);
    return err;
}

void reserved_give(struct state_file *state) {
    const char *before, *after;
    if (state_reserved(state, &before, &after) && reserved_undo(before, after) == 0)
        state_reserved_forget(state);
}
