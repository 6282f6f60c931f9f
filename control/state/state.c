/* SPDX-License-Identifier: Apache-2.0
 *
 * A few lines of text, rewritten whole into a second file and renamed over the first. Interface numbers mean nothing
 * after a reboot and nothing when the interface was made anew, so boot and interface name are noted as well.
 */
#include "control/state/state.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define QDISC_MAX 64
#define BOOT_ID   37
#define HEAD      "usher-state 1 "

struct qdisc {
    uint32_t ifindex;
    char name[IF_NAMESIZE];
};

struct state_file {
    int dir_fd, lock_fd;
    char name[48], lock_name[48];
    char boot[BOOT_ID];
    struct qdisc qdiscs[QDISC_MAX];
    uint32_t count;
    char *reserved_before, *reserved_after; /* NULL = not noted */
};

static int boot_read(char boot[BOOT_ID]) {
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (f == NULL)
        return -errno;
    bool good = fscanf(f, "%36s", boot) == 1;
    (void)fclose(f);
    return good ? 0 : -EIO;
}

static bool file_print(const struct state_file *s, FILE *f) {
    bool good = fprintf(f, HEAD "%s\n", s->boot) > 0;
    for (uint32_t i = 0; i < s->count; i++)
        good &= fprintf(f, "qdisc %u %s\n", s->qdiscs[i].ifindex, s->qdiscs[i].name) > 0;
    if (s->reserved_after != NULL)
        good &= fprintf(f, "reserved %s %s\n", s->reserved_before, s->reserved_after) > 0;
    return good && fflush(f) == 0 && fsync(fileno(f)) == 0;
}

static int file_write(const struct state_file *s) {
    char temporary[64];
    (void)snprintf(temporary, sizeof temporary, "%s.new", s->name);
    int fd = openat(s->dir_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (f == NULL) {
        int err = -errno;
        if (fd >= 0)
            (void)close(fd);
        return err;
    }
    bool good = file_print(s, f);
    good &= fclose(f) == 0;
    if (!good || renameat(s->dir_fd, temporary, s->dir_fd, s->name) != 0)
        return -EIO;
    return fsync(s->dir_fd) == 0 ? 0 : -errno;
}

static void qdisc_add(struct state_file *s, uint32_t ifindex, const char *name) {
    if (s->count == QDISC_MAX)
        return;
    struct qdisc *q = &s->qdiscs[s->count++];
    q->ifindex = ifindex;
    (void)snprintf(q->name, sizeof q->name, "%s", name);
}

static int reserved_set(struct state_file *s, const char *before, const char *after) {
    char *b = strdup(before[0] != '\0' ? before : "-"), *a = strdup(after); /* "-": a word for an empty list */
    if (b == NULL || a == NULL) {
        free(a);
        free(b);
        return -ENOMEM;
    }
    free(s->reserved_before);
    free(s->reserved_after);
    s->reserved_before = b;
    s->reserved_after = a;
    return 0;
}

static void line_read(struct state_file *s, char *line) {
    char name[IF_NAMESIZE];
    uint32_t ifindex;
    if (sscanf(line, "qdisc %" SCNu32 " %15s", &ifindex, name) == 2) {
        qdisc_add(s, ifindex, name);
        return;
    }
    char *rest = NULL, *word = strtok_r(line, " \n", &rest);
    const char *before = strtok_r(NULL, " \n", &rest), *after = strtok_r(NULL, " \n", &rest);
    if (word != NULL && strcmp(word, "reserved") == 0 && after != NULL)
        (void)reserved_set(s, before, after);
}

/* Lines that are not understood are passed over: better to leave a thing than to remove somebody else's. */
static void file_read(struct state_file *s) {
    char *line = NULL, boot[BOOT_ID] = "";
    size_t size = 0;
    int fd = openat(s->dir_fd, s->name, O_RDONLY | O_CLOEXEC);
    FILE *f = fd >= 0 ? fdopen(fd, "r") : NULL;
    if (f == NULL) {
        if (fd >= 0)
            (void)close(fd);
        return;
    }
    bool same_boot = getline(&line, &size, f) > 0 && sscanf(line, HEAD "%36s", boot) == 1 && strcmp(boot, s->boot) == 0;
    while (same_boot && getline(&line, &size, f) > 0)
        line_read(s, line);
    free(line);
    (void)fclose(f);
}

static void reserved_clear(struct state_file *s) {
    free(s->reserved_before);
    free(s->reserved_after);
    s->reserved_before = s->reserved_after = NULL;
}

bool state_reserved(const struct state_file *s, const char **ret_before, const char **ret_after) {
    if (s->reserved_after == NULL)
        return false;
    *ret_before = strcmp(s->reserved_before, "-") == 0 ? "" : s->reserved_before;
    *ret_after = s->reserved_after;
    return true;
}

static uint32_t undo_all(struct state_file *s, const struct state_undo *undo) {
    uint32_t undone = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        /* An interface of that number but another name is another interface. */
        if (if_nametoindex(s->qdiscs[i].name) == s->qdiscs[i].ifindex)
            undone += undo->qdisc(s->qdiscs[i].ifindex) == 0;
    }
    s->count = 0;
    const char *before, *after;
    if (state_reserved(s, &before, &after))
        undone += undo->reserved(before, after) == 0;
    reserved_clear(s);
    return undone;
}

static int dir_open(const char *dir) {
    if (mkdir(dir, 0755) != 0 && errno != EEXIST)
        return -errno;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd >= 0 ? fd : -errno;
}

static int lock_take(struct state_file *s) {
    s->lock_fd = openat(s->dir_fd, s->lock_name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->lock_fd < 0)
        return -errno;
    return flock(s->lock_fd, LOCK_EX | LOCK_NB) == 0 ? 0 : errno == EWOULDBLOCK ? -EBUSY : -errno;
}

int state_open(const char *dir, uint64_t netns_cookie, const struct state_undo *undo, struct state_file **ret_state,
               uint32_t *ret_undone) {
    struct state_file *s = calloc(1, sizeof *s);
    if (s == NULL)
        return -ENOMEM;
    s->lock_fd = -1;
    (void)snprintf(s->name, sizeof s->name, "netns-%" PRIu64 ".state", netns_cookie);
    (void)snprintf(s->lock_name, sizeof s->lock_name, "netns-%" PRIu64 ".lock", netns_cookie);
    int err = boot_read(s->boot);
    s->dir_fd = err == 0 ? dir_open(dir) : err;
    err = s->dir_fd < 0 ? s->dir_fd : lock_take(s);
    if (err == 0) {
        file_read(s);
        *ret_undone = undo_all(s, undo);
        err = file_write(s);
    }
    if (err != 0) {
        if (s->dir_fd >= 0)
            (void)close(s->dir_fd);
        if (s->lock_fd >= 0)
            (void)close(s->lock_fd);
        reserved_clear(s);
        free(s);
        return err;
    }
    *ret_state = s;
    return 0;
}

void state_close(struct state_file *s) {
    if (s == NULL)
        return;
    /* The lock's file stays: removing it would let two daemons lock two files of one name. */
    if (s->count == 0 && s->reserved_after == NULL)
        (void)unlinkat(s->dir_fd, s->name, 0);
    (void)close(s->lock_fd);
    (void)close(s->dir_fd);
    reserved_clear(s);
    free(s);
}

static struct qdisc *qdisc_find(struct state_file *s, uint32_t ifindex) {
    for (uint32_t i = 0; i < s->count; i++) {
        if (s->qdiscs[i].ifindex == ifindex)
            return &s->qdiscs[i];
    }
    return NULL;
}

int state_qdisc_note(struct state_file *s, uint32_t ifindex) {
    char name[IF_NAMESIZE];
    if (qdisc_find(s, ifindex) != NULL)
        return 0;
    if (if_indextoname(ifindex, name) == NULL)
        return -ENODEV;
    if (s->count == QDISC_MAX)
        return -ENOSPC;
    qdisc_add(s, ifindex, name);
    int err = file_write(s);
    if (err != 0)
        s->count--;
    return err;
}

void state_qdisc_forget(struct state_file *s, uint32_t ifindex) {
    struct qdisc *q = qdisc_find(s, ifindex);
    if (q == NULL)
        return;
    *q = s->qdiscs[--s->count];
    (void)file_write(s);
}

int state_reserved_note(struct state_file *s, const char *before, const char *after) {
    int err = reserved_set(s, before, after);
    if (err == 0)
        err = file_write(s);
    if (err != 0)
        reserved_clear(s);
    return err;
}

void state_reserved_forget(struct state_file *s) {
    if (s->reserved_after == NULL)
        return;
    reserved_clear(s);
    (void)file_write(s);
}
