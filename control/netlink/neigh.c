/* SPDX-License-Identifier: Apache-2.0
 *
 * Next hops that the kernel keeps resolved for us, marked with our protocol number so that any later usherd finds them.
 */
#include <errno.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>

#include <netlink/attr.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>

#include "control/netlink/follow_internal.h"

struct neigh_request {
    int type, flags;
    uint16_t state;
    uint8_t ntf;
    bool managed, marked;
};

static int neigh_ask(struct nl_sock *s, const struct neigh_request *r, uint32_t ifindex, const struct ipaddr *addr) {
    bool v4 = ipaddr_is_v4(addr);
    struct ndmsg m = {
        .ndm_family = v4 ? AF_INET : AF_INET6,
        .ndm_ifindex = (int)ifindex,
        .ndm_state = r->state,
        .ndm_flags = r->ntf,
    };
    struct nl_msg *msg = nlmsg_alloc_simple(r->type, r->flags);
    if (msg == NULL)
        return -NLE_NOMEM;
    int err = nlmsg_append(msg, &m, sizeof m, NLMSG_ALIGNTO);
    if (err >= 0)
        err = nla_put(msg, NDA_DST, v4 ? 4 : 16, v4 ? &addr->b[12] : addr->b);
    if (err >= 0 && r->managed)
        err = nla_put_u32(msg, NDA_FLAGS_EXT, NTF_EXT_MANAGED);
    if (err >= 0 && r->marked)
        err = nla_put_u8(msg, NDA_PROTOCOL, NEIGH_PROTOCOL);
    if (err >= 0)
        err = nl_send_auto(s, msg);
    nlmsg_free(msg);
    return err < 0 ? err : nl_wait_for_ack(s);
}

/* What the kernel knows now goes to the sink through on_message(). */
static int neigh_tell(struct follow *f, uint32_t ifindex, const struct ipaddr *addr) {
    return neigh_ask(f->requests, &(struct neigh_request){.type = RTM_GETNEIGH, .flags = NLM_F_ACK}, ifindex, addr);
}

int follow_neigh_want(struct follow *f, uint32_t ifindex, const struct ipaddr *addr) {
    struct neigh_request r = {.type = RTM_NEWNEIGH, .flags = NLM_F_CREATE | NLM_F_ACK, .marked = true};
    int err = -NLE_OPNOTSUPP;
    if (!f->no_managed) {
        r.managed = true;
        err = neigh_ask(f->requests, &r, ifindex, addr);
        f->no_managed = err == -NLE_OPNOTSUPP || err == -NLE_INVAL || err == -NLE_RANGE;
    }
    if (f->no_managed) {
        r.managed = false;
        r.ntf = NTF_USE;
        err = neigh_ask(f->requests, &r, ifindex, addr);
    }
    if (err < 0)
        return nl_errno(err);
    err = neigh_tell(f, ifindex, addr);
    return err == -NLE_OBJ_NOTFOUND ? 0 : nl_errno(err);
}

/* Giving the entry a plain state takes it off the kernel's list of managed ones without forgetting its MAC, so that
 * the kernel's own flows do not notice. One without a MAC cannot be stale: it goes. */
static int release(struct nl_sock *s, uint32_t ifindex, const struct ipaddr *addr) {
    struct neigh_request keep = {.type = RTM_NEWNEIGH, .flags = NLM_F_REPLACE | NLM_F_ACK, .state = NUD_STALE};
    struct neigh_request drop = {.type = RTM_DELNEIGH, .flags = NLM_F_ACK};
    int err = neigh_ask(s, &keep, ifindex, addr);
    if (err < 0 && err != -NLE_OBJ_NOTFOUND)
        err = neigh_ask(s, &drop, ifindex, addr);
    return err == -NLE_OBJ_NOTFOUND ? 0 : err;
}

int follow_neigh_release(struct follow *f, uint32_t ifindex, const struct ipaddr *addr) {
    return nl_errno(release(f->requests, ifindex, addr));
}

struct found {
    struct found *next;
    struct follow_neigh neigh;
};

static int on_ours(struct nl_msg *msg, void *arg) {
    struct found **list = arg;
    struct follow_neigh n;
    if (nlmsg_hdr(msg)->nlmsg_type != RTM_NEWNEIGH || !neigh_parse(nlmsg_hdr(msg), &n) || !n.ours)
        return NL_OK;
    struct found *e = malloc(sizeof *e);
    if (e == NULL)
        return NL_OK;
    *e = (struct found){*list, n};
    *list = e;
    return NL_OK;
}

int follow_neigh_cleanup(void) {
    struct nl_sock *s;
    struct found *list = NULL;
    int err = requests_open(&s), count = 0;
    if (err != 0)
        return err;
    (void)nl_socket_modify_cb(s, NL_CB_VALID, NL_CB_CUSTOM, on_ours, &list);
    err = requests_dump(s, RTM_GETNEIGH);
    while (list != NULL) {
        struct found *e = list;
        list = e->next;
        count += release(s, e->neigh.ifindex, &e->neigh.addr) == 0;
        free(e);
    }
    nl_socket_free(s);
    return err < 0 ? nl_errno(err) : count;
}
