/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel's view turned into commands. Routes and neighbours pass straight through; of addresses a table is kept,
 * because the hooks need to be told of an address once however many interfaces have it, and sockets are judged by it.
 * When slots change, everything is told anew, so that nothing here has to remember which slot a route was told with.
 */
#include "control/view.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>

#include "control/log.h"
#include "control/nic.h"
#include "control/view_internal.h"
#include "engines/ip/ip_cmd.h"
#include "nicbackend/claims.h"

#define RESYNC_GAP_US 200000u /* between two resyncs, however much changes */
#define ROUNDS_MAX    4

static int tell(struct view *v, const struct engine_cmd *cmd, const char *what) {
    struct engine_reply reply;
    int err = runtime_command(v->p.rt, UINT32_MAX, v->p.ip_engine, cmd, &reply);
    if (err == -ENOSPC && !v->overflow) {
        v->overflow = true;
        log_error("view.full",
                  "the %s table is full (%s): nothing is accelerated until all of it fits; raise the "
                  "sizes under engines.ip and start again",
                  what, reply.text);
    }
    return err;
}

const char *view_addr_text(const struct ipaddr *a, char text[INET6_ADDRSTRLEN]) {
    bool v4 = ipaddr_is_v4(a);
    (void)inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? &a->b[12] : a->b, text, INET6_ADDRSTRLEN);
    return text;
}

/* ---- addresses ---- */

static struct view_addr *addr_find(struct view *v, const struct ipaddr *addr, uint32_t ifindex) {
    for (uint32_t i = 0; i < v->addr_count; i++) {
        if (v->addrs[i].ifindex == ifindex && ipaddr_equal(&v->addrs[i].addr, addr))
            return &v->addrs[i];
    }
    return NULL;
}

const struct view_addr *view_addr_find(const struct view *v, const struct ipaddr *addr) {
    for (uint32_t i = 0; i < v->addr_count; i++) {
        if (ipaddr_equal(&v->addrs[i].addr, addr))
            return &v->addrs[i];
    }
    return NULL;
}

static void addr_tell(struct view *v, const struct view_addr *a, bool remove) {
    const struct interface *i = interfaces_find(v->p.interfaces, a->ifindex);
    struct ip_cmd_addr cmd = {
        .cmd = {IP_CMD_ADDR, sizeof cmd},
        .addr = a->addr,
        .port = (uint16_t)(i != NULL ? i->slot : PORT_SLOT_LOCAL),
        .prefix_len = a->prefix_len,
        .remove = remove,
        .dedicated = a->dedicated,
        .broadcast = a->broadcast,
    };
    (void)tell(v, &cmd.cmd, "address");
}

/* The kernel's own addresses on a dedicated interface stay the kernel's alone, and so do loopback's. */
static bool addr_ours(const struct view *v, const struct ipaddr *addr, uint32_t ifindex) {
    const struct interface *i = interfaces_find(v->p.interfaces, ifindex);
    return !ipaddr_is_loopback(addr) && (i == NULL || !i->dedicated);
}

static void addr_add(struct view *v, const struct view_addr *fresh) {
    struct view_addr *a = addr_find(v, &fresh->addr, fresh->ifindex);
    if (a == NULL && v->addr_count == v->addr_max) {
        v->overflow = true;
        return;
    }
    bool known = view_addr_find(v, &fresh->addr) != NULL;
    if (a == NULL)
        a = &v->addrs[v->addr_count++];
    *a = *fresh;
    a->mark = v->mark;
    addr_tell(v, a, false);
    if (!known) {
        struct nb_addr nb;
        memcpy(nb.b, a->addr.b, sizeof nb.b);
        (void)nb_claims_addr_add(v->p.nb, &nb);
        if (!a->broadcast)
            nic_address(v->p.nic, &a->addr, false);
    }
}

static void addr_del(struct view *v, struct view_addr *a) {
    struct view_addr old = *a;
    addr_tell(v, a, true);
    *a = v->addrs[--v->addr_count];
    if (view_addr_find(v, &old.addr) == NULL) {
        struct nb_addr nb;
        memcpy(nb.b, old.addr.b, sizeof nb.b);
        nic_address(v->p.nic, &old.addr, true);
        (void)nb_claims_addr_del(v->p.nb, &nb);
    }
}

static void on_addr(void *arg, const struct follow_addr *f, bool gone) {
    struct view *v = arg;
    struct view_addr *old = addr_find(v, &f->addr, f->ifindex);
    if (gone || f->tentative || !addr_ours(v, &f->addr, f->ifindex)) {
        if (old != NULL)
            addr_del(v, old);
        return;
    }
    addr_add(v, &(struct view_addr){.addr = f->addr, .ifindex = f->ifindex, .prefix_len = f->prefix_len});
}

/* ---- routes ---- */

/* What the ip engine shall do with packets of this route; PORT_SLOT_KERNEL when only the kernel can. */
static uint16_t route_slot(const struct view *v, const struct follow_route *r) {
    const struct interface *i = interfaces_find(v->p.interfaces, r->ifindex);
    if (r->foreign)
        return PORT_SLOT_KERNEL;
    if (r->type == RTN_LOCAL)
        return addr_ours(v, &r->prefix, r->ifindex) ? PORT_SLOT_LOCAL : PORT_SLOT_KERNEL;
    return (uint16_t)(i != NULL ? i->slot : PORT_SLOT_KERNEL);
}

/* On a dedicated interface the kernel is another host: its routes over that interface are its own affair. Only its own
 * addresses matter: over a wire we cannot reach them, over a tap, whose other end it is, we can. */
static bool route_skipped(const struct view *v, const struct follow_route *r) {
    const struct interface *i = interfaces_find(v->p.interfaces, r->ifindex);
    if (i == NULL || !i->dedicated)
        return false;
    return r->type != RTN_LOCAL || i->entry->kind == KIND_TAP;
}

static bool route_refuses(uint8_t type) {
    return type == RTN_UNREACHABLE || type == RTN_BLACKHOLE || type == RTN_PROHIBIT;
}

static void broadcast_tell(struct view *v, const struct follow_route *r, bool gone) {
    struct view_addr *old = addr_find(v, &r->prefix, r->ifindex);
    const struct interface *i = interfaces_find(v->p.interfaces, r->ifindex);
    if (gone && old != NULL && old->broadcast)
        addr_del(v, old);
    if (!gone && i != NULL && r->prefix_len == 128)
        addr_add(v,
                 &(struct view_addr){.addr = r->prefix, .ifindex = r->ifindex, .prefix_len = 128, .broadcast = true});
}

static void on_route(void *arg, const struct follow_route *r, bool gone) {
    struct view *v = arg;
    struct ip_cmd_route cmd = {
        .cmd = {IP_CMD_ROUTE, sizeof cmd},
        .prefix = r->prefix,
        .gateway = r->gateway,
        .source = r->source,
        .metric = r->metric,
        .prefix_len = r->prefix_len,
        .mtu = (uint16_t)(r->mtu < UINT16_MAX ? r->mtu : 0),
        .remove = gone,
        .unreachable = route_refuses(r->type),
    };
    if (route_skipped(v, r))
        return;
    switch (r->type) {
    case RTN_BROADCAST:
        broadcast_tell(v, r, gone);
        return;
    case RTN_UNICAST:
    case RTN_LOCAL:
    case RTN_MULTICAST:
    case RTN_UNREACHABLE:
    case RTN_BLACKHOLE:
    case RTN_PROHIBIT:
        cmd.port = route_slot(v, r);
        (void)tell(v, &cmd.cmd, "route");
        return;
    default:
        return;
    }
}

/* ---- dedicated interfaces: addresses and routes of our own ---- */

static void prefix_route(struct view *v, const struct interface *i, const struct config_prefix *p) {
    struct ip_cmd_route cmd = {
        .cmd = {IP_CMD_ROUTE, sizeof cmd},
        .prefix = p->addr,
        .prefix_len = (uint8_t)p->len,
        .source = p->addr,
        .port = (uint16_t)i->slot,
    };
    (void)tell(v, &cmd.cmd, "route");
}

static void gateway_route(struct view *v, const struct interface *i, const struct config_prefix *gw) {
    static const uint8_t zero[4];
    bool v4 = ipaddr_is_v4(&gw->addr);
    struct ip_cmd_route cmd = {
        .cmd = {IP_CMD_ROUTE, sizeof cmd},
        .prefix = v4 ? ipaddr_from_v4(zero) : ipaddr_any(),
        .prefix_len = v4 ? 96 : 0,
        .gateway = gw->addr,
        .metric = DEDICATED_METRIC,
        .port = (uint16_t)i->slot,
    };
    (void)tell(v, &cmd.cmd, "route");
}

static void dedicated_tell(struct view *v, const struct interface *i) {
    for (uint32_t k = 0; k < i->entry->address_count; k++) {
        const struct config_prefix *p = &i->entry->addresses[k];
        addr_add(v, &(struct view_addr){
                        .addr = p->addr, .ifindex = i->ifindex, .prefix_len = (uint8_t)p->len, .dedicated = true});
        prefix_route(v, i, p);
    }
    for (uint32_t k = 0; k < i->entry->gateway_count; k++)
        gateway_route(v, i, &i->entry->gateways[k]);
}

/* ---- links, neighbours, resync ---- */

static void on_link(void *arg, const struct follow_link *l, bool gone) {
    struct view *v = arg;
    /* A route whose link went down or came back is not spoken of by the kernel. */
    uint8_t now = (uint8_t)((l->up ? 1 : 0) | (l->running ? 2 : 0));
    uint32_t at = l->ifindex % LINK_STATES;
    if (v->link_state[at] != now) {
        v->link_state[at] = now;
        v->stale = true;
    }
    v->stale |= interfaces_link(v->p.interfaces, l, gone);
    v->links_changed = true;
}

static void on_neigh(void *arg, const struct follow_neigh *n) {
    struct view *v = arg;
    static const uint8_t states[] = {[FOLLOW_NEIGH_FAILED] = 0, [FOLLOW_NEIGH_USABLE] = 1, [FOLLOW_NEIGH_GONE] = 2};
    const struct interface *i = interfaces_find(v->p.interfaces, n->ifindex);
    if (i == NULL || i->dedicated)
        return;
    struct ip_cmd_neigh cmd = {
        .cmd = {IP_CMD_NEIGH, sizeof cmd}, .addr = n->addr, .port = (uint16_t)i->slot, .state = states[n->state]};
    memcpy(cmd.mac, n->mac, sizeof cmd.mac);
    /* No overflow: the engine asks for those it needs. */
    (void)runtime_command(v->p.rt, UINT32_MAX, v->p.ip_engine, &cmd.cmd, NULL);
}

static void addrs_sweep(struct view *v) {
    for (uint32_t i = v->addr_count; i-- > 0;) {
        if (v->addrs[i].mark != v->mark)
            addr_del(v, &v->addrs[i]);
    }
}

static void on_resync(void *arg, bool begin) {
    struct view *v = arg;
    struct ip_cmd_flush cmd = {.cmd = {IP_CMD_FLUSH, sizeof cmd}, .begin = begin};
    if (begin) {
        v->mark++;
        v->overflow = false;
        (void)tell(v, &cmd.cmd, "route");
        return;
    }
    for (uint32_t s = 0; s < PORT_SLOT_MAX; s++) {
        const struct interface *i = interfaces_slot(v->p.interfaces, s);
        if (i != NULL && i->dedicated)
            dedicated_tell(v, i);
    }
    addrs_sweep(v);
    (void)tell(v, &cmd.cmd, "route");
}

/* A resync may itself find new links, whose routes must then be told with their slots: so once more, until quiet. */
static int resync(struct view *v) {
    int err = 0;
    for (int round = 0; round < ROUNDS_MAX && err == 0; round++) {
        v->stale = false;
        err = follow_resync(v->follow);
        if (!v->stale)
            break;
    }
    if (err != 0)
        log_error("view.resync", "the kernel's tables cannot be read: %s; trying again", strerror(-err));
    v->stale = err != 0;
    if (v->links_changed) {
        v->links_changed = false;
        v->p.links_changed(v->p.arg);
    }
    return err;
}

/* ---- the loop ---- */

static int on_due(sd_event_source *source, uint64_t usec, void *arg) {
    struct view *v = arg;
    (void)source;
    (void)usec;
    v->due_armed = false;
    if (v->stale)
        view_resync_soon(v);
    return 0;
}

/* At once when there was none for a while, else when the gap is over. */
void view_resync_soon(struct view *v) {
    v->stale = true;
    if (v->due_armed)
        return;
    (void)resync(v);
    if (sd_event_source_set_time_relative(v->due, RESYNC_GAP_US) >= 0 &&
        sd_event_source_set_enabled(v->due, SD_EVENT_ONESHOT) >= 0)
        v->due_armed = true;
}

static int on_netlink(sd_event_source *source, int fd, uint32_t events, void *arg) {
    struct view *v = arg;
    (void)source;
    (void)fd;
    (void)events;
    int err = follow_dispatch(v->follow);
    if (err != 0 || v->stale)
        view_resync_soon(v);
    return 0;
}

static int sources_add(struct view *v) {
    int err = sd_event_add_io(v->p.event, &v->io, follow_fd(v->follow), EPOLLIN, on_netlink, v);
    if (err >= 0)
        err = sd_event_add_time_relative(v->p.event, &v->due, CLOCK_MONOTONIC, 0, 0, on_due, v);
    if (err >= 0)
        err = sd_event_source_set_enabled(v->due, SD_EVENT_OFF);
    return err < 0 ? err : 0;
}

int view_create(const struct view_params *params, struct view **ret_view, char *err, size_t err_size) {
    struct view *v = calloc(1, sizeof *v);
    if (v == NULL)
        return -ENOMEM;
    struct follow_sink sink = {v, on_resync, on_link, on_addr, on_route, on_neigh};
    v->p = *params;
    v->addr_max = params->cfg->engines.ip.addresses;
    v->wanted_max = params->cfg->engines.ip.neighbours;
    v->addrs = calloc(v->addr_max, sizeof *v->addrs);
    v->wanted = calloc(v->wanted_max, sizeof *v->wanted);
    int error = v->addrs != NULL && v->wanted != NULL ? follow_create(&sink, &v->follow) : -ENOMEM;
    if (error == 0)
        error = sources_add(v);
    if (error == 0)
        error = resync(v);
    if (error != 0) {
        (void)snprintf(err, err_size, "cannot follow the kernel's addresses and routes: %s; CAP_NET_ADMIN is needed",
                       strerror(-error));
        view_destroy(v);
        return error;
    }
    *ret_view = v;
    return 0;
}

void view_destroy(struct view *v) {
    if (v == NULL)
        return;
    for (uint32_t i = 0; i < v->wanted_count; i++)
        (void)follow_neigh_release(v->follow, v->wanted[i].ifindex, &v->wanted[i].addr);
    sd_event_source_disable_unref(v->io);
    sd_event_source_disable_unref(v->due);
    follow_destroy(v->follow);
    free(v->addrs);
    free(v->wanted);
    free(v);
}

void view_report(const struct view *v) {
    char text[INET6_ADDRSTRLEN];
    for (uint32_t i = 0; i < v->addr_count; i++) {
        const struct view_addr *a = &v->addrs[i];
        const struct interface *run = interfaces_find(v->p.interfaces, a->ifindex);
        if (a->broadcast)
            continue;
        log_info("address", "%s: %s", view_addr_text(&a->addr, text),
                 run == NULL    ? "of an interface that is not run; reached over those that are"
                 : a->dedicated ? "usherd's own"
                                : "shared with the kernel");
    }
    log_info("kernel",
             "everything else stays with the kernel: interfaces that are not run, what programs of the kernel's "
             "say over the loopback, and every packet that belongs to no socket of a client");
}
