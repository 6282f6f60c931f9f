/* SPDX-License-Identifier: Apache-2.0
 *
 * See qos_cost.h.
 */
#include "test/bench/qos_cost.h"

#include "engines/qos/qos_fixture.h"
#include "test/bench/hist.h"
#include "test/bench/tick.h"

#define LINE     12500000000ull /* 100 Gbit/s: a bottleneck, but of the clock */
#define FRAME    1250u
#define PER_FLOW 2u
#define WARM_UP  2u /* packets of each flow that leave before it counts */

static void grow(struct bed *b, uint32_t owners) {
    bed_begin(b, 1, 0);
    CHECK(bed_node(b, 0, QOS_NONE, 1, 0, LINE) == 0);
    for (uint32_t i = 0; i < owners; i++) {
        CHECK(bed_node(b, 1 + i, 0, 1u << i % 4, 0, 0) == 0);
        CHECK(bed_owner(b, i, 1 + i) == 0);
    }
    CHECK(bed_commit(b) == 0);
}

static void fill(struct bed *b, uint32_t flows) {
    for (uint32_t i = 0; i < PER_FLOW * flows; i++) {
        uint32_t flow = i % flows;
        bed_send(b, flow % b->owners, flow, FRAME);
        b->tk->down.count = 0; /* those that left at once are made up for below */
    }
}

/* What leaves comes again at once, as the same flow's next packet. Returns how many left. */
static uint32_t turn(struct bed *b, uint64_t *ticks) {
    struct pkt *left[PKT_VEC_MAX];
    uint64_t start = tick_now();
    (void)testkit_run(b->tk, &b->qos, PKT_BURST);
    *ticks += tick_now() - start;
    uint32_t n = b->tk->down.count;
    memcpy(left, b->tk->down.v, n * sizeof left[0]);
    b->tk->down.count = 0;
    for (uint32_t i = 0; i < n; i++) { /* a packet that comes down was just written by the link engine */
        left[i]->len = FRAME;
        left[i]->sock = i;
    }
    start = tick_now();
    for (uint32_t i = 0; i < n; i += PKT_BURST)
        testkit_output(b->tk, &b->qos, &left[i], n - i < PKT_BURST ? n - i : PKT_BURST);
    *ticks += tick_now() - start;
    ns_t at = b->qos.ops->next_deadline(b->qos.st);
    b->tk->io.now = at > b->tk->io.now ? at : b->tk->io.now + n * (FRAME * NS_PER_SEC / LINE);
    return n;
}

/* The median turn: what another process takes of the core is not the engine's. */
double qos_cost_ns(uint32_t flows, uint32_t owners, double seconds) {
    static struct hist hist;
    struct bed b = bed_make(owners + 1, owners, PER_FLOW * flows + PKT_BURST);
    uint64_t ticks = 0, packets = 0;
    b.tk->io.now = NS_PER_SEC;
    grow(&b, owners);
    fill(&b, flows);
    while (packets < (uint64_t)WARM_UP * flows)
        packets += turn(&b, &ticks);
    hist_reset(&hist);
    for (uint64_t end = tick_now() + tick_from_seconds(seconds); tick_now() < end;) {
        ticks = 0;
        uint32_t n = turn(&b, &ticks);
        if (n > 0)
            hist_add(&hist, ticks * PKT_BURST / n);
    }
    bed_end(&b);
    return hist_quantile(&hist, 0.5) / PKT_BURST / tick_per_ns();
}
