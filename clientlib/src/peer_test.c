/* SPDX-License-Identifier: Apache-2.0
 *
 * The note of peers that come by the kernel.
 */
#include <criterion/criterion.h>

#include "clientlib/src/internal.h"

static void v4(uint8_t ret_addr[16], uint8_t last) {
    memset(ret_addr, 0, 16);
    memcpy(ret_addr, (uint8_t[4]){198, 51, 100, last}, 4);
}

static bool by_kernel(struct usher_context *ctx, uint8_t family, const uint8_t addr[16]) {
    struct usher_socket sock = {.ctx = ctx};
    struct usher_msg m = {.family = family, .peer_port = 7};
    memcpy(m.peer, addr, 16);
    return client_peer_is_by_kernel(&sock, &m);
}

Test(peer, loopback_is_always_the_kernels) {
    static struct usher_context ctx;
    const uint8_t lo[16] = {127, 1, 2, 3}, lo6[16] = {[15] = 1}, mapped[16] = {[10] = 0xff, 0xff, 127, 0, 0, 1};
    cr_assert(by_kernel(&ctx, AF_INET, lo));
    cr_assert(by_kernel(&ctx, AF_INET6, lo6));
    cr_assert(by_kernel(&ctx, AF_INET6, mapped));
    client_peer_by_kernel(&ctx, AF_INET, lo, 0);
    cr_assert_eq(ctx.peer_used, 0, "needs no note");
}

Test(peer, own_loopback_is_one_more_address) {
    static struct usher_context ctx = {.flags = USHER_LOOPBACK};
    const uint8_t lo[16] = {127, 1, 2, 3}, lo6[16] = {[15] = 1}, mapped[16] = {[10] = 0xff, 0xff, 127, 1, 2, 3};
    cr_assert_not(by_kernel(&ctx, AF_INET, lo));
    cr_assert_not(by_kernel(&ctx, AF_INET6, lo6));
    cr_assert_not(by_kernel(&ctx, AF_INET6, mapped));
    client_peer_by_kernel(&ctx, AF_INET, lo, 7);
    cr_assert(by_kernel(&ctx, AF_INET, lo), "it was bounced");
    cr_assert(by_kernel(&ctx, AF_INET6, mapped));
    cr_assert_not(by_kernel(&ctx, AF_INET6, lo6));
}

Test(peer, others_are_noted_and_forgotten) {
    static struct usher_context ctx;
    uint8_t a[16], b[16], mapped[16];
    v4(a, 1);
    v4(b, 2);
    cr_assert_not(by_kernel(&ctx, AF_INET, a));
    client_peer_by_kernel(&ctx, AF_INET, a, 0);
    cr_assert(by_kernel(&ctx, AF_INET, a));
    cr_assert_not(by_kernel(&ctx, AF_INET, b));
    client_addr_map(AF_INET, b, mapped);
    client_peer_by_rings(&ctx, mapped, 7);
    cr_assert(by_kernel(&ctx, AF_INET, a));
    client_addr_map(AF_INET, a, mapped);
    cr_assert(by_kernel(&ctx, AF_INET6, mapped), "the same peer seen by an IPv6 socket");
    client_peer_by_rings(&ctx, mapped, 7);
    cr_assert_not(by_kernel(&ctx, AF_INET, a));
    cr_assert_eq(ctx.peer_used, 0);
}

Test(peer, one_port_of_an_address) {
    static struct usher_context ctx;
    uint8_t a[16], mapped[16];
    v4(a, 1);
    client_addr_map(AF_INET, a, mapped);
    client_peer_by_kernel(&ctx, AF_INET, a, 8);
    cr_assert_not(by_kernel(&ctx, AF_INET, a), "port 7 is usherd's");
    client_peer_by_kernel(&ctx, AF_INET, a, 7);
    cr_assert(by_kernel(&ctx, AF_INET, a));
    client_peer_by_rings(&ctx, mapped, 7);
    cr_assert_not(by_kernel(&ctx, AF_INET, a));
    cr_assert_neq(ctx.peer_used, 0, "the other port stays the kernel's");
}

Test(peer, many_peers_push_one_another_out_and_come_back) {
    static struct usher_context ctx;
    uint8_t a[16];
    for (int i = 0; i < 256; i++) {
        v4(a, (uint8_t)i);
        client_peer_by_kernel(&ctx, AF_INET, a, 0);
        cr_assert(by_kernel(&ctx, AF_INET, a));
    }
    int known = 0;
    for (int i = 0; i < 256; i++) {
        v4(a, (uint8_t)i);
        known += by_kernel(&ctx, AF_INET, a);
    }
    cr_assert(known > 32 && known <= CLIENT_PEERS, "%d", known);
}

Test(peer, link_local_peers_with_an_interface_are_the_kernels) {
    static struct usher_context ctx;
    const struct sockaddr_in6 sa = {
        .sin6_family = AF_INET6, .sin6_scope_id = 3, .sin6_addr.s6_addr = {0xfe, 0x80, [15] = 9}};
    struct usher_msg m = {0};
    struct usher_socket sock = {.ctx = &ctx};
    struct sockaddr_storage back;
    socklen_t len;
    cr_assert_eq(client_addr_from((const struct sockaddr *)&sa, sizeof(sa), &m), 0);
    cr_assert(client_peer_is_by_kernel(&sock, &m));
    client_addr_to(&m, true, &back, &len);
    cr_assert_eq(((struct sockaddr_in6 *)&back)->sin6_scope_id, 3);
    m.scope = 0;
    cr_assert_not(client_peer_is_by_kernel(&sock, &m));
}
