/* SPDX-License-Identifier: Apache-2.0
 *
 * A UDP echo server in one loop: wait for a burst of datagrams, copy each into a buffer of the shared TX region, send
 * the burst back, give the received buffers back. Sleeps when there is nothing to do. Ends on SIGINT or SIGTERM.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <usher/usher.h>

#include "args.h"

#define BURST 64

static volatile sig_atomic_t stop;

static void on_signal(int sig) {
    (void)sig;
    stop = 1;
}

static void help(FILE *to) {
    fputs("usage: udp-echo [options] [address:port]      (default :7777)\n"
          "  --spin US     look actively for this long before sleeping (default: self-tuned)\n"
          "  --count N     end after N datagrams\n"
          "  --socket PATH usherd's session socket (default: $USHER_SOCKET or /run/usher/session.sock)\n",
          to);
}

/* Answers one event; true when *reply is to be sent. */
static int answer(struct usher_context *ctx, const struct usher_event *ev, struct usher_msg *reply) {
    if (ev->type == USHER_EV_DOWN)
        fprintf(stderr, "udp-echo: usherd is gone, going on over the kernel\n");
    if (ev->type != USHER_EV_RECV)
        return 0;
    *reply = ev->msg; /* peer, and the address it was sent to, are right as they are */
    reply->flags = 0;
    reply->gso_size = ev->msg.gso_size;
    if (usher_tx_alloc(ctx, ev->msg.len, &reply->buf) < 0)
        return 0; /* no buffer now: UDP may lose it */
    memcpy(reply->buf.data, ev->msg.buf.data, ev->msg.len);
    return 1;
}

static void send_all(struct usher_context *ctx, struct usher_msg *replies, uint32_t n) {
    int sent = usher_send(ctx, replies, n);
    for (uint32_t i = sent > 0 ? (uint32_t)sent : 0; i < n; i++)
        usher_tx_free(ctx, &replies[i].buf); /* the peer is too fast: UDP may lose it */
}

static uint64_t serve(struct usher_context *ctx, uint64_t count) {
    struct usher_event events[BURST];
    struct usher_msg replies[BURST];
    uint64_t answered = 0;
    while (!stop && answered < count) {
        /* Not for ever: a signal that comes between the look at `stop` and the wait does not interrupt the wait. */
        int n = usher_wait(ctx, events, BURST, 1000000000);
        uint32_t out = 0;
        for (int i = 0; i < n; i++) {
            out += answer(ctx, &events[i], &replies[out]);
            if (events[i].type == USHER_EV_RECV)
                usher_rx_release(ctx, &events[i].msg, 1);
        }
        if (out)
            send_all(ctx, replies, out);
        answered += out;
    }
    return answered;
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"spin", required_argument, 0, 's'},
        {"count", required_argument, 0, 'c'},
        {"socket", required_argument, 0, 'S'},
        {"help", no_argument, 0, 'h'},
        {0},
    };
    struct usher_context_params params = {.spin_us = -1, .flags = USHER_SINGLE_THREAD};
    uint64_t count = UINT64_MAX;
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (c) {
        case 's':
            params.spin_us = (int)args_number("--spin", optarg, 0, 1000000);
            break;
        case 'c':
            count = (uint64_t)args_number("--count", optarg, 1, 1L << 40);
            break;
        case 'S':
            params.socket_path = optarg;
            break;
        default:
            help(c == 'h' ? stdout : stderr);
            return c == 'h' ? 0 : 2;
        }
    }
    const struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);

    struct sockaddr_storage addr;
    socklen_t len = args_address(optind < argc ? argv[optind] : ":7777", &addr);
    struct usher_context *ctx;
    struct usher_socket *sock;
    struct usher_socket_info info;
    args_check(usher_context_open(&params, &ctx), "attaching to usherd");
    args_check(usher_socket(ctx, addr.ss_family, SOCK_DGRAM, 0, &sock), "socket");
    args_check(usher_bind(sock, (struct sockaddr *)&addr, len), "bind");
    args_check(usher_socket_info(sock, &info), "socket info");
    printf("udp-echo: listening; %s%s%s\n", info.accelerated ? "carried by usherd" : "carried by the kernel: ",
           info.accelerated && info.reason[0] ? ": " : "", info.reason);
    fflush(stdout);
    printf("udp-echo: %" PRIu64 " datagrams answered\n", serve(ctx, count));
    usher_context_close(ctx);
    return 0;
}
