/* SPDX-License-Identifier: Apache-2.0
 *
 * A peer that knows nothing of Usher: sends every UDP datagram back over a plain kernel socket. quickstart and the
 * end-to-end tests talk to it. One thread, blocking; ends when it is told to (SIGTERM) or after SECONDS.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int bind_any(uint16_t port) {
    int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = in6addr_any};
    if (fd < 0 || bind(fd, (struct sockaddr *)&any, sizeof any) < 0) {
        fprintf(stderr, "kernel-echo: cannot bind UDP port %u: %m\n", (unsigned)port);
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: kernel-echo PORT [SECONDS]    (ends by itself after SECONDS, default 60)\n");
        return 2;
    }
    int fd = bind_any((uint16_t)atoi(argv[1]));
    alarm(argc > 2 ? (unsigned)atoi(argv[2]) : 60);
    puts("ready");
    fflush(stdout);
    static char data[65536];
    for (;;) {
        struct sockaddr_storage peer;
        socklen_t len = sizeof peer;
        ssize_t n = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&peer, &len);
        if (n >= 0 && sendto(fd, data, (size_t)n, 0, (struct sockaddr *)&peer, len) < 0)
            perror("kernel-echo: sendto");
    }
}
