/* SPDX-License-Identifier: Apache-2.0
 *
 * Control's side of the steering table, see steer.h.
 */
#include "dataplane/core/steer.h"

void steer_add(struct steer *s, const struct flow *flow, uint32_t shard) {
    enum steer_row row = steer_row_of(flow->proto);
    s->sockets[shard]++;
    if (flow->proto == PROTO_FRAME)
        return; /* it has no port */
    s->users[row][flow->local_port]++;
    if (steer_lookup(s, flow->proto, flow->local_port) != STEER_SPREAD)
        __atomic_store_n(&s->shard[row][flow->local_port], (uint8_t)shard, __ATOMIC_RELAXED);
}

void steer_spread_set(struct steer *s, const struct flow *flow) {
    __atomic_store_n(&s->shard[steer_row_of(flow->proto)][flow->local_port], STEER_SPREAD, __ATOMIC_RELAXED);
}

void steer_del(struct steer *s, const struct flow *flow, uint32_t shard) {
    enum steer_row row = steer_row_of(flow->proto);
    s->sockets[shard]--;
    if (flow->proto == PROTO_FRAME)
        return;
    if (--s->users[row][flow->local_port] == 0)
        __atomic_store_n(&s->shard[row][flow->local_port], STEER_NONE, __ATOMIC_RELAXED);
}
