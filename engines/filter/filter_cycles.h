/* SPDX-License-Identifier: Apache-2.0
 *
 * What judging costs: a packet without a policy and with a hit in the flow cache, and a lookup of a cold flow, on a set
 * of 10,000 mixed rules and on one made to hurt (port ranges alone, which no table tells apart). One thread, some
 * seconds; for benches.
 */
#ifndef USHER_ENGINES_FILTER_FILTER_CYCLES_H
#define USHER_ENGINES_FILTER_FILTER_CYCLES_H

#include <stdint.h>
#include <stdio.h>

struct filter_cycles {
    double hit_cycles; /* a packet, over no policy */
    double cold_ns, adversarial_ns; /* a lookup */
    double install_ms; /* compile, send and commit */
};

void filter_cycles(uint32_t rules, FILE *out, struct filter_cycles *ret_cycles);

#endif
