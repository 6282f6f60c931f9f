/* SPDX-License-Identifier: Apache-2.0
 *
 * Which shard owns a local port. One byte for each port and protocol: control writes when sockets open and close, every
 * shard reads, for a packet that already is in its hands. A reader that sees the old byte for a moment delivers to the
 * shard that owned the port until now, as if the packet had come a little earlier.
 *
 * A port may be spread: a listener of it stands in every shard, and a flow belongs to the shard that steer_spread()
 * says. That depends on nothing but the flow and the number of shards, so a successor finds connections where they are.
 * Who chooses his own port may choose the shard that way, and loads one as he could when the port was not spread.
 */
#ifndef USHER_DATAPLANE_CORE_STEER_H
#define USHER_DATAPLANE_CORE_STEER_H

#include <stdint.h>
#include <string.h>

#include "engines/wire.h"

#define STEER_NONE UINT8_MAX
#define STEER_SPREAD (UINT8_MAX - 1)
#define STEER_PORTS 65536u

enum steer_row { STEER_UDP, STEER_TCP, STEER_ROWS };

struct steer {
    uint8_t shard[STEER_ROWS][STEER_PORTS];
    uint32_t users[STEER_ROWS][STEER_PORTS]; /* control's: sockets behind the byte */
    uint32_t sockets[STEER_NONE];            /* control's: by shard */
};

static inline enum steer_row steer_row_of(uint8_t proto) { return proto == PROTO_TCP ? STEER_TCP : STEER_UDP; }

/* STEER_NONE: nobody, the packet stays where it is. */
static inline uint32_t steer_lookup(const struct steer *s, uint8_t proto, uint16_t port) {
    return __atomic_load_n(&s->shard[steer_row_of(proto)][port], __ATOMIC_RELAXED);
}

/* The local address is left out: who asks for the shard of a connection to come does not know it yet. */
static inline uint32_t steer_spread(const struct flow *flow, uint32_t shard_count) {
    uint64_t high, low, ports = (uint64_t)flow->local_port << 16 | flow->remote_port;
    memcpy(&high, flow->remote.b, 8);
    memcpy(&low, flow->remote.b + 8, 8);
    uint64_t x = (high + ports) * 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 32 ^ low) * 0xd6e8feb86659fd93ull;
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93ull;
    return (uint32_t)((x >> 32) * shard_count >> 32);
}

/* Control. A port that is steered already keeps its shard: the caller has looked. What is spread stays so until its
 * last user goes. */
void steer_add(struct steer *s, const struct flow *flow, uint32_t shard);
void steer_del(struct steer *s, const struct flow *flow, uint32_t shard);
/* Before steer_add() of its first user: the port will be every shard's. */
void steer_spread_set(struct steer *s, const struct flow *flow);

#endif
