/* SPDX-License-Identifier: Apache-2.0
 *
 * The `verbs` backend over a device in place of libibverbs: the suite of all backends, refusals, and what is said where
 * there is no such device.
 */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <infiniband/verbs.h>
#include <stdlib.h>
#include <string.h>

#include "nicbackend/partition/cube.h"
#include "nicbackend/store/conform_fixture.h"
#include "nicbackend/store/world_fixture.h"
#include "nicbackend/verbs.h"

#define TABLE 64

struct flow {
    bool there, drops;
    struct ibv_flow_spec_ipv4_ext ip;
    struct ibv_flow_spec_tcp_udp ports; /* size 0: none */
    uint64_t *counter;
};

static struct flow flows[TABLE];
static uint64_t counters[TABLE];
static bool counter_used[TABLE], closed, frag_ports;
static int refuse;
static struct nb_error err;

/* Every spec is whole, known, and where it belongs. */
static void read_specs(struct flow *f, const struct ibv_flow_attr *a) {
    const uint8_t *at = (const uint8_t *)(a + 1), *end = (const uint8_t *)a + a->size;
    for (uint32_t i = 0; i < a->num_of_specs; i++) {
        struct ibv_flow_spec s;
        memset(&s, 0, sizeof s);
        memcpy(&s.hdr, at, sizeof s.hdr);
        cr_assert(s.hdr.size >= sizeof s.hdr && s.hdr.size <= sizeof s && at + s.hdr.size <= end);
        memcpy(&s, at, s.hdr.size);
        at += s.hdr.size;
        if (s.hdr.type == IBV_FLOW_SPEC_IPV4_EXT)
            f->ip = s.ipv4_ext;
        else if (s.hdr.type == IBV_FLOW_SPEC_TCP || s.hdr.type == IBV_FLOW_SPEC_UDP)
            f->ports = s.tcp_udp;
        else if (s.hdr.type == IBV_FLOW_SPEC_ACTION_COUNT)
            f->counter = (uint64_t *)(void *)s.flow_count.counters;
        else if (s.hdr.type == IBV_FLOW_SPEC_ACTION_DROP)
            f->drops = true;
        else
            cr_assert(s.hdr.type == IBV_FLOW_SPEC_ETH || s.hdr.type == IBV_FLOW_SPEC_IPV6);
    }
    cr_assert(at == end && f->drops);
}

static int device_create(void *arg, const struct ibv_flow_attr *a, void **ret) {
    (void)arg;
    if (refuse != 0)
        return refuse;
    cr_assert(a->type == IBV_FLOW_ATTR_NORMAL && a->port == 1 && a->flags == 0 && a->comp_mask == 0);
    for (int i = 0; i < TABLE; i++)
        if (!flows[i].there) {
            flows[i] = (struct flow){.there = true};
            read_specs(&flows[i], a);
            *ret = &flows[i];
            return 0;
        }
    return -ENOMEM;
}

static int device_destroy(void *arg, void *flow) {
    (void)arg;
    ((struct flow *)flow)->there = false;
    return 0;
}

static int device_counter_create(void *arg, void **ret) {
    (void)arg;
    for (int i = 0; i < TABLE; i++)
        if (!counter_used[i]) {
            counter_used[i] = true;
            counters[i] = 0;
            *ret = &counters[i];
            return 0;
        }
    return -ENOSPC;
}

static void device_counter_destroy(void *arg, void *counter) {
    (void)arg;
    counter_used[(uint64_t *)counter - counters] = false;
}

static int device_counter_read(void *arg, void *counter, struct nb_count *ret) {
    (void)arg;
    *ret = (struct nb_count){.packets = *(uint64_t *)counter};
    return 0;
}

static void device_close(void *arg) {
    (void)arg;
    closed = true;
}

static const struct nb_verbs_device device = {device_create,          device_destroy,      device_counter_create,
                                              device_counter_destroy, device_counter_read, device_close};

static bool matches(const struct flow *f, const struct nb_view *v) {
    struct nb_key k;
    uint32_t src, dst;
    uint16_t sport, dport;
    nb_key_of_view(v, &k);
    memcpy(&src, k.src + 12, 4);
    memcpy(&dst, k.dst + 12, 4);
    memcpy(&sport, k.sport, 2);
    memcpy(&dport, k.dport, 2);
    if (!f->there || f->ip.size == 0 || v->ip_version != 4 || ((src ^ f->ip.val.src_ip) & f->ip.mask.src_ip) != 0 ||
        ((dst ^ f->ip.val.dst_ip) & f->ip.mask.dst_ip) != 0 || ((k.proto ^ f->ip.val.proto) & f->ip.mask.proto) != 0)
        return false;
    if (f->ports.size == 0)
        return true;
    return v->proto == (f->ports.type == IBV_FLOW_SPEC_TCP ? 6 : 17) &&
           (frag_ports || (v->parsed & NB_PARSED_FRAGMENT) == 0) &&
           ((sport ^ f->ports.val.src_port) & f->ports.mask.src_port) == 0 &&
           ((dport ^ f->ports.val.dst_port) & f->ports.mask.dst_port) == 0;
}

static bool drops(void *arg, const struct nb_view *v) {
    (void)arg;
    for (int i = 0; i < TABLE; i++)
        if (matches(&flows[i], v)) {
            *flows[i].counter += 1;
            return true;
        }
    return false;
}

static struct nb_backend *backend_open(void) {
    const struct nb_verbs_params p = {
        .ifname = "nic0", .rule_max = TABLE, .quirks = {.frag_ports = frag_ports}, .device = &device};
    struct nb_backend *b;
    cr_assert_eq(nb_verbs_create(&p, &b, &err), 0, "%s", err.text);
    return b;
}

Test(nic_verbs, conforms) {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        frag_ports = seed % 2;
        struct nb_backend *b = backend_open();
        const struct conform c = {.backend = b, .drops = drops};
        cr_assert_gt(conform_run(&c, seed), 50);
        b->ops->destroy(b);
        for (int i = 0; i < TABLE; i++)
            cr_assert(!flows[i].there && !counter_used[i]);
        cr_assert(closed);
    }
}

Test(nic_verbs, refusals_are_told_and_leave_nothing) {
    struct nb_backend *b = backend_open();
    struct nb_hw_rule r = {.action = NB_HW_DROP, .credit = 1};
    uint64_t handle;
    r.cube.mask.proto = r.cube.mask.dport[0] = r.cube.mask.dport[1] = 0xff;
    r.cube.mask.parsed = r.cube.value.parsed = NB_PARSED_IP | NB_PARSED_PORTS;
    r.cube.value.proto = 132;
    cr_assert_eq(b->ops->add(b, &r, &handle, &err), -EOPNOTSUPP, "verbs have no SCTP");
    r.cube.value.proto = 6;
    refuse = -EINVAL;
    cr_assert_eq(b->ops->add(b, &r, &handle, &err), -EOPNOTSUPP);
    cr_assert(strstr(err.text, "nic0: the device takes no such flow") != NULL, "%s", err.text);
    refuse = -ENOMEM;
    cr_assert_eq(b->ops->add(b, &r, &handle, &err), -ENOSPC);
    refuse = 0;
    for (int i = 0; i < TABLE; i++)
        cr_assert(!flows[i].there && !counter_used[i]);
    cr_assert_eq(b->ops->add(b, &r, &handle, &err), 0, "%s", err.text);
    b->ops->destroy(b);
}

Test(nic_verbs, interfaces_without_say_so) {
    const struct nb_verbs_params p = {.ifname = "lo"};
    struct nb_backend *b;
    cr_assert_eq(nb_verbs_create(&p, &b, &err), -EOPNOTSUPP);
    cr_assert(strstr(err.text, "no RDMA device behind it") != NULL || strstr(err.text, "libibverbs") != NULL, "%s",
              err.text);
}
