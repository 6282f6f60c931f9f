/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of capabilities, each with its reason. packaging/usherd.service names the same ones; a test compares them.
 */
#include "control/rights.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "control/confine.h"
#include "control/log.h"
#include "engines/check.h"

struct right {
    int bit;
    bool needed; /* else: used where it is there */
    const char *name;
};

/* clang-format off */
static const struct right rights[] = {
    {CAP_NET_ADMIN,  true,  "CAP_NET_ADMIN"},  /* attach claim programs, next hops, buffers beyond rmem_max, tap */
    {CAP_NET_RAW,    true,  "CAP_NET_RAW"},    /* packet and AF_XDP sockets */
    {CAP_BPF,        true,  "CAP_BPF"},        /* claim programs and maps */
    {CAP_SYS_PTRACE, true,  "CAP_SYS_PTRACE"}, /* /proc/PID/exe of clients of other users: whose a socket is */
    {CAP_PERFMON,    false, "CAP_PERFMON"},    /* claim programs on some kernels; who makes a kernel socket */
    {CAP_IPC_LOCK,   false, "CAP_IPC_LOCK"},   /* AF_XDP memory beyond RLIMIT_MEMLOCK */
    {CAP_NET_BIND_SERVICE, false, "CAP_NET_BIND_SERVICE"}, /* the echo service's ports below 1024 */
    {CAP_CHOWN,      false, "CAP_CHOWN"},      /* give sockets to the groups of the settings */
};
/* clang-format on */

static bool held(const struct __user_cap_data_struct *data, int bit) {
    return data[bit / 32].effective >> (bit % 32) & 1;
}

static void limits_raise(void) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    /* Before Linux 5.11 BPF maps counted against it; AF_XDP memory still does. */
    (void)setrlimit(RLIMIT_MEMLOCK, &(struct rlimit){RLIM_INFINITY, RLIM_INFINITY});
}

/* The bounding set first, while CAP_SETPCAP is there: programs that usherd starts get no more than it has. Without it
 * (a unit with AmbientCapabilities=) systemd has bounded them. */
static int rights_drop(struct __user_cap_header_struct *head, struct __user_cap_data_struct *data) {
    struct __user_cap_data_struct keep[2] = {{0}};
    for (size_t i = 0; i < ARRAY_LEN(rights); i++) {
        uint32_t bit = 1u << (rights[i].bit % 32);
        keep[rights[i].bit / 32].permitted |= data[rights[i].bit / 32].permitted & bit;
    }
    for (int bit = 0; bit <= CAP_LAST_CAP; bit++) {
        if (!(keep[bit / 32].permitted >> (bit % 32) & 1))
            (void)prctl(PR_CAPBSET_DROP, bit, 0, 0, 0);
    }
    for (int i = 0; i < 2; i++) {
        keep[i].effective = keep[i].permitted;
        keep[i].inheritable = keep[i].permitted & data[i].inheritable; /* ambient ones stay for usher-keeper's end */
    }
    if (syscall(SYS_capset, head, keep) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return -errno;
    return confine_process();
}

int rights_take(char *err, size_t err_size) {
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &head, data) != 0) {
        (void)snprintf(err, err_size, "its capabilities cannot be read: %s", strerror(errno));
        return -errno;
    }
    for (size_t i = 0; i < ARRAY_LEN(rights); i++) {
        if (rights[i].needed && !held(data, rights[i].bit)) {
            (void)snprintf(err, err_size,
                           "%s is missing: run usherd as root, or grant it (AmbientCapabilities= in the unit)",
                           rights[i].name);
            return -EPERM;
        }
    }
    limits_raise();
    int error = rights_drop(&head, data);
    if (error != 0)
        log_warning("hardening", "rights that are not needed cannot be given up: %s", strerror(-error));
    return 0;
}
