/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads owners from /proc and interns them. All reads go through one directory fd of /proc/PID, which stays bound to
 * the process it was opened for; a look at the pidfd afterwards proves that this was the right one.
 */
#include "control/identity/owner.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROC_FILE_MAX 4096
#define NIL           UINT32_MAX

/* Reads a small /proc file as a string. Bytes read or -errno. */
static ssize_t read_at(int dir, const char *name, char *ret_text, size_t size) {
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    size_t used = 0;
    while (used < size - 1) {
        ssize_t n = read(fd, ret_text + used, size - 1 - used);
        if (n <= 0)
            break;
        used += (size_t)n;
    }
    (void)close(fd);
    ret_text[used] = '\0';
    return used > 0 ? (ssize_t)used : -ESRCH;
}

static const char *line_of(const char *text, const char *key) {
    const char *p = strstr(text, key);
    return p != NULL ? p + strlen(key) : NULL;
}

static int by_number(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void read_groups(const char *p, struct owner *o) {
    while (o->group_count < OWNER_GROUP_MAX) {
        char *end;
        unsigned long g = strtoul(p, &end, 10);
        /* strtoul steps over the line's end; the number after it would be another line's. */
        if (end == p || memchr(p, '\n', (size_t)(end - p)) != NULL)
            break;
        o->groups[o->group_count++] = (uint32_t)g;
        p = end;
    }
    qsort(o->groups, o->group_count, sizeof o->groups[0], by_number);
}

static int read_status(int dir, struct owner *o) {
    char text[PROC_FILE_MAX];
    ssize_t n = read_at(dir, "status", text, sizeof text);
    if (n < 0)
        return (int)n;
    const char *uid = line_of(text, "\nUid:"), *gid = line_of(text, "\nGid:"), *groups = line_of(text, "\nGroups:");
    if (uid == NULL || gid == NULL || sscanf(uid, "%*u %*u %*u %" SCNu32, &o->uid) != 1 ||
        sscanf(gid, "%*u %*u %*u %" SCNu32, &o->gid) != 1)
        return -EPROTO;
    if (groups != NULL)
        read_groups(groups, o);
    return 0;
}

/* pid (comm) state ppid ... starttime is field 22. comm may hold anything, so count from its last bracket. */
static int read_stat(int dir, struct owner *o) {
    char text[PROC_FILE_MAX];
    ssize_t n = read_at(dir, "stat", text, sizeof text);
    if (n < 0)
        return (int)n;
    char *open = strchr(text, '('), *close_bracket = strrchr(text, ')');
    if (open == NULL || close_bracket == NULL || close_bracket < open)
        return -EPROTO;
    (void)snprintf(o->comm, sizeof o->comm, "%.*s", (int)(close_bracket - open - 1), open + 1);
    const char *p = close_bracket + 1;
    for (int field = 3; field < 22 && p != NULL; field++)
        p = strchr(p + 1, ' ');
    return p != NULL && sscanf(p, "%" SCNu64, &o->start_time) == 1 ? 0 : -EPROTO;
}

static int read_exe(int dir, struct owner *o) {
    struct stat st;
    if (fstatat(dir, "exe", &st, 0) != 0)
        return -errno;
    o->exe_dev = st.st_dev;
    o->exe_ino = st.st_ino;
    char path[sizeof o->exe];
    ssize_t n = readlinkat(dir, "exe", path, sizeof path - 1);
    if (n > 0)
        memcpy(o->exe, path, (size_t)n);
    return 0;
}

static void read_cgroup(int dir, struct owner *o) {
    char text[PROC_FILE_MAX];
    if (read_at(dir, "cgroup", text, sizeof text) < 0)
        return;
    const char *p = strncmp(text, "0::", 3) == 0 ? text + 3 : line_of(text, "\n0::");
    if (p != NULL)
        (void)snprintf(o->cgroup, sizeof o->cgroup, "%.*s", (int)strcspn(p, "\n"), p);
}

static bool has_ended(int pidfd) {
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    return poll(&p, 1, 0) != 0;
}

int owner_read(pid_t pid, int pidfd, struct owner *ret_owner) {
    char path[32];
    (void)snprintf(path, sizeof path, "/proc/%d", (int)pid);
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return -ESRCH;
    struct owner o;
    memset(&o, 0, sizeof o); /* entries are compared as bytes */
    o.pid = (uint32_t)pid;
    int err = read_status(dir, &o);
    if (err == 0)
        err = read_stat(dir, &o);
    if (err == 0)
        err = read_exe(dir, &o);
    read_cgroup(dir, &o);
    (void)close(dir);
    if (has_ended(pidfd))
        return -ESRCH;
    if (err == 0)
        *ret_owner = o;
    return err;
}

struct entry {
    struct owner owner;
    uint32_t refs;
    uint32_t next; /* of the free queue, or of the hash chain */
    uint32_t hash;
};

/* Only owner_copy() comes from other threads: it and whoever changes an entry hold the lock. */
struct owner_table {
    pthread_mutex_t lock;
    struct entry *entries; /* 0 is never used */
    uint32_t *buckets;
    uint32_t max, bucket_mask, count;
    uint32_t free_first, free_last; /* a queue, so that an index rests as long as possible */
};

int owner_table_create(uint32_t max, struct owner_table **ret_table) {
    uint32_t buckets = 16;
    while (buckets < max)
        buckets *= 2;
    struct owner_table *t = calloc(1, sizeof *t);
    if (t == NULL)
        return -ENOMEM;
    (void)pthread_mutex_init(&t->lock, NULL);
    t->entries = calloc((size_t)max + 1, sizeof *t->entries);
    t->buckets = malloc(buckets * sizeof *t->buckets);
    if (t->entries == NULL || t->buckets == NULL) {
        owner_table_destroy(t);
        return -ENOMEM;
    }
    memset(t->buckets, 0xff, buckets * sizeof *t->buckets);
    t->max = max;
    t->bucket_mask = buckets - 1;
    t->free_first = 1;
    t->free_last = max;
    for (uint32_t i = 1; i <= max; i++)
        t->entries[i].next = i < max ? i + 1 : NIL;
    *ret_table = t;
    return 0;
}

void owner_table_destroy(struct owner_table *t) {
    if (t == NULL)
        return;
    (void)pthread_mutex_destroy(&t->lock);
    free(t->entries);
    free(t->buckets);
    free(t);
}

bool owner_same_rights(const struct owner *a, const struct owner *b) {
    return a->uid == b->uid && a->gid == b->gid && a->exe_dev == b->exe_dev && a->exe_ino == b->exe_ino &&
           a->group_count == b->group_count &&
           memcmp(a->groups, b->groups, a->group_count * sizeof a->groups[0]) == 0 && strcmp(a->cgroup, b->cgroup) == 0;
}

static uint32_t owner_hash(const struct owner *o) {
    uint64_t h = o->pid * 0x9e3779b97f4a7c15ull ^ o->start_time * 0xbf58476d1ce4e5b9ull ^ o->exe_ino;
    h = (h ^ o->uid) * 0x94d049bb133111ebull;
    return (uint32_t)(h >> 32);
}

int owner_intern(struct owner_table *t, const struct owner *o, uint32_t *ret_index) {
    uint32_t hash = owner_hash(o);
    uint32_t *bucket = &t->buckets[hash & t->bucket_mask];
    for (uint32_t i = *bucket; i != NIL; i = t->entries[i].next) {
        if (memcmp(&t->entries[i].owner, o, sizeof *o) == 0) {
            t->entries[i].refs++;
            *ret_index = i;
            return 0;
        }
    }
    uint32_t index = t->free_first;
    if (index == NIL)
        return -ENOSPC;
    struct entry *e = &t->entries[index];
    t->free_first = e->next;
    if (t->free_first == NIL)
        t->free_last = NIL;
    (void)pthread_mutex_lock(&t->lock);
    *e = (struct entry){.owner = *o, .refs = 1, .hash = hash, .next = *bucket};
    (void)pthread_mutex_unlock(&t->lock);
    *bucket = index;
    t->count++;
    *ret_index = index;
    return 0;
}

void owner_hold(struct owner_table *t, uint32_t index) {
    if (owner_get(t, index) != NULL)
        t->entries[index].refs++;
}

void owner_release(struct owner_table *t, uint32_t index) {
    if (owner_get(t, index) == NULL || --t->entries[index].refs > 0)
        return;
    uint32_t *link = &t->buckets[t->entries[index].hash & t->bucket_mask];
    while (*link != index)
        link = &t->entries[*link].next;
    *link = t->entries[index].next;
    t->entries[index].next = NIL;
    if (t->free_last == NIL)
        t->free_first = index;
    else
        t->entries[t->free_last].next = index;
    t->free_last = index;
    t->count--;
}

const struct owner *owner_get(const struct owner_table *t, uint32_t index) {
    if (index == 0 || index > t->max || t->entries[index].refs == 0)
        return NULL;
    return &t->entries[index].owner;
}

bool owner_copy(struct owner_table *t, uint32_t index, struct owner *ret_owner) {
    if (index == 0 || index > t->max)
        return false;
    (void)pthread_mutex_lock(&t->lock);
    *ret_owner = t->entries[index].owner; /* also one that was released: its packets are still under way */
    (void)pthread_mutex_unlock(&t->lock);
    return ret_owner->pid != 0;
}

uint32_t owner_table_count(const struct owner_table *t) {
    return t->count;
}
