/* SPDX-License-Identifier: Apache-2.0
 *
 * Sends numbered datagrams from one unconnected socket of Usher's and ends, without ever polling: what a program that
 * only reports does. The other end checks that all of them come, in order.
 *
 * usage: usher-burst SOCKET ADDRESS PORT COUNT    an IPv4 address; SOCKET is usherd's session socket
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <usher/usher.h>

#define TRIES_MAX 20000 /* half a second of waiting for credit, then it is an error */

static int send_one(struct usher_socket *sock, const struct sockaddr_in *to, uint32_t number) {
    for (int tries = 0; tries < TRIES_MAX; tries++) {
        ssize_t n = usher_sendto(sock, &number, sizeof(number), (const struct sockaddr *)to, sizeof(*to));
        if (n != -EAGAIN && n != -ENOBUFS)
            return n < 0 ? (int)n : 0;
        nanosleep(&(struct timespec){.tv_nsec = 25000}, NULL);
    }
    return -ETIMEDOUT;
}

int main(int argc, char **argv) {
    struct usher_context *ctx;
    struct usher_socket *sock;
    if (argc != 5) {
        fprintf(stderr, "usage: usher-burst SOCKET ADDRESS PORT COUNT\n");
        return 2;
    }
    struct usher_context_params params = {.socket_path = argv[1], .spin_us = -1};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[3]))};
    if (inet_pton(AF_INET, argv[2], &to.sin_addr) != 1 || usher_context_open(&params, &ctx) < 0 ||
        usher_socket(ctx, AF_INET, SOCK_DGRAM, 0, &sock) < 0) {
        fprintf(stderr, "usher-burst: %s: %s\n", argv[2], usher_strerror());
        return 1;
    }
    uint32_t count = (uint32_t)atoi(argv[4]);
    for (uint32_t i = 0; i < count; i++) {
        int err = send_one(sock, &to, i);
        if (err < 0) {
            fprintf(stderr, "usher-burst: number %u: %s (%s)\n", i, strerror(-err), usher_strerror());
            return 1;
        }
    }
    usher_context_close(ctx);
    printf("%u sent\n", count);
    return 0;
}
