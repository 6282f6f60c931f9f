/* SPDX-License-Identifier: Apache-2.0
 *
 * Files are written beside their place and renamed into it. See history.h.
 */
#include "control/policy/history.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "control/policy/policy.h"

#define FORCE_NAME "in-force"
#define HEAD_MAX   640u

struct history {
    int dir;
    uint64_t last, in_force;
    uint32_t count;
    struct revision v[HISTORY_KEPT + 1];
};

struct file_name {
    char text[32];
};

static struct file_name name_of(uint64_t number) {
    struct file_name n;
    (void)snprintf(n.text, sizeof n.text, "%" PRIu64 ".yaml", number);
    return n;
}

/* ---- files ---- */

static int write_all(int fd, const char *bytes, size_t size) {
    for (size_t at = 0; at < size;) {
        ssize_t n = write(fd, bytes + at, size - at);
        if (n < 0 && errno != EINTR)
            return -errno;
        at += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* `head` and `text` become the file, at once. */
static int file_put(const struct history *h, const char *name, const char *head, const char *text, size_t size) {
    char temporary[48];
    (void)snprintf(temporary, sizeof temporary, "%s.new", name);
    int fd = openat(h->dir, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int error = write_all(fd, head, strlen(head));
    if (error == 0)
        error = write_all(fd, text, size);
    if (error == 0 && fsync(fd) != 0)
        error = -errno;
    (void)close(fd);
    if (error == 0 && renameat(h->dir, temporary, h->dir, name) != 0)
        error = -errno;
    if (error == 0 && fsync(h->dir) != 0)
        error = -errno;
    if (error != 0)
        (void)unlinkat(h->dir, temporary, 0);
    return error;
}

/* With a NUL behind the bytes; to be freed. */
static int file_get(const struct history *h, const char *name, char **ret_text, size_t *ret_size) {
    struct stat st;
    int fd = openat(h->dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    int error = fstat(fd, &st) != 0 ? -errno : 0;
    if (error == 0 && (!S_ISREG(st.st_mode) || st.st_size > (off_t)(POLICY_TEXT_MAX + HEAD_MAX)))
        error = -EBADMSG;
    char *text = error == 0 ? malloc((size_t)st.st_size + 1) : NULL;
    size_t size = 0;
    ssize_t n = 1;
    while (text != NULL && n > 0 && size < (size_t)st.st_size) {
        n = read(fd, text + size, (size_t)st.st_size - size);
        size += n > 0 ? (size_t)n : 0;
    }
    (void)close(fd);
    if (text == NULL)
        return error != 0 ? error : -ENOMEM;
    text[size] = '\0';
    *ret_text = text;
    *ret_size = size;
    return 0;
}

/* ---- heads ---- */

static void one_line(char *to, size_t size, const char *from) {
    size_t n = 0;
    for (; from[n] != '\0' && n + 1 < size; n++)
        to[n] = (uint8_t)from[n] < 0x20 || from[n] == 0x7f ? ' ' : from[n];
    to[n] = '\0';
}

static void head_print(char head[HEAD_MAX], const struct revision *r) {
    (void)snprintf(head, HEAD_MAX,
                   "# usher policy revision %" PRIu64 "\n# unix_ns %" PRIu64 "\n# bytes %" PRIu64 "\n# rules %" PRIu32
                   "\n# by %s\n# note %s\n",
                   r->number, r->unix_ns, r->size, r->rules, r->by, r->note);
}

/* The rest of the line after `words`; NULL when the line is another. Steps over it. */
static bool line_take(const char **at, const char *words, char *ret, size_t size) {
    size_t n = strlen(words);
    const char *end = strchr(*at, '\n');
    if (end == NULL || strncmp(*at, words, n) != 0)
        return false;
    size_t len = (size_t)(end - *at) - n;
    len = len < size - 1 ? len : size - 1;
    memcpy(ret, *at + n, len);
    ret[len] = '\0';
    *at = end + 1;
    return true;
}

static bool number_take(const char **at, const char *words, uint64_t *ret) {
    char text[32], *end;
    if (!line_take(at, words, text, sizeof text))
        return false;
    *ret = strtoull(text, &end, 10);
    return text[0] != '\0' && *end == '\0';
}

/* Where the text begins, NULL when this is no whole revision. */
static const char *head_read(const char *file, size_t size, struct revision *r) {
    const char *at = file;
    uint64_t rules = 0;
    if (!number_take(&at, "# usher policy revision ", &r->number) || !number_take(&at, "# unix_ns ", &r->unix_ns) ||
        !number_take(&at, "# bytes ", &r->size) || !number_take(&at, "# rules ", &rules) ||
        !line_take(&at, "# by ", r->by, sizeof r->by) || !line_take(&at, "# note ", r->note, sizeof r->note))
        return NULL;
    r->rules = (uint32_t)rules;
    return r->number != 0 && size - (size_t)(at - file) == r->size ? at : NULL;
}

/* ---- the list ---- */

static int order(const void *a, const void *b) {
    const struct revision *x = a, *y = b;
    return (x->number > y->number) - (x->number < y->number);
}

static void forget(struct history *h, uint32_t i) {
    (void)unlinkat(h->dir, name_of(h->v[i].number).text, 0);
    h->count--;
    memmove(&h->v[i], &h->v[i + 1], (h->count - i) * sizeof h->v[0]);
}

static void remember(struct history *h, const struct revision *r) {
    h->v[h->count++] = *r;
    qsort(h->v, h->count, sizeof h->v[0], order);
    h->last = r->number > h->last ? r->number : h->last;
    if (h->count > HISTORY_KEPT)
        forget(h, h->v[0].number == h->in_force ? 1 : 0);
}

static void load_one(struct history *h, const char *name) {
    struct revision r;
    char *text;
    size_t size;
    const char *dot = strchr(name, '.');
    if (dot == NULL || strcmp(dot, ".yaml") != 0 || file_get(h, name, &text, &size) != 0)
        return;
    if (head_read(text, size, &r) != NULL && strcmp(name_of(r.number).text, name) == 0)
        remember(h, &r);
    free(text);
}

static int load_all(struct history *h) {
    char *text;
    size_t size;
    if (file_get(h, FORCE_NAME, &text, &size) == 0) {
        h->in_force = strtoull(text, NULL, 10);
        free(text);
    }
    DIR *d = fdopendir(dup(h->dir));
    if (d == NULL)
        return -errno;
    for (struct dirent *e = readdir(d); e != NULL; e = readdir(d))
        load_one(h, e->d_name);
    (void)closedir(d);
    if (h->in_force > h->last)
        h->last = h->in_force;
    return 0;
}

int history_open(const char *folder, struct history **ret_history) {
    if (mkdir(folder, 0700) != 0 && errno != EEXIST)
        return -errno;
    struct history *h = calloc(1, sizeof *h);
    if (h == NULL)
        return -ENOMEM;
    h->dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int error = h->dir < 0 ? -errno : load_all(h);
    if (error != 0) {
        history_close(h);
        return error;
    }
    *ret_history = h;
    return 0;
}

void history_close(struct history *h) {
    if (h == NULL)
        return;
    if (h->dir >= 0)
        (void)close(h->dir);
    free(h);
}

int history_add(struct history *h, const struct revision *what, const char *text, size_t size, uint64_t *ret_number) {
    char head[HEAD_MAX];
    struct timespec now;
    struct revision r = {.number = h->last + 1, .size = size, .rules = what->rules};
    (void)clock_gettime(CLOCK_REALTIME, &now);
    r.unix_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    one_line(r.by, sizeof r.by, what->by);
    one_line(r.note, sizeof r.note, what->note);
    head_print(head, &r);
    int error = file_put(h, name_of(r.number).text, head, text, size);
    if (error != 0)
        return error;
    remember(h, &r);
    *ret_number = r.number;
    return 0;
}

void history_drop(struct history *h, uint64_t number) {
    const struct revision *r = history_find(h, number);
    if (r != NULL && number != h->in_force)
        forget(h, (uint32_t)(r - h->v));
}

uint64_t history_in_force(const struct history *h) {
    return h->in_force;
}

int history_force(struct history *h, uint64_t number) {
    char text[32];
    if (history_find(h, number) == NULL)
        return -ENOENT;
    int n = snprintf(text, sizeof text, "%" PRIu64 "\n", number);
    int error = file_put(h, FORCE_NAME, "", text, (size_t)n);
    if (error == 0)
        h->in_force = number;
    return error;
}

const struct revision *history_find(const struct history *h, uint64_t number) {
    const struct revision wanted = {.number = number};
    return bsearch(&wanted, h->v, h->count, sizeof h->v[0], order);
}

const struct revision *history_at(const struct history *h, uint32_t i) {
    return i < h->count ? &h->v[i] : NULL;
}

int history_text(const struct history *h, uint64_t number, char **ret_text, size_t *ret_size) {
    struct revision r;
    char *file;
    size_t size;
    int error = file_get(h, name_of(number).text, &file, &size);
    if (error != 0)
        return error;
    const char *text = head_read(file, size, &r);
    if (text == NULL) {
        free(file);
        return -EBADMSG;
    }
    memmove(file, text, r.size + 1);
    *ret_text = file;
    *ret_size = r.size;
    return 0;
}
