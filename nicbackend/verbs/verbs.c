/* SPDX-License-Identifier: Apache-2.0
 *
 * See verbs.h: the driver of flow/drops.h. A flow is an attribute and a row of specs, one for each header.
 */
#include "nicbackend/verbs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <infiniband/verbs.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "nicbackend/verbs/library.h"

#define RULE_MAX 4096u

struct placed {
    void *flow, *counter;
};

struct verbs {
    char ifname[16];
    const struct nb_verbs_device *device;
    void *arg;
    uint8_t port;
    struct placed *placed; /* by place */
};

/* Ethernet, IP, transport, count, drop. */
struct request {
    struct ibv_flow_attr attr;
    uint8_t specs[5 * sizeof(struct ibv_flow_spec)];
};

/* --- a flow as verbs write it ---------------------------------------------------------------------------------- */

static void put(struct request *r, const void *spec, uint16_t size) {
    memcpy((uint8_t *)r + r->attr.size, spec, size);
    r->attr.size = (uint16_t)(r->attr.size + size);
    r->attr.num_of_specs++;
}

static void put_eth(struct request *r, const struct nb_cube *flow) {
    struct ibv_flow_spec_eth s;
    memset(&s, 0, sizeof s);
    s.type = IBV_FLOW_SPEC_ETH;
    s.size = sizeof s;
    s.val.ether_type = htons(flow->value.ip_version == 4 ? 0x0800 : 0x86dd);
    s.mask.ether_type = 0xffff;
    put(r, &s, sizeof s);
}

static void put_v4(struct request *r, const struct nb_cube *flow) {
    struct ibv_flow_spec_ipv4_ext s;
    memset(&s, 0, sizeof s);
    s.type = IBV_FLOW_SPEC_IPV4_EXT;
    s.size = sizeof s;
    memcpy(&s.val.src_ip, flow->value.src + 12, 4);
    memcpy(&s.mask.src_ip, flow->mask.src + 12, 4);
    memcpy(&s.val.dst_ip, flow->value.dst + 12, 4);
    memcpy(&s.mask.dst_ip, flow->mask.dst + 12, 4);
    s.val.proto = flow->value.proto;
    s.mask.proto = flow->mask.proto;
    s.val.tos = (uint8_t)(flow->value.dscp << 2);
    s.mask.tos = (uint8_t)(flow->mask.dscp << 2);
    put(r, &s, sizeof s);
}

/* Of IPv6 a drop asks for addresses and DSCP only: see flow.h. */
static void put_v6(struct request *r, const struct nb_cube *flow) {
    struct ibv_flow_spec_ipv6 s;
    memset(&s, 0, sizeof s);
    s.type = IBV_FLOW_SPEC_IPV6;
    s.size = sizeof s;
    memcpy(s.val.src_ip, flow->value.src, 16);
    memcpy(s.mask.src_ip, flow->mask.src, 16);
    memcpy(s.val.dst_ip, flow->value.dst, 16);
    memcpy(s.mask.dst_ip, flow->mask.dst, 16);
    s.val.traffic_class = (uint8_t)(flow->value.dscp << 2);
    s.mask.traffic_class = (uint8_t)(flow->mask.dscp << 2);
    put(r, &s, sizeof s);
}

static bool has_ports(const struct nb_cube *flow) {
    const struct nb_key *m = &flow->mask;
    return (m->sport[0] | m->sport[1] | m->dport[0] | m->dport[1]) != 0;
}

static int put_ports(struct request *r, const struct nb_cube *flow) {
    struct ibv_flow_spec_tcp_udp s;
    if (!has_ports(flow))
        return 0;
    if (flow->value.proto != IPPROTO_TCP && flow->value.proto != IPPROTO_UDP)
        return -EOPNOTSUPP;
    memset(&s, 0, sizeof s);
    s.type = flow->value.proto == IPPROTO_TCP ? IBV_FLOW_SPEC_TCP : IBV_FLOW_SPEC_UDP;
    s.size = sizeof s;
    memcpy(&s.val.src_port, flow->value.sport, 2);
    memcpy(&s.mask.src_port, flow->mask.sport, 2);
    memcpy(&s.val.dst_port, flow->value.dport, 2);
    memcpy(&s.mask.dst_port, flow->mask.dport, 2);
    put(r, &s, sizeof s);
    return 0;
}

static int request_make(struct request *r, const struct nb_cube *flow, uint8_t port, void *counter) {
    const struct ibv_flow_spec_action_drop drop = {.type = IBV_FLOW_SPEC_ACTION_DROP, .size = sizeof drop};
    const struct ibv_flow_spec_counter_action count = {
        .type = IBV_FLOW_SPEC_ACTION_COUNT, .size = sizeof count, .counters = counter};
    memset(r, 0, sizeof *r);
    r->attr.type = IBV_FLOW_ATTR_NORMAL;
    r->attr.size = sizeof r->attr;
    r->attr.port = port;
    put_eth(r, flow);
    if (flow->value.ip_version == 4)
        put_v4(r, flow);
    else
        put_v6(r, flow);
    if (put_ports(r, flow) != 0)
        return -EOPNOTSUPP;
    if (counter != NULL)
        put(r, &count, sizeof count);
    put(r, &drop, sizeof drop);
    return 0;
}

/* --- the driver of drops.h ------------------------------------------------------------------------------------- */

static int error_of(int error) {
    switch (error) {
    case -EINVAL:
    case -EPROTONOSUPPORT:
    case -EEXIST:
        return -EOPNOTSUPP;
    case -ENOMEM: /* what devices say of a full table */
        return -ENOSPC;
    case -EBUSY:
    case -EINTR:
        return -EAGAIN;
    case -EIO: /* the device was reset under us */
        return -ENODEV;
    default:
        return error;
    }
}

static void counter_drop(struct verbs *v, struct placed *p) {
    if (p->counter != NULL)
        v->device->counter_destroy(v->arg, p->counter);
    *p = (struct placed){NULL, NULL};
}

static int verbs_insert(void *arg, uint32_t place, const struct nb_cube *flow, struct nb_error *err) {
    struct verbs *v = arg;
    struct placed *p = &v->placed[place];
    struct request r;
    int error = v->device->counter_create != NULL ? v->device->counter_create(v->arg, &p->counter) : 0;
    if (error != 0) {
        p->counter = NULL;
        return nb_fail(err, error_of(error), "%s: no counter for a flow: %s", v->ifname, strerror(-error));
    }
    error = request_make(&r, flow, v->port, p->counter);
    if (error == 0)
        error = v->device->create(v->arg, &r.attr, &p->flow);
    if (error == 0)
        return 0;
    counter_drop(v, p);
    return nb_fail(err, error_of(error), "%s: the device takes no such flow: %s", v->ifname, strerror(-error));
}

static int verbs_read(void *arg, uint32_t place, struct nb_count *ret) {
    struct verbs *v = arg;
    const struct placed *p = &v->placed[place];
    *ret = (struct nb_count){0, 0};
    return p->counter == NULL ? 0 : v->device->counter_read(v->arg, p->counter, ret);
}

static int verbs_remove(void *arg, uint32_t place, struct nb_count *ret_final, struct nb_error *err) {
    struct verbs *v = arg;
    struct placed *p = &v->placed[place];
    *ret_final = (struct nb_count){0, 0};
    if (p->flow == NULL)
        return -ENOENT;
    int error = v->device->destroy(v->arg, p->flow);
    if (error != 0)
        return nb_fail(err, error_of(error), "%s: cannot destroy a flow: %s", v->ifname, strerror(-error));
    p->flow = NULL; /* what it counted last is counted now */
    (void)verbs_read(v, place, ret_final);
    counter_drop(v, p);
    return 0;
}

/* Nobody else can touch flows of this process, and no call lists them. */
static int verbs_check(void *arg, uint32_t place, const struct nb_cube *flow) {
    const struct verbs *v = arg;
    (void)flow;
    return v->placed[place].flow != NULL ? 0 : -ENOENT;
}

static void verbs_destroy(void *arg) {
    struct verbs *v = arg;
    v->device->close(v->arg);
    free(v->placed);
    free(v);
}

#define VERBS_DRIVER(counts)                                                                                           \
    {                                                                                                                  \
        .name = "verbs", .counters = (counts), .insert = verbs_insert, .remove = verbs_remove, .read = verbs_read,     \
        .check = verbs_check, .destroy = verbs_destroy                                                                 \
    }
static const struct nb_drops_driver drivers[2] = {VERBS_DRIVER(false), VERBS_DRIVER(true)};

int nb_verbs_create(const struct nb_verbs_params *p, struct nb_backend **ret, struct nb_error *err) {
    const uint32_t max = p->rule_max != 0 ? p->rule_max : RULE_MAX;
    struct verbs *v = calloc(1, sizeof *v);
    if (v != NULL)
        v->placed = calloc(max, sizeof *v->placed);
    if (v == NULL || v->placed == NULL) {
        free(v);
        return nb_fail(err, -ENOMEM, "no memory for flows of %s", p->ifname);
    }
    memcpy(v->ifname, p->ifname, sizeof v->ifname - 1);
    v->device = p->device;
    v->arg = p->arg;
    v->port = 1;
    int error = p->device != NULL ? 0 : verbs_library_open(v->ifname, &v->device, &v->arg, &v->port, err);
    if (error != 0) {
        free(v->placed);
        free(v);
        return error;
    }
    const struct nb_drops_params drops = {.driver = &drivers[v->device->counter_create != NULL],
                                          .arg = v,
                                          .place_max = max,
                                          .quirks = p->quirks,
                                          .addr_match = NB_MATCH_MASK,
                                          .port_match = NB_MATCH_MASK,
                                          .dscp = true};
    return nb_drops_create(&drops, ret, err);
}
