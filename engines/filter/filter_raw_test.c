/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames that programs make: the engine's parse of them against the canonical one, on frames that are nearly right; and
 * what becomes of them in the engine.
 */
#include <criterion/criterion.h>

#include "engines/filter/filter_fixture.h"
#include "nicbackend/ir/view.h"

#define FRAMES  200000u
#define IFINDEX 3u
#define OWNER   9u

static uint64_t seed = 1;

static uint32_t roll(uint32_t n) {
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 33) % n;
}

static uint32_t put16(uint8_t *at, uint32_t value) {
    be16_store(at, (uint16_t)value);
    return 2;
}

static uint32_t tags_make(uint8_t *at) {
    uint32_t n = 0;
    for (uint32_t left = roll(4); left > 0; left--) {
        n += put16(at + n, roll(4) != 0 ? ETHERTYPE_VLAN : 0x88a8);
        n += put16(at + n, roll(65536));
    }
    return n;
}

static uint32_t ip4_make(uint8_t *at, uint32_t room) {
    uint32_t header = 20 + 4 * (roll(3) == 0 ? roll(11) : 0);
    memset(at, (int)roll(256), header + 40);
    at[0] = (uint8_t)(0x40 | header / 4);
    put16(at + 2, roll(4) != 0 ? header + roll(40) : roll(room));
    put16(at + 6, roll(4) != 0 ? 0x4000 : roll(65536));
    at[9] = (uint8_t[]){6, 17, 1, 132, 136, 58, 47, 0}[roll(8)];
    return header + 40;
}

static uint32_t ip6_make(uint8_t *at, uint32_t room) {
    static const uint8_t next[] = {6, 17, 58, 0, 43, 44, 60, 132};
    uint32_t n = IP6_LEN;
    memset(at, (int)roll(256), IP6_LEN);
    at[0] = 0x60 | (uint8_t)roll(16);
    uint8_t proto = at[6] = next[roll(8)];
    while ((proto == 0 || proto == 43 || proto == 44 || proto == 60) && n + 100 < room) {
        uint32_t size = proto == 44 ? 8 : 8 * (1 + (roll(8) == 0 ? roll(24) : 0));
        memset(at + n, roll(2) != 0 ? 0 : (int)roll(256), size);
        proto = at[n] = next[roll(8)];
        at[n + 1] = (uint8_t)(size / 8 - 1);
        n += size;
    }
    memset(at + n, (int)roll(256), 40);
    put16(at + 4, roll(8) != 0 ? n - IP6_LEN + roll(41) : roll(room));
    return n + 40;
}

/* Returns its length. */
static uint32_t frame_make(uint8_t *f, uint32_t room) {
    uint32_t n = 12;
    memset(f, (int)roll(256), n);
    n += tags_make(f + n);
    uint32_t kind = roll(5);
    n += put16(f + n, kind < 2 ? ETHERTYPE_IP4 : kind < 4 ? ETHERTYPE_IP6 : roll(65536));
    n += kind < 2 ? ip4_make(f + n, room - n) : kind < 4 ? ip6_make(f + n, room - n) : 28;
    for (uint32_t i = roll(4) == 0 ? roll(4) : 0; i > 0; i--)
        f[12 + roll(n - 12)] = (uint8_t)roll(256);
    return roll(4) != 0 ? n + roll(20) : 14 + roll(n - 14);
}

static void same(const uint8_t *bytes, uint32_t len, struct testkit *tk, uint32_t head, uint32_t *hidden) {
    struct pkt *p = testkit_raw(tk, bytes, head < len ? head : len);
    struct nb_frame frame = {.data = bytes, .len = len, .ifindex = IFINDEX, .dir = NB_OUT, .state = NB_STATE_NEW};
    struct nb_view view;
    struct filter_words want;
    struct filter_case got;
    p->owner = OWNER;
    if (head < len) {
        p->frag[0] = (struct pkt_frag){.base = bytes + head, .len = len - head};
        p->frag_count = 1;
        p->frag_len = len - head;
    }
    nb_view_parse(&frame, &view);
    filter_words_of_view(&view, OWNER, &want);
    if (!filter_raw_case(p, IFINDEX, 5, &got)) {
        cr_assert(head < len, "a frame that is all there");
        (*hidden)++;
    } else {
        for (uint32_t i = 0; i < FILTER_WORDS; i++)
            cr_assert_eq(got.words.w[i], want.w[i], "word %u: %llx, not %llx", i, (unsigned long long)got.words.w[i],
                         (unsigned long long)want.w[i]);
        cr_assert_eq(got.bytes, view.bytes);
    }
    p->frag_count = 0;
    p->frag_len = 0;
    testkit_put(p);
}

Test(filter_raw, agrees_with_the_canonical_parse) {
    uint8_t bytes[1024] = {0};
    struct testkit *tk = testkit_create();
    uint32_t hidden = 0;
    for (uint32_t i = 0; i < FRAMES; i++) {
        uint32_t len = frame_make(bytes, 700);
        same(bytes, len, tk, i % 3 == 0 ? PKT_RAW_HEAD : sizeof bytes, &hidden);
    }
    cr_assert(hidden > 0 && hidden < FRAMES / 10, "%u frames were longer in their headers than what is looked at",
              hidden);
    cr_assert_eq(testkit_missing(tk), 0);
    testkit_destroy(tk);
}
