/* SPDX-License-Identifier: Apache-2.0
 *
 * Between sockaddr and the plain bytes of usher_msg. Any thread.
 */
#include <arpa/inet.h>

#include "clientlib/src/internal.h"

int client_addr_from(const struct sockaddr *addr, socklen_t len, struct usher_msg *ret_msg) {
    if (len < sizeof(addr->sa_family))
        return -EINVAL;
    if (addr->sa_family == AF_INET && len >= sizeof(struct sockaddr_in)) {
        struct sockaddr_in in;
        memcpy(&in, addr, sizeof(in));
        memset(ret_msg->peer, 0, 16);
        memcpy(ret_msg->peer, &in.sin_addr, 4);
        ret_msg->peer_port = ntohs(in.sin_port);
        ret_msg->scope = 0;
    } else if (addr->sa_family == AF_INET6 && len >= sizeof(struct sockaddr_in6)) {
        struct sockaddr_in6 in6;
        memcpy(&in6, addr, sizeof(in6));
        memcpy(ret_msg->peer, &in6.sin6_addr, 16);
        ret_msg->peer_port = ntohs(in6.sin6_port);
        ret_msg->scope = in6.sin6_scope_id <= UINT16_MAX ? (uint16_t)in6.sin6_scope_id : 0;
    } else {
        return addr->sa_family == AF_INET || addr->sa_family == AF_INET6 ? -EINVAL : -EAFNOSUPPORT;
    }
    ret_msg->family = (uint8_t)addr->sa_family;
    return 0;
}

void client_addr_to(const struct usher_msg *msg, bool v6, struct sockaddr_storage *ret_addr, socklen_t *ret_len) {
    if (msg->family == AF_PACKET) {
        client_frames_to(msg, ret_addr, ret_len);
        return;
    }
    memset(ret_addr, 0, sizeof(*ret_addr));
    if (v6) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret_addr;
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(msg->peer_port);
        in6->sin6_scope_id = msg->scope;
        client_addr_map(msg->family, msg->peer, in6->sin6_addr.s6_addr);
        *ret_len = sizeof(*in6);
    } else {
        struct sockaddr_in *in = (struct sockaddr_in *)ret_addr;
        in->sin_family = AF_INET;
        in->sin_port = htons(msg->peer_port);
        memcpy(&in->sin_addr, msg->peer, 4);
        *ret_len = sizeof(*in);
    }
}

void client_addr_give(const struct sockaddr_storage *from, socklen_t from_len, struct sockaddr *ret_addr,
                      socklen_t *len) {
    if (!ret_addr || !len)
        return;
    memcpy(ret_addr, from, *len < from_len ? *len : from_len);
    *len = from_len;
}
