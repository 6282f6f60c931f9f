/* SPDX-License-Identifier: Apache-2.0
 *
 * Clients that come back to a successor of the usherd they attached to. They bring their memory, say where their rings
 * stand and which cells they hold, and resume their streams one by one; the engine says how far each has come. All
 * of it is a client's word and can harm nobody but the client: a stream is resumed only by who knows the key of the
 * session whose it was. Control thread, except stream_take_resume().
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dataplane/core/runtime_internal.h"
#include "dataplane/session/session_internal.h"

/* ---- the session ---- */

/* It must be memory as this daemon makes it, so that no client can cut it short under us, and of today's layout. */
int session_comeback_map(struct session *s, const struct session_comeback *back) {
    struct ush_header seen;
    struct stat st;
    const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    if (fstat(back->memfd, &st) < 0 || (fcntl(back->memfd, F_GET_SEALS) & (seals | F_SEAL_WRITE)) != seals ||
        (uint64_t)st.st_size != s->layout.total_size ||
        pread(back->memfd, &seen, sizeof seen, 0) != (ssize_t)sizeof seen ||
        memcmp(&seen, &s->layout, sizeof seen) != 0)
        return -ESTALE;
    s->memfd = fcntl(back->memfd, F_DUPFD_CLOEXEC, 0);
    s->size = s->layout.total_size;
    return s->memfd < 0 ? -errno : 0;
}

bool session_key_equal(const struct session_key *a, const struct session_key *b) {
    return a->k[0] == b->k[0] && a->k[1] == b->k[1];
}

/* The slot that the key's session had, unless somebody has come back to it already. */
uint32_t session_comeback_slot(const struct shard *sh, const struct session_key *key) {
    for (uint32_t slot = 0; slot < sh->session_max; slot++) {
        if ((key->k[0] | key->k[1]) != 0 && !sh->slot_taken[slot] && session_key_equal(&sh->keys[slot], key))
            return slot;
    }
    return USH_NONE;
}

/* It keeps the key that it is known by: usherd may die before it hears of another. */
static void key_keep(struct session *s) {
    for (uint32_t i = 0; i < s->rt->shard_count; i++) {
        if (session_comeback_slot(s->rt->shard[i], &s->back->key) != USH_NONE) {
            s->key = s->back->key;
            return;
        }
    }
}

static void held_take(struct sess_set *set, const uint64_t *held, uint64_t words) {
    for (uint64_t w = 0; held != NULL && w < words; w++) {
        for (uint64_t map = held[w]; map != 0; map &= map - 1)
            cells_hold(&set->cells, (uint32_t)((w * 64 + (uint64_t)__builtin_ctzll(map)) << CELL_SHIFT));
    }
}

/* Before the set is polled. */
void session_comeback_set(struct sess_set *set, const struct session *s) {
    const struct session_comeback *back = s->back;
    for (uint32_t i = 0; i < back->rings.set_count; i++) {
        if (back->rings.set[i].set != set->index)
            continue;
        set->cq_tail = set->cq_head = back->rings.set[i].cq_pos;
        set->sq[0].head = back->rings.set[i].sq_pos;
        set->is_home = session_key_equal(&s->rt->shard[set->index]->keys[set->slot], &s->key);
        __atomic_store_n(&set->shm->sq[0].sq_head, set->sq[0].head, __ATOMIC_RELEASE);
        held_take(set, back->held[i], back->held_words);
    }
}

/* Each set that there can be, once. */
static int sets_check(const struct session *s, const struct ush_comeback *rings) {
    uint64_t seen = 0;
    if (rings->set_count > USH_SET_MAX)
        return -EINVAL;
    for (uint32_t i = 0; i < rings->set_count; i++) {
        uint32_t set = rings->set[i].set;
        if (set >= s->rt->shard_count || (seen & 1ull << set))
            return -ESTALE;
        seen |= 1ull << set;
    }
    return 0;
}

int session_comeback_sets(struct session *s, struct session_fds *ret_fds) {
    const struct ush_comeback *rings = &s->back->rings;
    int error = sets_check(s, rings);
    if (error < 0)
        return error;
    memset(s->base + s->layout.socket_off, 0, s->layout.socket_max * sizeof(struct ush_socket));
    key_keep(s);
    for (uint32_t i = 0; i < rings->set_count && error == 0; i++) {
        uint32_t shard = rings->set[i].set;
        error = session_set_make(s, shard);
        if (error == 0 && (ret_fds->kick[i] = fcntl(s->set[shard]->kick_fd, F_DUPFD_CLOEXEC, 0)) < 0)
            error = -errno;
        if (error == 0)
            s->kick_sent[shard] = true;
    }
    return error;
}

/* ---- its streams: on the worker ---- */

static int resume(struct shard *sh, struct sess_set *set, const struct ush_sqe *e, struct sess_socket *sk,
                  struct tcp_resumed *ret) {
    const uint64_t sink = SINK(SINK_SESSION, set->slot, e->resume.handle);
    struct tcp_cmd_resume cmd = {
        .cmd = {TCP_CMD_RESUME, sizeof cmd},
        .flow = {.local_port = e->resume.local_port, .remote_port = e->resume.remote_port, .proto = PROTO_TCP},
        .old_sink = sink,
        .sink = sink,
        .owner = sk->owner,
        .rx_bytes = e->resume.rx_bytes,
        .result = ret};
    struct engine_reply reply;
    memcpy(cmd.flow.local.b, e->resume.local, 16);
    memcpy(cmd.flow.remote.b, e->resume.remote, 16);
    return !set->is_home ? -ENOENT : session_transport(sh, PROTO_TCP, &cmd.cmd, &reply);
}

/* Takes the handle, of either range, for the client that says it has it. */
static bool handle_take(struct sess_set *set, uint32_t index) {
    uint8_t expected = SOCK_FREE;
    if (!__atomic_compare_exchange_n(&set->socket[index].state, &expected, SOCK_OPEN, false, __ATOMIC_ACQUIRE,
                                     __ATOMIC_RELAXED))
        return false;
    if (index < set->accept_base)
        return true;
    uint32_t bit = index - set->accept_base;
    __atomic_fetch_and(&set->accept_pool[bit / 64], ~(1ull << (bit % 64)), __ATOMIC_ACQUIRE);
    return true;
}

uint32_t stream_take_resume(struct shard *sh, struct sess_set *set, const struct ush_sqe *e) {
    uint32_t handle = e->resume.handle, index = USH_HANDLE_INDEX(handle);
    if (UNLIKELY(e->flags != 0))
        return DETACH_BAD_OP;
    if (UNLIKELY(index < set->socket_max || index >= set->socket_end))
        return DETACH_BAD_HANDLE;
    if (UNLIKELY(!handle_take(set, index)))
        return DETACH_BAD_CONNECT;
    bool over = !stream_quota_take(set);
    uint32_t owner = __atomic_load_n(&set->session->owner, __ATOMIC_RELAXED);
    struct sess_socket *sk = stream_record_fill(set, handle, owner, index >= set->accept_base ? SOCK_ACCEPTED : 0);
    sk->listener = USH_NONE;
    struct tcp_resumed result = {0};
    int error = over ? -EMFILE : resume(sh, set, e, sk, &result);
    if (error < 0) {
        sh->stats.streams_lost++;
        stream_refused(sh, set, handle, &(struct notice){.value = ECONNRESET});
        return SQE_TAKEN;
    }
    sh->stats.streams_resumed++;
    sk->sock = result.sock;
    sk->tx_done = sk->tx_told = result.acked;
    sk->tx_flight = result.taken - result.acked;
    __atomic_store_n(&set->shm_socket[index].tx_done, sk->tx_done, __ATOMIC_RELEASE);
    session_event(sh, set, handle, EV_RESUMED, &(struct notice){.value = result.taken});
    return SQE_TAKEN;
}
