/* SPDX-License-Identifier: Apache-2.0
 *
 * The value types: wheel, hashes and index tables, arenas, the saved-state format, checksums. Each against a plain
 * reference, with seeded random input.
 */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "engines/hash.h"
#include "engines/statewire.h"
#include "engines/wheel.h"
#include "engines/wire.h"

static uint64_t next_random(uint64_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

/* ---- wheel ---- */

#define NODES 300u

struct wheel_fixture {
    struct wheel w;
    struct wheel_node nodes[NODES];
    uint64_t due[NODES]; /* reference: 0 = not armed */
};

static struct wheel_fixture *wheel_make(uint32_t shift) {
    struct wheel_fixture *f = calloc(1, sizeof *f);
    wheel_init(&f->w, f->nodes, sizeof f->nodes[0], shift);
    return f;
}

static uint64_t earliest(const struct wheel_fixture *f) {
    uint64_t min = WHEEL_NEVER;
    for (uint32_t i = 0; i < NODES; i++)
        if (f->due[i] != 0 && f->due[i] < min)
            min = f->due[i];
    return min;
}

/* Everything due is handed out, nothing early, and what is left is not due for more than a tick. */
static void drain(struct wheel_fixture *f, uint64_t now, uint32_t budget) {
    uint64_t tick = 1ull << f->w.shift;
    for (uint32_t calls = 0; calls < 10000; calls++) {
        uint32_t left = budget, i = wheel_pop(&f->w, now, &left);
        if (i == WHEEL_NIL && left > 0)
            break;
        if (i == WHEEL_NIL)
            continue;
        cr_assert_neq(f->due[i], 0);
        cr_assert_leq(f->due[i], now);
        f->due[i] = 0;
    }
    cr_assert(earliest(f) == WHEEL_NEVER || earliest(f) + tick > now);
}

Test(wheel, agrees_with_a_sorted_list) {
    static const uint32_t shifts[] = {0, 10, 20};
    uint64_t seed = 42;
    for (uint32_t s = 0; s < ARRAY_LEN(shifts); s++) {
        struct wheel_fixture *f = wheel_make(shifts[s]);
        uint64_t now = 1000;
        for (uint32_t step = 0; step < 20000; step++) {
            uint32_t i = (uint32_t)(next_random(&seed) % NODES);
            uint64_t span = 1ull << (shifts[s] + next_random(&seed) % 26);
            if (next_random(&seed) % 4 == 0) {
                wheel_cancel(&f->w, i);
                f->due[i] = 0;
            } else {
                f->due[i] = now + next_random(&seed) % span;
                wheel_arm(&f->w, i, f->due[i]);
            }
            cr_assert_eq(wheel_armed(&f->w, i), f->due[i] != 0);
            if (next_random(&seed) % 3 == 0) {
                now += next_random(&seed) % (1ull << (shifts[s] + next_random(&seed) % 24));
                drain(f, now, 1 + (uint32_t)(next_random(&seed) % 5));
            }
        }
        free(f);
    }
}

Test(wheel, next_is_never_late_and_sleeps_to_the_end) {
    uint64_t seed = 7;
    struct wheel_fixture *f = wheel_make(20);
    for (uint32_t round = 0; round < 200; round++) {
        uint64_t now = f->w.tick << 20, due = now + 1 + next_random(&seed) % (1ull << 45);
        wheel_arm(&f->w, 0, due);
        uint32_t sleeps = 0;
        for (uint32_t popped = WHEEL_NIL; popped == WHEEL_NIL; sleeps++) {
            uint32_t budget = 100;
            uint64_t next = wheel_next(&f->w);
            cr_assert_lt(next, due + (1 << 20));
            popped = wheel_pop(&f->w, next, &budget);
            cr_assert(popped == WHEEL_NIL || next >= due);
        }
        cr_assert_leq(sleeps, WHEEL_LEVELS);
    }
    cr_assert_eq(wheel_next(&f->w), WHEEL_NEVER);
    free(f);
}

Test(wheel, a_storm_is_handed_out_within_the_budget) {
    struct wheel_fixture *f = wheel_make(20);
    uint64_t due = 3600 * 1000000000ull;
    for (uint32_t i = 0; i < NODES; i++)
        wheel_arm(&f->w, i, due);
    uint32_t popped = 0;
    for (uint32_t call = 0; call < NODES * 8 && popped < NODES; call++) {
        uint32_t budget = 4;
        while (wheel_pop(&f->w, due + (1 << 20), &budget) != WHEEL_NIL)
            popped++;
        if (popped < NODES)
            cr_assert_leq(wheel_next(&f->w), due + (1 << 20));
    }
    cr_assert_eq(popped, NODES);
    wheel_arm(&f->w, 5, UINT64_MAX);
    cr_assert_lt(wheel_next(&f->w), WHEEL_NEVER);
    free(f);
}

/* ---- hashes ---- */

struct item {
    struct arena_record r;
    struct ipaddr key;
    struct hash_link link;
};

Test(hash, index_agrees_with_a_plain_search) {
    enum { ITEMS = 500 };
    struct arena_header plan = {0};
    struct hash_index ix;
    cr_assert(arena_plan_table(&plan, ITEMS, sizeof(struct item)));
    hash_index_plan(&ix, &plan, 0, ITEMS / 8, offsetof(struct item, link)); /* crowded on purpose */
    struct arena_header *a = aligned_alloc(CACHE_LINE, plan.size);
    memset(a, 0, plan.size);
    *a = plan;
    struct hash_key key;
    uint64_t seed = 3;
    bool in[ITEMS] = {false};
    hash_key_init(&key, 99);
    for (uint32_t i = 0; i < ITEMS; i++) {
        uint32_t index;
        struct item *it = arena_take(a, &a->table[0], &index);
        it->key.d[0] = i % 50;
        it->key.d[1] = 0;
        arena_publish(&a->table[0], it);
    }
    for (uint32_t step = 0; step < 20000; step++) {
        uint32_t i = (uint32_t)(next_random(&seed) % ITEMS), found = 0, want = 0;
        struct item *it = arena_lookup(a, &a->table[0], i);
        uint32_t hash = hash_addr(&key, &it->key, 0);
        if (in[i])
            hash_index_remove(&ix, a, i);
        else
            hash_index_insert(&ix, a, i, hash);
        in[i] = !in[i];
        for (uint32_t k = hash_index_first(&ix, a, hash); k != ARENA_NIL; k = hash_index_next(&ix, a, k))
            found += ipaddr_equal(&((struct item *)arena_lookup(a, &a->table[0], k))->key, &it->key);
        for (uint32_t k = 0; k < ITEMS; k++)
            want += in[k] && k % 50 == i % 50;
        cr_assert_eq(found, want);
    }
    free(a);
}

/* Close keys must not land close together: the fullest of 1024 buckets stays near what chance gives. */
Test(hash, spreads_adjacent_flows) {
    struct hash_key key;
    uint32_t bucket[1024] = {0}, fullest = 0;
    hash_key_init(&key, 1);
    struct flow f = {.proto = PROTO_UDP, .local_port = 53};
    for (uint32_t i = 0; i < 64 * 1024; i++) {
        f.remote_port = (uint16_t)i;
        uint32_t *b = &bucket[hash_flow(&key, &f) & 1023];
        (*b)++;
        fullest = *b > fullest ? *b : fullest;
    }
    cr_assert_lt(fullest, 64 + 8 * 6); /* mean 64, deviation 8 */
}

Test(hash, depends_on_every_word_and_on_the_key) {
    struct hash_key a, b;
    struct flow f = {.proto = 17};
    hash_key_init(&a, 1);
    hash_key_init(&b, 2);
    uint32_t base = hash_flow(&a, &f);
    cr_assert_neq(base, hash_flow(&b, &f));
    for (uint32_t byte = 0; byte < 37; byte++) {
        struct flow g = f;
        ((uint8_t *)&g)[byte] ^= 0x80;
        cr_assert_neq(base, hash_flow(&a, &g), "byte %u", byte);
    }
}

/* ---- arena ---- */

Test(arena, take_at_keeps_the_free_list_whole) {
    struct arena_header plan = {0};
    cr_assert(arena_plan_table(&plan, 64, sizeof(struct item)));
    struct arena_header *a = aligned_alloc(CACHE_LINE, plan.size);
    memset(a, 0, plan.size);
    *a = plan;
    static const uint32_t order[] = {5, 2, 9, 63, 0, 7};
    for (uint32_t i = 0; i < ARRAY_LEN(order); i++) {
        void *r = arena_take_at(a, &a->table[0], order[i]);
        cr_assert_not_null(r);
        arena_publish(&a->table[0], r);
        cr_assert_null(arena_take_at(a, &a->table[0], order[i]));
    }
    cr_assert_null(arena_take_at(a, &a->table[0], 64));
    for (uint32_t i = ARRAY_LEN(order); i < 64; i++) {
        uint32_t index;
        void *r = arena_take(a, &a->table[0], &index);
        cr_assert_not_null(r);
        arena_publish(&a->table[0], r);
    }
    uint32_t index;
    cr_assert_null(arena_take(a, &a->table[0], &index));
    cr_assert_eq(a->table[0].live, 64);
    free(a);
}

/* ---- saved-state format ---- */

Test(statewire, round_trip) {
    uint8_t buf[256];
    struct statewire_out o = {.buf = buf, .size = sizeof buf};
    statewire_put(&o, 1, 0); /* not written */
    statewire_put(&o, 2, UINT64_MAX);
    statewire_put_bytes(&o, 3, "abc", 3);
    statewire_put(&o, 400, 7);
    cr_assert_not(o.full);
    struct statewire_in in = {buf, buf + o.len};
    struct statewire_field f;
    cr_assert_eq(statewire_next(&in, &f), 1);
    cr_assert(f.number == 2 && f.value == UINT64_MAX);
    cr_assert_eq(statewire_next(&in, &f), 1);
    cr_assert(f.number == 3 && f.size == 3 && memcmp(f.data, "abc", 3) == 0);
    cr_assert_eq(statewire_next(&in, &f), 1);
    cr_assert(f.number == 400 && f.value == 7);
    cr_assert_eq(statewire_next(&in, &f), 0);
}

Test(statewire, says_when_it_does_not_fit) {
    uint8_t buf[8];
    for (size_t size = 0; size < 7; size++) {
        struct statewire_out o = {.buf = buf, .size = size};
        statewire_put_bytes(&o, 1, "12345", 5);
        cr_assert(o.full);
        cr_assert_leq(o.len, size);
    }
}

Test(statewire, refuses_every_malformed_field) {
    static const struct {
        uint8_t bytes[12];
        uint8_t size;
    } bad[] = {
        {{0x08}, 1},                                                              /* no value */
        {{0x08, 0x80}, 2},                                                        /* varint cut off */
        {{0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02}, 11}, /* varint above 64 bits */
        {{0x0a, 0x05, 1, 2}, 4},                                                  /* bytes longer than what is left */
        {{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f}, 6},                                /* much longer */
        {{0x0b}, 1},                                                              /* group */
        {{0x00, 0x01}, 2},                                                        /* field 0 */
        {{0x09, 1, 2, 3}, 4},                                                     /* fixed64 cut off */
        {{0x0d, 1}, 2},                                                           /* fixed32 cut off */
    };
    for (uint32_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct statewire_in in = {bad[i].bytes, bad[i].bytes + bad[i].size};
        struct statewire_field f;
        cr_assert_eq(statewire_next(&in, &f), -1, "case %u", i);
    }
}

/* ---- checksums ---- */

static uint16_t plain_sum(const uint8_t *p, size_t n) {
    uint32_t s = 0;
    for (size_t i = 0; i < n; i++)
        s += (uint32_t)p[i] << (i % 2 ? 0 : 8);
    while (s >> 16)
        s = (s & 0xffff) + (s >> 16);
    return (uint16_t)s;
}

Test(checksum, agrees_with_the_plain_one_at_every_length) {
    uint8_t b[200];
    uint64_t seed = 5;
    for (uint32_t n = 0; n <= sizeof b; n++) {
        for (uint32_t i = 0; i < n; i++)
            b[i] = n % 3 == 0 ? 0xff : (uint8_t)next_random(&seed);
        uint16_t sum = csum_fold(csum_add(0, b, n));
        cr_assert_eq(be16_load(&sum), plain_sum(b, n), "length %u", n);
    }
    uint16_t sum = csum_fold(csum_ip4_header(b));
    cr_assert_eq(be16_load(&sum), plain_sum(b, 20));
}

Test(checksum, of_a_packet_in_pieces_of_any_length) {
    uint8_t bytes[300], head[300];
    uint64_t seed = 9;
    for (uint32_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)next_random(&seed);
    for (uint32_t round = 0; round < 500; round++) {
        struct pkt p = {.data = head, .buf = head};
        uint32_t at = (uint32_t)(next_random(&seed) % 100);
        memcpy(head, bytes, at);
        p.len = at;
        for (; p.frag_count < PKT_FRAG_MAX; p.frag_count++) {
            uint32_t n = (uint32_t)(next_random(&seed) % 50);
            p.frag[p.frag_count] = (struct pkt_frag){.base = bytes + at, .len = n};
            at += n;
        }
        uint16_t sum = csum_fold(csum_pkt(0, &p, p.data));
        cr_assert_eq(be16_load(&sum), plain_sum(bytes, at));
    }
}
