/* SPDX-License-Identifier: Apache-2.0
 *
 * libusher inside a program's own epoll loop, beside a timer and standard input: each line typed is sent to a peer,
 * what the peer answers is printed, and a timer counts. The rule is in one place, before_sleeping(): usher_arm() before
 * each wait, and no wait when it returns 1. Ends when input has ended and --linger has passed.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <usher/usher.h>

#include "args.h"

enum source { FROM_USHER, FROM_STDIN, FROM_TIMER };

struct loop {
    struct usher_context *ctx;
    struct usher_socket *sock;
    int epoll_fd, timer_fd;
    long ticks, linger_ticks; /* tenths of a second */
    long sent, received;
    int input_ended;
};

static void help(FILE *to) {
    fputs("usage: event-loop [options] address:port\n"
          "  --linger TENTHS  wait for answers this long after the end of input (default 5)\n"
          "  --socket PATH    usherd's session socket (default: $USHER_SOCKET or /run/usher/session.sock)\n",
          to);
}

static void watch(struct loop *l, int fd, enum source source) {
    struct epoll_event ev = {.events = EPOLLIN, .data.u32 = source};
    /* A regular file is always readable and cannot be watched; its lines are read at once. */
    if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0 && errno != EPERM)
        perror("event-loop: epoll");
}

static void on_usher(struct loop *l) {
    struct usher_event events[16];
    int n = usher_poll(l->ctx, events, 16);
    for (int i = 0; i < n; i++) {
        struct usher_event *ev = &events[i];
        if (ev->type == USHER_EV_ERROR)
            printf("error: %s\n", strerror(ev->error));
        if (ev->type == USHER_EV_DOWN)
            printf("usherd is gone, going on over the kernel\n");
        if (ev->type != USHER_EV_RECV)
            continue;
        printf("< %.*s\n", (int)ev->msg.len, (const char *)ev->msg.buf.data);
        l->received++;
        usher_rx_release(l->ctx, &ev->msg, 1);
    }
}

static void on_stdin(struct loop *l) {
    char line[1024];
    if (!fgets(line, sizeof(line), stdin)) {
        l->input_ended = 1;
        l->ticks = 0;
        epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
        return;
    }
    size_t len = strcspn(line, "\n");
    if (usher_sendto(l->sock, line, len, NULL, 0) < 0)
        printf("not sent: %s\n", usher_strerror());
    else
        l->sent++;
}

static void on_timer(struct loop *l) {
    uint64_t count;
    if (read(l->timer_fd, &count, sizeof(count)) == sizeof(count))
        l->ticks += (long)count;
}

/* Milliseconds that epoll may sleep: 0 when libusher has something already. */
static int before_sleeping(struct loop *l) {
    return usher_arm(l->ctx) == 1 ? 0 : -1;
}

static void run(struct loop *l) {
    while (!l->input_ended || l->ticks < l->linger_ticks) {
        struct epoll_event events[4];
        int timeout = before_sleeping(l);
        int n = epoll_wait(l->epoll_fd, events, 4, timeout);
        if (timeout == 0)
            on_usher(l);
        for (int i = 0; i < n; i++) {
            switch ((enum source)events[i].data.u32) {
            case FROM_USHER:
                on_usher(l);
                break;
            case FROM_STDIN:
                on_stdin(l);
                break;
            case FROM_TIMER:
                on_timer(l);
                break;
            }
        }
        fflush(stdout);
    }
}

static void open_all(struct loop *l, const char *path, const char *target) {
    const struct usher_context_params params = {.socket_path = path, .flags = USHER_SINGLE_THREAD, .spin_us = -1};
    struct sockaddr_storage addr;
    socklen_t len = args_address(target, &addr);
    args_check(usher_context_open(&params, &l->ctx), "attaching to usherd");
    args_check(usher_socket(l->ctx, addr.ss_family, SOCK_DGRAM, 0, &l->sock), "socket");
    args_check(usher_connect(l->sock, (struct sockaddr *)&addr, len), "connect");

    const struct itimerspec tenth = {.it_interval = {.tv_nsec = 100000000}, .it_value = {.tv_nsec = 100000000}};
    l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    l->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    timerfd_settime(l->timer_fd, 0, &tenth, NULL);
    watch(l, usher_fd(l->ctx), FROM_USHER);
    watch(l, STDIN_FILENO, FROM_STDIN);
    watch(l, l->timer_fd, FROM_TIMER);
    setvbuf(stdin, NULL, _IONBF, 0); /* else fgets() would hold back lines that epoll no longer announces */
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"linger", required_argument, 0, 'l'},
        {"socket", required_argument, 0, 'S'},
        {"help", no_argument, 0, 'h'},
        {0},
    };
    struct loop l = {.linger_ticks = 5};
    const char *path = NULL;
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (c) {
        case 'l':
            l.linger_ticks = args_number("--linger", optarg, 0, 100000);
            break;
        case 'S':
            path = optarg;
            break;
        default:
            help(c == 'h' ? stdout : stderr);
            return c == 'h' ? 0 : 2;
        }
    }
    if (optind != argc - 1) {
        help(stderr);
        return 2;
    }
    open_all(&l, path, argv[optind]);
    run(&l);
    printf("event-loop: %ld lines sent, %ld answers\n", l.sent, l.received);
    usher_context_close(l.ctx);
    return 0;
}
