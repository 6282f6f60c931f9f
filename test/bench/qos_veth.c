/* SPDX-License-Identifier: Apache-2.0
 *
 * See qos_veth.h. Receiver and sender are processes of their own on the two cores. HTB: each socket's priority names
 * its class, as root may say. usherd: a rule for each source port names it.
 */
#include "test/bench/qos_veth.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <usher/usher.h>

#include "test/bench/proc.h"
#include "test/bench/qos_rig.h"
#include "test/bench/sandbox.h"
#include "test/bench/tick.h"
#include "test/bench/usherd.h"

#define RATE_MBIT     200u
#define SIZE          1000u
#define SINK_PORT     9100u
#define FIRST_PORT    20000u
#define FIRST_CLASS   0x100u
#define WAITING_BYTES (2u << 20) /* of all owners together */
#define BATCH         64u
#define START_SECONDS 20.0
#define HTB_FILE      "/run/qos.tc"
#define POLICY_FILE   "/run/qos.yaml"

struct job {
    struct proc_shared *s;
    uint64_t *got; /* bytes by owner, QOS_VETH_MAX; shared */
    uint32_t owners;
    int peer; /* namespace */
};

static struct sockaddr_in address(const char *host, uint16_t port) {
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port)};
    (void)inet_pton(AF_INET, host, &sa.sin_addr);
    return sa;
}

static void pause_us(uint32_t us) {
    (void)nanosleep(&(struct timespec){.tv_nsec = us * 1000L}, NULL);
}

/* ---- the receiver ---- */

static void count(struct job *j, const uint8_t *data) {
    uint32_t owner;
    memcpy(&owner, data, sizeof owner);
    if (owner < j->owners)
        (void)__atomic_fetch_add(&j->got[owner], SIZE, __ATOMIC_RELAXED);
}

static int receive(struct proc_shared *s, void *arg) {
    struct job *j = arg;
    static uint8_t data[BATCH][SIZE];
    struct iovec iov[BATCH];
    struct mmsghdr msg[BATCH] = {0};
    struct sockaddr_in sa = address(SANDBOX_PEER_ADDR, SINK_PORT);
    int room = 4 << 20, fd = setns(j->peer, CLONE_NEWNET) == 0 ? socket(AF_INET, SOCK_DGRAM, 0) : -1;
    if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof sa) != 0)
        return 1;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    for (uint32_t i = 0; i < BATCH; i++) {
        iov[i] = (struct iovec){data[i], SIZE};
        msg[i].msg_hdr = (struct msghdr){.msg_iov = &iov[i], .msg_iovlen = 1};
    }
    atomic_fetch_add(&s->ready, 1);
    for (;;) { /* killed at the end */
        int n = recvmmsg(fd, msg, BATCH, MSG_WAITFORONE, NULL);
        for (int i = 0; i < n; i++)
            count(j, data[i]);
    }
}

/* ---- senders ---- */

static int kernel_send(struct proc_shared *s, void *arg) {
    const struct job *j = arg;
    static int fd[QOS_VETH_MAX];
    uint8_t data[SIZE] = {0};
    struct sockaddr_in to = address(SANDBOX_PEER_ADDR, SINK_PORT);
    for (uint32_t i = 0; i < j->owners; i++) {
        int bytes = (int)(WAITING_BYTES / j->owners), class = (int)(1u << 16 | (FIRST_CLASS + i));
        fd[i] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        if (fd[i] < 0 || setsockopt(fd[i], SOL_SOCKET, SO_PRIORITY, &class, sizeof class) != 0 ||
            setsockopt(fd[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes) != 0 ||
            connect(fd[i], (struct sockaddr *)&to, sizeof to) != 0)
            return 1;
    }
    atomic_fetch_add(&s->ready, 1);
    for (;;) {
        for (uint32_t i = 0; i < j->owners; i++) {
            memcpy(data, &i, sizeof i);
            for (uint32_t k = 0; k < BATCH && send(fd[i], data, SIZE, 0) == (ssize_t)SIZE;)
                k++;
        }
        pause_us(100);
    }
}

static int usher_open(struct usher_context *ctx, uint32_t i, int bytes, struct usher_socket **ret_sock) {
    struct sockaddr_in from = address(SANDBOX_ADDR, (uint16_t)(FIRST_PORT + i));
    struct sockaddr_in to = address(SANDBOX_PEER_ADDR, SINK_PORT);
    struct usher_socket_info info = {0};
    int rc = usher_socket(ctx, AF_INET, SOCK_DGRAM, 0, ret_sock);
    if (rc == 0)
        rc = usher_bind(*ret_sock, (struct sockaddr *)&from, sizeof from);
    if (rc == 0)
        rc = usher_connect(*ret_sock, (struct sockaddr *)&to, sizeof to);
    if (rc == 0)
        rc = usher_setsockopt(*ret_sock, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    if (rc == 0)
        rc = usher_socket_info(*ret_sock, &info);
    return rc != 0 ? rc : info.accelerated ? 0 : -ENOTSUP;
}

static int usher_send_all(struct proc_shared *s, void *arg) {
    const struct job *j = arg;
    static struct usher_socket *sock[QOS_VETH_MAX];
    struct usher_context_params params = {.flags = USHER_SINGLE_THREAD, .label = "usher-bench", .spin_us = -1};
    struct usher_context *ctx;
    struct usher_event ev[BATCH];
    uint8_t data[SIZE] = {0};
    int rc = usher_context_open(&params, &ctx);
    for (uint32_t i = 0; i < j->owners && rc == 0; i++)
        rc = usher_open(ctx, i, (int)(WAITING_BYTES / j->owners), &sock[i]);
    if (rc != 0) {
        (void)snprintf(s->error, sizeof s->error, "no socket on usherd: %s (%s)", strerror(-rc), usher_strerror());
        return 1;
    }
    atomic_fetch_add(&s->ready, 1);
    for (;;) {
        for (uint32_t i = 0; i < j->owners; i++) {
            memcpy(data, &i, sizeof i);
            for (uint32_t k = 0; k < BATCH && usher_sendto(sock[i], data, SIZE, NULL, 0) == (ssize_t)SIZE;)
                k++;
        }
        (void)usher_poll(ctx, ev, BATCH);
        pause_us(100);
    }
}

/* ---- the two queues ---- */

static int htb_set(uint32_t owners) {
    FILE *f = fopen(HTB_FILE, "w");
    if (f == NULL)
        return -1;
    (void)fprintf(f, "qdisc replace dev " SANDBOX_IFNAME " root handle 1: htb\n");
    (void)fprintf(f, "class replace dev " SANDBOX_IFNAME " parent 1: classid 1:1 htb rate %umbit quantum 60000\n",
                  RATE_MBIT);
    for (uint32_t i = 0; i < owners; i++)
        (void)fprintf(
            f, "class replace dev " SANDBOX_IFNAME " parent 1:1 classid 1:%x htb rate %ukbit ceil %umbit quantum %u\n",
            FIRST_CLASS + i, RATE_MBIT * 1000u * qos_weight(i) / qos_weights(owners), RATE_MBIT, 1514u * qos_weight(i));
    return fclose(f) == 0 ? sandbox_exec(-1, "tc -batch " HTB_FILE) : -1;
}

static int policy_write(uint32_t owners) {
    FILE *f = fopen(POLICY_FILE, "w");
    if (f == NULL)
        return -1;
    (void)fprintf(f, "qos:\n  rate: %uM\n  overhead: 0\n  classes:\n", RATE_MBIT);
    for (uint32_t i = 0; i < owners; i++)
        (void)fprintf(f, "    - {name: c%u, weight: %u, queue: 8M}\n", i, qos_weight(i));
    (void)fprintf(f, "rules:\n");
    for (uint32_t i = 0; i < owners; i++)
        (void)fprintf(f, "  - {name: r%u, direction: out, protocol: udp, from_port: %u, class: c%u}\n", i,
                      FIRST_PORT + i, i);
    return fclose(f);
}

/* ---- measuring ---- */

static void snapshot(const struct job *j, uint64_t *ret) {
    for (uint32_t i = 0; i < j->owners; i++)
        ret[i] = __atomic_load_n(&j->got[i], __ATOMIC_RELAXED);
}

static double measure(const struct job *j, double seconds) {
    uint64_t before[QOS_VETH_MAX], after[QOS_VETH_MAX];
    uint64_t end = tick_now() + tick_from_seconds(seconds / 2);
    while (tick_now() < end) /* the first ones find no next hop, and full buckets */
        pause_us(10000);
    snapshot(j, before);
    end = tick_now() + tick_from_seconds(seconds);
    while (tick_now() < end)
        pause_us(10000);
    snapshot(j, after);
    for (uint32_t i = 0; i < j->owners; i++)
        after[i] -= before[i];
    return qos_error(after, j->owners, 2 * SIZE); /* a packet may be under way at either end */
}

static double run(struct bench_env *env, enum bench_side side, struct job *j, proc_fn *send_fn) {
    double error = -1;
    pid_t receiver = proc_spawn(env->core[1], receive, j->s, j);
    pid_t sender = proc_await(&j->s->ready, 1, START_SECONDS) == 0 ? proc_spawn(env->core[1], send_fn, j->s, j) : -1;
    if (sender > 0 && proc_await(&j->s->ready, 2, START_SECONDS) == 0)
        error = measure(j, env->seconds);
    else
        (void)bench_fail(env, side, "sender or receiver did not start: %s", j->s->error);
    if (sender > 0) {
        (void)kill(sender, SIGKILL);
        (void)proc_join(sender, 1);
    }
    (void)kill(receiver, SIGKILL);
    (void)proc_join(receiver, 1);
    return error;
}

static double kernel_run(struct bench_env *env, struct job *j) {
    if (htb_set(j->owners) != 0)
        return bench_fail(env, SIDE_KERNEL, "tc cannot set HTB up: is sch_htb there?");
    double error = run(env, SIDE_KERNEL, j, kernel_send);
    (void)sandbox_exec(-1, "tc qdisc del dev " SANDBOX_IFNAME " root");
    return error;
}

static double usher_run(struct bench_env *env, struct job *j) {
    struct usherd_params params = {.core = env->core[0], .mode = "auto", .policy = POLICY_FILE};
    pid_t usherd;
    if (policy_write(j->owners) != 0 || usherd_start(&params, &usherd, j->s->error, sizeof j->s->error) != 0)
        return bench_fail(env, SIDE_USHER, "%s", j->s->error);
    double error = run(env, SIDE_USHER, j, usher_send_all);
    usherd_stop(usherd);
    return error;
}

double qos_veth_error(struct bench_env *env, enum bench_side side, uint32_t owners) {
    size_t size = QOS_VETH_MAX * sizeof(uint64_t);
    void *got = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct job j = {.s = proc_shared_create(), .got = got, .owners = owners, .peer = env->peer};
    double error = -1;
    if (j.s == NULL || got == MAP_FAILED)
        (void)bench_fail(env, side, "out of memory");
    else
        error = side == SIDE_KERNEL ? kernel_run(env, &j) : usher_run(env, &j);
    if (got != MAP_FAILED)
        (void)munmap(got, size);
    if (j.s != NULL)
        proc_shared_destroy(j.s);
    return error;
}
