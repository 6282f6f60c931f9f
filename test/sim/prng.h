/* SPDX-License-Identifier: Apache-2.0
 *
 * Seeded generators. Every user has a stream of its own, so that turning one fault off leaves all other draws as they
 * were. Integers only: a floating point result may differ between compilers, a trace hash may not.
 */
#ifndef USHER_TEST_SIM_PRNG_H
#define USHER_TEST_SIM_PRNG_H

#include <stdbool.h>
#include <stdint.h>

struct prng {
    uint64_t state;
};

#define PPM 1000000u

static inline uint64_t prng_mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static inline uint64_t prng_next(struct prng *p) { return prng_mix(p->state += 0x9e3779b97f4a7c15ull); }

static inline struct prng prng_stream(uint64_t seed, uint64_t stream) {
    return (struct prng){prng_mix(seed + 0x632be59bd9b4e019ull) ^ prng_mix(stream * 0x9e3779b97f4a7c15ull + 1)};
}

/* Uniform in 0..n-1; n > 0. The bias of the multiplication is below 2^-32 for the small n used here. */
static inline uint64_t prng_below(struct prng *p, uint64_t n) {
    return (uint64_t)(((unsigned __int128)prng_next(p) * n) >> 64);
}

static inline uint64_t prng_between(struct prng *p, uint64_t lo, uint64_t hi) {
    return lo + prng_below(p, hi - lo + 1);
}

static inline bool prng_chance(struct prng *p, uint64_t ppm) { return prng_below(p, PPM) < ppm; }

#endif
