/* SPDX-License-Identifier: Apache-2.0
 *
 * See nic.h. The NICs of a change are nested: the commit of the first one's transaction is the transaction of the next
 * one, and the innermost commit is software's. So no NIC drops by the new policy before software judges by it, and none
 * by the old one afterwards.
 */
#include "control/nic_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "control/config/config.h"
#include "control/log.h"
#include "control/nic_sockets.h"
#include "control/policy/policy.h"

#define TEND_SECONDS  5u
#define TEND_USEC     (TEND_SECONDS * 1000u * 1000u)
#define NEWCOMERS_MAX 256u /* entries that change places each time for being hotter */

uint64_t nic_now_ns(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct nic_port *port_find(struct nic *nic, uint32_t ifindex) {
    for (uint32_t i = 0; i < NIC_MAX; i++)
        if (nic->ports[i].ifindex == ifindex)
            return &nic->ports[i];
    return NULL;
}

/* ---- one NIC's part of a change ---- */

struct change {
    struct nic *nic;
    const struct policy *old, *policy; /* old NULL: all of it */
    uint32_t next;                     /* port to change */
    bool heat;                         /* the hottest rules are to have a crowded table */
    int (*commit)(void *arg);
    void *arg;
    bool committed;
};

static int change_next(void *arg);

int nic_port_params(const struct nic_port *p, const struct nb_policy *policy, const struct nb_world *world,
                    struct nb_program *resident, struct nb_partition_params *ret) {
    *ret = (struct nb_partition_params){.policy = policy,
                                        .world = world,
                                        .caps = nb_store_caps(p->store),
                                        .ifindex = p->ifindex,
                                        .rule_max = p->rule_max,
                                        .exact = true,
                                        .resident = resident,
                                        .refusals = nb_store_refusals(p->store)};
    return nb_store_program(p->store, resident);
}

/* By an edit when little has changed since the policy that the plan is of. */
static int port_plan(const struct change *c, struct nic_port *p, struct nb_plan *ret_plan,
                     struct nb_program *ret_program) {
    struct nb_program resident;
    struct nb_partition_params params;
    int error = nic_port_params(p, policy_rules(c->policy), nic_sockets_world(c->nic->sockets), &resident, &params);
    if (error != 0)
        return error;
    if (c->heat && p->crowded) {
        params.heat = c->nic->heat;
        params.newcomer_max = NEWCOMERS_MAX;
    }
    error = nb_plan_follow(&p->plan, c->old != NULL ? policy_rules(c->old) : NULL, &params, ret_plan, ret_program);
    nb_program_free(&resident);
    return error;
}

static bool is_crowded(const struct nb_plan *plan) {
    for (uint32_t i = 0; i < plan->count; i++)
        if (plan->places[i].reason == NB_REASON_SPACE || plan->places[i].reason == NB_REASON_MASKS)
            return true;
    return false;
}

static int port_change(struct change *c, struct nic_port *p) {
    struct nb_program program;
    struct nb_plan plan;
    struct nb_update u = {.commit = change_next, .arg = c};
    uint64_t begin = nic_now_ns();
    int error = port_plan(c, p, &plan, &program);
    if (error != 0)
        return error;
    error = nb_store_update(p->store, &program, &u);
    nb_program_free(&program);
    if (error != 0 || u.refused != 0)
        log_warning("nic", "%s: %u rules stay in software: %s", p->name, u.refused, u.error.text);
    if (!c->committed) {
        nb_plan_free(&plan);
        p->plan.broken = p->behind = true;
        return error;
    }
    nb_plan_free(&p->plan);
    p->plan = plan;
    p->plan.broken = error != 0 || u.refused != 0;
    p->behind = error != 0;
    p->crowded = is_crowded(&p->plan);
    p->refused = u.refused;
    p->change_ns = nic_now_ns() - begin;
    return 0;
}

static int change_next(void *arg) {
    struct change *c = arg;
    while (c->next < NIC_MAX && c->nic->ports[c->next].store == NULL)
        c->next++;
    if (c->next < NIC_MAX)
        return port_change(c, &c->nic->ports[c->next++]);
    int error = c->commit != NULL ? c->commit(c->arg) : 0;
    c->committed = error == 0;
    return error;
}

/* ---- heat ---- */

void nic_packets_from(struct nic *nic, nic_packets_fn *fn, void *arg) {
    nic->packets = fn;
    nic->packets_arg = arg;
}

static void heat_forget(struct nic *nic) {
    free(nic->seen);
    free(nic->heat);
    nic->seen = NULL;
    nic->heat = NULL;
}

/* Half of what was, half of what is. Nobody counts for defaults in software: they are taken to be as hot as the hottest
 * rule, so that they do not come and go. */
static void heat_take(struct nic *nic, const uint64_t *now, uint32_t rules) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < rules; i++) {
        uint64_t rate = (now[i] - nic->seen[i]) / TEND_SECONDS;
        nic->heat[i] = nic->heat[i] / 2 + (uint32_t)(rate < UINT32_MAX / 2 ? (rate + 1) / 2 : UINT32_MAX / 2);
        most = nic->heat[i] > most ? nic->heat[i] : most;
        nic->seen[i] = now[i];
    }
    for (uint32_t i = 0; i < NB_TIER_COUNT; i++)
        nic->heat[rules + i] = most;
}

static bool heat_measure(struct nic *nic) {
    uint32_t rules = policy_rules(nic->policy)->rule_count, count = rules + NB_TIER_COUNT;
    uint64_t *now = calloc(count, sizeof *now);
    bool first = nic->seen == NULL;
    if (first) {
        nic->seen = calloc(count, sizeof *nic->seen);
        nic->heat = calloc(count, sizeof *nic->heat);
    }
    bool ok = now != NULL && nic->seen != NULL && nic->heat != NULL && nic->packets(nic->packets_arg, now, rules) == 0;
    if (ok && first)
        memcpy(nic->seen, now, count * sizeof *now);
    else if (ok)
        heat_take(nic, now, rules);
    else
        heat_forget(nic);
    free(now);
    return ok && !first;
}

/* ---- a policy for all of them ---- */

/* Labels are numbers that each policy gives anew: what an owner is called may have changed. */
static bool asks_labels(const struct nb_policy *p) {
    for (uint32_t i = 0; i < p->owner_count; i++)
        if ((p->owners[i].fields & NB_OWNER_LABEL) != 0)
            return true;
    return false;
}

int nic_change(struct nic *nic, const struct policy *policy, int (*commit)(void *arg), void *arg) {
    struct change c = {.nic = nic, .policy = policy, .commit = commit, .arg = arg};
    int error = nic_sockets_policy(nic->sockets, policy);
    if (error != 0)
        return error;
    if (!asks_labels(policy_rules(policy)))
        c.old = nic->policy;
    error = change_next(&c);
    if (!c.committed) {
        (void)nic_sockets_policy(nic->sockets, nic->policy);
        return error != 0 ? error : -EIO;
    }
    nic->policy = policy;
    heat_forget(nic);
    return 0;
}

/* ---- interfaces ---- */

static void port_close(struct nic *nic, struct nic_port *p) {
    (void)nb_rules_before_claims(NULL, nic->claims, p->ifindex);
    nb_store_destroy(p->store);
    nb_plan_free(&p->plan);
    p->store = NULL;
    p->rules = NULL;
    p->hook = NULL;
}

static int port_open(struct nic *nic, struct nic_port *p) {
    int error = nb_rules_create(&p->rules, &p->error);
    if (error != 0)
        return error;
    error = nb_store_create(nb_rules_backend(p->rules), &p->store, &p->error);
    if (error != 0) {
        nb_rules_destroy(p->rules);
        return error;
    }
    if (p->wish == NIC_TC && (error = nb_rules_before_claims(p->rules, nic->claims, p->ifindex)) != 0)
        nb_fail(&p->error, error, "too many interfaces have rules");
    return error;
}

void nic_interface_begin(struct nic *nic, uint32_t ifindex, const char *name, uint32_t wish, uint32_t rule_max) {
    struct nic_port *p = wish == NIC_OFF || ifindex == 0 ? NULL : port_find(nic, 0);
    if (p == NULL)
        return;
    *p = (struct nic_port){.ifindex = ifindex, .wish = wish, .rule_max = rule_max};
    (void)snprintf(p->name, sizeof p->name, "%s", name);
    if (port_open(nic, p) != 0) {
        log_warning("nic", "%s: all rules stay in software: %s", name, p->error.text);
        port_close(nic, p);
    }
}

static int port_attach(struct nic_port *p) {
    static const enum nb_rules_hook hooks[] = {
        [NIC_TC] = NB_RULES_TC, [NIC_XDP] = NB_RULES_XDP_NATIVE, [NIC_XDP_GENERIC] = NB_RULES_XDP_GENERIC};
    int error = nb_rules_attach(p->rules, p->ifindex, hooks[p->wish], &p->error);
    if (error != 0)
        return error;
    p->error.text[0] = '\0';
    p->hook = nb_rules_mode(p->rules, hooks[p->wish]);
    log_info("nic", "%s: rules in front by a %s, %u entries", p->name, p->hook, nb_store_count(p->store));
    return 0;
}

int nic_port_follow(struct nic *nic, struct nic_port *p) {
    struct change c = {.nic = nic, .policy = nic->policy, .next = NIC_MAX, .heat = nic->heat != NULL};
    return nic->policy != NULL ? port_change(&c, p) : 0;
}

void nic_interface_run(struct nic *nic, uint32_t ifindex) {
    struct nic_port *p = port_find(nic, ifindex);
    if (p == NULL || ifindex == 0 || p->store == NULL)
        return;
    (void)nic_port_follow(nic, p);
    if (port_attach(p) != 0)
        log_warning("nic", "%s: all rules stay in software for now: %s", p->name, p->error.text);
}

void nic_interface_end(struct nic *nic, uint32_t ifindex) {
    struct nic_port *p = port_find(nic, ifindex);
    if (p == NULL || ifindex == 0)
        return;
    port_close(nic, p);
    *p = (struct nic_port){.ifindex = 0};
}

/* ---- life ---- */

static void port_tend(struct nic *nic, struct nic_port *p, bool heat) {
    struct nb_error error = {""};
    if (p->hook == NULL) { /* another program was there, of a predecessor that goes, perhaps */
        if (!p->behind || nic_port_follow(nic, p) == 0)
            (void)port_attach(p);
        return;
    }
    int differences = nb_store_audit(p->store, &error);
    if (differences != 0)
        log_warning("nic", "%s: the device's rules were changed by others: %s", p->name,
                    differences < 0 ? error.text : "they are put right");
    if (differences != 0 || p->behind || p->plan.rough || (p->crowded && heat))
        (void)nic_port_follow(nic, p);
}

static int on_tend(sd_event_source *timer, uint64_t usec, void *arg) {
    struct nic *nic = arg;
    (void)usec;
    bool crowded = false;
    for (uint32_t i = 0; i < NIC_MAX; i++)
        crowded = crowded || nic->ports[i].crowded;
    bool heat = crowded && nic->policy != NULL && nic->packets != NULL && heat_measure(nic);
    for (uint32_t i = 0; i < NIC_MAX; i++)
        if (nic->ports[i].store != NULL)
            port_tend(nic, &nic->ports[i], heat);
    (void)sd_event_source_set_time_relative(timer, TEND_USEC);
    return sd_event_source_set_enabled(timer, SD_EVENT_ONESHOT);
}

int nic_create(sd_event *event, struct nb_claims *claims, const struct owner_table *owners, struct nic **ret_nic) {
    struct nic *nic = calloc(1, sizeof *nic);
    if (nic == NULL)
        return -ENOMEM;
    nic->claims = claims;
    nic->sockets = nic_sockets_create(owners);
    int error = nic->sockets == NULL ? -ENOMEM : 0;
    if (error == 0)
        error = sd_event_add_time_relative(event, &nic->timer, CLOCK_MONOTONIC, TEND_USEC, 0, on_tend, nic);
    if (error < 0) {
        nic_sockets_destroy(nic->sockets);
        free(nic);
        return error;
    }
    *ret_nic = nic;
    return 0;
}

void nic_destroy(struct nic *nic) {
    for (uint32_t i = 0; nic != NULL && i < NIC_MAX; i++)
        nic_interface_end(nic, nic->ports[i].ifindex);
    if (nic != NULL) {
        heat_forget(nic);
        sd_event_source_disable_unref(nic->timer);
        nic_sockets_destroy(nic->sockets);
    }
    free(nic);
}

/* ---- questions ---- */

struct known {
    uint64_t id;
    uint32_t rule;
};

struct counting {
    struct known *known; /* by id */
    uint32_t count;
    void (*fn)(void *arg, uint32_t rule, uint64_t packets, uint64_t bytes);
    void *arg;
};

static int by_id(const void *a, const void *b) {
    const struct known *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static void on_count(void *arg, uint64_t credit, struct nb_count count) {
    const struct counting *c = arg;
    const struct known key = {.id = credit}, *k = bsearch(&key, c->known, c->count, sizeof key, by_id);
    if (k != NULL)
        c->fn(c->arg, k->rule, count.packets, count.bytes);
}

void nic_counts(const struct nic *nic, void (*fn)(void *arg, uint32_t rule, uint64_t packets, uint64_t bytes),
                void *arg) {
    const struct nb_policy *policy = nic->policy != NULL ? policy_rules(nic->policy) : NULL;
    struct counting c = {.count = policy != NULL ? policy->rule_count : 0, .fn = fn, .arg = arg};
    if (c.count == 0)
        return;
    c.known = calloc(c.count, sizeof *c.known);
    for (uint32_t i = 0; c.known != NULL && i < c.count; i++)
        c.known[i] = (struct known){policy->rules[i].id, i};
    if (c.known != NULL)
        qsort(c.known, c.count, sizeof *c.known, by_id);
    for (uint32_t i = 0; c.known != NULL && i < NIC_MAX; i++)
        if (nic->ports[i].store != NULL)
            nb_store_counts(nic->ports[i].store, on_count, &c);
    free(c.known);
}

static const struct nic_port *port_at(const struct nic *nic, uint32_t index) {
    for (uint32_t i = 0; i < NIC_MAX; i++)
        if (nic->ports[i].ifindex != 0 && index-- == 0)
            return &nic->ports[i];
    return NULL;
}

bool nic_report(const struct nic *nic, uint32_t index, struct nic_report *ret) {
    const struct nic_port *p = port_at(nic, index);
    if (p == NULL)
        return false;
    *ret = (struct nic_report){.ifindex = p->ifindex,
                               .name = p->name,
                               .backend = "",
                               .hook = p->hook != NULL ? p->hook : "",
                               .why = p->error.text,
                               .refused = p->refused,
                               .change_ns = p->change_ns,
                               .socket_ns = nic->socket_ns};
    if (p->store == NULL)
        return true;
    ret->backend = nb_store_backend(p->store);
    ret->rule_max = nb_store_caps(p->store)->rule_max;
    if (p->rule_max != 0 && p->rule_max < ret->rule_max)
        ret->rule_max = p->rule_max;
    ret->mask_max = nb_store_caps(p->store)->mask_max;
    ret->entries = nb_store_count(p->store);
    for (uint32_t i = 0; i < ret->entries; i++)
        ret->punts += nb_store_rule(p->store, i)->action == NB_HW_PUNT;
    return true;
}

bool nic_place(const struct nic *nic, uint32_t index, uint32_t place, struct nic_place *ret) {
    const struct nic_port *p = port_at(nic, index);
    if (p == NULL || place >= p->plan.count)
        return false;
    const struct nb_place *at = &p->plan.places[place];
    struct nb_count c = nb_store_credit(p->store, nb_credit(policy_rules(nic->policy), place));
    *ret = (struct nic_place){.entries = at->entries,
                              .placed = at->placed,
                              .why = nb_reason_text((enum nb_reason)at->reason),
                              .advice = nb_reason_advice((enum nb_reason)at->reason),
                              .packets = c.packets,
                              .bytes = c.bytes};
    return true;
}
