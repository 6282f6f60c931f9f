/* SPDX-License-Identifier: Apache-2.0
 *
 * See dump.h. Answers are the kernel's, lengths are checked all the same.
 */
#include "control/netlink/dump.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_MAX 32768

/* NLMSG_PAYLOAD is for messages that are at least a header long, which NLMSG_OK has seen to. */
static int error_of(const struct nlmsghdr *h) {
    const struct nlmsgerr *e = NLMSG_DATA(h);
    return NLMSG_PAYLOAD(h, 0) >= sizeof *e ? e->error : -EBADMSG;
}

/* One datagram of the answer. 1 = more follows, 0 = that was all, or -errno. */
static int answer_read(int nl, const struct netlink_dump *d, netlink_answer_fn *each, void *arg) {
    _Alignas(struct nlmsghdr) char buf[ANSWER_MAX];
    ssize_t n = recv(nl, buf, sizeof buf, 0);
    if (n < 0)
        return errno == EINTR ? 1 : -errno;
    int left = (int)n;
    for (const struct nlmsghdr *h = (const struct nlmsghdr *)(const void *)buf; NLMSG_OK(h, (uint32_t)left);
         h = NLMSG_NEXT(h, left)) {
        if (h->nlmsg_type == NLMSG_DONE)
            return 0;
        if (h->nlmsg_type == NLMSG_ERROR)
            return error_of(h);
        if (h->nlmsg_type == d->type && NLMSG_PAYLOAD(h, 0) >= d->least)
            each(arg, h);
    }
    return n > 0 ? 1 : -EBADMSG;
}

int netlink_dump(const struct netlink_dump *d, netlink_answer_fn *each, void *arg) {
    int nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, d->protocol);
    if (nl < 0)
        return -errno;
    size_t size = d->request->nlmsg_len;
    int more = send(nl, d->request, size, 0) == (ssize_t)size ? 1 : -errno;
    while (more > 0)
        more = answer_read(nl, d, each, arg);
    (void)close(nl);
    return more;
}
