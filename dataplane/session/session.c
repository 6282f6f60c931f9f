/* SPDX-License-Identifier: Apache-2.0
 *
 * Making and ending sessions: the shared memory, its layout, the sets that shards serve, and what becomes of all of it
 * when the client is gone. Control thread; the letters it sends run on the shards' workers. Sockets are in socket.c.
 *
 * Ending takes two steps. Retiring a set (a letter) makes the worker blind to the client at once. The memory itself
 * stays until the last packet that carries the client's bytes has come back, which may be long after (a next hop that
 * does not answer); the worker then counts the set out and session_reap() frees the session.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dataplane/core/runtime_internal.h"
#include "dataplane/session/session_internal.h"

#define TX_DEFAULT     (8ull << 20)
#define RX_DEFAULT     (16ull << 20)
#define TX_MIN         (256ull << 10)
#define RX_MIN         (16ull * SLAB_BYTES)
#define SOCKET_DEFAULT 1024u

static uint64_t round_up(uint64_t n, uint64_t step) {
    return (n + step - 1) / step * step;
}

static uint64_t clamp(uint64_t wish, uint64_t standard, uint64_t min, uint64_t max) {
    uint64_t n = wish != 0 ? wish : standard;
    return n < min ? min : n > max ? max : n;
}

/* Zeroed, lazily touched, page aligned. */
static void *pages_get(size_t size) {
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void pages_put(void *p, size_t size) {
    if (p != NULL)
        munmap(p, size);
}

/* ---- layout ---- */

static uint32_t socket_end(const struct ush_header *h) {
    return h->socket_max + h->client_socket_max + h->accept_socket_max;
}

static void layout_plan(struct ush_header *h, const struct session_params *params) {
    uint32_t sockets = (uint32_t)clamp(params->socket_max, SOCKET_DEFAULT, 1, SESS_SOCKET_MAX);
    uint32_t streams = (uint32_t)round_up(clamp(params->stream_max, SESS_STREAMS, 64, SESS_STREAMS_MAX), 64);
    *h = (struct ush_header){.magic = USH_MAGIC,
                             .abi = params->abi,
                             .header_size = sizeof *h,
                             .socket_off = USH_PAGE,
                             .set_stride = round_up(ush_set_bytes(SESS_CQ_ENTRIES, SESS_SQ_ENTRIES), USH_PAGE),
                             .tx_size = round_up(clamp(params->tx_bytes, TX_DEFAULT, TX_MIN, SESS_TX_MAX), USH_PAGE),
                             .rx_size = round_up(clamp(params->rx_bytes, RX_DEFAULT, RX_MIN, SESS_RX_MAX), SLAB_BYTES),
                             .socket_max = sockets,
                             .sq_entries = SESS_SQ_ENTRIES,
                             .cq_entries = SESS_CQ_ENTRIES,
                             .tx_copy_max = SESS_TX_COPY_MAX,
                             .rx_cell_min = 1u << CELL_SHIFT,
                             .client_socket_max = streams,
                             .accept_socket_max = streams,
                             .features = USH_FEATURE_RETURN | USH_FEATURE_SHARE | USH_FEATURE_LEAVE};
    h->set_off = round_up(h->socket_off + (uint64_t)socket_end(h) * sizeof(struct ush_socket), USH_PAGE);
    h->tx_off = h->set_off + h->set_stride * USH_SET_MAX;
    h->rx_off = round_up(h->tx_off + h->tx_size, SLAB_BYTES);
    h->total_size = h->rx_off + h->rx_size;
}

static uint32_t slab_count(const struct session *s) {
    return (uint32_t)(s->layout.rx_size >> SLAB_SHIFT);
}

static int memory_make(struct session *s) {
    s->size = s->layout.total_size;
    s->memfd = sealed_memfd_create("usher-session", s->size);
    if (s->memfd < 0)
        return s->memfd;
    return 0;
}

static int memory_map(struct session *s, const struct session_comeback *back) {
    int error = back != NULL ? session_comeback_map(s, back) : memory_make(s);
    if (error < 0)
        return error;
    void *base = mmap(NULL, s->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, s->memfd, 0);
    if (base == MAP_FAILED)
        return -errno;
    s->base = base;
    error = session_guard_add(s->base, s->size, &s->guard);
    s->guarded = error == 0;
    if (error == 0)
        memcpy(s->base, &s->layout, sizeof s->layout);
    return error;
}

static int private_get(struct session *s) {
    uint32_t slabs = slab_count(s), sockets = s->layout.socket_max;
    s->socket = pages_get(socket_end(&s->layout) * sizeof *s->socket);
    s->flow = pages_get(sockets * sizeof *s->flow);
    s->closed = pages_get(sockets * sizeof *s->closed);
    s->slab = pages_get(slabs * sizeof *s->slab);
    s->cell_word = pages_get((s->layout.rx_size >> CELL_SHIFT) * sizeof *s->cell_word);
    s->slab_pool = calloc((slabs + 63) / 64, sizeof *s->slab_pool);
    s->accept_pool = malloc(s->layout.accept_socket_max / 8);
    if (s->accept_pool != NULL)
        memset(s->accept_pool, 0xff, s->layout.accept_socket_max / 8);
    if (!s->accept_pool || !s->socket || !s->flow || !s->closed || !s->slab || !s->cell_word || !s->slab_pool)
        return -ENOMEM;
    s->slab_pool_free = slabs;
    for (uint32_t i = 0; i < slabs; i++) {
        s->slab_pool[i / 64] |= 1ull << (i % 64);
        s->slab[i].set = SLAB_NOBODY;
    }
    return 0;
}

/* ---- what a user may have ---- */

struct session_quota *session_quota_create(uint32_t stream_max) {
    struct session_quota *q = aligned_alloc(CACHE_LINE, round_up(sizeof *q, CACHE_LINE));
    if (q != NULL)
        *q = (struct session_quota){.refs = 1, .max = stream_max};
    return q;
}

void session_quota_release(struct session_quota *q) {
    if (q != NULL && --q->refs == 0)
        free(q);
}

uint32_t session_quota_used(const struct session_quota *q) {
    return __atomic_load_n(&q->used, __ATOMIC_RELAXED);
}

struct session_key session_key_of(const struct session *s) {
    return s->key;
}

void session_owner_set(struct session *s, uint32_t owner) {
    __atomic_store_n(&s->owner, owner, __ATOMIC_RELAXED);
}

static void session_free(struct session *s) {
    uint32_t sockets = s->layout.socket_max;
    for (uint32_t i = 0; i < USH_SET_MAX; i++) {
        if (s->set[i] == NULL)
            continue;
        close(s->set[i]->kick_fd);
        free(s->set[i]);
    }
    if (s->guarded)
        session_guard_remove(s->guard);
    pages_put(s->base, s->size);
    pages_put(s->socket, socket_end(&s->layout) * sizeof *s->socket);
    for (uint32_t i = 0; s->parted && i < s->socket_high; i++)
        free(s->flow[i].part);
    pages_put(s->flow, sockets * sizeof *s->flow);
    pages_put(s->closed, sockets * sizeof *s->closed);
    pages_put(s->slab, slab_count(s) * sizeof *s->slab);
    pages_put(s->cell_word, (s->layout.rx_size >> CELL_SHIFT) * sizeof *s->cell_word);
    free(s->slab_pool);
    free(s->accept_pool);
    if (s->memfd >= 0)
        close(s->memfd);
    if (s->wake_fd >= 0)
        close(s->wake_fd);
    session_quota_release(s->quota);
    free(s);
}

int session_create(struct runtime *rt, const struct session_params *params, struct session **ret_session,
                   struct session_fds *ret_fds) {
    if (params->abi < USH_ABI_MIN || params->abi > USH_ABI_MAX)
        return -EPROTONOSUPPORT;
    struct session *s = calloc(1, sizeof *s);
    if (s == NULL)
        return -ENOMEM;
    s->rt = rt;
    s->memfd = s->wake_fd = -1;
    s->owner = params->owner;
    s->quota = params->quota;
    if (s->quota != NULL)
        s->quota->refs++;
    s->detach_why = DETACH_COUNT;
    layout_plan(&s->layout, params);
    int pair[2] = {-1, -1}, memfd = -1;
    int error = getrandom(&s->key, sizeof s->key, 0) == sizeof s->key ? memory_map(s, params->back) : -EIO;
    if (error == 0)
        error = private_get(s);
    if (error == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        error = -errno;
    if (error == 0 && params->back == NULL && (memfd = fcntl(s->memfd, F_DUPFD_CLOEXEC, 0)) < 0)
        error = -errno;
    s->wake_fd = pair[0];
    *ret_fds = (struct session_fds){.memfd = memfd, .wake_peer = pair[1]};
    s->back = params->back;
    if (error == 0 && s->back != NULL)
        error = session_comeback_sets(s, ret_fds);
    s->back = NULL;
    if (error < 0) {
        if (pair[1] >= 0)
            close(pair[1]);
        if (__atomic_load_n(&s->set_alive, __ATOMIC_RELAXED) != 0)
            session_destroy(s, DETACH_CLIENT_CLOSED); /* workers have some of its sets */
        else
            session_free(s);
        return error;
    }
    *ret_session = s;
    return 0;
}

/* ---- sets ---- */

static void set_fill(struct sess_set *set, struct session *s, uint32_t index, uint32_t slot) {
    uint8_t *base = s->base + s->layout.set_off + s->layout.set_stride * index;
    set->session = s;
    set->index = index;
    set->slot = slot;
    set->shm = (struct ush_set *)base;
    set->cq = (struct ush_cqe *)(base + ush_cq_off());
    set->socket = s->socket;
    set->shm_socket = (struct ush_socket *)(s->base + s->layout.socket_off);
    set->tx = s->base + s->layout.tx_off;
    set->rx = s->base + s->layout.rx_off;
    set->tx_size = s->layout.tx_size;
    set->socket_max = s->layout.socket_max;
    set->accept_base = set->socket_max + s->layout.client_socket_max;
    set->socket_end = socket_end(&s->layout);
    set->connect_high = set->socket_max;
    set->accept_high = set->accept_base;
    set->accept_pool = s->accept_pool;
    set->quota = s->quota;
    set->wake_fd = s->wake_fd;
    set->event_head = USH_NONE;
    set->ahead_handle = USH_NONE;
    set->sq_count = 1;
    for (uint32_t q = 0; q < USH_SQ_MAX; q++)
        set->sq[q].ring = (struct ush_sqe *)(base + ush_sq_off(SESS_CQ_ENTRIES, SESS_SQ_ENTRIES, q));
    cells_init(&set->cells, s->slab, s->cell_word, s->slab_pool, &s->slab_pool_free, slab_count(s), index);
    if (s->back != NULL)
        session_comeback_set(set, s);
}

static uint32_t slot_find(const struct shard *sh, const struct session *s) {
    static const struct session_key none;
    uint32_t slot = s->back != NULL ? session_comeback_slot(sh, &s->key) : USH_NONE;
    for (uint32_t i = 0; i < sh->session_max && slot == USH_NONE; i++) {
        if (!sh->slot_taken[i] && session_key_equal(&sh->keys[i], &none))
            slot = i;
    }
    return slot;
}

static void set_add_run(struct shard *sh, void *arg) {
    struct sess_set *set = arg;
    session_set_add(sh, set);
    session_cpu_set(sh, sh->worker != NULL ? shard_cpu(sh) : -1);
}

int session_set_make(struct session *s, uint32_t shard) {
    struct shard *sh = s->rt->shard[shard];
    uint32_t slot = slot_find(sh, s);
    if (slot == USH_NONE)
        return -ENOSPC;
    struct sess_set *set = aligned_alloc(CACHE_LINE, round_up(sizeof *set, CACHE_LINE));
    if (set == NULL)
        return -ENOMEM;
    memset(set, 0, sizeof *set);
    set->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (set->kick_fd < 0) {
        free(set);
        return -errno;
    }
    set_fill(set, s, shard, slot);
    __atomic_add_fetch(&s->set_alive, 1, __ATOMIC_RELAXED);
    int error = runtime_call(s->rt, shard, set_add_run, set);
    if (error < 0) {
        close(set->kick_fd);
        free(set);
        __atomic_sub_fetch(&s->set_alive, 1, __ATOMIC_RELAXED);
        return error;
    }
    sh->slot_taken[slot] = true;
    sh->keys[slot] = s->key;
    s->set[shard] = set;
    return 0;
}

static void sq_add_run(struct shard *sh, void *arg) {
    (void)sh;
    ((struct sess_set *)arg)->sq_count++;
}

int session_new_sq(struct session *s, uint32_t set, uint32_t *ret_index) {
    if (set >= USH_SET_MAX || s->set[set] == NULL)
        return -EINVAL;
    if (s->sq_made[set] + 1u >= USH_SQ_MAX)
        return -ENOSPC;
    int error = runtime_call(s->rt, set, sq_add_run, s->set[set]);
    if (error == 0)
        *ret_index = ++s->sq_made[set];
    return error;
}

/* ---- the end ---- */

static void retire_run(struct shard *sh, void *arg) {
    session_set_retire(sh, arg);
}

static void list_remove(struct session **list, struct session *s) {
    for (; *list != NULL; list = &(*list)->next) {
        if (*list == s) {
            *list = s->next;
            return;
        }
    }
}

void session_destroy(struct session *s, enum detach_reason why) {
    struct runtime *rt = s->rt;
    session_sockets_close(s);
    uint32_t attached = DETACH_COUNT;
    /* If a worker was quicker it has put the session in its ring, or is about to: session_reap() waits for that. */
    s->reported |= __atomic_compare_exchange_n(&s->detach_why, &attached, (uint32_t)why, false, __ATOMIC_ACQ_REL,
                                               __ATOMIC_RELAXED);
    for (uint32_t i = 0; i < USH_SET_MAX; i++) {
        if (s->set[i] != NULL)
            (void)runtime_call(rt, i, retire_run, s->set[i]);
    }
    list_remove(&rt->detached, s);
    s->destroyed = true;
    s->next = rt->zombies;
    rt->zombies = s;
    session_reap(rt);
}

/* What workers reported moves from their rings to control's list. */
static void detached_collect(struct runtime *rt) {
    for (uint32_t i = 0; i < rt->shard_count; i++) {
        for (struct session *s; (s = ring_pop(&rt->shard[i]->detached)) != NULL;) {
            s->reported = true;
            if (s->destroyed)
                continue;
            s->next = rt->detached;
            rt->detached = s;
        }
    }
}

void session_reap(struct runtime *rt) {
    detached_collect(rt);
    for (struct session **link = &rt->zombies; *link != NULL;) {
        struct session *s = *link;
        /* Acquires what the workers wrote last; pairs with session_set_release(). */
        if (!s->reported || __atomic_load_n(&s->set_alive, __ATOMIC_ACQUIRE) != 0) {
            link = &s->next;
            continue;
        }
        *link = s->next;
        for (uint32_t i = 0; i < rt->shard_count; i++) {
            if (s->set[i] == NULL)
                continue;
            rt->shard[i]->slot_taken[s->set[i]->slot] = false;
            rt->shard[i]->keys[s->set[i]->slot] = (struct session_key){{0, 0}};
        }
        session_free(s);
    }
}

struct session *session_next_detached(struct runtime *rt, enum detach_reason *ret_why) {
    detached_collect(rt);
    struct session *s = rt->detached;
    if (s == NULL)
        return NULL;
    rt->detached = s->next;
    *ret_why = (enum detach_reason)__atomic_load_n(&s->detach_why, __ATOMIC_RELAXED);
    return s;
}
