/* SPDX-License-Identifier: Apache-2.0
 *
 * A walk over a session's sockets by letters to the shards that own them. A letter looks at no more than LETTER_LOOKS
 * records (a line each, in order: 2-5 ns) and describes no more than LETTER_SOCKETS (some four lines of a transport's
 * each: 100-200 ns), so the worker is away from its packets for 2-7 us.
 *
 * Control, except what runs in the letters.
 */
#include "dataplane/session/snapshot.h"

#include <errno.h>

#include "dataplane/core/runtime_internal.h"
#include "dataplane/session/session_internal.h"
#include "engines/udp/udp_cmd.h"

#define LETTER_SOCKETS 32u
#define LETTER_LOOKS   512u

/* Parts of the table of sockets: opened by RPC, connected, accepted. Each set has used its own part of each. */
enum part { PART_OPENED, PART_CONNECTED, PART_ACCEPTED, PART_COUNT };

struct range {
    uint32_t begin, end;
};

static struct range range_of(const struct session *s, const struct sess_set *set, uint32_t part) {
    const struct range ranges[PART_COUNT] = {
        [PART_OPENED] = {0, s->socket_high},
        [PART_CONNECTED] = {set->socket_max, set->connect_high},
        [PART_ACCEPTED] = {set->accept_base, set->accept_high},
    };
    return ranges[part];
}

/* ---- on the worker ---- */

struct part_letter {
    struct session *session;
    struct session_cursor at;
    struct session_snap *snaps;
    uint32_t max, count;
    bool shard_end; /* this shard has no more */
};

static void snap_tcp(struct shard *sh, const struct sess_socket *sk, struct session_snap *snap) {
    struct tcp_cmd_info cmd = {.cmd = {TCP_CMD_INFO, sizeof cmd}, .sock = sk->sock, .info = &snap->tcp};
    struct engine_reply reply;
    snap->ended = sk->sock == USH_NONE || session_transport(sh, PROTO_TCP, &cmd.cmd, &reply) < 0;
    snap->has_tcp = !snap->ended;
    if (snap->ended)
        return;
    snap->flow = snap->tcp.flow;
    snap->rx_bytes = snap->tcp.rx_bytes;
    snap->tx_bytes = snap->tcp.tx_bytes;
    if (snap->stream)
        snap->rx_limit = snap->tcp.rcv_limit;
}

static void snap_udp(struct shard *sh, const struct sess_socket *sk, struct session_snap *snap) {
    struct udp_info info = {.rx_bytes = 0};
    struct udp_cmd_info cmd = {.cmd = {UDP_CMD_INFO, sizeof cmd}, .sock = sk->sock, .info = &info};
    struct engine_reply reply;
    if (session_transport(sh, PROTO_UDP, &cmd.cmd, &reply) < 0)
        return;
    snap->rx_bytes = info.rx_bytes;
    snap->tx_bytes = info.tx_bytes;
}

static void snap_frame(const struct sess_socket *sk, struct session_snap *snap) {
    snap->ifindex = sk->sock;
    snap->rx_packets = 0;
    snap->tx_bytes = sk->frame_bytes;
}

static void snap_fill(struct shard *sh, const struct session *s, uint32_t index, struct session_snap *snap) {
    const struct sess_socket *sk = &s->socket[index];
    bool stream = index >= s->layout.socket_max;
    *snap = (struct session_snap){
        .handle = stream ? USH_HANDLE(index, sk->generation) : index,
        .shard = sh->index,
        .owner = sk->owner,
        .flow = {.proto = sk->proto},
        .stream = stream,
        .rx_packets = sk->rx_packets,
        .tx_packets = sk->tx_packets,
        .rx_dropped = stream ? 0 : __atomic_load_n(&sk->rx_dropped, __ATOMIC_RELAXED),
        .rx_held = sk->rx_held,
        .rx_limit = stream ? 0 : sk->rx_quota,
        .tx_held = sk->tx_flight,
        .tx_limit = sk->tx_limit,
    };
    if (!stream) {
        snap->flow = s->flow[index].flow;
        snap->cookie = s->flow[index].cookie;
    }
    if (sk->proto == PROTO_FRAME)
        snap_frame(sk, snap);
    else if (sk->proto == PROTO_TCP)
        snap_tcp(sh, sk, snap);
    else
        snap_udp(sh, sk, snap);
}

static bool is_here(const struct session *s, uint32_t index, uint32_t set) {
    const struct sess_socket *sk = &s->socket[index];
    if (sk->state == SOCK_FREE || sk->set != set)
        return false;
    return index >= s->layout.socket_max || (sk->state == SOCK_OPEN && !(sk->flags & SOCK_BOUND)); /* that is a port */
}

static void letter_run(struct shard *sh, void *arg) {
    struct part_letter *l = arg;
    struct session *s = l->session;
    const struct sess_set *set = s->set[sh->index];
    uint32_t looks = 0;
    while (set != NULL && l->at.part < PART_COUNT && l->count < l->max && looks < LETTER_LOOKS) {
        struct range r = range_of(s, set, l->at.part);
        uint32_t index = r.begin + l->at.index;
        if (index >= r.end) {
            l->at.part++;
            l->at.index = 0;
            continue;
        }
        l->at.index++;
        looks++;
        if (is_here(s, index, set->index))
            snap_fill(sh, s, index, &l->snaps[l->count++]);
    }
    l->shard_end = set == NULL || l->at.part == PART_COUNT;
}

struct one {
    struct session *session;
    uint32_t handle;
    struct session_snap *snap;
    int error;
};

static bool handle_valid(const struct session *s, uint32_t handle, uint32_t set) {
    uint32_t index = USH_HANDLE_INDEX(handle);
    uint32_t end = s->layout.socket_max + s->layout.client_socket_max + s->layout.accept_socket_max;
    if (index >= end || !is_here(s, index, set))
        return false;
    return index < s->layout.socket_max ? handle == index
                                        : s->socket[index].generation == USH_HANDLE_GENERATION(handle);
}

static void one_run(struct shard *sh, void *arg) {
    struct one *o = arg;
    struct session *s = o->session;
    if (s->set[sh->index] == NULL || !handle_valid(s, o->handle, s->set[sh->index]->index))
        return;
    snap_fill(sh, s, USH_HANDLE_INDEX(o->handle), o->snap);
    o->error = 0;
}

static void kill_run(struct shard *sh, void *arg) {
    struct one *o = arg;
    struct sess_set *set = o->session->set[sh->index];
    struct sess_socket *sk = set != NULL ? stream_find(set, o->handle) : NULL;
    if (sk == NULL || sk->sock == USH_NONE)
        return;
    const struct notice n = {.kind = NOTICE_ERROR, .value = ECONNABORTED};
    if (sk->state == SOCK_OPEN)
        session_event(sh, set, o->handle, EV_ERROR, &n);
    struct tcp_cmd_close cmd = {.cmd = {TCP_CMD_CLOSE, sizeof cmd},
                                .sock = sk->sock,
                                .abort = true,
                                .sink = SINK(SINK_SESSION, set->slot, o->handle)};
    struct engine_reply reply;
    o->error = session_transport(sh, PROTO_TCP, &cmd.cmd, &reply);
}

/* ---- control ---- */

void session_facts_read(const struct session *s, struct session_facts *ret_facts) {
    *ret_facts =
        (struct session_facts){.abi = s->layout.abi, .tx_bytes = s->layout.tx_size, .rx_bytes = s->layout.rx_size};
    for (uint32_t i = 0; i < USH_SET_MAX; i++)
        ret_facts->shards |= s->set[i] != NULL ? 1u << i : 0;
}

uint32_t session_snapshot(struct session *s, struct session_cursor *cursor, struct session_snap *ret_snaps,
                          uint32_t max, bool *ret_end) {
    struct part_letter l = {
        .session = s, .at = *cursor, .snaps = ret_snaps, .max = max < LETTER_SOCKETS ? max : LETTER_SOCKETS};
    uint32_t shards = s->rt->shard_count < USH_SET_MAX ? s->rt->shard_count : USH_SET_MAX;
    *ret_end = l.at.shard >= shards;
    if (*ret_end)
        return 0;
    if (s->set[l.at.shard] == NULL)
        l.shard_end = true; /* no letter to a shard that has nothing of it */
    else if (runtime_call(s->rt, l.at.shard, letter_run, &l) < 0)
        l.shard_end = true; /* it hangs: the list goes on without its sockets */
    if (l.shard_end)
        l.at = (struct session_cursor){.shard = l.at.shard + 1};
    *cursor = l.at;
    *ret_end = l.at.shard >= shards;
    return l.count;
}

/* The handle does not say which shard has it. */
static int ask_all(struct session *s, struct one *o, shard_fn *fn) {
    o->session = s;
    o->error = -ENOENT;
    for (uint32_t i = 0; i < s->rt->shard_count && o->error == -ENOENT; i++) {
        if (s->set[i] != NULL)
            (void)runtime_call(s->rt, i, fn, o);
    }
    return o->error;
}

int session_snapshot_one(struct session *s, uint32_t handle, struct session_snap *ret_snap) {
    struct one o = {.handle = handle, .snap = ret_snap};
    return ask_all(s, &o, one_run);
}

int session_stream_kill(struct session *s, uint32_t handle) {
    struct one o = {.handle = handle};
    if (USH_HANDLE_INDEX(handle) < s->layout.socket_max)
        return -EPROTOTYPE;
    return ask_all(s, &o, kill_run);
}
