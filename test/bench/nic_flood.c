/* SPDX-License-Identifier: Apache-2.0
 *
 * See nic_flood.h. The flooder has a core of its own, as another host would; client and server share the other one.
 */
#include "test/bench/nic_flood.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "test/bench/proc.h"
#include "test/bench/sandbox.h"
#include "test/bench/tick.h"

#define PORT        5000
#define BATCH       32u
#define INTERVAL_NS (BATCH * 10000u) /* 100,000 packets a second */
#define WINDOW      16u              /* questions under way */
#define PRIORITY    6                /* the flood's, by which its sender's egress knows it */

struct load {
    const struct bench_env *env;
    const struct nic_flood *flood;
};

static int packet_socket(void) {
    const int priority = PRIORITY;
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex("vb1")};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_PRIORITY, &priority, sizeof priority) != 0 ||
        bind(fd, (struct sockaddr *)&to, sizeof to) != 0)
        return -1;
    return fd;
}

/* Until it is killed. */
static int flood_run(struct proc_shared *s, void *arg) {
    const struct load *l = arg;
    struct mmsghdr msgs[BATCH];
    struct iovec iov[BATCH];
    int fd = setns(l->env->peer, CLONE_NEWNET) == 0 ? packet_socket() : -1;
    if (fd < 0)
        return 1;
    memset(msgs, 0, sizeof msgs);
    atomic_store(&s->ready, 1);
    for (uint64_t n = 0, due = tick_ns();; n += BATCH, due += INTERVAL_NS) {
        for (uint32_t k = 0; k < BATCH; k++) {
            iov[k] =
                (struct iovec){(void *)(uintptr_t)l->flood->frames[(n + k) * 7 % l->flood->count], NIC_FLOOD_FRAME};
            msgs[k].msg_hdr = (struct msghdr){.msg_iov = &iov[k], .msg_iovlen = 1};
        }
        (void)sendmmsg(fd, msgs, BATCH, 0);
        while (tick_ns() < due + INTERVAL_NS) {
        }
    }
}

/* Until it is killed. */
static int server_run(struct proc_shared *s, void *arg) {
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(PORT)}, from;
    char text[64];
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    (void)arg;
    if (fd < 0 || bind(fd, (struct sockaddr *)&here, sizeof here) != 0)
        return 1;
    atomic_store(&s->ready, 1);
    for (;;) {
        socklen_t len = sizeof from;
        ssize_t n = recvfrom(fd, text, sizeof text, 0, (struct sockaddr *)&from, &len);
        if (n > 0)
            (void)sendto(fd, text, (size_t)n, 0, (struct sockaddr *)&from, len);
    }
}

static int client_run(struct proc_shared *s, void *arg) {
    const struct load *l = arg;
    const struct timeval patience = {.tv_usec = 100000};
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    char text[64] = {0};
    (void)inet_pton(AF_INET, SANDBOX_ADDR, &there.sin_addr);
    int fd = setns(l->env->peer, CLONE_NEWNET) == 0 ? socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0) : -1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) != 0 ||
        connect(fd, (struct sockaddr *)&there, sizeof there) != 0)
        return 1;
    uint64_t start = tick_ns(), warm = start + (uint64_t)(l->env->seconds * 1e8), begin = 0, now = start;
    for (uint32_t asked = 0; now < warm + (uint64_t)(l->env->seconds * 1e9); now = tick_ns()) {
        for (; asked < WINDOW; asked++)
            (void)send(fd, text, sizeof text, 0);
        bool answered = recv(fd, text, sizeof text, 0) > 0;
        asked = answered ? asked - 1 : 0; /* a silence: they are lost */
        if (now >= warm && begin == 0)
            begin = now;
        else if (begin != 0)
            s->operations += answered;
    }
    s->seconds = (double)(now - begin) / 1e9;
    return 0;
}

/* ---- the flood's egress ---- */

/* Drops what has the flood's priority. Returns the program. */
static int egress_shut(void) {
    const struct bpf_insn insns[] = {
        {.code = 0x61, .dst_reg = 0, .src_reg = 1, .off = offsetof(struct __sk_buff, priority)},
        {.code = 0x55, .dst_reg = 0, .off = 2, .imm = PRIORITY},
        {.code = 0xb7, .dst_reg = 0, .imm = TC_ACT_SHOT},
        {.code = 0x95},
        {.code = 0xb7, .dst_reg = 0, .imm = TC_ACT_UNSPEC},
        {.code = 0x95},
    };
    int prog = bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "flood", "GPL", insns, sizeof insns / sizeof insns[0], NULL);
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)if_nametoindex("vb1"), .attach_point = BPF_TC_EGRESS);
    LIBBPF_OPTS(bpf_tc_opts, opts, .prog_fd = prog, .priority = 1, .handle = 1, .flags = BPF_TC_F_REPLACE);
    (void)bpf_tc_hook_create(&hook);
    int rc = prog < 0 ? -1 : bpf_tc_attach(&hook, &opts);
    (void)close(prog);
    return rc;
}

static void egress_open(void) {
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)if_nametoindex("vb1"),
                .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS);
    (void)bpf_tc_hook_destroy(&hook);
}

/* ---- all of it ---- */

static int talk(struct bench_env *env, const struct load *load, double *ret_rate) {
    struct proc_shared *s[3] = {proc_shared_create(), proc_shared_create(), proc_shared_create()};
    int rc = s[0] == NULL || s[1] == NULL || s[2] == NULL ? -1 : 0;
    if (rc == 0) {
        pid_t server = proc_spawn(env->core[0], server_run, s[0], NULL);
        pid_t flood = proc_spawn(env->core[1], flood_run, s[1], (void *)(uintptr_t)load);
        rc = proc_await(&s[0]->ready, 1, 5) == 0 && proc_await(&s[1]->ready, 1, 5) == 0 ? 0 : -1;
        if (rc == 0)
            rc = proc_join(proc_spawn(env->core[0], client_run, s[2], (void *)(uintptr_t)load), env->seconds + 5);
        (void)kill(flood, SIGKILL);
        (void)kill(server, SIGKILL);
        (void)proc_join(flood, 2);
        (void)proc_join(server, 2);
    }
    if (rc == 0 && s[2]->operations > 0 && s[2]->seconds > 0)
        *ret_rate = (double)s[2]->operations / s[2]->seconds;
    else
        rc = -1;
    for (int i = 0; i < 3; i++)
        proc_shared_destroy(s[i]);
    return rc;
}

int nic_flood_goodput(struct bench_env *env, const struct nic_flood *flood, double *ret_rate) {
    const struct load load = {env, flood};
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), rc = 0;
    if (flood->at_sender && (setns(env->peer, CLONE_NEWNET) != 0 || (rc = egress_shut()) != 0))
        rc = -1;
    (void)setns(home, CLONE_NEWNET);
    if (rc == 0)
        rc = talk(env, &load, ret_rate);
    if (flood->at_sender && setns(env->peer, CLONE_NEWNET) == 0)
        egress_open();
    (void)setns(home, CLONE_NEWNET);
    (void)close(home);
    return rc;
}
