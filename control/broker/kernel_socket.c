/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads a kernel socket with getsockopt and friends only; never changes it.
 */
#include "control/broker/kernel_socket.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engines/wire.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

static int option_int(int fd, int level, int name, int *ret_value) {
    socklen_t len = sizeof *ret_value;
    return getsockopt(fd, level, name, ret_value, &len) == 0 ? 0 : -errno;
}

static int option_u64(int fd, int name, uint64_t *ret_value) {
    socklen_t len = sizeof *ret_value;
    return getsockopt(fd, SOL_SOCKET, name, ret_value, &len) == 0 ? 0 : -errno;
}

int netns_cookie_read(uint64_t *ret_cookie) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int err = option_u64(fd, SO_NETNS_COOKIE, ret_cookie);
    (void)close(fd);
    return err;
}

static bool address_read(const struct sockaddr_storage *ss, struct ipaddr *ret_addr, uint16_t *ret_port) {
    if (ss->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)ss;
        *ret_addr = ipaddr_from_v4(&in->sin_addr);
        *ret_port = ntohs(in->sin_port);
        return true;
    }
    if (ss->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)ss;
        *ret_addr = ipaddr_from_v6(&in6->sin6_addr);
        *ret_port = ntohs(in6->sin6_port);
        return true;
    }
    return false;
}

static int read_kind(int fd, struct kernel_socket *s, char *why, size_t why_size) {
    int domain, type, proto;
    int err = option_int(fd, SOL_SOCKET, SO_DOMAIN, &domain);
    if (err == 0)
        err = option_int(fd, SOL_SOCKET, SO_TYPE, &type);
    if (err == 0)
        err = option_int(fd, SOL_SOCKET, SO_PROTOCOL, &proto);
    if (err != 0) {
        (void)snprintf(why, why_size, "the descriptor passed is not a socket");
        return -ENOTSOCK;
    }
    if (domain == AF_PACKET && (type == SOCK_RAW || type == SOCK_DGRAM)) {
        s->flow.proto = PROTO_FRAME;
        return 0;
    }
    bool known = (type == SOCK_DGRAM && proto == IPPROTO_UDP) || (type == SOCK_STREAM && proto == IPPROTO_TCP);
    if ((domain != AF_INET && domain != AF_INET6) || !known) {
        (void)snprintf(why, why_size, "only UDP and TCP sockets over IPv4 or IPv6, and packet sockets, are taken");
        return -EPROTONOSUPPORT;
    }
    s->v6 = domain == AF_INET6;
    s->flow.proto = (uint8_t)proto;
    return 0;
}

static int read_options(int fd, struct kernel_socket *s) {
    int value = 0;
    int err = option_u64(fd, SO_COOKIE, &s->cookie);
    if (err == 0)
        err = option_int(fd, SOL_SOCKET, SO_REUSEPORT, &value);
    s->reuseport = value != 0;
    if (err == 0)
        err = option_int(fd, SOL_SOCKET, SO_REUSEADDR, &value);
    s->reuseaddr = value != 0;
    if (err == 0)
        err = option_int(fd, SOL_SOCKET, SO_BINDTOIFINDEX, &value);
    s->ifindex = (uint32_t)value;
    if (err == 0 && s->v6) {
        err = option_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, &value);
        s->v6only = value != 0;
    }
    return err;
}

/* The kernel tells the backlog of a listening socket as the count of sacked segments. */
static void read_listening(int fd, struct kernel_socket *s) {
    struct tcp_info info = {0};
    socklen_t len = sizeof info;
    int listening = 0;
    if (s->flow.proto != IPPROTO_TCP || option_int(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening) != 0)
        return;
    s->listening = listening != 0;
    if (s->listening && getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0)
        s->backlog = info.tcpi_sacked;
}

static int read_addresses(int fd, struct kernel_socket *s, char *why, size_t why_size) {
    struct sockaddr_storage ss;
    socklen_t len = sizeof ss;
    if (getsockname(fd, (struct sockaddr *)&ss, &len) != 0 || !address_read(&ss, &s->flow.local, &s->flow.local_port) ||
        (s->flow.local_port == 0 && s->flow.proto == IPPROTO_UDP)) {
        (void)snprintf(why, why_size, "the socket is not bound to a port; bind or connect it first");
        return -EDESTADDRREQ;
    }
    len = sizeof ss;
    s->connected =
        getpeername(fd, (struct sockaddr *)&ss, &len) == 0 && address_read(&ss, &s->flow.remote, &s->flow.remote_port);
    return 0;
}

/* A packet socket has an interface, or none yet, and no more. */
static int read_frames(int fd, struct kernel_socket *s, char *why, size_t why_size) {
    struct sockaddr_ll ll = {0};
    socklen_t len = sizeof ll;
    int err = option_u64(fd, SO_COOKIE, &s->cookie);
    if (err == 0 && getsockname(fd, (struct sockaddr *)&ll, &len) != 0)
        err = -errno;
    if (err != 0)
        (void)snprintf(why, why_size, "the packet socket cannot be read (errno %d)", -err);
    s->ifindex = (uint32_t)ll.sll_ifindex;
    return err;
}

int kernel_socket_read(int fd, uint64_t netns_cookie, struct kernel_socket *ret_socket, char *why, size_t why_size) {
    struct kernel_socket s = {0};
    uint64_t cookie = 0;
    int err = read_kind(fd, &s, why, why_size);
    if (err != 0)
        return err;
    err = option_u64(fd, SO_NETNS_COOKIE, &cookie);
    if (err != 0 || cookie != netns_cookie) {
        (void)snprintf(why, why_size, "the socket lives in another network namespace than usherd");
        return -EXDEV;
    }
    if (s.flow.proto == PROTO_FRAME) {
        err = read_frames(fd, &s, why, why_size);
        if (err == 0)
            *ret_socket = s;
        return err;
    }
    err = read_options(fd, &s);
    if (err != 0) {
        (void)snprintf(why, why_size, "the socket's options cannot be read (errno %d)", -err);
        return err;
    }
    read_listening(fd, &s);
    err = read_addresses(fd, &s, why, why_size);
    if (err == 0)
        *ret_socket = s;
    return err;
}
