/* SPDX-License-Identifier: Apache-2.0
 *
 * The process's session with usherd: attached when the first socket needs it, never before, and again by a child after
 * fork(). Also what usher-run asks for by the environment, and its report.
 */
#include <arpa/inet.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "clientlib/posix/posix.h"

#define RETRY_NS INT64_C(1000000000) /* how long a usherd that was not there is left alone */

struct posix_process posix = {.report_fd = -1};

/* ---- settings ---- */

static char socket_path[108];
static int spin_us = -1;

/* Before main(): a program may clear its environment before its first socket. */
__attribute__((constructor)) static void begin(void) {
    const char *loopback = secure_getenv("USHER_LOOPBACK"), *check = secure_getenv("USHER_CHECK");
    const char *path = secure_getenv("USHER_SOCKET"), *spin = secure_getenv("USHER_SPIN_US");
    posix.pid = getpid();
    const char *listen_when = secure_getenv("USHER_LISTEN");
    posix.listen_now = !listen_when || strcmp(listen_when, "learn") != 0;
    if (loopback && strcmp(loopback, "kernel") == 0)
        posix.loopback = LOOPBACK_KERNEL;
    else if (loopback && strcmp(loopback, "usher") == 0)
        posix.loopback = LOOPBACK_USHER;
    if (check && strcmp(check, "1") == 0)
        posix.report_fd = client_place_fd(posix_real.fcntl64(2, F_DUPFD_CLOEXEC, 3));
    if (path && strlen(path) < sizeof(socket_path))
        memcpy(socket_path, path, strlen(path) + 1);
    if (spin && *spin >= '0' && *spin <= '9')
        spin_us = atoi(spin) < 1000000 ? atoi(spin) : 1000000;
    posix_fork_watch();
    const char *inherit = secure_getenv("USHER_INHERIT");
    if (inherit) {
        bool wait = strcmp(inherit, "wait") == 0;
        unsetenv("USHER_INHERIT");
        posix_inherit_all(wait);
    }
}

static void print_local(char *to, size_t size, int fd) {
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof(sa);
    char text[INET6_ADDRSTRLEN] = "?";
    struct usher_msg m = {0};
    if (posix_real.getsockname(fd, (struct sockaddr *)&sa, &len) || client_addr_from((struct sockaddr *)&sa, len, &m))
        return;
    inet_ntop(m.family, m.peer, text, sizeof(text));
    snprintf(to, size, " at %s port %u", text, m.peer_port);
}

static const char *kind_of(const struct posix_sock *s) {
    if (!s->stream)
        return "datagrams";
    return s->listened ? "listener" : "stream";
}

void posix_report(const struct posix_sock *s, const char *how, const char *why) {
    if (posix.report_fd < 0)
        return;
    char line[512], local[80] = "", peer[80] = "", text[INET6_ADDRSTRLEN] = "";
    if (!s->stream || s->listened)
        print_local(local, sizeof(local), s->fd);
    if (s->peer.family) {
        inet_ntop(s->peer.family, s->peer.peer, text, sizeof(text));
        snprintf(peer, sizeof(peer), " to %s port %u", text, s->peer.peer_port);
    }
    int n = snprintf(line, sizeof(line), "usher-run: pid %d fd %d: %s%s%s: carried %s%s%s\n", posix.pid, s->fd,
                     kind_of(s), local, peer, how, why[0] ? ": " : "", why);
    if (n > 0)
        (void)!posix_real.write(posix.report_fd, line, (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1);
}

/* ---- attaching ---- */

static void count_cpus(void) {
    cpu_set_t set;
    posix.cpus = sched_getaffinity(0, sizeof(set), &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

struct usher_context *posix_session(void) {
    if (LIKELY(posix.ctx != NULL))
        return posix.ctx;
    int64_t now = client_now();
    if (posix.refused && now < posix.retry_ns)
        return NULL;
    const struct usher_context_params params = {.socket_path = socket_path[0] ? socket_path : NULL,
                                                .flags = USHER_SINGLE_THREAD |
                                                         (posix.loopback != LOOPBACK_KERNEL ? USHER_LOOPBACK : 0),
                                                .spin_us = spin_us};
    struct usher_context *ctx = NULL;
    posix.refused = usher_context_open(&params, &ctx) != 0;
    posix.retry_ns = now + RETRY_NS;
    if (posix.refused)
        return NULL;
    posix_signal_install();
    count_cpus();
    posix.ctx = ctx;
    return ctx;
}

void posix_session_lost(void) {
    posix.ctx = NULL;
    posix.refused = true;
    posix.retry_ns = client_now() + RETRY_NS;
}
