/* SPDX-License-Identifier: Apache-2.0
 *
 * Which way to a peer? usherd reaches what lies behind its interfaces; the rest is the kernel's. The loopback is one
 * more address of this host when the program wants Usher's own (USHER_LOOPBACK), else the kernel's as well. A wildcard
 * socket serves both worlds, so the library notes whose datagrams came by the kernel, and to whom its own were bounced,
 * and sends to those the same way. A note names an address, or one port of it: other ports of this host's own address
 * may be Usher's. A small table, one place for each note: who is pushed out comes back with its next datagram or
 * bounce. Under the context's lock; costs a send one test of a word while nobody is by the kernel.
 */
#include "clientlib/src/internal.h"

static uint32_t place_of(const uint8_t mapped[16], uint16_t port) {
    uint64_t a, b;
    memcpy(&a, mapped, 8);
    memcpy(&b, mapped + 8, 8);
    return (uint32_t)(((a ^ b ^ port) * UINT64_C(0x9e3779b97f4a7c15)) >> 58);
}

static bool holds(const struct usher_context *ctx, uint32_t place, const uint8_t mapped[16], uint16_t port) {
    return ctx->peer_used >> place & 1 && ctx->peer_port[place] == port && memcmp(ctx->peer[place], mapped, 16) == 0;
}

static bool is_loopback(const uint8_t mapped[16]) {
    static const uint8_t lo6[16] = {[15] = 1};
    return (client_addr_is_mapped(mapped) && mapped[12] == 127) || memcmp(mapped, lo6, 16) == 0;
}

bool client_msg_from_loopback(const struct usher_msg *msg) {
    uint8_t mapped[16];
    client_addr_map(msg->family, msg->peer, mapped);
    return is_loopback(mapped);
}

void client_peer_by_kernel(struct usher_context *ctx, uint8_t family, const uint8_t addr[16], uint16_t port) {
    uint8_t mapped[16];
    client_addr_map(family, addr, mapped);
    if (is_loopback(mapped) && !(ctx->flags & USHER_LOOPBACK)) /* always by the kernel, no note needed */
        return;
    uint32_t place = place_of(mapped, port);
    memcpy(ctx->peer[place], mapped, 16);
    ctx->peer_port[place] = port;
    ctx->peer_used |= UINT64_C(1) << place;
}

static void unnote(struct usher_context *ctx, const uint8_t mapped[16], uint16_t port) {
    uint32_t place = place_of(mapped, port);
    if (holds(ctx, place, mapped, port))
        ctx->peer_used &= ~(UINT64_C(1) << place);
}

void client_peer_by_rings(struct usher_context *ctx, const uint8_t mapped[16], uint16_t port) {
    unnote(ctx, mapped, 0);
    unnote(ctx, mapped, port);
}

static bool noted(const struct usher_context *ctx, const uint8_t mapped[16], uint16_t port) {
    return ctx->peer_used &&
           (holds(ctx, place_of(mapped, 0), mapped, 0) || holds(ctx, place_of(mapped, port), mapped, port));
}

bool client_peer_is_by_kernel(struct usher_socket *sock, const struct usher_msg *msg) {
    const struct usher_context *ctx = sock->ctx;
    bool lo_by_kernel = !(ctx->flags & USHER_LOOPBACK);
    if (LIKELY(!ctx->peer_used && msg->family == AF_INET))
        return lo_by_kernel && msg->peer[0] == 127;
    if (msg->family == 0)
        return UNLIKELY(sock->kernel_peer) && !client_bounce_pending(sock);
    if (msg->scope) /* the rings cannot name an interface */
        return true;
    uint8_t mapped[16];
    client_addr_map(msg->family, msg->peer, mapped);
    return (lo_by_kernel && is_loopback(mapped)) ||
           (noted(ctx, mapped, msg->peer_port) && !client_bounce_pending(sock));
}
