/* SPDX-License-Identifier: Apache-2.0
 *
 * Which shard owns a local port. One byte for each port and protocol: control writes when sockets open and close, every
 * shard reads, for a packet that already is in its hands. A reader that sees the old byte for a moment delivers to the
 * shard that owned the port until now, as if the packet had come a little earlier.
 */
#ifndef USHER_DATAPLANE_CORE_STEER_H
#define USHER_DATAPLANE_CORE_STEER_H

#include <stdint.h>

#include "engines/wire.h"

#define STEER_NONE UINT8_MAX
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

/* Control. A port that is steered already keeps its shard: the caller has looked. */
void steer_add(struct steer *s, const struct flow *flow, uint32_t shard);
void steer_del(struct steer *s, const struct flow *flow, uint32_t shard);

#endif
