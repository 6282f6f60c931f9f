/* SPDX-License-Identifier: Apache-2.0
 *
 * See sockets.h. An fd of another process is copied for the moment in which its cookie and addresses are read. Only
 * sockets are copied (closing a copy of another file may have effects), and fdinfo says which are: unlike /proc/PID/fd
 * it asks for CAP_SYS_PTRACE alone. A look replaces all that was known, so nothing grows old.
 */
#include "control/identity/sockets.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engines/check.h"
#include "engines/wire.h"

#define REST_TIMES  4u          /* a look is followed by a rest of so many times its own length ... */
#define REST_MIN_NS 1000000ull  /* ... and at least this */
#define WAIT_MAX_NS 50000000ull /* a sender is waited for so long at most */
#define GONE_NS     200000000ull
#define RECENT_MAX  256u
#define SOCKET_MAX  65536u
#define PROCESS_MAX 8192u

struct entry {
    uint64_t cookie;
    struct flow flow; /* proto 0 = neither TCP nor UDP */
    uint32_t process;
};

/* By cookie, direct-mapped. */
struct recent {
    uint64_t cookie;
    uint32_t entry;
};

/* A look did not find it: asking again would not help for a while (a connection may yet be accepted). */
struct gone {
    uint64_t cookie, until_ns;
};

struct socket_table {
    struct recent found[RECENT_MAX]; /* since the last look */
    struct gone gone[RECENT_MAX];
    struct entry *entries;
    uint32_t entry_count;
    struct owner *owners;
    uint32_t owner_count;
    uint64_t next_look_ns;
    unsigned mount; /* on which sockets lie */
};

int socket_table_create(struct socket_table **ret_table) {
    struct socket_table *t = calloc(1, sizeof *t);
    if (t == NULL)
        return -ENOMEM;
    *ret_table = t;
    return 0;
}

void socket_table_destroy(struct socket_table *t) {
    if (t == NULL)
        return;
    free(t->entries);
    free(t->owners);
    free(t);
}

/* ---- one socket ---- */

static bool address_take(const struct sockaddr_storage *from, struct ipaddr *ret_addr, uint16_t *ret_port) {
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)from;
        *ret_addr = ipaddr_from_v4(&in->sin_addr);
        *ret_port = be16_load(&in->sin_port);
        return true;
    }
    if (from->ss_family != AF_INET6)
        return false;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)from;
    *ret_addr = ipaddr_from_v6(&in6->sin6_addr);
    *ret_port = be16_load(&in6->sin6_port);
    return true;
}

static void flow_read(int fd, struct flow *ret_flow) {
    struct sockaddr_storage addr;
    socklen_t size = sizeof addr;
    int proto = 0;
    socklen_t proto_size = sizeof proto;
    memset(ret_flow, 0, sizeof *ret_flow);
    if (getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &proto, &proto_size) != 0 || (proto != PROTO_TCP && proto != PROTO_UDP))
        return;
    if (getsockname(fd, (struct sockaddr *)&addr, &size) != 0 ||
        !address_take(&addr, &ret_flow->local, &ret_flow->local_port))
        return;
    size = sizeof addr;
    if (getpeername(fd, (struct sockaddr *)&addr, &size) == 0)
        (void)address_take(&addr, &ret_flow->remote, &ret_flow->remote_port);
    ret_flow->proto = (uint8_t)proto;
}

static void socket_read(struct socket_table *t, int fd, uint32_t process) {
    struct entry *e = &t->entries[t->entry_count];
    socklen_t size = sizeof e->cookie;
    if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &e->cookie, &size) != 0)
        return;
    flow_read(fd, &e->flow);
    e->process = process;
    t->entry_count++;
}

/* ---- one process ---- */

/* All sockets lie on one mount of the kernel's; 0 = not to be read. */
static unsigned mount_read(int dir, const char *name) {
    char text[256];
    unsigned mount = 0;
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        (void)close(fd);
    if (n <= 0)
        return 0;
    text[n] = '\0';
    const char *at = strstr(text, "mnt_id:");
    return at != NULL && sscanf(at, "mnt_id: %u", &mount) == 1 ? mount : 0;
}

static unsigned sockets_mount(void) {
    char path[48];
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    (void)snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    unsigned mount = fd < 0 ? 0 : mount_read(AT_FDCWD, path);
    if (fd >= 0)
        (void)close(fd);
    return mount;
}

static void fds_read(struct socket_table *t, DIR *fds, int pidfd, uint32_t process) {
    for (const struct dirent *d; (d = readdir(fds)) != NULL && t->entry_count < SOCKET_MAX;) {
        if (!isdigit((unsigned char)d->d_name[0]) || mount_read(dirfd(fds), d->d_name) != t->mount)
            continue;
        int fd = (int)syscall(SYS_pidfd_getfd, pidfd, atoi(d->d_name), 0);
        if (fd < 0)
            continue;
        socket_read(t, fd, process);
        (void)close(fd);
    }
}

static void process_read(struct socket_table *t, int pid) {
    char path[32];
    (void)snprintf(path, sizeof path, "/proc/%d/fdinfo", pid);
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    DIR *fds = pidfd < 0 ? NULL : opendir(path);
    uint32_t before = t->entry_count;
    if (fds != NULL)
        fds_read(t, fds, pidfd, t->owner_count);
    if (t->entry_count > before && owner_read(pid, pidfd, &t->owners[t->owner_count]) == 0)
        t->owner_count++;
    else
        t->entry_count = before;
    if (fds != NULL)
        (void)closedir(fds);
    if (pidfd >= 0)
        (void)close(pidfd);
}

/* ---- all of them ---- */

static uint64_t now_ns(void) {
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* False: it is too early for another look. A sender's process may end soon, so for that one waits. */
static bool may_look(const struct socket_table *t, bool wait) {
    uint64_t now = now_ns(), rest = now < t->next_look_ns ? t->next_look_ns - now : 0;
    if (rest == 0)
        return true;
    if (!wait || rest > WAIT_MAX_NS)
        return false;
    (void)nanosleep(&(struct timespec){.tv_nsec = (long)rest}, NULL);
    return true;
}

/* /proc lists processes by pid. */
static bool look(struct socket_table *t, bool wait) {
    if (!may_look(t, wait))
        return false;
    uint64_t began = now_ns();
    if (t->entries == NULL)
        t->entries = calloc(SOCKET_MAX, sizeof *t->entries);
    if (t->owners == NULL)
        t->owners = calloc(PROCESS_MAX, sizeof *t->owners);
    DIR *proc = t->entries == NULL || t->owners == NULL ? NULL : opendir("/proc");
    if (proc == NULL)
        return false;
    t->entry_count = t->owner_count = 0;
    t->mount = sockets_mount();
    for (const struct dirent *d; (d = readdir(proc)) != NULL && t->owner_count < PROCESS_MAX;) {
        if (isdigit((unsigned char)d->d_name[0]))
            process_read(t, atoi(d->d_name));
    }
    (void)closedir(proc);
    memset(t->found, 0, sizeof t->found);
    uint64_t now = now_ns(), rest = (now - began) * REST_TIMES;
    t->next_look_ns = now + (rest > REST_MIN_NS ? rest : REST_MIN_NS);
    return true;
}

static const struct owner *cookie_find(struct socket_table *t, uint64_t cookie) {
    struct recent *recent = &t->found[cookie % RECENT_MAX];
    if (recent->cookie == cookie)
        return &t->owners[t->entries[recent->entry].process];
    for (uint32_t i = 0; i < t->entry_count; i++) {
        if (t->entries[i].cookie != cookie)
            continue;
        *recent = (struct recent){cookie, i};
        return &t->owners[t->entries[i].process];
    }
    return NULL;
}

const struct owner *socket_by_cookie(struct socket_table *t, uint64_t cookie) {
    struct gone *gone = &t->gone[cookie % RECENT_MAX];
    const struct owner *o = cookie_find(t, cookie);
    if (o != NULL || (gone->cookie == cookie && now_ns() < gone->until_ns) || !look(t, true))
        return o;
    o = cookie_find(t, cookie);
    if (o == NULL)
        *gone = (struct gone){cookie, now_ns() + GONE_NS};
    return o;
}

/* 0 = it would not get it. */
static int fits(const struct flow *socket, const struct flow *packet) {
    bool any = ipaddr_is_any(&socket->local), connected = socket->remote_port != 0;
    if (socket->proto != packet->proto || socket->local_port != packet->local_port)
        return 0;
    if (!any && !ipaddr_equal(&socket->local, &packet->local))
        return 0;
    if (connected && (socket->remote_port != packet->remote_port || !ipaddr_equal(&socket->remote, &packet->remote)))
        return 0;
    return 1 + 2 * connected + !any;
}

static const struct owner *flow_find(const struct socket_table *t, const struct flow *flow) {
    int best = 0;
    const struct owner *o = NULL;
    for (uint32_t i = 0; i < t->entry_count; i++) {
        int how = fits(&t->entries[i].flow, flow);
        if (how <= best)
            continue;
        best = how;
        o = &t->owners[t->entries[i].process];
    }
    return o;
}

const struct owner *socket_by_flow(struct socket_table *t, const struct flow *flow) {
    const struct owner *o = flow_find(t, flow);
    return o == NULL && look(t, false) ? flow_find(t, flow) : o;
}
