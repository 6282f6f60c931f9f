/* SPDX-License-Identifier: Apache-2.0
 *
 * Finds out how fast the ticks are, against CLOCK_MONOTONIC over 20 ms: right within a part in 10,000.
 */
#include "test/bench/tick.h"

static double per_ns = 1;

void tick_init(void) {
    uint64_t ns0 = tick_ns(), t0 = tick_now();
    while (tick_ns() - ns0 < 20 * 1000 * 1000)
        tick_pause();
    uint64_t ns1 = tick_ns(), t1 = tick_now();
    per_ns = (double)(t1 - t0) / (double)(ns1 - ns0);
}

double tick_per_ns(void) {
    return per_ns;
}
