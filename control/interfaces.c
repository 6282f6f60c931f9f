/* SPDX-License-Identifier: Apache-2.0
 *
 * From a link of the kernel to a running port: match, choose a kind, make the port, add it; and back. A link that could
 * not be run is tried again only when it changes.
 */
#include "control/interfaces.h"

#include <errno.h>
#include <fnmatch.h>
#include <linux/if_arp.h>
#include <stdlib.h>
#include <string.h>

#include "control/log.h"
#include "control/nic.h"
#include "control/state/state.h"
#include "dataplane/port/port.h"
#include "nicbackend/claims.h"

#define FAILED_MAX 64

struct failed {
    uint32_t ifindex, mtu;
    bool up;
};

struct interfaces {
    struct interfaces_params p;
    struct interface slots[PORT_SLOT_MAX]; /* entry NULL = free */
    uint32_t count;
    struct failed failed[FAILED_MAX]; /* oldest is overwritten */
    uint32_t failed_next;
};

typedef int port_create_fn(const struct port_params *params, struct port **ret_port, struct port_error *err);

static const struct kind {
    const char *name; /* as port_choose() says it */
    port_create_fn *create;
} kinds[] = {{"packet", port_packet_create}, {"xdp", port_xdp_create}, {"tap", port_tap_create}};

int interfaces_create(const struct interfaces_params *params, struct interfaces **ret_ifs) {
    struct interfaces *ifs = calloc(1, sizeof *ifs);
    if (ifs == NULL)
        return -ENOMEM;
    ifs->p = *params;
    *ret_ifs = ifs;
    return 0;
}

/* ---- matching ---- */

static bool is_glob(const char *name) {
    return strpbrk(name, "*?[") != NULL;
}

static const struct config_interface *entry_match(const struct config *cfg, const struct follow_link *l) {
    for (uint32_t i = 0; i < cfg->interface_count; i++) {
        const struct config_interface *e = &cfg->interfaces[i];
        if (!is_glob(e->name) && strcmp(e->name, l->name) == 0)
            return e;
        /* A member of a bridge or bond has no addresses of its own: its master is the interface. */
        if (is_glob(e->name) && fnmatch(e->name, l->name, 0) == 0 && !l->loopback && l->master == 0 &&
            l->type == ARPHRD_ETHER)
            return e;
    }
    return NULL;
}

static bool failed_before(const struct interfaces *ifs, const struct follow_link *l) {
    for (uint32_t i = 0; i < FAILED_MAX; i++) {
        const struct failed *f = &ifs->failed[i];
        if (f->ifindex == l->ifindex && f->mtu == l->mtu && f->up == l->up)
            return true;
    }
    return false;
}

static void failed_note(struct interfaces *ifs, const struct follow_link *l) {
    for (uint32_t i = 0; i < FAILED_MAX; i++) {
        if (ifs->failed[i].ifindex == l->ifindex)
            ifs->failed[i].ifindex = 0;
    }
    ifs->failed[ifs->failed_next++ % FAILED_MAX] = (struct failed){l->ifindex, l->mtu, l->up};
}

/* ---- coming ---- */

/* The interface's own MAC with another first byte: local, unicast, the same after every restart. A tap has none before
 * it is made, so its name stands in. */
static void mac_derive(const struct config_interface *e, const struct follow_link *l, uint8_t ret_mac[6]) {
    uint64_t hash = 0xcbf29ce484222325ull; /* FNV-1a */
    for (const char *p = l->name; *p != '\0'; p++)
        hash = (hash ^ (uint8_t)*p) * 0x100000001b3ull;
    memcpy(ret_mac, e->mac.given ? e->mac.b : l->ifindex != 0 ? l->mac : (const uint8_t *)&hash, 6);
    if (!e->mac.given)
        ret_mac[0] = (uint8_t)((ret_mac[0] ^ 0x04) | 0x02) & (uint8_t)~0x01;
}

static void params_fill(const struct interfaces *ifs, const struct config_interface *e, const struct port_choice *c,
                        const struct follow_link *l, struct port_params *p) {
    uint32_t shards = runtime_shard_count(ifs->p.rt);
    bool tap = strcmp(c->kind, "tap") == 0;
    *p = (struct port_params){
        .ifname = l->name,
        .queue_count = e->queues != 0 ? e->queues : shards,
        .claims = tap ? NULL : ifs->p.claims, /* the other end of a tap is the kernel: every frame is for us */
        .dedicated = e->mode == IF_DEDICATED,
        .allow_zero_copy = c->allow_zero_copy && e->zero_copy,
        .allow_native = c->allow_native && e->native,
        .allow_generic = e->generic,
    };
    if (p->queue_count > PORT_QUEUE_MAX)
        p->queue_count = PORT_QUEUE_MAX;
    if (p->dedicated)
        mac_derive(e, l, p->dedicated_mac);
    for (uint32_t i = 0; i < p->queue_count; i++) {
        p->mem[i] = runtime_port_mem(ifs->p.rt, i % shards, c->large_frames);
        p->large_mem[i] = runtime_port_mem(ifs->p.rt, i % shards, true);
    }
}

/* True when a hook of ours on this interface leaves a qdisc when its fds are closed. */
static bool leaves_qdisc(const struct interfaces *ifs, uint32_t ifindex) {
    for (uint32_t hook = 0; hook < NB_HOOK_COUNT; hook++) {
        const struct nb_attach *a = nb_attach_find(ifs->p.claims, ifindex, (enum nb_hook)hook);
        if (a != NULL && nb_attach_leaves_qdisc(a))
            return true;
    }
    return false;
}

/* Where the kernel has no tcx the hook leaves a qdisc behind, which must be on disk before it is made. Whether it will
 * is known only afterwards, so the note is taken back when it did not. */
static int port_make(struct interfaces *ifs, const struct config_interface *e, const struct port_choice *c,
                     const struct follow_link *l, struct port **ret_port, struct port_error *err) {
    struct port_params params;
    const struct kind *kind = kinds;
    while (strcmp(kind->name, c->kind) != 0)
        kind++;
    params_fill(ifs, e, c, l, &params);
    int error = l->ifindex != 0 ? state_qdisc_note(ifs->p.state, l->ifindex) : 0;
    if (error != 0) {
        (void)snprintf(err->text, sizeof err->text, "the state file cannot be written: %s; check state_dir",
                       strerror(-error));
        return error;
    }
    error = kind->create(&params, ret_port, err);
    if (!leaves_qdisc(ifs, l->ifindex))
        state_qdisc_forget(ifs->p.state, l->ifindex);
    if (error == 0)
        (void)snprintf((*ret_port)->why, sizeof(*ret_port)->why, "%s", c->why);
    return error;
}

/* What the config asks for; when it leaves the choice to us and XDP is refused (another program is there, say), the
 * packet port takes its place and tells why. */
static int port_make_best(struct interfaces *ifs, const struct config_interface *e, const struct follow_link *l,
                          struct port **ret_port, struct port_error *err) {
    static const char *const wishes[] = {"auto", "packet", "xdp", "tap"};
    struct port_choice c;
    struct port_error first;
    const char *wish = e->kind == KIND_XDP && !e->native && e->generic ? "xdp-generic" : wishes[e->kind];
    int error = port_choose(l->name, wish, &c, err);
    if (error == 0)
        error = port_make(ifs, e, &c, l, ret_port, err);
    if (error == 0 || e->kind != KIND_AUTO || strcmp(c.kind, "xdp") != 0)
        return error;
    first = *err;
    error = port_choose(l->name, "packet", &c, err);
    (void)snprintf(c.why, sizeof c.why, "packet, because xdp was refused: %.100s", first.text);
    return error != 0 ? error : port_make(ifs, e, &c, l, ret_port, err);
}

static int faults_wrap(const struct config_faults *f, struct port **port) {
    struct port_faults faults = {
        .seed = f->seed,
        .drop_ppm = f->drop_ppm,
        .duplicate_ppm = f->duplicate_ppm,
        .corrupt_ppm = f->corrupt_ppm,
        .reorder_ppm = f->reorder_ppm,
        .delay_ns = f->delay_ns,
        .jitter_ns = f->jitter_ns,
        .bottleneck_bps = f->bottleneck_bps,
        .queue_packets = f->queue_packets,
        .on_rx = f->rx,
        .on_tx = f->tx,
    };
    bool any = f->drop_ppm || f->duplicate_ppm || f->corrupt_ppm || f->reorder_ppm || f->delay_ns || f->jitter_ns ||
               f->bottleneck_bps;
    return any ? port_faulty_create(*port, &faults, port) : 0;
}

static void slot_fill(struct interfaces *ifs, uint32_t slot, const struct config_interface *e, const struct port *port,
                      const char *name) {
    struct interface *i = &ifs->slots[slot];
    *i = (struct interface){
        .ifindex = port->info.ifindex, .slot = slot, .entry = e, .dedicated = e->mode == IF_DEDICATED};
    (void)snprintf(i->name, sizeof i->name, "%s", name);
    ifs->count++;
}

static int port_run(struct interfaces *ifs, const struct config_interface *e, const struct follow_link *l,
                    struct port **ret_port, uint32_t *ret_slot, char *ret_err, size_t err_size) {
    struct port_error port_err = {""};
    struct runtime_error rt_err = {""};
    int error = port_make_best(ifs, e, l, ret_port, &port_err);
    if (error != 0) {
        (void)snprintf(ret_err, err_size, "%s", port_err.text);
        return error;
    }
    error = faults_wrap(&e->faults, ret_port);
    if (error == 0)
        error = runtime_port_add(ifs->p.rt, *ret_port, ret_slot, &rt_err);
    if (error != 0) {
        port_destroy(*ret_port);
        (void)snprintf(ret_err, err_size, "%s", rt_err.text[0] != '\0' ? rt_err.text : strerror(-error));
    }
    return error;
}

static int link_run(struct interfaces *ifs, const struct config_interface *e, const struct follow_link *l,
                    char *ret_err, size_t err_size) {
    struct port *port;
    uint32_t slot;
    nic_interface_begin(ifs->p.nic, l->ifindex, l->name, e->nic, e->nic_entries);
    int error = port_run(ifs, e, l, &port, &slot, ret_err, err_size);
    if (error != 0) {
        nic_interface_end(ifs->p.nic, l->ifindex);
        return error;
    }
    nic_interface_run(ifs->p.nic, l->ifindex);
    slot_fill(ifs, slot, e, port, l->name);
    return 0;
}

int interfaces_taps_create(struct interfaces *ifs, char *err, size_t err_size) {
    for (uint32_t i = 0; i < ifs->p.cfg->interface_count; i++) {
        const struct config_interface *e = &ifs->p.cfg->interfaces[i];
        struct follow_link l = {.up = true};
        if (e->kind != KIND_TAP)
            continue;
        (void)snprintf(l.name, sizeof l.name, "%s", e->name);
        int error = link_run(ifs, e, &l, err, err_size);
        if (error != 0)
            return error;
    }
    return 0;
}

static bool link_new(struct interfaces *ifs, const struct follow_link *l) {
    char err[512];
    const struct config_interface *e = entry_match(ifs->p.cfg, l);
    /* Down is no state to open sockets in; it will be told when it comes up. */
    if (e == NULL || e->kind == KIND_TAP || !l->up || failed_before(ifs, l))
        return false;
    int error = link_run(ifs, e, l, err, sizeof err);
    if (error != 0) {
        failed_note(ifs, l);
        log_error("interface.fail", "%s stays with the kernel: %s", l->name, err);
        return false;
    }
    return true;
}

/* ---- changing and going ---- */

static void link_changed(struct interfaces *ifs, struct interface *i, const struct follow_link *l) {
    struct port *port = runtime_port(ifs->p.rt, i->slot);
    struct port_info before = port->info;
    if (port->ops->refresh != NULL)
        (void)port->ops->refresh(port);
    if (before.mtu != port->info.mtu || before.up != port->info.up ||
        memcmp(before.mac, port->info.mac, sizeof before.mac) != 0) {
        runtime_port_info_set(ifs->p.rt, i->slot, &port->info);
        log_info("interface.change", "%s: mtu %u, %s", l->name, port->info.mtu, port->info.up ? "up" : "down");
    }
    (void)snprintf(i->name, sizeof i->name, "%s", l->name);
}

static void link_gone(struct interfaces *ifs, struct interface *i) {
    log_info("interface.gone", "%s: no longer run", i->name);
    runtime_port_remove(ifs->p.rt, i->slot);
    nic_interface_end(ifs->p.nic, i->ifindex);
    state_qdisc_forget(ifs->p.state, i->ifindex);
    *i = (struct interface){0};
    ifs->count--;
}

bool interfaces_link(struct interfaces *ifs, const struct follow_link *link, bool gone) {
    struct interface *i = (struct interface *)(uintptr_t)interfaces_find(ifs, link->ifindex);
    if (i == NULL)
        return !gone && link_new(ifs, link);
    if (gone) {
        link_gone(ifs, i);
        return true;
    }
    link_changed(ifs, i, link);
    return false;
}

void interfaces_destroy(struct interfaces *ifs) {
    if (ifs == NULL)
        return;
    for (uint32_t s = 0; s < PORT_SLOT_MAX; s++) {
        if (ifs->slots[s].entry != NULL)
            link_gone(ifs, &ifs->slots[s]);
    }
    free(ifs);
}

/* ---- questions ---- */

const struct interface *interfaces_find(const struct interfaces *ifs, uint32_t ifindex) {
    for (uint32_t s = 0; s < PORT_SLOT_MAX; s++) {
        if (ifs->slots[s].entry != NULL && ifs->slots[s].ifindex == ifindex)
            return &ifs->slots[s];
    }
    return NULL;
}

const struct interface *interfaces_slot(const struct interfaces *ifs, uint32_t slot) {
    return slot < PORT_SLOT_MAX && ifs->slots[slot].entry != NULL ? &ifs->slots[slot] : NULL;
}

uint32_t interfaces_count(const struct interfaces *ifs) {
    return ifs->count;
}

void interfaces_report(const struct interfaces *ifs) {
    for (uint32_t s = 0; s < PORT_SLOT_MAX; s++) {
        const struct port *port = runtime_port(ifs->p.rt, s);
        if (port == NULL || ifs->slots[s].entry == NULL)
            continue;
        log_info("interface.run", "%s: slot %u, kind %s (%s), %s, %u queue%s, mtu %u, %s; %s", port->name, s,
                 port->ops->kind, port->mode, ifs->slots[s].dedicated ? "dedicated" : "shared with the kernel",
                 port->queue_count, port->queue_count == 1 ? "" : "s", port->info.mtu, port->info.up ? "up" : "down",
                 port->why);
    }
    if (ifs->count == 0)
        log_warning("interface.none", "no interface is run: none that is up fits the list `interfaces` of the config");
}

/* One of the texts of every interface that is meant, in a list. */
static void texts_join(const struct interfaces *ifs, uint32_t ifindex, bool why, char *ret_text, size_t size) {
    size_t used = 0;
    ret_text[0] = '\0';
    for (uint32_t s = 0; s < PORT_SLOT_MAX && used < size; s++) {
        const struct port *port = runtime_port(ifs->p.rt, s);
        if (port == NULL || ifs->slots[s].entry == NULL || (ifindex != 0 && ifs->slots[s].ifindex != ifindex))
            continue;
        if (why)
            used += (size_t)snprintf(ret_text + used, size - used, "%s%s", used > 0 ? "; " : "", port->why);
        else
            used += (size_t)snprintf(ret_text + used, size - used, "%s%s on %s", used > 0 ? ", " : "", port->ops->kind,
                                     ifs->slots[s].name);
    }
}

void interfaces_text(const struct interfaces *ifs, uint32_t ifindex, char *ret_text, size_t size) {
    texts_join(ifs, ifindex, false, ret_text, size);
}

void interfaces_why(const struct interfaces *ifs, uint32_t ifindex, char *ret_text, size_t size) {
    texts_join(ifs, ifindex, true, ret_text, size);
}
