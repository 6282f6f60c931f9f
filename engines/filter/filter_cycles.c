/* SPDX-License-Identifier: Apache-2.0
 *
 * See filter_cycles.h.
 */
#include "engines/filter/filter_cycles.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <x86intrin.h>

#include "engines/filter/filter_fixture.h"

#define BURST  32u
#define ROUNDS 4000u
#define COLD   65536u

static uint64_t rng = 1;

static uint32_t roll(uint32_t n) {
    uint64_t z = (rng += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (uint32_t)((z ^ (z >> 31)) >> 32) % n;
}

static double seconds(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void address(struct nb_addr *value, struct nb_addr *mask, uint32_t len) {
    uint8_t v4[4] = {10, (uint8_t)roll(16), (uint8_t)roll(256), (uint8_t)roll(256)};
    *value = nb_addr_from_v4(v4);
    for (uint32_t i = 0; i < 128; i++)
        mask->b[i / 8] |= (uint8_t)(i < 96 + len ? 0x80 >> i % 8 : 0);
    for (uint32_t i = 0; i < 16; i++)
        value->b[i] &= mask->b[i];
}

/* Prefixes of the lengths that firewalls have, single ports mostly, protocols, a direction now and then. */
static void mixed_rule(struct nb_rule *r) {
    static const uint8_t lengths[] = {32, 32, 32, 28, 24, 24, 24, 20, 16, 16, 12};
    r->match.fields = NB_F_PROTO;
    r->match.proto = roll(3) == 0 ? 17 : 6;
    if (roll(10) < 7) {
        r->match.fields |= NB_F_SRC;
        address(&r->match.src, &r->match.src_mask, lengths[roll(sizeof lengths)]);
    }
    if (roll(10) < 4 || r->match.fields == NB_F_PROTO) {
        r->match.fields |= NB_F_DST;
        address(&r->match.dst, &r->match.dst_mask, lengths[roll(sizeof lengths)]);
    }
    if (roll(10) < 8) {
        uint32_t lo = roll(10) < 8 ? 1 + roll(2000) : roll(60000);
        r->match.fields |= NB_F_DPORT;
        r->match.dport = (struct nb_range){lo, roll(10) < 8 ? lo : lo + roll(1000)};
    }
}

static void range_rule(struct nb_rule *r) {
    uint32_t lo = roll(60000);
    r->match.fields = NB_F_DPORT;
    r->match.dport = (struct nb_range){lo, lo + roll(4)};
}

static void policy_make(struct nb_policy *p, struct nb_rule *rules, uint32_t count, void (*fill)(struct nb_rule *)) {
    *p = (struct nb_policy){.rules = rules, .rule_count = count};
    for (uint32_t i = 0; i < count; i++) {
        rules[i] = (struct nb_rule){.id = i, .tier = NB_TIER_HOST, .limit = NB_NONE, .match.owner = NB_NONE};
        rules[i].action = (struct nb_action){.verdict = NB_ALLOW, .counter = NB_NONE};
        fill(&rules[i]);
    }
    for (uint32_t t = 0; t < NB_TIER_COUNT; t++)
        p->defaults[t] = (struct nb_action){.verdict = NB_ALLOW, .counter = NB_NONE};
}

static double cold(struct filter_state *st, const char *name, FILE *out) {
    static struct filter_words words[COLD];
    const struct filter_image *img = filter_active(st);
    struct filter_list list;
    uint64_t matched = 0;
    for (uint32_t i = 0; i < COLD; i++) {
        struct nb_view v = {.ethertype = 0x0800, .parsed = NB_PARSED_IP | NB_PARSED_PORTS, .dir = NB_IN, .length = 60};
        v.src = nb_addr_from_v4((uint8_t[]){10, (uint8_t)roll(16), (uint8_t)roll(256), (uint8_t)roll(256)});
        v.dst = nb_addr_from_v4((uint8_t[]){10, (uint8_t)roll(16), (uint8_t)roll(256), (uint8_t)roll(256)});
        v.sport = (uint16_t)(1024 + roll(60000));
        v.dport = (uint16_t)(1 + roll(2000));
        v.proto = roll(3) == 0 ? 17 : 6;
        v.state = NB_STATE_NEW;
        v.ip_version = 4;
        filter_words_of_view(&v, 0, &words[i]);
    }
    double start = seconds();
    for (uint32_t i = 0; i < COLD; i++) {
        (void)filter_classify(img, &words[i], &list);
        matched += list.count;
    }
    double took = seconds() - start;
    (void)fprintf(out, "%-8s %u tables, %.2f M lookups/s, %.2f rules matched each\n", name,
                  img->count[FILTER_SEC_TABLES], COLD / took / 1e6, (double)matched / COLD);
    return took / COLD * 1e9;
}

static double install(struct testkit *tk, struct testkit_engine *e, const struct nb_policy *p, const char *name,
                      FILE *out) {
    struct filter_compiled c;
    double start = seconds();
    CHECK(filter_compile(p, NULL, 0, 1, &c) == 0);
    double compiled = seconds();
    (void)fprintf(out, "%-8s %u rules: compiled in %.1f ms, %.1f MB, chains of at most %u\n", name, p->rule_count,
                  (compiled - start) * 1e3, (double)c.image->size / 1e6, c.chain_max);
    CHECK(fixture_send(tk, e, &c) == 0);
    struct filter_cmd_commit commit = {.cmd = {FILTER_CMD_COMMIT, sizeof commit}, .sum = c.sum};
    CHECK(testkit_command(tk, e, &commit).error == 0);
    (void)fprintf(out, "%-8s sent and committed in %.1f ms\n", name, (seconds() - compiled) * 1e3);
    filter_compiled_free(&c);
    return (seconds() - start) * 1e3;
}

static int order(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Median cycles a packet of bursts of 32 flows. */
static double warm(struct testkit *tk, struct testkit_engine *e, const char *name, FILE *out) {
    static uint64_t took[ROUNDS];
    struct pkt *pkts[BURST];
    for (uint32_t i = 0; i < BURST; i++) {
        struct flow f = testkit_flow("10.0.0.1", 53, "10.0.0.2", (uint16_t)(4000 + i));
        struct pkt *p = pkts[i] = testkit_udp_packet(tk, &f, NULL, 64);
        p->l3_off = (uint16_t)(p->data - p->buf);
        p->flow = f;
        p->flow.proto = PROTO_UDP;
        p->ip_version = 4;
        pkt_pull(p, IP4_LEN);
    }
    for (uint32_t r = 0; r < ROUNDS; r++) {
        uint64_t start = __rdtsc();
        e->ops->input(e->st, &tk->io, pkts, BURST);
        took[r] = __rdtsc() - start;
        tk->up.count = 0;
    }
    qsort(took, ROUNDS, sizeof took[0], order);
    double cycles = (double)took[ROUNDS / 2] / BURST;
    (void)fprintf(out, "%-8s %.1f cycles a packet\n", name, cycles);
    for (uint32_t i = 0; i < BURST; i++)
        testkit_put(pkts[i]);
    return cycles;
}

void filter_cycles(uint32_t count, FILE *out, struct filter_cycles *ret) {
    const struct filter_config cfg = {.image_bytes = 64u << 20, .cache_lines = 16384, .talk_lines = 64};
    struct nb_rule *rules = calloc(count, sizeof *rules);
    struct testkit *tk = testkit_create();
    struct testkit_engine e;
    struct nb_policy p;
    CHECK(rules != NULL);
    rng = 1;
    testkit_open(&e, &usher_engine_filter, &cfg, 1);
    tk->io.counters = e.counters;
    double bare = warm(tk, &e, "bare", out);
    policy_make(&p, rules, count, mixed_rule);
    ret->install_ms = install(tk, &e, &p, "mixed", out);
    ret->hit_cycles = warm(tk, &e, "mixed", out) - bare;
    ret->cold_ns = cold((struct filter_state *)e.st, "mixed", out);
    policy_make(&p, rules, count, range_rule);
    (void)install(tk, &e, &p, "ranges", out);
    ret->adversarial_ns = cold((struct filter_state *)e.st, "ranges", out);
    testkit_close(tk, &e);
    testkit_destroy(tk);
    free(rules);
}
