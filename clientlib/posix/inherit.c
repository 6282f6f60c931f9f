/* SPDX-License-Identifier: Apache-2.0
 *
 * Sockets that go to another program, over exec() or in a message over a UNIX socket, and those that come that way. The
 * program that gets them may be one of ours: what it is given it looks at, and asks usherd for.
 */
#include <stdarg.h>
#include <unistd.h>

#include "clientlib/posix/posix.h"

#define WAIT_NS   INT64_C(1000000000)
#define LOOK_UPTO 1024 /* file descriptors it looks at */
#define ARGS_MAX  1024 /* of execl() */

extern char **environ;

/* ---- coming ---- */

static bool ask(int fd, int name, int *ret_value) {
    socklen_t len = sizeof(*ret_value);
    return posix_real.getsockopt(fd, SOL_SOCKET, name, ret_value, &len) == 0;
}

static bool is_connected(int fd) {
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);
    return posix_real.getpeername(fd, (struct sockaddr *)&sa, &len) == 0;
}

/* Another file descriptor of the same socket is here already. */
static struct posix_object *same_socket(int fd) {
    uint64_t cookie, other;
    socklen_t len = sizeof(cookie);
    if (posix_real.getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len))
        return NULL;
    for (int i = 0; i < posix.fd_high; i++) {
        struct posix_object *o = posix_table[i];
        if (o && o->kind == POSIX_SOCK && !posix_real.getsockopt(i, SOL_SOCKET, SO_COOKIE, &other, &len) &&
            other == cookie)
            return o;
    }
    return NULL;
}

/* Under the lock. A stream that the kernel has connected is the kernel's. wait_until_ns: its last owner may still have
 * to park it; 0 = it has. */
static void inherit(int fd, int64_t wait_until_ns) {
    int family, type, protocol, listens = 0;
    if (fd < 0 || fd >= POSIX_FDS || posix_object(fd) || !ask(fd, SO_DOMAIN, &family) || !ask(fd, SO_TYPE, &type) ||
        !ask(fd, SO_PROTOCOL, &protocol) || (family != AF_INET && family != AF_INET6))
        return;
    bool stream = type == SOCK_STREAM && protocol == IPPROTO_TCP;
    if ((!stream && (type != SOCK_DGRAM || protocol != IPPROTO_UDP)) ||
        (stream && ask(fd, SO_ACCEPTCONN, &listens) && !listens && is_connected(fd)))
        return;
    struct posix_object *same = same_socket(fd);
    if (same) {
        posix_slot_set(fd, same);
        return;
    }
    bool nonblock = posix_real.fcntl64(fd, F_GETFL, 0) & O_NONBLOCK;
    struct posix_sock *s = posix_sock_new(fd, stream, family == AF_INET6, nonblock);
    if (!s)
        return;
    s->listened = listens != 0;
    posix_slot_set(fd, &s->o);
    while (stream && !listens && !posix_share_find(s) && client_now() < wait_until_ns)
        (void)posix_real.poll(NULL, 0, 1);
}

/* The C library's own streams call the kernel by themselves; those over our sockets call us. */
static void renew_stdio(void) {
    FILE **const standard[] = {&stdin, &stdout, &stderr};
    for (int fd = 0; fd < 3; fd++) {
        FILE *f = posix_object(fd) ? fdopen(fd, fd == 0 ? "r" : "w") : NULL;
        if (!f)
            continue;
        if (fd == 2)
            setvbuf(f, NULL, _IONBF, 0);
        *standard[fd] = f;
    }
}

void posix_inherit_all(bool wait) {
    posix_lock();
    int64_t until = wait ? client_now() + WAIT_NS : 0;
    for (int fd = 0; fd < LOOK_UPTO; fd++)
        inherit(fd, until);
    posix_unlock();
    renew_stdio();
}

/* The file descriptors of a message that has come. */
void posix_inherit_message(const struct msghdr *m) {
    posix_lock();
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR((struct msghdr *)(uintptr_t)m, c)) {
        size_t n = c->cmsg_len >= CMSG_LEN(0) ? (c->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;
        for (size_t i = 0; i < n && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            inherit(fd, 0);
        }
    }
    posix_unlock();
}

/* ---- going ---- */

/* The streams of a message that is about to go are anybody's who gets it. */
void posix_share_message(const struct msghdr *m) {
    posix_lock();
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR((struct msghdr *)(uintptr_t)m, c)) {
        size_t n = c->cmsg_len >= CMSG_LEN(0) ? (c->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;
        for (size_t i = 0; i < n && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            struct posix_object *o = posix_object(fd);
            if (o && o->kind == POSIX_SOCK)
                posix_share_one((struct posix_sock *)o, 1);
        }
    }
    posix_unlock();
}

static bool survives(const struct posix_sock *s) {
    for (int fd = 0; fd < posix.fd_high; fd++) {
        if (posix_table[fd] == &s->o && !(posix_real.fcntl64(fd, F_GETFD, 0) & FD_CLOEXEC))
            return true;
    }
    return false;
}

static bool any_survives(void) {
    for (int fd = 0; fd < posix.fd_high; fd++) {
        struct posix_object *o = posix_table[fd];
        if (o && o->kind == POSIX_SOCK && survives((struct posix_sock *)o))
            return true;
    }
    return false;
}

char *const *posix_env_mark(char *room[POSIX_ENV_MAX], char *const envp[], const char *mark) {
    size_t n = 0;
    while (envp && envp[n] && n < POSIX_ENV_MAX - 2) {
        room[n] = envp[n];
        n++;
    }
    if (envp && envp[n])
        return envp;
    room[n] = (char *)(uintptr_t)mark;
    room[n + 1] = NULL;
    return room;
}

/* True: the next program has something to look for. */
static bool leave_all(void) {
    posix_lock();
    bool some = any_survives();
    if (some)
        posix_share_all(1, false, survives);
    posix_unlock();
    return some;
}

/* Runs the program; returns only when that fails. `search`: along PATH. */
static int exec(const char *file, char *const argv[], char *const envp[], bool search) {
    char *marked[POSIX_ENV_MAX];
    bool can = posix.objects && (search || access(file, X_OK) == 0); /* else it cannot succeed */
    bool marks = can && posix_is_owner() && leave_all();
    if (marks)
        envp = posix_env_mark(marked, envp, POSIX_MARK);
    else if (can && !posix_is_owner() && posix_has_streams())
        envp = posix_env_mark(marked, envp, POSIX_MARK_WAIT); /* the parent looks what we have (spawn.c) */
    int result = search ? posix_real.execvpe(file, argv, envp) : posix_real.execve(file, argv, envp);
    if (marks) {
        int error = errno;
        posix_lock();
        posix_share_inherit(); /* it did not come to that */
        posix_unlock();
        errno = error;
    }
    return result;
}

int POSIX_CALL execve(const char *path, char *const argv[], char *const envp[]) {
    return exec(path, argv, envp, false);
}

int POSIX_CALL execv(const char *path, char *const argv[]) {
    return exec(path, argv, environ, false);
}

int POSIX_CALL execvp(const char *file, char *const argv[]) {
    return exec(file, argv, environ, true);
}

int POSIX_CALL execvpe(const char *file, char *const argv[], char *const envp[]) {
    return exec(file, argv, envp, true);
}

/* execl() and its kin: the arguments up to NULL as an array, and behind it perhaps the environment. */
#define EXECL(file, arg, environment, search)                                                                          \
    va_list args;                                                                                                      \
    char *argv[ARGS_MAX + 1] = {(char *)(uintptr_t)arg};                                                               \
    size_t n = 0;                                                                                                      \
    va_start(args, arg);                                                                                               \
    while (argv[n] && n < ARGS_MAX)                                                                                    \
        argv[++n] = va_arg(args, char *);                                                                              \
    char *const *envp = environment;                                                                                   \
    va_end(args);                                                                                                      \
    return argv[n] ? posix_errno(-E2BIG) : exec(file, argv, envp, search)

int POSIX_CALL execl(const char *path, const char *arg, ...) {
    EXECL(path, arg, environ, false);
}

int POSIX_CALL execlp(const char *file, const char *arg, ...) {
    EXECL(file, arg, environ, true);
}

int POSIX_CALL execle(const char *path, const char *arg, ...) {
    EXECL(path, arg, va_arg(args, char *const *), false);
}

void POSIX_CALL _exit(int code) {
    posix_share_end();
    posix_real._exit(code);
    __builtin_unreachable();
}
