/* SPDX-License-Identifier: Apache-2.0
 *
 * Round trips over UDP, one at a time: send a datagram to an echo server, wait for it to come back, note the time. The
 * wait is a blocking one: it looks actively for a short time and then sleeps. Prints percentiles. Exit code 0 when at
 * least one answer came, 1 when none did.
 */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <usher/usher.h>

#include "args.h"

struct ping {
    struct usher_context *ctx;
    struct usher_socket *sock;
    long count, size, timeout_ms, interval_us;
    int64_t *rtt_ns;
    long answered, lost, by_kernel;
    const struct sockaddr *to; /* of each datagram; NULL: the socket is connected */
    socklen_t to_len;
};

static int64_t now_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void help(FILE *to) {
    fputs("usage: udp-ping [options] address:port\n"
          "  --count N       round trips (default 1000)\n"
          "  --size BYTES    of a datagram (default 64)\n"
          "  --spin US       look actively for this long before sleeping (default: self-tuned)\n"
          "  --timeout MS    after which an answer counts as lost (default 1000)\n"
          "  --interval US   pause between round trips (default 0)\n"
          "  --bind ADDR:PORT local address\n"
          "  --reuse         let others share that address (SO_REUSEADDR)\n"
          "  --unconnected   name the address with each datagram\n"
          "  --socket PATH   usherd's session socket (default: $USHER_SOCKET or /run/usher/session.sock)\n",
          to);
}

static int send_to(struct ping *p, uint64_t seq) {
    static char data[65507];
    memcpy(data, &seq, sizeof(seq));
    ssize_t n = usher_sendto(p->sock, data, (size_t)p->size, p->to, p->to_len);
    return n < 0 ? (int)n : 0;
}

/* Sends number `seq`; 0 or a negative errno. */
static int send_one(struct ping *p, uint64_t seq) {
    struct usher_msg m = {.sock = p->sock, .len = (uint32_t)p->size};
    if (p->to)
        return send_to(p, seq);
    int rc = usher_tx_alloc(p->ctx, m.len, &m.buf);
    if (rc < 0)
        return rc;
    memset(m.buf.data, 0, m.len);
    memcpy(m.buf.data, &seq, sizeof(seq));
    rc = usher_send(p->ctx, &m, 1);
    if (rc != 1)
        usher_tx_free(p->ctx, &m.buf);
    return rc == 1 ? 0 : rc;
}

/* True when the event is the answer to number `seq`. */
static int is_answer(struct ping *p, struct usher_event *ev, uint64_t seq) {
    uint64_t got = ~seq;
    if (ev->type == USHER_EV_ERROR)
        fprintf(stderr, "udp-ping: %s\n", strerror(ev->error));
    if (ev->type != USHER_EV_RECV)
        return 0;
    if (ev->msg.len >= sizeof(got))
        memcpy(&got, ev->msg.buf.data, sizeof(got));
    if (got == seq)
        p->by_kernel += (ev->msg.flags & USHER_RECV_KERNEL) != 0;
    usher_rx_release(p->ctx, &ev->msg, 1);
    return got == seq;
}

static int wait_answer(struct ping *p, uint64_t seq, int64_t end) {
    struct usher_event ev;
    for (int64_t left = end - now_ns(); left > 0; left = end - now_ns())
        if (usher_wait(p->ctx, &ev, 1, left) == 1 && is_answer(p, &ev, seq))
            return 1;
    return 0;
}

static void run(struct ping *p) {
    for (long i = 0; i < p->count; i++) {
        int64_t start = now_ns();
        int rc = send_one(p, (uint64_t)i + 1);
        if (rc < 0)
            fprintf(stderr, "udp-ping: %s\n", usher_strerror());
        if (rc == 0 && wait_answer(p, (uint64_t)i + 1, start + p->timeout_ms * 1000000))
            p->rtt_ns[p->answered++] = now_ns() - start;
        else
            p->lost++;
        if (p->interval_us)
            nanosleep(&(struct timespec){p->interval_us / 1000000, p->interval_us % 1000000 * 1000}, NULL);
    }
}

static int compare(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static void print_row(const char *name, double us) {
    printf("  %-6s %10.2f us\n", name, us);
}

static void report(struct ping *p, const char *target) {
    struct usher_socket_info info;
    args_check(usher_socket_info(p->sock, &info), "socket info");
    printf("udp-ping %s: %ld bytes, %ld sent, %ld answered, %ld lost\n", target, p->size, p->count, p->answered,
           p->lost);
    printf("  carried by %s%s%s%s\n", info.accelerated ? "usherd" : "the kernel", info.reason[0] ? " (" : "",
           info.reason, info.reason[0] ? ")" : "");
    if (p->by_kernel && info.accelerated)
        printf("  %ld answers came by the kernel socket\n", p->by_kernel);
    if (!p->answered)
        return;
    qsort(p->rtt_ns, (size_t)p->answered, sizeof(*p->rtt_ns), compare);
    static const struct {
        const char *name;
        double share;
    } rows[] = {{"min", 0}, {"p50", .5}, {"p90", .9}, {"p99", .99}, {"p99.9", .999}, {"max", 1}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        print_row(rows[i].name, (double)p->rtt_ns[(size_t)((double)(p->answered - 1) * rows[i].share)] / 1000);
}

static struct usher_context_params params = {.spin_us = -1, .flags = USHER_SINGLE_THREAD};

struct choices {
    bool unconnected, reuse;
};

static const char *parse(struct ping *p, int argc, char **argv, struct choices *ret_choices) {
    static const struct option options[] = {
        {"count", required_argument, 0, 'c'},
        {"size", required_argument, 0, 'z'},
        {"spin", required_argument, 0, 's'},
        {"timeout", required_argument, 0, 't'},
        {"interval", required_argument, 0, 'i'},
        {"bind", required_argument, 0, 'b'},
        {"unconnected", no_argument, 0, 'u'},
        {"reuse", no_argument, 0, 'r'},
        {"socket", required_argument, 0, 'S'},
        {"help", no_argument, 0, 'h'},
        {0},
    };
    const char *bind_to = NULL;
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (c) {
        case 'c':
            p->count = args_number("--count", optarg, 1, 100000000);
            break;
        case 'z':
            p->size = args_number("--size", optarg, 8, 65507);
            break;
        case 's':
            params.spin_us = (int)args_number("--spin", optarg, 0, 1000000);
            break;
        case 't':
            p->timeout_ms = args_number("--timeout", optarg, 1, 1000000);
            break;
        case 'i':
            p->interval_us = args_number("--interval", optarg, 0, 10000000);
            break;
        case 'b':
            bind_to = optarg;
            break;
        case 'r':
            ret_choices->reuse = true;
            break;
        case 'u':
            ret_choices->unconnected = true;
            break;
        case 'S':
            params.socket_path = optarg;
            break;
        default:
            help(c == 'h' ? stdout : stderr);
            exit(c == 'h' ? 0 : 2);
        }
    }
    if (optind != argc - 1) {
        help(stderr);
        exit(2);
    }
    return bind_to;
}

int main(int argc, char **argv) {
    struct ping p = {.count = 1000, .size = 64, .timeout_ms = 1000};
    struct sockaddr_storage addr, local;
    struct choices how = {0};
    const char *bind_to = parse(&p, argc, argv, &how), *target = argv[optind];
    socklen_t len = args_address(target, &addr);
    p.rtt_ns = calloc((size_t)p.count, sizeof(*p.rtt_ns));
    if (!p.rtt_ns)
        args_check(-ENOMEM, "no memory for the results");

    args_check(usher_context_open(&params, &p.ctx), "attaching to usherd");
    args_check(usher_socket(p.ctx, addr.ss_family, SOCK_DGRAM, 0, &p.sock), "socket");
    if (how.reuse)
        args_check(usher_setsockopt(p.sock, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)), "SO_REUSEADDR");
    if (bind_to) {
        socklen_t local_len = args_address(bind_to, &local);
        args_check(usher_bind(p.sock, (struct sockaddr *)&local, local_len), "bind");
    }
    p.to = how.unconnected ? (struct sockaddr *)&addr : NULL;
    p.to_len = len;
    if (!how.unconnected)
        args_check(usher_connect(p.sock, (struct sockaddr *)&addr, len), "connect");
    run(&p);
    report(&p, target);
    usher_context_close(p.ctx);
    free(p.rtt_ns);
    return p.answered ? 0 : 1;
}
