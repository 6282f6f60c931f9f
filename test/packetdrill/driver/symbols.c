/* SPDX-License-Identifier: Apache-2.0
 *
 * The names that scripts use for numbers. See script.h.
 */
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "test/packetdrill/driver/script.h"

#define NAME(n)                                                                                                        \
    { #n, n }

static const struct {
    const char *name;
    int64_t n;
} symbols[] = {
    NAME(AF_INET),
    NAME(AF_INET6),
    NAME(AF_UNSPEC),
    NAME(SOCK_STREAM),
    NAME(SOCK_DGRAM),
    NAME(SOCK_NONBLOCK),
    NAME(IPPROTO_TCP),
    NAME(IPPROTO_UDP),
    NAME(IPPROTO_IP),
    NAME(SOL_SOCKET),
    NAME(SOL_TCP),
    NAME(SOL_IP),
    NAME(SOL_IPV6),
    NAME(SO_REUSEADDR),
    NAME(SO_REUSEPORT),
    NAME(SO_KEEPALIVE),
    NAME(SO_LINGER),
    NAME(SO_RCVBUF),
    NAME(SO_SNDBUF),
    NAME(SO_ERROR),
    NAME(SO_OOBINLINE),
    NAME(SO_MAX_PACING_RATE),
    NAME(TCP_NODELAY),
    NAME(TCP_CORK),
    NAME(TCP_MAXSEG),
    NAME(TCP_KEEPIDLE),
    NAME(TCP_KEEPINTVL),
    NAME(TCP_KEEPCNT),
    NAME(TCP_SYNCNT),
    NAME(TCP_LINGER2),
    NAME(TCP_DEFER_ACCEPT),
    NAME(TCP_QUICKACK),
    NAME(TCP_CONGESTION),
    NAME(TCP_USER_TIMEOUT),
    NAME(TCP_FASTOPEN),
    NAME(TCP_FASTOPEN_CONNECT),
    NAME(TCP_NOTSENT_LOWAT),
    NAME(IP_TOS),
    NAME(IP_TTL),
    NAME(IPV6_TCLASS),
    NAME(IPV6_V6ONLY),
    NAME(MSG_MORE),
    NAME(MSG_OOB),
    NAME(MSG_PEEK),
    NAME(MSG_DONTWAIT),
    NAME(MSG_FASTOPEN),
    NAME(MSG_NOSIGNAL),
    NAME(O_RDWR),
    NAME(O_NONBLOCK),
    NAME(F_GETFL),
    NAME(F_SETFL),
    NAME(SHUT_RD),
    NAME(SHUT_WR),
    NAME(SHUT_RDWR),
    NAME(POLLIN),
    NAME(POLLOUT),
    NAME(POLLERR),
    NAME(POLLHUP),
    NAME(POLLPRI),
    NAME(POLLRDHUP),
    NAME(EPOLLIN),
    NAME(EPOLLOUT),
    NAME(EPOLLERR),
    NAME(EPOLLHUP),
    NAME(EPOLLRDHUP),
    NAME(EPOLLET),
    NAME(EPOLLONESHOT),
    NAME(EPOLL_CTL_ADD),
    NAME(EPOLL_CTL_MOD),
    NAME(EPOLL_CTL_DEL),
    NAME(SIOCOUTQ),
    NAME(SIOCATMARK),
    {"SIOCINQ", FIONREAD},
};

bool symbol_find(const char *name, int64_t *ret_n) {
    for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++) {
        if (strcmp(symbols[i].name, name) != 0)
            continue;
        *ret_n = symbols[i].n;
        return true;
    }
    return false;
}
