/* SPDX-License-Identifier: Apache-2.0
 *
 * What a session and its sockets are right now, for an operator's list. Sockets are read on the worker that owns them,
 * a few in each letter, so that a list of a hundred thousand never holds up a packet for longer than a few
 * microseconds.
 *
 * Thread: control.
 */
#ifndef USHER_DATAPLANE_SESSION_SNAPSHOT_H
#define USHER_DATAPLANE_SESSION_SNAPSHOT_H

#include "dataplane/session/session.h"
#include "engines/tcp/tcp_cmd.h"

struct session_facts {
    uint32_t abi;
    uint64_t tx_bytes, rx_bytes;
    uint32_t shards; /* bit mask of those that serve it */
};
void session_facts_read(const struct session *s, struct session_facts *ret_facts);

/* Where a list goes on; zero = from the beginning. */
struct session_cursor {
    uint32_t shard, part, index;
};

struct session_snap {
    uint32_t handle, shard, owner;
    struct flow flow;
    uint32_t ifindex; /* of PROTO_FRAME */
    bool stream;   /* of a connection: opened by the client's ring, or accepted */
    bool ended;    /* its last state is gone, the client has not closed it yet */
    bool has_tcp;
    uint64_t cookie;
    uint64_t rx_packets, tx_packets, rx_bytes, tx_bytes, rx_dropped;
    uint32_t rx_held, rx_limit, tx_held, tx_limit; /* bytes */
    struct tcp_conn_info tcp; /* streams and listeners */
};

/* At most `max` sockets from the cursor on, and the cursor behind them; ordered by shard. Costs a letter for every
 * SNAPSHOT_LETTER sockets. 0 with *ret_end: there are no more; 0 without: ask again, nothing was in this part. */
uint32_t session_snapshot(struct session *s, struct session_cursor *cursor, struct session_snap *ret_snaps,
                          uint32_t max, bool *ret_end);

/* The one socket with this handle. -ENOENT. */
int session_snapshot_one(struct session *s, uint32_t handle, struct session_snap *ret_snap);

/* Resets a stream: its client gets ECONNABORTED and the peer a RST. -ENOENT; -EPROTOTYPE: it is no stream, see
 * session_socket_retire(). */
int session_stream_kill(struct session *s, uint32_t handle);

#endif
