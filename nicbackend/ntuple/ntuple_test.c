/* SPDX-License-Identifier: Apache-2.0
 *
 * The `ntuple` backend over a NIC in place of the kernel: the suite of all backends, refusals of every kind, and what a
 * real driver without such rules says. The NIC here sees fragments as a careless one does when it is told to.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include <linux/ethtool.h>

#include "nicbackend/ntuple.h"
#include "nicbackend/partition/cube.h"
#include "nicbackend/store/conform_fixture.h"
#include "nicbackend/store/store.h"
#include "nicbackend/store/world_fixture.h"

#define TABLE 128u

struct nic {
    struct ethtool_rx_flow_spec rules[TABLE];
    bool there[TABLE];
    uint64_t size; /* it says */
    int refuse;    /* -errno of every insertion */
    uint32_t refuse_at, inserts;
    bool lies;   /* stores something else */
    bool silent; /* says nothing of what is not there */
    bool frag_ports;
};

static struct nic nic;
static struct nb_error err;

static int list(struct ethtool_rxnfc *r) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < TABLE; i++)
        if (nic.there[i] && n < r->rule_cnt)
            r->rule_locs[n++] = i;
    r->rule_cnt = n;
    return 0;
}

static int insert(const struct ethtool_rxnfc *r) {
    nic.inserts++;
    if (nic.refuse != 0 && (nic.refuse_at == 0 || nic.inserts == nic.refuse_at))
        return nic.refuse;
    if (r->fs.location >= TABLE || nic.there[r->fs.location])
        return -EINVAL;
    nic.rules[r->fs.location] = r->fs;
    nic.rules[r->fs.location].m_u.hdata[0] ^= nic.lies;
    nic.there[r->fs.location] = true;
    return 0;
}

static int nic_call(void *arg, struct ethtool_rxnfc *r) {
    (void)arg;
    uint32_t at = r->fs.location;
    switch (r->cmd) {
    case ETHTOOL_GRXCLSRLCNT:
        r->data = nic.size;
        return nic.size == 0 ? -EOPNOTSUPP : 0;
    case ETHTOOL_GRXCLSRLALL:
        return list(r);
    case ETHTOOL_SRXCLSRLINS:
        return insert(r);
    case ETHTOOL_SRXCLSRLDEL:
        if (at >= TABLE || !nic.there[at])
            return nic.silent ? -EINVAL : -ENOENT;
        nic.there[at] = false;
        return 0;
    case ETHTOOL_GRXCLSRULE:
        if (at >= TABLE || !nic.there[at])
            return -ENOENT;
        r->fs = nic.rules[at];
        return 0;
    default:
        return -EOPNOTSUPP;
    }
}

static bool under(const void *a, const void *b, const void *mask, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (((((const uint8_t *)a)[i] ^ ((const uint8_t *)b)[i]) & ((const uint8_t *)mask)[i]) != 0)
            return false;
    return true;
}

static bool matches(const struct ethtool_rx_flow_spec *fs, const struct nb_view *v) {
    static const uint8_t protos[] = {[TCP_V4_FLOW] = 6, [UDP_V4_FLOW] = 17, [SCTP_V4_FLOW] = 132};
    const struct ethtool_tcpip4_spec *h = &fs->h_u.tcp_ip4_spec, *m = &fs->m_u.tcp_ip4_spec;
    struct nb_key k;
    nb_key_of_view(v, &k);
    if (v->ip_version != 4 || fs->flow_type == IPV6_USER_FLOW)
        return false;
    if (!under(k.src + 12, &h->ip4src, &m->ip4src, 4) || !under(k.dst + 12, &h->ip4dst, &m->ip4dst, 4))
        return false;
    if (fs->flow_type == IPV4_USER_FLOW)
        return under(&k.proto, &fs->h_u.usr_ip4_spec.proto, &fs->m_u.usr_ip4_spec.proto, 1);
    bool ports = (m->psrc | m->pdst) != 0;
    if (k.proto != protos[fs->flow_type] || (ports && (v->parsed & NB_PARSED_FRAGMENT) != 0 && !nic.frag_ports))
        return false;
    return under(k.sport, &h->psrc, &m->psrc, 2) && under(k.dport, &h->pdst, &m->pdst, 2);
}

static bool drops(void *arg, const struct nb_view *v) {
    (void)arg;
    for (uint32_t i = 0; i < TABLE; i++)
        if (nic.there[i] && matches(&nic.rules[i], v))
            return true;
    return false;
}

static struct nb_backend *backend_open(struct nb_quirks quirks) {
    const struct nb_ntuple_params p = {.ifname = "nic0", .quirks = quirks, .call = nic_call};
    struct nb_backend *b;
    cr_assert_eq(nb_ntuple_create(&p, &b, &err), 0, "%s", err.text);
    return b;
}

static void plug(void) {
    nic = (struct nic){.size = TABLE};
}

Test(nic_ntuple, conforms) {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        plug();
        nic.frag_ports = seed % 2;
        nic.silent = seed % 3;
        struct nb_backend *b = backend_open((struct nb_quirks){.frag_ports = nic.frag_ports});
        const struct conform c = {.backend = b, .drops = drops};
        cr_assert_gt(conform_run(&c, seed), 50);
        b->ops->destroy(b);
        for (uint32_t i = 0; i < TABLE; i++)
            cr_assert_not(nic.there[i]);
    }
}

/* Whole policies, on a NIC that refuses now and then. */
Test(nic_ntuple, policies_drop_only_what_the_interpreter_drops) {
    static struct nb_view views[TOY_POINTS];
    static struct toy t;
    uint32_t n = toy_points(views), dropped = 0;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct nb_store *store;
        struct nb_program program;
        struct nb_place *places;
        struct nb_update u = {.commit = NULL};
        plug();
        nic.frag_ports = seed % 2;
        nic.refuse_at = 1 + (uint32_t)seed % 5;
        nic.refuse = seed % 3 == 0 ? -EINVAL : seed % 3 == 1 ? -ENOSPC : -EBUSY;
        toy_policy(&t, seed);
        for (uint32_t i = 0; i < t.policy.rule_count; i++) /* else ICMP's errors, which nobody may drop, overlap all */
            t.rules[i].match.fields |= NB_F_PROTO;
        toy_judge(&t);
        cr_assert_eq(nb_store_create(backend_open((struct nb_quirks){.frag_ports = nic.frag_ports}), &store, &err), 0);
        const struct nb_partition_params p = {
            .policy = &t.policy, .world = &t.world, .caps = nb_store_caps(store), .ifindex = 1};
        cr_assert_eq(nb_partition(&p, &program, &places), 0);
        cr_assert_eq(nb_store_update(store, &program, &u), 0, "%s", u.error.text);
        cr_assert_eq(nb_store_audit(store, &err), 0);
        for (uint32_t i = 0; i < n; i++) {
            bool dead = drops(NULL, &views[i]);
            cr_assert(!dead || t.drops[i], "seed %d packet %u", (int)seed, i);
            dropped += dead;
        }
        nb_program_free(&program);
        free(places);
        nb_store_destroy(store);
    }
    cr_assert_gt(dropped, 100, "%u", dropped);
}

static struct nb_hw_rule some_drop(uint8_t last) {
    struct nb_hw_rule r = {.action = NB_HW_DROP, .credit = 1};
    const struct nb_addr a = nb_addr_from_v4((uint8_t[]){10, 0, 0, last});
    memcpy(r.cube.value.src, a.b, 16);
    memset(r.cube.mask.src, 0xff, 16);
    return r;
}

Test(nic_ntuple, keeps_to_its_own_locations) {
    struct nb_hw_rule r = some_drop(1);
    uint64_t handle;
    plug();
    nic.there[3] = nic.there[TABLE - 1] = true; /* an administrator's, and a predecessor's */
    nic.rules[TABLE - 1].ring_cookie = RX_CLS_FLOW_DISC;
    struct nb_backend *b = backend_open((struct nb_quirks){0});
    cr_assert(nic.there[3] && !nic.there[TABLE - 1]);
    cr_assert_eq(b->ops->add(b, &r, &handle, &err), 0, "%s", err.text);
    cr_assert(nic.there[TABLE / 2] && nic.rules[TABLE / 2].ring_cookie == RX_CLS_FLOW_DISC);
    b->ops->destroy(b);
}

Test(nic_ntuple, refusals_are_told) {
    struct nb_hw_rule r = some_drop(1);
    uint64_t handle;
    plug();
    struct nb_backend *b = backend_open((struct nb_quirks){0});
    nic.refuse = -EINVAL;
    cr_assert_eq(b->ops->add(b, &r, &handle, &err), -EOPNOTSUPP);
    cr_assert(strstr(err.text, "nic0: the driver takes no such rule") != NULL, "%s", err.text);
    nic.refuse = 0;
    nic.lies = true;
    cr_assert_eq(b->ops->add(b, &r, &handle, &err), -EOPNOTSUPP);
    cr_assert(strstr(err.text, "stored another rule") != NULL && !nic.there[TABLE / 2], "%s", err.text);
    nic.lies = false;
    r.action = NB_HW_PUNT;
    cr_assert_eq(b->ops->add(b, &r, &handle, &err), -EOPNOTSUPP);
    for (uint32_t i = 0; i < TABLE / 2; i++) {
        r = some_drop((uint8_t)i);
        cr_assert_eq(b->ops->add(b, &r, &handle, &err), 0, "%s", err.text);
    }
    r = some_drop(200);
    cr_assert_eq(b->ops->add(b, &r, &handle, &err), -ENOSPC);
    b->ops->destroy(b);
}

Test(nic_ntuple, lost_and_changed_rules_are_found) {
    struct nb_store *store;
    struct nb_hw_rule rules[2] = {some_drop(1), some_drop(2)};
    const struct nb_program program = {.rules = rules, .count = 2};
    struct nb_update u = {.commit = NULL};
    plug();
    cr_assert_eq(nb_store_create(backend_open((struct nb_quirks){0}), &store, &err), 0);
    cr_assert_eq(nb_store_update(store, &program, &u), 0);
    cr_assert_eq(u.added, 2);
    nic.there[TABLE / 2] = false;
    nic.rules[TABLE / 2 + 1].h_u.hdata[0] ^= 1;
    cr_assert_gt(nb_store_audit(store, &err), 0);
    cr_assert_eq(nb_store_count(store), 0);
    cr_assert_eq(nb_store_update(store, &program, &u), 0);
    cr_assert_eq(u.added, 2);
    cr_assert_eq(nb_store_audit(store, &err), 0);
    nb_store_destroy(store);
}

Test(nic_ntuple, devices_without_say_so) {
    struct nb_backend *b;
    struct nb_ntuple_params p = {.ifname = "lo"};
    cr_assert_eq(nb_ntuple_create(&p, &b, &err), -EOPNOTSUPP);
    cr_assert(strstr(err.text, "lo: the driver has no n-tuple rules") != NULL, "%s", err.text);
    p = (struct nb_ntuple_params){.ifname = "nowhere9"};
    cr_assert_eq(nb_ntuple_create(&p, &b, &err), -ENODEV, "%s", err.text);
    nic = (struct nic){.size = RX_CLS_LOC_SPECIAL};
    p = (struct nb_ntuple_params){.ifname = "nic0", .call = nic_call};
    cr_assert_eq(nb_ntuple_create(&p, &b, &err), -EOPNOTSUPP);
    cr_assert(strstr(err.text, "how many") != NULL, "%s", err.text);
}
