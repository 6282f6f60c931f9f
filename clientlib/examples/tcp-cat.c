/* SPDX-License-Identifier: Apache-2.0
 *
 * Connects, sends what it reads on its standard input, writes what comes back to its standard output. With --count it
 * does so in that many connections, one after the other, each with one line of its own; with --bind it connects from
 * that address and port. Shows a stream with events and the copying calls. One thread.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <usher/usher.h>

#include "args.h"

#define PATIENCE INT64_C(10000000000)

struct cat {
    struct usher_context *ctx;
    struct sockaddr_storage addr, from;
    socklen_t addr_len, from_len;
    char out[16384];
    size_t out_len, out_at;
    int in_done, shut;
};

static struct usher_socket *open_stream(struct cat *c) {
    struct usher_socket *sock;
    args_check(usher_socket(c->ctx, c->addr.ss_family, SOCK_STREAM, 0, &sock), "socket");
    if (c->from_len)
        args_check(usher_bind(sock, (struct sockaddr *)&c->from, c->from_len), "bind");
    args_check(usher_connect(sock, (struct sockaddr *)&c->addr, c->addr_len), "connect");
    for (;;) {
        struct usher_event ev;
        int n = usher_wait(c->ctx, &ev, 1, PATIENCE);
        if (n == 1 && ev.sock == sock && ev.type == USHER_EV_CONNECTED)
            return sock;
        if (n == 1 && ev.type != USHER_EV_ERROR)
            continue;
        fprintf(stderr, "tcp-cat: connect: %s\n", n == 1 ? strerror(ev.error) : "no answer");
        exit(1);
    }
}

static void report(struct usher_socket *sock) {
    struct usher_socket_info info;
    if (usher_socket_info(sock, &info) == 0)
        fprintf(
            stderr, "tcp-cat: connected; %s%s\n",
            info.accelerated ? "carried by usherd" : "carried by the kernel: ", info.accelerated ? "" : info.reason);
}

/* Sends what the input has; true when something went. */
static int push(struct cat *c, struct usher_socket *sock) {
    if (c->out_at == c->out_len && !c->in_done) {
        ssize_t n = read(0, c->out, sizeof(c->out));
        c->in_done = n <= 0;
        c->out_len = n > 0 ? (size_t)n : 0;
        c->out_at = 0;
    }
    if (c->out_at < c->out_len) {
        ssize_t n = usher_send_stream(sock, c->out + c->out_at, c->out_len - c->out_at);
        if (n < 0 && n != -EAGAIN && n != -ENOBUFS)
            args_check((int)n, "send");
        c->out_at += n > 0 ? (size_t)n : 0;
        return n > 0;
    }
    if (c->in_done && !c->shut)
        c->shut = usher_shutdown(sock, SHUT_WR) == 0;
    return 0;
}

static void copy(struct cat *c, struct usher_socket *sock) {
    char in[65536];
    for (;;) {
        int went = push(c, sock);
        ssize_t n = usher_recv_stream(sock, in, sizeof(in), went ? 0 : c->shut ? PATIENCE : 1000000);
        if (n == 0)
            return;
        if (n > 0 && fwrite(in, 1, (size_t)n, stdout) != (size_t)n)
            exit(1);
        if (n < 0 && (n != -EAGAIN || (c->shut && !went)))
            args_check((int)n, "receive");
    }
}

static void one_line(struct cat *c, long number) {
    char line[64], back[64];
    struct usher_socket *sock = open_stream(c);
    int len = snprintf(line, sizeof(line), "connection %ld\n", number), got = 0;
    args_check((int)usher_send_stream(sock, line, (size_t)len), "send");
    while (got < len) {
        ssize_t n = usher_recv_stream(sock, back + got, sizeof(back) - (size_t)got, PATIENCE);
        args_check(n > 0 ? 0 : n < 0 ? (int)n : -EPIPE, "receive");
        got += (int)n;
    }
    if (memcmp(line, back, (size_t)len) != 0)
        args_check(-EBADMSG, "what came back is not what was sent");
    usher_close(sock);
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"socket", required_argument, 0, 'S'},
                                            {"count", required_argument, 0, 'c'},
                                            {"bind", required_argument, 0, 'b'},
                                            {"help", no_argument, 0, 'h'},
                                            {0}};
    struct usher_context_params params = {.spin_us = -1, .flags = USHER_SINGLE_THREAD};
    static struct cat cat;
    long count = 0;
    int c;
    while ((c = getopt_long(argc, argv, "h", options, NULL)) == 'S' || c == 'c' || c == 'b') {
        if (c == 'S')
            params.socket_path = optarg;
        else if (c == 'b')
            cat.from_len = args_address(optarg, &cat.from);
        else
            count = args_number("--count", optarg, 1, 1L << 30);
    }
    if (c != -1 || optind + 1 != argc) {
        fputs("usage: tcp-cat [--socket PATH] [--count N] [--bind address:port] address:port\n",
              c == 'h' ? stdout : stderr);
        return c == 'h' ? 0 : 2;
    }
    cat.addr_len = args_address(argv[optind], &cat.addr);
    args_check(usher_context_open(&params, &cat.ctx), "attaching to usherd");
    for (long i = 0; i < count; i++)
        one_line(&cat, i);
    if (count == 0) {
        struct usher_socket *sock = open_stream(&cat);
        report(sock);
        copy(&cat, sock);
        usher_close(sock);
    } else {
        printf("tcp-cat: %ld connections answered\n", count);
    }
    usher_context_close(cat.ctx);
    return 0;
}
