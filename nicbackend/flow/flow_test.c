/* SPDX-License-Identifier: Apache-2.0
 *
 * A flow against the rule it stands for, on frames of every kind, as a device would see them; and flower filters
 * written and read back.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include <linux/pkt_cls.h>
#include <linux/rtnetlink.h>

#include "nicbackend/flow/flow.h"
#include "nicbackend/partition/cube.h"
#include "nicbackend/store/frames_fixture.h"
#include "nicbackend/store/world_fixture.h"
#include "nicbackend/tc/flower.h"

/* Devices look at the last four bytes of an IPv4 address, and of the parse at nothing or at fragments. */
static bool flow_has(const struct nb_cube *flow, const struct nb_key *key) {
    return flow->value.ip_version == key->ip_version && nb_cube_has(flow, key);
}

static bool is_mapped(const uint8_t *addr) {
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    return memcmp(addr, mapped, sizeof mapped) == 0;
}

static bool in_region(const struct nb_key *k, bool fragments) {
    if ((k->parsed & NB_PARSED_IP) == 0 || (k->vlan[0] | k->vlan[1]) != 0 || k->ethertype[0] == 0x81)
        return false;
    if (k->ip_version == 4)
        return fragments || (k->parsed & NB_PARSED_FRAGMENT) == 0;
    return (k->parsed & NB_PARSED_FRAGMENT) == 0 && !is_mapped(k->src) && !is_mapped(k->dst);
}

/* A transport header that is whole, or none. */
static bool is_sane(const struct nb_key *k) {
    bool transport = k->proto == 6 || k->proto == 17 || k->proto == 132 || k->proto == 136 || k->proto == 1;
    return k->ip_version != 4 || !transport || (k->parsed & ~NB_PARSED_IP) != 0;
}

static struct nb_key some_key(uint64_t *rng) {
    struct frame f = frame_some(rng);
    struct nb_view v;
    struct nb_key k;
    nb_view_parse(&(struct nb_frame){.data = f.b, .len = f.len, .dir = NB_IN}, &v);
    nb_key_of_view(&v, &k);
    return k;
}

/* Bytes of the key, whole or by some bits; now and then one that differs. */
static struct nb_cube some_cube(const struct nb_key *key, uint64_t *rng) {
    struct nb_cube c;
    memset(&c, 0, sizeof c);
    for (int f = 0; f < NB_KEY_COUNT; f++) {
        uint32_t size, kind = toy_roll(rng, 8);
        uint8_t *mask = nb_key_field(&c.mask, (enum nb_key_field)f, &size);
        for (uint32_t i = 0; i < size && kind < 3; i++)
            mask[i] = kind < 2 ? 0xff : (uint8_t)toy_roll(rng, 256);
    }
    for (size_t i = 0; i < sizeof c.mask.bytes; i++)
        c.value.bytes[i] = key->bytes[i];
    if (toy_roll(rng, 3) == 0)
        c.value.bytes[toy_roll(rng, 48)] ^= (uint8_t)(1 << toy_roll(rng, 8));
    for (size_t i = 0; i < sizeof c.mask.bytes; i++)
        c.value.bytes[i] &= c.mask.bytes[i];
    return c;
}

static void stands_for(const struct nb_flow_traits *traits, uint64_t seed) {
    uint64_t rng = seed;
    uint32_t dropped = 0;
    for (uint32_t n = 0; n < 60000; n++) {
        struct nb_key key = some_key(&rng);
        struct nb_hw_rule rule = {.cube = some_cube(&key, &rng), .action = n % 2 ? NB_HW_DROP : NB_HW_PUNT};
        struct nb_cube flow;
        if (!in_region(&key, traits->fragments) || !is_sane(&key))
            continue;
        bool has = nb_cube_has(&rule.cube, &key);
        bool flow_is = nb_flow_of(&rule, key.ip_version, traits, &flow) == NB_FLOW_EXISTS && flow_has(&flow, &key);
        if (rule.action == NB_HW_DROP)
            cr_assert(!flow_is || has, "%u: the flow drops what the rule does not", n);
        else
            cr_assert(flow_is || !has, "%u: the flow does not punt what the rule does", n);
        dropped += rule.action == NB_HW_DROP && flow_is;
    }
    cr_assert_gt(dropped, 100, "%u", dropped);
}

Test(nic_flow, stands_for_its_rule) {
    stands_for(&(struct nb_flow_traits){.fragments = true}, 1);
    stands_for(&(struct nb_flow_traits){.frag_ports = true}, 2);
    stands_for(&(struct nb_flow_traits){.frag_ports = false}, 3);
}

Test(nic_flow, of_a_device_that_takes_fragments_for_whole_drops_no_port) {
    struct nb_hw_rule rule = {.action = NB_HW_DROP};
    struct nb_cube flow;
    rule.cube.mask.proto = rule.cube.mask.dport[0] = rule.cube.mask.dport[1] = 0xff;
    rule.cube.mask.parsed = rule.cube.value.parsed = NB_PARSED_IP | NB_PARSED_PORTS;
    rule.cube.value.proto = 6;
    cr_assert_eq(nb_flow_of(&rule, 4, &(struct nb_flow_traits){.frag_ports = true}, &flow), NB_FLOW_NONE);
    cr_assert_eq(nb_flow_of(&rule, 4, &(struct nb_flow_traits){.frag_ports = false}, &flow), NB_FLOW_EXISTS);
    cr_assert_eq(nb_flow_of(&rule, 6, &(struct nb_flow_traits){.fragments = true}, &flow), NB_FLOW_NONE);
    rule.action = NB_HW_PUNT;
    cr_assert_eq(nb_flow_of(&rule, 6, &(struct nb_flow_traits){.fragments = true}, &flow), NB_FLOW_EXISTS);
    cr_assert_eq(flow.mask.dport[1], 0xff);
}

Test(nic_flow, flower_reads_what_it_writes) {
    const struct nb_flow_traits traits = {.fragments = true};
    uint64_t rng = 5;
    uint32_t tried = 0;
    for (uint32_t n = 0; n < 60000; n++) {
        struct nb_key key = some_key(&rng);
        struct nb_hw_rule rule = {.cube = some_cube(&key, &rng), .action = n % 2 ? NB_HW_DROP : NB_HW_PUNT};
        struct flower f = {.at = {.ifindex = 3, .chain = 77, .prio = 9, .handle = n + 1},
                           .verdict = rule.action == NB_HW_DROP ? FLOWER_DROP : FLOWER_PASS,
                           .flags = TCA_CLS_FLAGS_SKIP_SW,
                           .credit = rng},
                      got;
        uint8_t version = n % 3 ? 4 : 6;
        f.at.ethertype = version == 4 ? 0x0800 : 0x86dd;
        if (nb_flow_of(&rule, version, &traits, &f.flow) == NB_FLOW_NONE)
            continue;
        struct nl_msg *m = flower_request(RTM_NEWTFILTER, 0, &f);
        cr_assert_eq(flower_read(nlmsg_hdr(m), &got), 0);
        nlmsg_free(m);
        f.ours = true;
        cr_assert(nb_cube_equal(&got.flow, &f.flow), "%u", n);
        cr_assert(memcmp(&got.at, &f.at, sizeof f.at) == 0 && got.verdict == f.verdict && got.credit == f.credit &&
                  got.ours && got.flags == f.flags);
        tried++;
    }
    cr_assert_gt(tried, 1000, "%u", tried);
}

/* Whatever comes over netlink, in any length: an error, or a filter. */
Test(nic_flow, flower_reads_nonsense) {
    uint64_t rng = 6;
    struct flower f = {.at = {.ifindex = 3, .prio = 9, .ethertype = 0x0800, .handle = 1}, .verdict = FLOWER_DROP}, got;
    f.flow.value.ip_version = 4;
    f.flow.mask.ip_version = f.flow.mask.src[15] = 0xff;
    for (uint32_t n = 0; n < 20000; n++) {
        struct nl_msg *m = flower_request(RTM_NEWTFILTER, 0, &f);
        struct nlmsghdr *h = nlmsg_hdr(m);
        uint32_t body = h->nlmsg_len - NLMSG_HDRLEN;
        for (uint32_t k = toy_roll(&rng, 4); k < 4; k++)
            ((uint8_t *)nlmsg_data(h))[toy_roll(&rng, body)] = (uint8_t)toy_roll(&rng, 256);
        h->nlmsg_len -= toy_roll(&rng, 3) == 0 ? toy_roll(&rng, body) : 0;
        int error = flower_read(h, &got);
        cr_assert(error == 0 || error == -EINVAL || error == -ENOENT);
        nlmsg_free(m);
    }
}
