/* SPDX-License-Identifier: Apache-2.0
 *
 * One direction of a simulated wire: delay, jitter, loss, reordering, duplication, corruption, outages, and a
 * bottleneck with a bounded queue. What it delivers it hands to a function at the virtual time of arrival.
 */
#ifndef USHER_TEST_SIM_LINK_H
#define USHER_TEST_SIM_LINK_H

#include "test/sim/prng.h"
#include "test/sim/world.h"

struct link_faults {
    uint32_t loss_ppm, duplicate_ppm, corrupt_ppm, reorder_ppm;
    uint32_t outage_ppm; /* chance that a frame begins an outage */
    ns_t outage;         /* its longest duration */
    ns_t delay, jitter;
    uint64_t bottleneck_bps; /* 0 = none */
    uint32_t queue_bytes;    /* of the bottleneck */
};

struct link_stats {
    uint64_t sent, delivered, lost, duplicated, corrupted, reordered, overflowed;
};

typedef void link_deliver_fn(void *arg, const uint8_t *frame, uint32_t len);

struct link {
    struct world *world;
    struct prng prng;
    struct link_faults faults;
    struct link_stats stats;
    link_deliver_fn *deliver;
    link_deliver_fn *duplicated; /* told about each frame that will arrive once more than it was sent */
    void *arg;
    ns_t busy_until;   /* the bottleneck's transmitter */
    ns_t last_arrival; /* jitter alone never reorders */
    ns_t outage_until;
    uint32_t in_flight;
};

void link_init(struct link *l, struct world *w, const struct link_faults *faults, uint64_t seed, uint64_t stream);
void link_send(struct link *l, const uint8_t *frame, uint32_t len); /* copies the frame */
/* From now on the wire is perfect, apart from its delay. */
void link_heal(struct link *l);
/* Frees a frame that still waits in the world's queue; for world_each() before world_fini(). */
void link_event_drop(struct world_event *ev, void *arg);

#endif
