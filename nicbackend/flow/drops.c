/* SPDX-License-Identifier: Apache-2.0
 *
 * See drops.h. A rule has a flow for IPv4, one for IPv6, or both; each flow has a place.
 */
#include "nicbackend/flow/drops.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nicbackend/partition/cube.h"

#define VERSIONS 2
#define NOT_SO   UINT32_MAX /* precedence of no program's rule: what is listed so is deleted, and made again */

struct drop {
    struct nb_hw_rule rule;
    uint32_t place[VERSIONS]; /* + 1 */
    bool used;
};

struct drops {
    struct nb_backend base;
    struct nb_backend_ops ops; /* of this file, by the driver's name */
    struct nb_drops_params p;
    struct nb_flow_traits traits;
    struct drop *v; /* by handle - 1 */
    struct nb_cube *flows;
    uint32_t *free_places, *free_drops;
    uint32_t free_place_count, free_drop_count;
};

static struct drops *of(struct nb_backend *b) {
    return (struct drops *)(void *)b;
}

static struct drop *drop_of(struct drops *d, uint64_t handle) {
    return handle == 0 || handle > d->p.place_max || !d->v[handle - 1].used ? NULL : &d->v[handle - 1];
}

static int drops_caps(struct nb_backend *b, struct nb_caps *ret, struct nb_error *err) {
    const struct drops *d = of(b);
    (void)err;
    *ret = (struct nb_caps){.order = NB_ORDER_NONE,
                            .counters = d->p.driver->counters,
                            .inner_match = d->p.quirks.inner_match,
                            .frag_ports = d->p.quirks.frag_ports,
                            .rule_max = d->p.place_max,
                            .mask_max = UINT32_MAX,
                            .levels = 1};
    ret->match[NB_KEY_SRC] = ret->match[NB_KEY_DST] = d->p.addr_match;
    ret->match[NB_KEY_SPORT] = ret->match[NB_KEY_DPORT] = d->p.port_match;
    ret->match[NB_KEY_PROTO] = ret->match[NB_KEY_IP_VERSION] = ret->match[NB_KEY_ETHERTYPE] = NB_MATCH_EXACT;
    ret->match[NB_KEY_DSCP] = d->p.dscp ? NB_MATCH_EXACT : NB_MATCH_NONE;
    return 0;
}

static uint32_t flows_of(const struct drops *d, const struct nb_hw_rule *rule, struct nb_cube flows[VERSIONS]) {
    uint32_t n = nb_flow_of(rule, 4, &d->traits, &flows[0]) == NB_FLOW_EXISTS;
    return n + (nb_flow_of(rule, 6, &d->traits, &flows[n]) == NB_FLOW_EXISTS);
}

static int drops_validate(struct nb_backend *b, const struct nb_hw_rule *rule, struct nb_error *err) {
    struct nb_cube flows[VERSIONS];
    struct nb_caps caps;
    (void)drops_caps(b, &caps, NULL);
    if (rule->action != NB_HW_DROP)
        return nb_fail(err, -EOPNOTSUPP, "the device can drop packets and cannot let them pass by a rule");
    if (!nb_cube_exact(&rule->cube, &caps) || flows_of(of(b), rule, flows) == 0)
        return nb_fail(err, -EOPNOTSUPP, "the device cannot tell these packets from others as software does");
    return 0;
}

/* --- flows ----------------------------------------------------------------------------------------------------- */

static int flow_take(struct drops *d, const struct nb_cube *flow, uint32_t *ret_place, struct nb_error *err) {
    if (d->free_place_count == 0)
        return nb_fail(err, -ENOSPC, "all %u entries of the device are in use", d->p.place_max);
    uint32_t place = d->free_places[d->free_place_count - 1];
    int error = d->p.driver->insert(d->p.arg, place, flow, err);
    if (error != 0)
        return error;
    d->free_place_count--;
    d->flows[place] = *flow;
    *ret_place = place + 1;
    return 0;
}

static int flow_give(struct drops *d, uint32_t *place, struct nb_count *final, struct nb_error *err) {
    struct nb_count last = {0, 0};
    int error = d->p.driver->remove(d->p.arg, *place - 1, &last, err);
    if (error != 0 && error != -ENOENT)
        return error;
    d->free_places[d->free_place_count++] = *place - 1;
    *place = 0;
    final->packets += last.packets;
    final->bytes += last.bytes;
    return 0;
}

/* --- operations ------------------------------------------------------------------------------------------------ */

static int drops_del(struct nb_backend *b, uint64_t handle, struct nb_count *ret_final, struct nb_error *err) {
    struct drops *d = of(b);
    struct drop *e = drop_of(d, handle);
    struct nb_count final = {0, 0};
    int error = 0;
    if (e == NULL)
        return nb_fail(err, -ENOENT, "the device has no such rule");
    for (int i = 0; i < VERSIONS && error == 0; i++)
        if (e->place[i] != 0)
            error = flow_give(d, &e->place[i], &final, err);
    *ret_final = final;
    if (error != 0)
        return error;
    e->used = false;
    d->free_drops[d->free_drop_count++] = (uint32_t)(e - d->v);
    return 0;
}

static int drops_add(struct nb_backend *b, const struct nb_hw_rule *rule, uint64_t *ret_handle, struct nb_error *err) {
    struct drops *d = of(b);
    struct nb_cube flows[VERSIONS];
    struct nb_count none;
    int error = drops_validate(b, rule, err);
    if (error == 0 && d->free_drop_count == 0)
        error = nb_fail(err, -ENOSPC, "all %u rules of the device are in use", d->p.place_max);
    if (error != 0)
        return error;
    struct drop *e = &d->v[d->free_drops[--d->free_drop_count]];
    uint64_t handle = (uint64_t)(e - d->v) + 1;
    *e = (struct drop){.rule = *rule, .used = true};
    uint32_t n = flows_of(d, rule, flows);
    for (uint32_t i = 0; i < n && error == 0; i++)
        error = flow_take(d, &flows[i], &e->place[i], err);
    if (error != 0)
        (void)drops_del(b, handle, &none, NULL); /* if it cannot, the next listing tells of it */
    else
        *ret_handle = handle;
    return error;
}

static int drops_swap(struct nb_backend *b, uint64_t handle, const struct nb_hw_rule *rule, struct nb_count *ret_final,
                      struct nb_error *err) {
    (void)b;
    (void)handle;
    (void)rule;
    (void)ret_final;
    return nb_fail(err, -EOPNOTSUPP, "the device exchanges no rules");
}

static int drops_read(struct nb_backend *b, uint64_t handle, struct nb_count *ret_count) {
    struct drops *d = of(b);
    const struct drop *e = drop_of(d, handle);
    struct nb_count sum = {0, 0}, one;
    if (e == NULL)
        return -ENOENT;
    for (int i = 0; i < VERSIONS && d->p.driver->counters; i++) {
        int error = e->place[i] == 0 ? -ENOENT : d->p.driver->read(d->p.arg, e->place[i] - 1, &one);
        if (error != 0 && error != -ENOENT)
            return error;
        sum.packets += error == 0 ? one.packets : 0;
        sum.bytes += error == 0 ? one.bytes : 0;
    }
    *ret_count = sum;
    return 0;
}

/* Drivers return when the device has it. */
static int drops_sync(struct nb_backend *b) {
    (void)b;
    return 0;
}

static int drops_dump(struct nb_backend *b, nb_dump_fn fn, void *arg) {
    struct drops *d = of(b);
    for (uint32_t i = 0; i < d->p.place_max; i++) {
        const struct drop *e = &d->v[i];
        struct nb_hw_rule rule = e->rule;
        for (int k = 0; e->used && k < VERSIONS; k++) {
            int error =
                e->place[k] == 0 ? 0 : d->p.driver->check(d->p.arg, e->place[k] - 1, &d->flows[e->place[k] - 1]);
            if (error == -ENODEV)
                return error;
            rule.prec = error != 0 ? NOT_SO : rule.prec;
        }
        if (e->used)
            fn(arg, i + 1u, &rule);
    }
    return 0;
}

static void drops_free(struct drops *d) {
    d->p.driver->destroy(d->p.arg);
    free(d->v);
    free(d->flows);
    free(d->free_places);
    free(d->free_drops);
    free(d);
}

static void drops_destroy(struct nb_backend *b) {
    drops_free(of(b));
}

static const struct nb_backend_ops drops_ops = {.caps = drops_caps,
                                                .validate = drops_validate,
                                                .add = drops_add,
                                                .swap = drops_swap,
                                                .del = drops_del,
                                                .read = drops_read,
                                                .sync = drops_sync,
                                                .dump = drops_dump,
                                                .destroy = drops_destroy};

int nb_drops_create(const struct nb_drops_params *p, struct nb_backend **ret, struct nb_error *err) {
    struct drops *d = calloc(1, sizeof *d);
    if (d == NULL) {
        p->driver->destroy(p->arg);
        return nb_fail(err, -ENOMEM, "no memory for the rules of a device");
    }
    d->p = *p;
    d->ops = drops_ops;
    d->ops.name = p->driver->name;
    d->base.ops = &d->ops;
    d->traits = (struct nb_flow_traits){.frag_ports = p->quirks.frag_ports};
    d->v = calloc(p->place_max, sizeof *d->v);
    d->flows = calloc(p->place_max, sizeof *d->flows);
    d->free_places = calloc(p->place_max, sizeof *d->free_places);
    d->free_drops = calloc(p->place_max, sizeof *d->free_drops);
    if (d->v == NULL || d->flows == NULL || d->free_places == NULL || d->free_drops == NULL) {
        drops_free(d);
        return nb_fail(err, -ENOMEM, "no memory for %u rules of a device", p->place_max);
    }
    for (uint32_t i = p->place_max; i-- > 0;)
        d->free_places[d->free_place_count++] = d->free_drops[d->free_drop_count++] = i;
    *ret = &d->base;
    return 0;
}
