/* SPDX-License-Identifier: Apache-2.0
 *
 * Faults are drawn in a fixed order for every frame, so that the draws of one fault do not depend on whether another
 * one struck. A frame is damaged in one place only, by less than 16 bits: the Internet checksum always sees that.
 */
#include "test/sim/link.h"

#include <stdlib.h>
#include <string.h>

struct link_frame {
    struct link *link;
    uint32_t len;
    uint8_t bytes[];
};

void link_init(struct link *l, struct world *w, const struct link_faults *faults, uint64_t seed, uint64_t stream) {
    memset(l, 0, sizeof *l);
    l->world = w;
    l->faults = *faults;
    l->prng = prng_stream(seed, stream);
}

void link_heal(struct link *l) {
    l->faults = (struct link_faults){.delay = l->faults.delay};
    l->outage_until = 0;
}

static void link_arrive(void *arg, uint64_t value) {
    (void)value;
    struct link_frame *f = (struct link_frame *)arg;
    struct link *l = f->link;
    l->stats.delivered++;
    l->in_flight--;
    l->deliver(l->arg, f->bytes, f->len);
    free(f);
}

void link_event_drop(struct world_event *ev, void *arg) {
    (void)arg;
    if (ev->fn == link_arrive)
        free(ev->arg);
}

static void link_post(struct link *l, ns_t when, const uint8_t *frame, uint32_t len, uint64_t damage) {
    struct link_frame *f = (struct link_frame *)malloc(sizeof *f + len);
    CHECK(f != NULL);
    f->link = l;
    f->len = len;
    memcpy(f->bytes, frame, len);
    if (damage != 0 && len > 0) {
        uint32_t at = (uint32_t)((damage >> 16) % len);
        if ((damage & 7) == 7)
            f->len = at; /* cut short */
        else if (damage & 8)
            f->bytes[at] ^= (uint8_t)(1u << ((damage >> 8) & 7));
        else
            f->bytes[at] = (uint8_t)(damage >> 8);
        l->stats.corrupted++;
    }
    l->in_flight++;
    world_post(l->world, when, link_arrive, f, 0);
}

/* When the last bit leaves the bottleneck; false = the queue is full. */
static bool link_transmit(struct link *l, uint32_t len, ns_t *ret_departure) {
    ns_t start = l->busy_until > l->world->now ? l->busy_until : l->world->now;
    if (l->faults.bottleneck_bps == 0) {
        *ret_departure = l->world->now;
        return true;
    }
    uint64_t waiting = (start - l->world->now) / 1000 * l->faults.bottleneck_bps / 8000000;
    if (waiting + len > l->faults.queue_bytes)
        return false;
    l->busy_until = start + (uint64_t)len * 8 * NS_PER_SEC / l->faults.bottleneck_bps;
    *ret_departure = l->busy_until;
    return true;
}

void link_send(struct link *l, const uint8_t *frame, uint32_t len) {
    const struct link_faults *f = &l->faults;
    bool lost = prng_chance(&l->prng, f->loss_ppm);
    bool twice = prng_chance(&l->prng, f->duplicate_ppm);
    bool late = prng_chance(&l->prng, f->reorder_ppm);
    bool outage = prng_chance(&l->prng, f->outage_ppm);
    uint64_t damage = prng_chance(&l->prng, f->corrupt_ppm) ? prng_next(&l->prng) | 1ull << 63 : 0;
    ns_t jitter = prng_below(&l->prng, f->jitter + 1);
    uint64_t spread = prng_next(&l->prng);
    l->stats.sent++;
    if (outage)
        l->outage_until = l->world->now + spread % (f->outage + 1);
    if (lost || l->world->now < l->outage_until) {
        l->stats.lost++;
        return;
    }
    ns_t when;
    if (!link_transmit(l, len, &when)) {
        l->stats.overflowed++;
        return;
    }
    when += f->delay + jitter;
    if (late) {
        when += NS_PER_US + spread % (2 * (f->delay + f->jitter) + 100 * NS_PER_US);
        l->stats.reordered++;
    } else {
        when = when < l->last_arrival ? l->last_arrival : when;
        l->last_arrival = when;
    }
    link_post(l, when, frame, len, damage);
    if (twice) {
        l->stats.duplicated++;
        if (l->duplicated != NULL)
            l->duplicated(l->arg, frame, len);
        link_post(l, when + spread % (NS_PER_MS), frame, len, 0);
    }
}
