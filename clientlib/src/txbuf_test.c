/* SPDX-License-Identifier: Apache-2.0
 *
 * The TX region's allocator: sizes, exhaustion, double frees, slabs going home, and a long random run against a plain
 * model.
 */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "clientlib/src/txbuf.h"

#define REGION (8u << 16)

static uint32_t take(struct txbuf *t, uint32_t size) {
    uint32_t room = 0, off = txbuf_take(t, size, &room);
    cr_assert(off == TXBUF_NONE || room >= size);
    return off;
}

static struct txbuf fresh(void) {
    struct txbuf t;
    cr_assert(txbuf_init(&t, REGION) == 0);
    return t;
}

Test(txbuf, every_size_gets_a_block_of_its_class) {
    struct txbuf t = fresh();
    for (uint32_t size = 0; size <= TXBUF_SLAB; size = size * 2 + 1) {
        uint32_t start, room, off = take(&t, size);
        cr_assert_neq(off, TXBUF_NONE, "size %u", size);
        cr_assert(txbuf_block(&t, off, &start, &room));
        cr_assert_eq(start, off);
        cr_assert_geq(room, size);
        cr_assert(room == 256 || room < 2 * size);
        cr_assert(txbuf_give(&t, off + room - 1), "any offset inside names the block");
    }
    cr_assert_eq(take(&t, TXBUF_SLAB + 1), TXBUF_NONE);
    txbuf_fini(&t);
}

Test(txbuf, refuses_regions_without_a_slab) {
    struct txbuf t;
    cr_assert(txbuf_init(&t, TXBUF_SLAB - 1) < 0);
    cr_assert(txbuf_init(&t, UINT64_C(1) << 32) < 0);
}

Test(txbuf, what_is_not_in_use_cannot_be_given) {
    struct txbuf t = fresh();
    uint32_t off = take(&t, 1000), start, room;
    cr_assert(txbuf_give(&t, off));
    cr_assert_not(txbuf_give(&t, off), "twice");
    cr_assert_not(txbuf_block(&t, off, &start, &room));
    cr_assert_not(txbuf_give(&t, REGION), "outside");
    cr_assert_not(txbuf_give(&t, UINT32_MAX));
    cr_assert_not(txbuf_give(&t, REGION - 1), "a slab of the pool");
    txbuf_fini(&t);
}

Test(txbuf, lent_blocks_come_back_once) {
    struct txbuf t = fresh();
    uint32_t a = take(&t, 5000), b = take(&t, 5000);
    cr_assert_not(txbuf_return(&t, a), "not lent");
    txbuf_lend(&t, a);
    txbuf_lend(&t, b);
    cr_assert(txbuf_return(&t, a));
    cr_assert_not(txbuf_return(&t, a));
    txbuf_return_all(&t);
    cr_assert_not(txbuf_return(&t, b));
    cr_assert_not(txbuf_give(&t, b));
    txbuf_fini(&t);
}

Test(txbuf, small_blocks_do_not_eat_the_region_for_good) {
    struct txbuf t = fresh();
    static uint32_t off[REGION / 256 + 1];
    uint32_t n = 0;
    while ((off[n] = take(&t, 1)) != TXBUF_NONE)
        n++;
    cr_assert_eq(n, REGION / 256);
    cr_assert_eq(take(&t, 60000), TXBUF_NONE);
    while (n)
        cr_assert(txbuf_give(&t, off[--n]));
    for (uint32_t i = 0; i < REGION / TXBUF_SLAB; i++)
        cr_assert_neq(take(&t, 60000), TXBUF_NONE);
    cr_assert_eq(take(&t, 200), TXBUF_NONE);
    txbuf_fini(&t);
}

Test(txbuf, a_large_block_serves_a_small_wish_when_nothing_else_is_left) {
    struct txbuf t = fresh();
    uint32_t off[8];
    for (int i = 0; i < 8; i++)
        off[i] = take(&t, 30000); /* two in a slab: four slabs */
    for (int i = 0; i < 4; i++)
        cr_assert_neq(take(&t, 60000), TXBUF_NONE);
    cr_assert(txbuf_give(&t, off[0]));
    uint32_t start, room, small = take(&t, 10);
    cr_assert_neq(small, TXBUF_NONE);
    cr_assert(txbuf_block(&t, small, &start, &room));
    cr_assert_eq(room, 32768);
    txbuf_fini(&t);
}

struct model {
    uint32_t off, room;
};

static int overlaps(const struct model *m, uint32_t n, uint32_t off, uint32_t room) {
    for (uint32_t i = 0; i < n; i++)
        if (off < m[i].off + m[i].room && m[i].off < off + room)
            return 1;
    return 0;
}

Test(txbuf, random_run_never_hands_out_a_byte_twice) {
    struct txbuf t = fresh();
    static struct model held[4096];
    uint32_t n = 0;
    unsigned seed = 4711;
    for (int i = 0; i < 100000; i++) {
        if (n < 300 && rand_r(&seed) % 2) {
            uint32_t start, size = 1u << (rand_r(&seed) % 17), off = take(&t, size);
            if (off == TXBUF_NONE)
                continue;
            cr_assert(txbuf_block(&t, off, &start, &held[n].room));
            held[n].off = off;
            cr_assert_leq((uint64_t)off + held[n].room, REGION);
            cr_assert_not(overlaps(held, n, off, held[n].room));
            n++;
        } else if (n) {
            uint32_t k = (uint32_t)rand_r(&seed) % n;
            cr_assert(txbuf_give(&t, held[k].off));
            held[k] = held[--n];
        }
    }
    while (n)
        cr_assert(txbuf_give(&t, held[--n].off));
    txbuf_fini(&t);
}
