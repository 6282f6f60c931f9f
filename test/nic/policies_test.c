/* SPDX-License-Identifier: Apache-2.0
 *
 * Server policies of three sizes on a device with 1,024 entries: of the packets that they deny, at least nine in ten
 * die in the device, and none that they let pass. The sockets are those of a small server; the device gets the rules
 * that were hottest in the packets before the ones that count.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/policy/policy.h"
#include "nicbackend/ir/interpret.h"
#include "nicbackend/model/model.h"
#include "nicbackend/partition/cube.h"
#include "nicbackend/store/store.h"

#define PACKETS   20000u /* half of them to learn from */
#define CONNECTED 50u
#define ENTRIES   1024u

struct server {
    struct policy *policy;
    const struct nb_policy *rules;
    struct nb_cell cells[CONNECTED + 2];
    struct nb_world world;
    uint32_t *heat;
    uint64_t rng;
};

static uint32_t roll(struct server *s, uint32_t n) {
    uint64_t z = (s->rng += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (uint32_t)((z ^ (z >> 31)) >> 32) % n;
}

static void policy_read(struct server *s, const char *name) {
    static struct problems problems;
    char path[512];
    char *text = malloc(1 << 20);
    (void)snprintf(path, sizeof path, "%s/%s", POLICY_DIR, name);
    FILE *f = fopen(path, "r");
    cr_assert_not_null(f, "%s", path);
    size_t size = fread(text, 1, 1 << 20, f);
    (void)fclose(f);
    problems.count = 0;
    cr_assert_eq(policy_parse(name, text, size, 0, &s->policy, &problems), 0, "%s",
                 problems.count > 0 ? problems.text[0] : "no memory");
    free(text);
    s->rules = policy_rules(s->policy);
}

/* --- sockets --------------------------------------------------------------------------------------------------- */

/* Somebody's connections to the open ports, and two sockets that ask name servers; all else is new to this server. */
static void sockets_make(struct server *s) {
    for (uint32_t i = 0; i < CONNECTED + 2; i++) {
        struct nb_cell *c = &s->cells[i];
        bool udp = i >= CONNECTED;
        c->states = udp ? NB_STATE_NEW | NB_STATE_ESTABLISHED | NB_STATE_RELATED : NB_STATE_ESTABLISHED;
        c->cube.mask.proto = 0xff;
        c->cube.value.proto = udp ? 17 : 6;
        c->cube.mask.parsed = c->cube.value.parsed = NB_PARSED_IP | NB_PARSED_PORTS;
        memset(c->cube.mask.dport, 0xff, 2);
        c->cube.value.dport[0] = udp ? 0xc0 : 1;
        c->cube.value.dport[1] = udp ? (uint8_t)i : 0xbb;
        if (udp)
            continue;
        struct nb_addr peer = nb_addr_from_v4((uint8_t[]){80, (uint8_t)roll(s, 256), 1, (uint8_t)i});
        memset(c->cube.mask.src, 0xff, 16);
        memcpy(c->cube.value.src, peer.b, 16);
        memset(c->cube.mask.sport, 0xff, 2);
        c->cube.value.sport[0] = 0xd0;
        c->cube.value.sport[1] = (uint8_t)i;
    }
    s->world = (struct nb_world){
        .cells = s->cells, .cell_count = CONNECTED + 2, .rest = {.states = NB_STATE_NEW, .owner_known = true}};
}

/* --- packets --------------------------------------------------------------------------------------------------- */

/* A source of the deny list: the first few send most. */
static bool listed(struct server *s, struct nb_addr *ret) {
    uint32_t bad = 0;
    while (bad < s->rules->rule_count && s->rules->rules[bad].action.verdict == NB_DROP)
        bad++;
    if (bad == 0)
        return false;
    uint32_t most = 1 + roll(s, bad);
    const struct nb_match *m = &s->rules->rules[roll(s, 1 + roll(s, 1 + roll(s, most)))].match;
    *ret = m->src;
    for (int i = 12; i < 16; i++)
        ret->b[i] |= (uint8_t)(roll(s, 256) & ~m->src_mask.b[i]);
    return true;
}

static struct nb_view packet(struct server *s) {
    static const uint16_t wanted[] = {22,   23,   445,  3389, 80, 443, 8080, 1433,
                                      3306, 5432, 6379, 5900, 53, 123, 161,  11211};
    struct nb_view v = {.parsed = NB_PARSED_IP | NB_PARSED_PORTS,
                        .ethertype = 0x0800,
                        .ip_version = 4,
                        .dir = NB_IN,
                        .state = NB_STATE_NEW,
                        .ifindex = 1,
                        .length = 60,
                        .bytes = 60,
                        .sport = (uint16_t)(1024 + roll(s, 60000)),
                        .tcp_flags = 2};
    v.dport = roll(s, 5) ? wanted[roll(s, 16)] : (uint16_t)roll(s, 65536);
    v.proto = v.dport == 53 || v.dport == 123 || v.dport == 161 || v.dport == 11211 ? 17 : 6;
    v.tcp_flags = v.proto == 6 ? 2 : 0;
    v.src = nb_addr_from_v4((uint8_t[]){(uint8_t)(1 + roll(s, 223)), (uint8_t)roll(s, 256), (uint8_t)roll(s, 256), 7});
    v.dst = nb_addr_from_v4((uint8_t[]){172, 16, 0, 1});
    if (roll(s, 3) == 0)
        (void)listed(s, &v.src);
    return v;
}

static bool denied(const struct server *s, const struct nb_view *v, uint32_t *ret_place) {
    struct nb_outcome out;
    nb_interpret(s->rules, NULL, v, NULL, 0, &out);
    uint32_t rule = out.rule[out.tier];
    *ret_place = rule == NB_RULE_DEFAULT ? s->rules->rule_count + out.tier : rule;
    return out.verdict == NB_DROP;
}

/* --- the device ------------------------------------------------------------------------------------------------ */

static struct nb_store *device(struct server *s, struct nb_model **ret_model) {
    struct nb_model_params params = {
        .caps = {.order = NB_ORDER_PRIO, .counters = true, .rule_max = ENTRIES, .mask_max = 1000, .levels = 1000}};
    struct nb_store *store;
    struct nb_program program;
    struct nb_place *places;
    struct nb_update u = {.commit = NULL};
    memset(params.caps.match, NB_MATCH_MASK, sizeof params.caps.match);
    cr_assert_eq(nb_model_create(&params, ret_model), 0);
    cr_assert_eq(nb_store_create(nb_model_backend(*ret_model), &store, NULL), 0);
    const struct nb_partition_params p = {
        .policy = s->rules, .world = &s->world, .caps = nb_store_caps(store), .ifindex = 1, .heat = s->heat};
    cr_assert_eq(nb_partition(&p, &program, &places), 0);
    cr_assert_eq(nb_store_update(store, &program, &u), 0);
    nb_program_free(&program);
    free(places);
    return store;
}

static void nine_in_ten(const char *name, uint32_t rules) {
    struct server *s = calloc(1, sizeof *s);
    struct nb_model *model;
    uint32_t place, all = 0, there = 0;
    s->rng = rules;
    policy_read(s, name);
    cr_assert_eq(s->rules->rule_count, rules);
    s->heat = calloc(rules + NB_TIER_COUNT, sizeof *s->heat);
    sockets_make(s);
    for (uint32_t i = 0; i < PACKETS / 2; i++) {
        struct nb_view v = packet(s);
        if (denied(s, &v, &place))
            s->heat[place]++;
    }
    struct nb_store *store = device(s, &model);
    for (uint32_t i = 0; i < PACKETS / 2; i++) {
        struct nb_view v = packet(s);
        struct nb_key key;
        nb_key_of_view(&v, &key);
        bool drops = nb_model_packet(model, &key, v.bytes), die = denied(s, &v, &place);
        cr_assert(!drops || die);
        all += die;
        there += drops;
    }
    cr_log_info("%s: %u of %u denied packets die in %u entries\n", name, there, all, nb_store_count(store));
    cr_assert_geq(there * 10, all * 9);
    nb_store_destroy(store);
    nb_model_destroy(model);
    policy_destroy(s->policy);
    free(s->heat);
    free(s);
}

Test(nic_policies, web) {
    nine_in_ten("web.yaml", 200);
}

Test(nic_policies, blocklist) {
    nine_in_ten("blocklist.yaml", 1200);
}

Test(nic_policies, tenants) {
    nine_in_ten("tenants.yaml", 5000);
}
