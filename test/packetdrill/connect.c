/* SPDX-License-Identifier: Apache-2.0
 *
 * Addresses, and how streams and datagram sockets come by them: bind, listen, accept, connect. See program.h.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "engines/wire.h"
#include "test/packetdrill/program.h"

#define FASTOPEN_CLIENT 1u
#define FASTOPEN_ALL    0x400u

int program_address(const struct sockaddr *addr, socklen_t len, struct ipaddr *ret_addr, uint16_t *ret_port) {
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    if (addr == NULL)
        return -EFAULT;
    if (addr->sa_family == AF_INET && len >= sizeof in) {
        memcpy(&in, addr, sizeof in);
        *ret_addr = ipaddr_from_v4(&in.sin_addr);
        *ret_port = ntohs(in.sin_port);
        return 0;
    }
    if (addr->sa_family == AF_INET6 && len >= sizeof in6) {
        memcpy(&in6, addr, sizeof in6);
        *ret_addr = ipaddr_from_v6(&in6.sin6_addr);
        *ret_port = ntohs(in6.sin6_port);
        return 0;
    }
    return addr->sa_family == AF_INET || addr->sa_family == AF_INET6 ? -EINVAL : -EAFNOSUPPORT;
}

void program_name(const struct ipaddr *a, uint16_t port, int family, struct sockaddr *addr, socklen_t *len) {
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    if (addr == NULL || len == NULL)
        return;
    memcpy(&in.sin_addr, &a->w[3], sizeof in.sin_addr);
    memcpy(&in6.sin6_addr, a->b, sizeof in6.sin6_addr);
    socklen_t have = family == AF_INET ? sizeof in : sizeof in6;
    memcpy(addr, family == AF_INET ? (void *)&in : (void *)&in6, *len < have ? *len : have);
    *len = have;
}

static struct ipaddr any_of(const struct fd *f) {
    static const uint8_t none[4];
    return f->family == AF_INET ? ipaddr_from_v4(none) : ipaddr_any();
}

static uint16_t next_port(struct program *p) {
    p->next_port = p->next_port < 32768 || p->next_port > 60000 ? 32768 : (uint16_t)(p->next_port + 1);
    return p->next_port;
}

static int open_datagram(struct program *p, struct fd *f) {
    struct udp_cmd_open o = {.cmd = {UDP_CMD_OPEN, sizeof o}, .flow = f->flow, .sink = program_sink(p, f)};
    struct engine_reply r = stack_command(p->stack, STACK_UDP, &o);
    f->sock = r.value;
    f->bound = r.error == 0;
    return r.error;
}

int program_bind(struct program *p, int fd, const struct sockaddr *addr, socklen_t len) {
    struct fd *f = program_fd(p, fd);
    struct ipaddr a;
    uint16_t port;
    if (f == NULL)
        return -EBADF;
    int error = program_address(addr, len, &a, &port);
    if (error < 0 || f->bound)
        return error < 0 ? error : -EINVAL;
    if (!ipaddr_is_any(&a))
        stack_address(p->stack, &a);
    f->flow.local = ipaddr_is_any(&a) ? any_of(f) : a;
    f->flow.local_port = port != 0 ? port : next_port(p);
    f->flow.proto = f->kind == FD_STREAM ? PROTO_TCP : PROTO_UDP;
    if (f->kind == FD_DATAGRAM)
        return open_datagram(p, f);
    f->bound = true;
    return 0;
}

int program_listen(struct program *p, int fd, int backlog) {
    struct fd *f = program_fd(p, fd);
    if (f == NULL)
        return -EBADF;
    if (f->kind != FD_STREAM)
        return -EOPNOTSUPP;
    if (f->state != STREAM_NEW)
        return f->state == STREAM_LISTENING ? 0 : -EINVAL;
    if (!f->bound) {
        f->flow = (struct flow){.local = any_of(f), .local_port = next_port(p), .proto = PROTO_TCP};
        f->bound = true;
    }
    f->backlog = backlog > 0 ? (uint32_t)backlog : 1;
    struct tcp_cmd_listen c = {.cmd = {TCP_CMD_LISTEN, sizeof c},
                               .flow = f->flow,
                               .sink = program_sink(p, f),
                               .backlog = f->backlog + 1, /* as Linux counts */
                               .v6only = f->family == AF_INET6 && program_option(f, SOL_IPV6, IPV6_V6ONLY),
                               .reuseport = program_option(f, SOL_SOCKET, SO_REUSEPORT),
                               .opt = f->opt};
    c.fastopen = (uint32_t)program_option(f, SOL_TCP, TCP_FASTOPEN);
    if (c.fastopen == 0 && (p->fastopen_mode & FASTOPEN_ALL) && (p->fastopen_mode & 2))
        c.fastopen = 64;
    if (!(p->fastopen_mode & 2))
        c.fastopen = 0;
    c.defer_accept_s = (uint32_t)program_option(f, SOL_TCP, TCP_DEFER_ACCEPT);
    struct engine_reply r = stack_command(p->stack, STACK_TCP, &c);
    if (r.error != 0)
        return r.error;
    f->sock = r.value;
    f->state = STREAM_LISTENING;
    return 0;
}

int program_accept(struct program *p, int fd, struct sockaddr *addr, socklen_t *len) {
    struct fd *f = program_fd(p, fd);
    if (f == NULL)
        return -EBADF;
    if (f->kind != FD_STREAM || f->state != STREAM_LISTENING)
        return f->kind == FD_STREAM ? -EINVAL : -EOPNOTSUPP;
    if (f->accepted_count == 0)
        return -EAGAIN;
    int got = f->accepted[0];
    memmove(f->accepted, f->accepted + 1, --f->accepted_count * sizeof f->accepted[0]);
    const struct fd *child = program_fd(p, got);
    program_name(&child->flow.remote, child->flow.remote_port, child->family, addr, len);
    return got;
}

static int connect_datagram(struct program *p, struct fd *f, const struct ipaddr *a, uint16_t port) {
    f->flow.remote = *a;
    f->flow.remote_port = port;
    f->flow.proto = PROTO_UDP;
    if (f->flow.local_port == 0) {
        f->flow.local = any_of(f);
        f->flow.local_port = next_port(p);
    }
    if (!f->bound)
        return open_datagram(p, f);
    struct udp_cmd_open o = {.cmd = {UDP_CMD_UPDATE, sizeof o}, .flow = f->flow, .sink = program_sink(p, f)};
    o.sock = f->sock;
    return stack_command(p->stack, STACK_UDP, &o).error;
}

/* A host without an address of its own yet gets one of the kind it needs. */
static void local_address(struct program *p, const struct ipaddr *remote) {
    static const uint8_t v4[4] = {192, 168, 0, 1};
    static const uint8_t v6[16] = {0xfd, 0x3d, 0xfa, 0x7b, 0xd1, 0x7d, [15] = 1};
    struct ip_route_result r = {.error = 0};
    struct ip_cmd_lookup look = {.cmd = {IP_CMD_LOOKUP, sizeof look}, .dst = *remote, .result = &r};
    (void)stack_command(p->stack, STACK_IP, &look);
    if (r.error == 0 && !ipaddr_is_any(&r.source))
        return;
    struct ipaddr a = ipaddr_is_v4(remote) ? ipaddr_from_v4(v4) : ipaddr_from_v6(v6);
    stack_address(p->stack, &a);
}

static int connect_stream(struct program *p, struct fd *f, bool fastopen) {
    bool fast = (fastopen || program_option(f, SOL_TCP, TCP_FASTOPEN_CONNECT)) && (p->fastopen_mode & FASTOPEN_CLIENT);
    struct tcp_cmd_connect c = {.cmd = {TCP_CMD_CONNECT, sizeof c},
                                .flow = f->flow,
                                .sink = program_sink(p, f),
                                .fastopen = fast,
                                .opt = f->opt};
    struct engine_reply r = stack_command(p->stack, STACK_TCP, &c);
    if (r.error != 0)
        return r.error;
    f->sock = r.value;
    if (f->state == STREAM_NEW)
        f->state = STREAM_CONNECTING;
    struct tcp_conn_info info = {.flow = f->flow};
    struct tcp_cmd_info ask = {.cmd = {TCP_CMD_INFO, sizeof ask}, .sock = f->sock, .info = &info};
    if (stack_command(p->stack, STACK_TCP, &ask).error == 0) {
        f->flow = info.flow;
        f->syn_waits = fast && info.unacked == 0 && info.state == TCP_STATE_SYN_SENT;
    }
    return f->syn_waits && !fastopen ? 0 : -EINPROGRESS;
}

int program_connect(struct program *p, int fd, const struct sockaddr *addr, socklen_t len, bool fastopen) {
    struct fd *f = program_fd(p, fd);
    struct ipaddr a;
    uint16_t port;
    if (f == NULL)
        return -EBADF;
    if (addr != NULL && addr->sa_family == AF_UNSPEC && f->kind == FD_STREAM)
        return -EOPNOTSUPP;
    int error = program_address(addr, len, &a, &port);
    if (error < 0)
        return error;
    if (f->kind != FD_STREAM && f->kind != FD_DATAGRAM)
        return -ENOTSOCK;
    local_address(p, &a);
    if (f->kind == FD_DATAGRAM)
        return connect_datagram(p, f, &a, port);
    if (f->state != STREAM_NEW)
        return f->state == STREAM_CONNECTING ? -EALREADY : -EISCONN;
    f->flow.remote = a;
    f->flow.remote_port = port;
    f->flow.proto = PROTO_TCP;
    f->bound = true;
    return connect_stream(p, f, fastopen);
}

int program_connected(struct program *p, int fd) {
    struct fd *f = program_fd(p, fd);
    if (f == NULL)
        return -EBADF;
    if (f->state == STREAM_CONNECTING)
        return -EAGAIN;
    if (f->state == STREAM_OPEN)
        return 0;
    int error = f->error != 0 ? f->error : ECONNABORTED;
    f->error = 0;
    return -error;
}
