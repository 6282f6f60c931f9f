/* SPDX-License-Identifier: Apache-2.0
 *
 * May this socket be accelerated? A row of questions, each of which may say no with its reason. And the next hops that
 * shards ask for: they are kept by the kernel as long as any shard wants them.
 */
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "control/broker/claims.h"
#include "control/log.h"
#include "control/netlink/cgroup_bpf.h"
#include "control/netlink/firewall.h"
#include "control/netlink/rules.h"
#include "control/view_internal.h"
#include "engines/ip/ip_cmd.h"
#include "engines/wire.h"

#define FIREWALL_CHECK_US 1000000u

struct question {
    struct view *v;
    const struct kernel_socket *s;
    const char *cgroup;
    char *reason;
    size_t size;
};

static bool no(const struct question *q, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static bool no(const struct question *q, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(q->reason, q->size, fmt, args);
    va_end(args);
    return false;
}

/* Rules may come at any time, and iptables' old interface tells nobody: so look again, at most once a second. */
static void firewall_look(struct view *v) {
    uint64_t now;
    if (sd_event_now(v->p.event, CLOCK_MONOTONIC, &now) < 0)
        return;
    if (v->firewall_checked_us != 0 && now - v->firewall_checked_us < FIREWALL_CHECK_US)
        return;
    bool before = v->firewall_rules;
    v->firewall_checked_us = now;
    v->firewall_rules = firewall_has_rules(v->firewall_what, sizeof v->firewall_what);
    if (v->firewall_rules && !before)
        log_warning("firewall",
                    "%s: no socket is accelerated while netfilter has rules, because accelerated flows do "
                    "not pass them; firewall: ignore in the config accelerates all the same",
                    v->firewall_what);
}

static bool ask_firewall(const struct question *q) {
    if (q->v->p.cfg->firewall != FIREWALL_REFUSE)
        return true;
    firewall_look(q->v);
    return !q->v->firewall_rules ||
           no(q, "netfilter has rules (%.80s) and the config says firewall: refuse", q->v->firewall_what);
}

/* Programs may come at any time; the answer for one group holds for a second. */
static bool ask_cgroup(const struct question *q) {
    struct view *v = q->v;
    uint64_t now;
    if (v->p.cfg->firewall != FIREWALL_REFUSE || sd_event_now(v->p.event, CLOCK_MONOTONIC, &now) < 0)
        return true;
    bool known = v->cgroup_checked_us != 0 && now - v->cgroup_checked_us < FIREWALL_CHECK_US;
    if (!known || strcmp(v->cgroup, q->cgroup) != 0) {
        v->cgroup_checked_us = now;
        (void)snprintf(v->cgroup, sizeof v->cgroup, "%s", q->cgroup);
        v->cgroup_programs = cgroup_bpf_judges(q->cgroup, v->cgroup_what, sizeof v->cgroup_what);
    }
    return !v->cgroup_programs || no(q, "%.100s, and the config says firewall: refuse", v->cgroup_what);
}

/* The kernel would choose ways by rules that the ip engine does not know: into a tunnel, say, that all traffic must
 * take. Rules too may come at any time. */
static bool ask_rules(const struct question *q) {
    struct view *v = q->v;
    uint64_t now;
    if (sd_event_now(v->p.event, CLOCK_MONOTONIC, &now) < 0)
        return true;
    if (v->rules_checked_us == 0 || now - v->rules_checked_us >= FIREWALL_CHECK_US) {
        v->rules_checked_us = now;
        v->rules_route = rules_route(v->rules_what, sizeof v->rules_what);
    }
    return !v->rules_route || no(q, "routing follows rules that usherd does not know (ip rule): %.80s", v->rules_what);
}

static bool ask_state(const struct question *q) {
    if (q->v->overflow)
        return no(q, "usherd's address or route table is too small (engines.ip)");
    return interfaces_count(q->v->p.interfaces) > 0 || no(q, "usherd runs no interface");
}

/* A claim holds on every interface that usherd runs; the port of a socket bound to one of them may be another socket's
 * on the next. */
static bool ask_device(const struct question *q) {
    uint32_t ifindex = q->s->ifindex;
    if (ifindex == 0)
        return true;
    if (interfaces_find(q->v->p.interfaces, ifindex) == NULL)
        return no(q, "it is bound to interface %u, which usherd does not run", ifindex);
    return interfaces_count(q->v->p.interfaces) == 1 ||
           no(q, "it is bound to interface %u, and usherd would take its port on the others it runs too", ifindex);
}

/* Where frames leave. No firewall is asked: the kernel's own packet sockets go past them as well. */
static bool ask_link(const struct question *q) {
    uint32_t ifindex = q->s->ifindex;
    if (q->v->p.cfg->sessions.raw_frames == RAW_FRAMES_KERNEL)
        return no(q, "the config leaves raw frames to the kernel (sessions.raw_frames)");
    if (ifindex == 0)
        return no(q, "it is bound to no interface");
    return interfaces_find(q->v->p.interfaces, ifindex) != NULL || no(q, "usherd does not run interface %u", ifindex);
}

static bool ask_local(const struct question *q) {
    char text[INET6_ADDRSTRLEN];
    const struct ipaddr *a = &q->s->flow.local;
    if (ipaddr_is_any(a) || ipaddr_is_multicast(a) || ipaddr_is_loopback(a)) /* the loopback: for Usher's own clients */
        return true;
    return view_addr_find(q->v, a) != NULL || no(q, "%s is no local address that usherd uses", view_addr_text(a, text));
}

static bool ask_peer(const struct question *q) {
    char text[INET6_ADDRSTRLEN];
    const struct flow *f = &q->s->flow;
    if (!q->s->connected || ipaddr_is_any(&f->remote))
        return true;
    (void)view_addr_text(&f->remote, text);
    struct ip_route_result route = {.error = -ENETUNREACH};
    struct ip_cmd_lookup cmd = {.cmd = {IP_CMD_LOOKUP, sizeof cmd}, .dst = f->remote, .result = &route};
    int err = runtime_command(q->v->p.rt, 0, q->v->p.ip_engine, &cmd.cmd, NULL);
    if (err != 0 || route.error != 0)
        return no(q, "there is no route to its peer %s", text);
    if (route.port == PORT_SLOT_KERNEL)
        return no(q, "its peer %s is behind an interface that usherd does not run", text);
    if (route.port == PORT_SLOT_LOCAL && !claim_covers(q->v->p.claims, f->proto, &f->remote, f->remote_port))
        return no(q, "its peer %s is on this host and not accelerated", text);
    return true;
}

bool view_judge(void *arg, const struct kernel_socket *s, const char *cgroup, char *ret_reason, size_t size) {
    static bool (*const questions[])(const struct question *) = {ask_state, ask_device,   ask_local, ask_rules,
                                                                 ask_peer,  ask_firewall, ask_cgroup};
    static bool (*const of_frames[])(const struct question *) = {ask_state, ask_link};
    struct question q = {arg, s, cgroup, ret_reason, size};
    bool frames = s->flow.proto == PROTO_FRAME;
    size_t count = frames ? ARRAY_LEN(of_frames) : ARRAY_LEN(questions);
    for (size_t i = 0; i < count; i++) {
        if (!(frames ? of_frames : questions)[i](&q))
            return false;
    }
    char how[80], why[160];
    view_how(arg, s->ifindex, how, sizeof how, why, sizeof why);
    (void)snprintf(ret_reason, size, "%s: %s", how, why);
    return true;
}

void view_how(void *arg, uint32_t ifindex, char *ret_how, size_t how_size, char *ret_why, size_t why_size) {
    const struct view *v = arg;
    interfaces_text(v->p.interfaces, ifindex, ret_how, how_size);
    interfaces_why(v->p.interfaces, ifindex, ret_why, why_size);
}

/* ---- next hops ---- */

static struct view_wanted *wanted_find(struct view *v, uint32_t ifindex, const struct ipaddr *addr) {
    for (uint32_t i = 0; i < v->wanted_count; i++) {
        if (v->wanted[i].ifindex == ifindex && ipaddr_equal(&v->wanted[i].addr, addr))
            return &v->wanted[i];
    }
    return NULL;
}

static void neigh_wanted(struct view *v, uint32_t shard, uint32_t ifindex, const struct ipaddr *addr) {
    struct view_wanted *w = wanted_find(v, ifindex, addr);
    /* Without room it is asked for all the same and not given back at the end; the next start finds it by its mark. */
    if (w == NULL && v->wanted_count < v->wanted_max) {
        w = &v->wanted[v->wanted_count++];
        *w = (struct view_wanted){.addr = *addr, .ifindex = ifindex};
    }
    if (w != NULL)
        w->shards |= 1u << shard;
    int err = follow_neigh_want(v->follow, ifindex, addr);
    char text[INET6_ADDRSTRLEN];
    if (err != 0)
        log_debug("neigh.want", "%s: %s", view_addr_text(addr, text), strerror(-err));
}

static void neigh_unused(struct view *v, uint32_t shard, uint32_t ifindex, const struct ipaddr *addr) {
    struct view_wanted *w = wanted_find(v, ifindex, addr);
    if (w == NULL)
        return;
    w->shards &= ~(1u << shard);
    if (w->shards != 0)
        return;
    *w = v->wanted[--v->wanted_count];
    (void)follow_neigh_release(v->follow, ifindex, addr);
}

void view_neigh_event(struct view *v, uint32_t shard, const struct engine_event *ev) {
    const struct interface *i = interfaces_slot(v->p.interfaces, ev->port);
    if (i == NULL)
        return;
    if (ev->kind == EVENT_NEIGH_WANTED)
        neigh_wanted(v, shard, i->ifindex, &ev->addr);
    else if (ev->kind == EVENT_NEIGH_UNUSED)
        neigh_unused(v, shard, i->ifindex, &ev->addr);
}
