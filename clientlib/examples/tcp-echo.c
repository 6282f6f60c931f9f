/* SPDX-License-Identifier: Apache-2.0
 *
 * Answers every TCP connection with what it sends. Shows a listener, streams as events, and back-pressure: what cannot
 * be sent yet stays in the buffer it came in, unreleased, so the peer's window closes behind it. One thread.
 */
#include <errno.h>
#include <getopt.h>
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

/* Received, not sent back yet. */
struct waiting {
    struct waiting *next;
    struct usher_msg msg;
    uint32_t at;
};

struct peer {
    struct waiting *head, **tail;
    int hung_up;
};

static void peer_end(struct usher_context *ctx, struct usher_socket *sock) {
    struct peer *p = usher_user(sock);
    while (p && p->head) {
        struct waiting *w = p->head;
        p->head = w->next;
        usher_rx_release(ctx, &w->msg, 1);
        free(w);
    }
    free(p);
    usher_close(sock);
}

/* Sends what there is room for. False: the connection is over. */
static int peer_push(struct usher_context *ctx, struct usher_socket *sock) {
    struct peer *p = usher_user(sock);
    while (p->head) {
        struct waiting *w = p->head;
        ssize_t n = usher_send_stream(sock, (char *)w->msg.buf.data + w->at, w->msg.len - w->at);
        if (n == -EAGAIN || n == -ENOBUFS)
            return 1; /* WRITABLE or TX_FREE comes */
        if (n < 0)
            return 0;
        w->at += (uint32_t)n;
        if (w->at < w->msg.len)
            continue;
        p->head = w->next;
        if (!p->head)
            p->tail = &p->head;
        usher_rx_release(ctx, &w->msg, 1);
        free(w);
    }
    return !p->hung_up;
}

static int peer_take(struct usher_socket *sock, const struct usher_msg *msg) {
    struct peer *p = usher_user(sock);
    struct waiting *w = calloc(1, sizeof(*w));
    if (!w)
        return 0;
    w->msg = *msg;
    *p->tail = w;
    p->tail = &w->next;
    return 1;
}

static void peer_begin(struct usher_socket *sock) {
    struct peer *p = calloc(1, sizeof(*p));
    if (!p) {
        usher_close(sock);
        return;
    }
    p->tail = &p->head;
    usher_set_user(sock, p);
}

/* False: the event's socket is closed now. */
static int handle(struct usher_context *ctx, struct usher_event *ev) {
    int alive = 1;
    if (ev->type == USHER_EV_ACCEPT) {
        peer_begin(ev->msg.sock);
        return 1;
    }
    struct peer *p = ev->sock ? usher_user(ev->sock) : NULL;
    if (!p) {
        if (ev->type == USHER_EV_RECV)
            usher_rx_release(ctx, &ev->msg, 1);
        return 1;
    }
    if (ev->type == USHER_EV_RECV && !peer_take(ev->sock, &ev->msg)) {
        usher_rx_release(ctx, &ev->msg, 1);
        alive = 0;
    }
    if (ev->type == USHER_EV_HANGUP)
        p->hung_up = 1;
    if (ev->type != USHER_EV_ERROR && alive && peer_push(ctx, ev->sock))
        return 1;
    peer_end(ctx, ev->sock);
    return 0;
}

/* A reset is an error and a hang-up: what comes in a burst behind the event that closed its socket is about nobody. */
static void burst_handle(struct usher_context *ctx, struct usher_event *events, int n) {
    for (int i = 0; i < n; i++) {
        struct usher_socket *sock = events[i].sock;
        if (handle(ctx, &events[i]))
            continue;
        for (int later = i + 1; later < n; later++) {
            if (events[later].sock == sock)
                events[later].sock = NULL;
        }
    }
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"socket", required_argument, 0, 'S'}, {"help", no_argument, 0, 'h'}, {0}};
    struct usher_context_params params = {.spin_us = -1, .flags = USHER_SINGLE_THREAD};
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        if (c == 'S') {
            params.socket_path = optarg;
            continue;
        }
        fputs("usage: tcp-echo [--socket PATH] [address:port]      (default :7777)\n", c == 'h' ? stdout : stderr);
        return c == 'h' ? 0 : 2;
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
    args_check(usher_socket(ctx, addr.ss_family, SOCK_STREAM, 0, &sock), "socket");
    args_check(usher_bind(sock, (struct sockaddr *)&addr, len), "bind");
    args_check(usher_listen(sock, 512), "listen");
    args_check(usher_socket_info(sock, &info), "socket info");
    printf("tcp-echo: listening; %s%s\n",
           info.accelerated ? "carried by usherd" : "carried by the kernel: ", info.accelerated ? "" : info.reason);
    fflush(stdout);
    while (!stop) {
        struct usher_event events[BURST];
        int n = usher_wait(ctx, events, BURST, 1000000000);
        burst_handle(ctx, events, n);
    }
    usher_context_close(ctx);
    return 0;
}
