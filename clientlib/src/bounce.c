/* SPDX-License-Identifier: Apache-2.0
 *
 * Datagrams that usherd gave back, because only the kernel reaches their destination: they go by the program's own
 * kernel socket, and the peer is noted so that the next ones go there at once. The kernel answers as it always does.
 * Any thread, under the context's lock; a system call each, so only until the peer is noted.
 *
 * Order. A send may go straight to the kernel when no earlier one of its socket can still come back: usherd has counted
 * all of them (a bounce is in the ring before tx_done counts it) and the ring is read. Until then it follows them
 * through the rings.
 */
#include "clientlib/src/internal.h"

static void note_peer(struct usher_socket *sock, const struct usher_msg *m) {
    client_peer_by_kernel(sock->ctx, m->family, m->peer, m->peer_port);
    sock->bouncing = true;
    if (!sock->connected || sock->kernel_peer)
        return;
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof(sa);
    struct usher_msg peer = {0};
    if (getpeername(sock->fd, (struct sockaddr *)&sa, &len) < 0 || client_addr_from((struct sockaddr *)&sa, len, &peer))
        return;
    sock->kernel_peer = peer.peer_port == m->peer_port && memcmp(peer.peer, m->peer, 16) == 0;
}

int client_bounce_send(struct usher_socket *sock, const struct ush_cqe *e) {
    struct usher_msg m = {.sock = sock,
                          .len = e->recv.len,
                          .gso_size = e->recv.gso_size,
                          .tos = e->tos,
                          .family = sock->v6 ? AF_INET6 : AF_INET,
                          .peer_port = e->recv.peer_port};
    client_addr_unmap(sock->v6, e->recv.peer, m.peer);
    client_addr_unmap(sock->v6, e->recv.local, m.local);
    note_peer(sock, &m);
    const void *data = sock->ctx->rx + e->recv.cell;
    int err = client_kernel_transmit(sock, &m, data);
    if (err == -EAGAIN)
        return ENOBUFS; /* the kernel socket's buffer is full, and there is nobody to wait */
    if (err)            /* perhaps what an earlier datagram met: told once, and this one has not been sent */
        (void)client_kernel_transmit(sock, &m, data);
    return -err;
}

/* The first completion that was neither polled for nor searched. */
static struct ush_cqe *unseen(struct client_set *s) {
    if ((int32_t)(s->scan_pos - s->cq_pos) < 0)
        s->scan_pos = s->cq_pos;
    struct ush_cqe *e = &s->cq[s->scan_pos & s->cq_mask];
    /* Pairs with the worker's store of seq, as every read of the ring does. */
    return __atomic_load_n(&e->seq, __ATOMIC_ACQUIRE) == s->scan_pos + 1 ? e : NULL;
}

/* Places of entries that are dealt with are usherd's again: a program that never polls must not fill the ring. */
static void consume(struct client_set *s) {
    while (s->cq_pos != s->scan_pos && s->cq[s->cq_pos & s->cq_mask].type == 0)
        __atomic_store_n(&s->cq_pos, s->cq_pos + 1, __ATOMIC_RELAXED);
    client_cq_publish(s);
}

void client_bounce_scan(struct usher_context *ctx, struct client_set *s) {
    bool found = false;
    for (struct ush_cqe *e; UNLIKELY((e = unseen(s)) != NULL); s->scan_pos++) {
        if (e->type == USH_CQ_TX_FREE) {
            client_take_tx_free(ctx, e);
            e->type = 0;
            found = true;
        }
        if (e->type != USH_CQ_RECV || !(e->flags & USH_RECV_BOUNCED))
            continue;
        uint32_t handle = e->recv.handle;
        struct usher_socket *sock = handle < ctx->h.socket_max ? ctx->by_handle[handle] : NULL;
        if (!sock || !client_cell_valid(ctx, e))
            break; /* for the poll to judge */
        int error = client_bounce_send(sock, e);
        client_release_cell(ctx, s, e->recv.cell, e->recv.len);
        e->type = 0;
        found = true;
        if (error)
            client_park(ctx, &(struct usher_event){.type = USHER_EV_ERROR, .error = error, .sock = sock});
    }
    if (found)
        consume(s);
}

bool client_bounce_pending(struct usher_socket *sock) {
    if (!sock->bouncing)
        return false;
    /* Acquire: what usherd put into the ring before it counted the send is seen by the look at the ring. */
    sock->done = __atomic_load_n(&sock->ctx->shared_sockets[sock->handle].tx_done, __ATOMIC_ACQUIRE);
    sock->bouncing = sock->sent != sock->done || unseen(sock->set) != NULL;
    return sock->bouncing;
}
