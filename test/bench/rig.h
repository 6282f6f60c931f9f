/* SPDX-License-Identifier: Apache-2.0
 *
 * A shard of the real dataplane in this process, polled by the caller instead of by a worker thread: ip and udp
 * engines, a `pair` port whose far end the caller plays, and one session with one socket whose client the caller plays
 * too, on the raw rings. So every step can be timed by itself.
 */
#ifndef USHER_TEST_BENCH_RIG_H
#define USHER_TEST_BENCH_RIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RIG_BURST 32u

enum rig_stage { RIG_IP_IN, RIG_UDP_IN, RIG_UDP_OUT, RIG_IP_OUT, RIG_STAGE_COUNT };

struct rig;
struct runtime;

/* 0, or -1 with a sentence in err. */
int rig_create(struct rig **ret_rig, char *err, size_t err_size);
void rig_destroy(struct rig *rig);
struct runtime *rig_runtime(struct rig *rig);

/* What one burst cost, in ticks: the poll that takes RIG_BURST datagrams from the port to the session ring (up), the
 * one that takes the answers back (down), and of both the share of each engine. */
struct rig_cost {
    uint64_t up, down;
    uint64_t stage[RIG_STAGE_COUNT];
};

/* One burst through and back; 0, or -1 when packets were lost on the way. `by_stage`: take the engines' time as well,
 * which adds some 5 ticks a packet to the whole. */
int rig_turn(struct rig *rig, bool by_stage, struct rig_cost *ret_cost);
/* One datagram of the client to the echo engine and back, all inside the shard: the ticks of the one poll that does it,
 * which is usherd's share of a udp-rtt. */
int rig_echo_turn(struct rig *rig, uint64_t *ret_ticks);

#endif
