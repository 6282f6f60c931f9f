/* SPDX-License-Identifier: Apache-2.0
 *
 * What libusher's tests share: a fake daemon with one context and one bound socket.
 */
#ifndef USHER_CLIENTLIB_TESTKIT_H
#define USHER_CLIENTLIB_TESTKIT_H

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include <usher/usher.h>

#include "test/harness/fake_usherd.h"

#define SECOND INT64_C(1000000000)

struct rig {
    struct fake *fake;
    struct usher_context *ctx;
    struct usher_socket *sock;
};

static inline struct usher_context *rig_context(struct fake *fake, uint32_t flags, int spin_us)
{
    const struct usher_context_params params = {.socket_path = fake_path(fake), .flags = flags, .spin_us = spin_us};
    struct usher_context *ctx = NULL;
    int err = usher_context_open(&params, &ctx);
    cr_assert(err == 0, "open: %d %s", err, usher_strerror());
    return ctx;
}

static inline struct sockaddr_in rig_addr(const char *ip, uint16_t port)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, ip, &sa.sin_addr);
    return sa;
}

static inline struct usher_socket *rig_socket(struct usher_context *ctx)
{
    struct usher_socket *sock = NULL;
    cr_assert(usher_socket(ctx, AF_INET, SOCK_DGRAM, 0, &sock) == 0, "%s", usher_strerror());
    struct sockaddr_in any = rig_addr("127.0.0.1", 0);
    cr_assert(usher_bind(sock, (struct sockaddr *)&any, sizeof(any)) == 0, "%s", usher_strerror());
    return sock;
}

static inline struct rig rig_start_with(const struct fake_config *config, uint32_t flags, int spin_us)
{
    struct rig r = {.fake = fake_start(config)};
    cr_assert(r.fake);
    r.ctx = rig_context(r.fake, flags, spin_us);
    r.sock = rig_socket(r.ctx);
    return r;
}

static inline struct rig rig_start(const struct fake_config *config)
{
    return rig_start_with(config, 0, -1);
}

static inline void rig_stop(struct rig *r)
{
    usher_context_close(r->ctx);
    fake_stop(r->fake);
}

static inline ssize_t rig_send(struct usher_socket *sock, const void *data, size_t len)
{
    struct sockaddr_in to = rig_addr("192.0.2.9", 7);
    return usher_sendto(sock, data, len, (struct sockaddr *)&to, sizeof(to));
}

/* One message with a fresh buffer, addressed. */
static inline struct usher_msg rig_msg(struct rig *r, uint32_t len)
{
    struct usher_msg m = {.sock = r->sock, .len = len, .family = AF_INET, .peer_port = 7, .peer = {192, 0, 2, 9}};
    cr_assert(usher_tx_alloc(r->ctx, len, &m.buf) == 0, "%s", usher_strerror());
    memset(m.buf.data, 0x5a, len);
    return m;
}

static inline uint16_t rig_port(struct usher_socket *sock)
{
    struct sockaddr_in sa;
    socklen_t len = sizeof(sa);
    cr_assert(usher_getsockname(sock, (struct sockaddr *)&sa, &len) == 0);
    return ntohs(sa.sin_port);
}

#endif
