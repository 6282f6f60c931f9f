/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames that a program makes whole (AF_PACKET): from its socket past the filter to its interface. No engine has looked
 * into them and none will: they never turn round, they belong to no conversation, and their addresses are what the
 * program wrote. What is sure is whose they are. On the shard's worker.
 *
 * The head of a frame that is lent lies in the client's memory, which it may change: it is copied first, so that the
 * filter judges what is sent.
 */
#include <errno.h>

#include "dataplane/session/session_internal.h"
#include "engines/wire.h"

struct verdict {
    enum drop_reason why; /* DROP_NONE: it goes */
    int error;            /* for its sender */
};

static struct sess_socket *sender_of(const struct shard *sh, const struct pkt *p) {
    const struct sess_tx *tx = &sh->tx[p->token - 1];
    return &sh->set[tx->slot]->socket[tx->handle];
}

static void sender_tell(struct shard *sh, const struct pkt *p, int error) {
    const struct sess_tx *tx = &sh->tx[p->token - 1];
    const struct notice n = {.kind = NOTICE_ERROR, .value = (uint32_t)error};
    session_event(sh, sh->set[tx->slot], tx->handle, EV_ERROR, &n);
}

/* PORT_SLOT_MAX: the interface is down or none of ours any more. */
static uint32_t slot_of(const struct shard *sh, uint32_t ifindex) {
    uint32_t slot = 0;
    while (slot < PORT_SLOT_MAX && (sh->port_info[slot].ifindex != ifindex || !sh->port_info[slot].up))
        slot++;
    return slot;
}

static void head_copy(struct pkt *p) {
    struct pkt_frag *f = &p->frag[0];
    if (p->len >= PKT_RAW_HEAD || p->frag_count == 0)
        return;
    uint32_t n = PKT_RAW_HEAD - p->len < f->len ? PKT_RAW_HEAD - p->len : f->len;
    memcpy(p->data + p->len, f->base, n);
    p->len += n;
    p->frag_len -= n;
    f->base += n;
    f->len -= n;
}

/* As the kernel's packet sockets: one tag more than the MTU allows for is no excess. */
static bool fits(const struct port_info *port, const struct pkt *p) {
    uint32_t tag = be16_load(p->data + 12) == ETHERTYPE_VLAN ? VLAN_LEN : 0;
    return pkt_bytes(p) <= port->mtu + ETH_LEN + tag;
}

static struct verdict frame_ready(struct shard *sh, struct pkt *p) {
    struct sess_socket *sk = sender_of(sh, p);
    uint32_t slot = slot_of(sh, p->sock);
    if (UNLIKELY(slot == PORT_SLOT_MAX || (sh->port_info[slot].caps & PORT_CAP_L3)))
        return (struct verdict){DROP_PORT_DOWN, ENETDOWN};
    if (UNLIKELY(pkt_bytes(p) < ETH_LEN || (p->flags & PKT_GSO)))
        return (struct verdict){DROP_FRAME_BAD_SEND, EINVAL};
    head_copy(p);
    if (UNLIKELY(!fits(&sh->port_info[slot], p)))
        return (struct verdict){DROP_FRAME_BAD_SEND, EMSGSIZE};
    p->flow = (struct flow){.proto = PROTO_FRAME};
    p->flags &= PKT_MORE;
    p->known = PKT_KNOWN_RAW;
    p->port = (uint16_t)slot;
    p->owner = sk->owner;
    p->l3_off = p->l4_off = (uint16_t)(p->data + ETH_LEN - p->buf);
    sk->frame_bytes += pkt_bytes(p);
    return (struct verdict){DROP_NONE, 0};
}

void frames_output(struct shard *sh, struct pkt **pkts, uint32_t n) {
    enum hop_id next = sh->stage_node[STAGE_FILTER] != NODE_NONE ? HOP_FILTER_OUT : HOP_EGRESS;
    for (uint32_t i = 0; i < n; i++) {
        struct verdict v = frame_ready(sh, pkts[i]);
        if (UNLIKELY(v.error != 0))
            sender_tell(sh, pkts[i], v.error);
        else if (UNLIKELY(!hop_push(sh, next, pkts[i])))
            v.why = DROP_QUEUE_FULL;
        if (UNLIKELY(v.why != DROP_NONE))
            shard_drop(sh, pkts[i], v.why);
    }
}

/* As the kernel says it of what its own packet filter ends. */
void frame_end(struct shard *sh, const struct pkt *p) {
    if (p->drop == DROP_POLICY)
        sender_tell(sh, p, EPERM);
    else if (p->drop == DROP_FRAME_BAD_SEND)
        sender_tell(sh, p, EINVAL);
}
