/* SPDX-License-Identifier: Apache-2.0
 *
 * Sockets for whole frames (AF_PACKET, SOCK_RAW). The kernel's packet socket comes first, as everywhere: it decides who
 * may have one (CAP_NET_RAW), and it receives. usherd carries what is sent by an interface that it runs. Under the
 * context's lock, but for what frames.c's callers say.
 */
#include <linux/if_packet.h>

#include "clientlib/src/internal.h"

int client_frames_check(const struct usher_socket *sock, const struct usher_msg *m) {
    if (m->len > CLIENT_DATAGRAM_MAX)
        return client_fail_fast(-EMSGSIZE, "longer than a frame can be");
    if (m->family != 0 || m->gso_size != 0)
        return client_fail_fast(-EINVAL, "a frame has its addresses in itself, and is not cut");
    return sock->bound ? 0 : client_fail_fast(-ENXIO, "bind the socket to an interface first");
}

void client_frames_from(const struct sockaddr_storage *from, socklen_t len, struct usher_msg *ret_msg) {
    struct sockaddr_ll ll = {0};
    memcpy(&ll, from, len < sizeof(ll) ? len : sizeof(ll));
    memset(ret_msg->peer, 0, sizeof(ret_msg->peer));
    memcpy(ret_msg->peer, ll.sll_addr, sizeof(ll.sll_addr));
    ret_msg->family = AF_PACKET;
    ret_msg->peer_port = ntohs(ll.sll_protocol);
    ret_msg->tos = ll.sll_pkttype;
    ret_msg->user_data = (uint64_t)(uint32_t)ll.sll_ifindex;
}

void client_frames_to(const struct usher_msg *msg, struct sockaddr_storage *ret_addr, socklen_t *ret_len) {
    struct sockaddr_ll ll = {.sll_family = AF_PACKET,
                             .sll_protocol = htons(msg->peer_port),
                             .sll_ifindex = (int)msg->user_data,
                             .sll_pkttype = msg->tos,
                             .sll_halen = 6};
    memcpy(ll.sll_addr, msg->peer, sizeof(ll.sll_addr));
    memset(ret_addr, 0, sizeof(*ret_addr));
    memcpy(ret_addr, &ll, sizeof(ll));
    *ret_len = sizeof(ll);
}
