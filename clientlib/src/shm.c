/* SPDX-License-Identifier: Apache-2.0
 *
 * The shared mapping: checked once, here, before anything in it is believed. usherd is trusted not to change the header
 * afterwards, but a library that maps what it was handed into a stranger's program reads nothing outside of it.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clientlib/src/internal.h"

struct span {
    uint64_t off, size;
    const char *name;
};

static bool is_pow2(uint32_t v) {
    return v && !(v & (v - 1));
}

static int bad_header(const char *what) {
    return client_fail(-EPROTO,
                       "usherd's shared memory is not as announced (%s); are usherd and libusher of one "
                       "installation? Restart usherd after an upgrade",
                       what);
}

static int check_numbers(const struct ush_header *h) {
    if (h->magic != USH_MAGIC)
        return bad_header("magic");
    if (h->abi < USH_ABI_MIN || h->abi > USH_ABI_MAX)
        return bad_header("version");
    if (!is_pow2(h->sq_entries) || !is_pow2(h->cq_entries) || h->sq_entries > 1u << 20 || h->cq_entries > 1u << 20)
        return bad_header("ring sizes");
    if (!is_pow2(h->rx_cell_min) || h->rx_cell_min < USH_LINE)
        return bad_header("cell size");
    /* A received buffer's cookie keeps cell number and set in 32 bits; offsets of both regions are 32 bits. */
    if (h->rx_size > UINT32_MAX || h->rx_size / h->rx_cell_min > UINT32_MAX / USH_SET_MAX)
        return bad_header("RX region size");
    if (h->tx_size < TXBUF_SLAB || h->tx_size > UINT32_MAX)
        return bad_header("TX region size");
    if (h->socket_max == 0 || h->socket_max > 1u << 24)
        return bad_header("socket count");
    if (h->set_stride < ush_set_bytes(h->cq_entries, h->sq_entries) || h->set_stride % USH_LINE)
        return bad_header("set size");
    return 0;
}

static int check_header(const struct ush_header *h, uint64_t file_size) {
    int err = check_numbers(h);
    if (err)
        return err;
    uint64_t sets, sockets = (uint64_t)h->socket_max + h->client_socket_max + h->accept_socket_max;
    if (sockets > 1u << 24)
        return bad_header("socket count");
    if (__builtin_mul_overflow(h->set_stride, (uint64_t)USH_SET_MAX, &sets))
        return bad_header("set size");
    const struct span spans[] = {
        {h->socket_off, sockets * sizeof(struct ush_socket), "socket table"},
        {h->set_off, sets, "ring sets"},
        {h->tx_off, h->tx_size, "TX region"},
        {h->rx_off, h->rx_size, "RX region"},
    };
    if (h->total_size > file_size || h->total_size > SIZE_MAX)
        return bad_header("total size");
    for (size_t i = 0; i < sizeof(spans) / sizeof(spans[0]); i++) {
        uint64_t end;
        if (spans[i].off % USH_LINE || __builtin_add_overflow(spans[i].off, spans[i].size, &end) || end > h->total_size)
            return bad_header(spans[i].name);
    }
    return 0;
}

static int check_file(int memfd, uint64_t *ret_size) {
    struct stat st;
    if (fstat(memfd, &st) < 0)
        return client_fail(-errno, "fstat of usherd's shared memory: %s", strerror(errno));
    /* Without the seal a shrinking file would kill this program with SIGBUS. */
    int seals = fcntl(memfd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK))
        return bad_header("not sealed against shrinking");
    if (st.st_size < (off_t)sizeof(struct ush_header))
        return bad_header("too small");
    *ret_size = (uint64_t)st.st_size;
    return 0;
}

int client_shm_map(struct usher_context *ctx, int memfd) {
    uint64_t file_size = 0;
    int err = check_file(memfd, &file_size);
    if (err)
        return err;
    ssize_t n = pread(memfd, &ctx->h, sizeof(ctx->h), 0);
    if (n != (ssize_t)sizeof(ctx->h))
        return bad_header("header unreadable");
    err = check_header(&ctx->h, file_size);
    if (err)
        return err;
    void *p = mmap(NULL, ctx->h.total_size, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (p == MAP_FAILED)
        return client_fail(-errno,
                           "mapping %llu bytes shared with usherd: %s; ask for smaller tx_bytes and rx_bytes, "
                           "or raise the limit on address space (ulimit -v)",
                           (unsigned long long)ctx->h.total_size, strerror(errno));
    ctx->base = p;
    ctx->tx = ctx->base + ctx->h.tx_off;
    ctx->rx = ctx->base + ctx->h.rx_off;
    ctx->cell_shift = (uint32_t)__builtin_ctz(ctx->h.rx_cell_min);
    ctx->shared_sockets = (struct ush_socket *)(ctx->base + ctx->h.socket_off);
    ctx->table_size = ctx->h.socket_max + ctx->h.client_socket_max + ctx->h.accept_socket_max;
    ctx->by_handle = calloc(ctx->table_size, sizeof(struct usher_socket *));
    ctx->stream_free = calloc(ctx->h.client_socket_max + 1, sizeof(uint32_t));
    ctx->stream_generation = calloc(ctx->h.client_socket_max + 1, 1);
    bool tables = ctx->by_handle && ctx->stream_free && ctx->stream_generation;
    for (uint32_t i = ctx->h.client_socket_max; tables && i > 0; i--)
        ctx->stream_free[ctx->stream_free_count++] = ctx->h.socket_max + i - 1;
    err = tables ? txbuf_init(&ctx->txbuf, ctx->h.tx_size) : -ENOMEM;
    if (err)
        return client_fail(err, "no memory for the tables of the session");
    return 0;
}

static void set_free(struct client_set *s) {
    if (!s)
        return;
    if (s->kick_fd >= 0)
        close(s->kick_fd);
    free(s->sq_buf);
    free(s->release);
    free(s->held);
    free(s);
}

void client_shm_unmap(struct usher_context *ctx) {
    for (uint32_t i = 0; i < ctx->set_count; i++)
        set_free(ctx->sets[i]);
    ctx->set_count = 0;
    txbuf_fini(&ctx->txbuf);
    free(ctx->by_handle);
    free(ctx->stream_free);
    free(ctx->stream_generation);
    ctx->by_handle = NULL;
    ctx->stream_free = NULL;
    ctx->stream_generation = NULL;
    if (ctx->base)
        munmap(ctx->base, ctx->h.total_size);
    ctx->base = NULL;
}

int client_set_add(struct usher_context *ctx, uint32_t index, int kick_fd) {
    if (index >= USH_SET_MAX || ctx->set_at[index])
        return client_fail(-EPROTO, "usherd named ring set %u, which cannot be", index);
    struct client_set *s = aligned_alloc(64, sizeof(*s));
    if (!s)
        return client_fail(-ENOMEM, "no memory for a ring set");
    memset(s, 0, sizeof(*s));
    uint8_t *at = ctx->base + ctx->h.set_off + ctx->h.set_stride * index;
    s->index = index;
    s->shared = (struct ush_set *)at;
    s->cq = (struct ush_cqe *)(at + ush_cq_off());
    s->sq = (struct ush_sqe *)(at + ush_sq_off(ctx->h.cq_entries, ctx->h.sq_entries, 0));
    s->cq_mask = ctx->h.cq_entries - 1;
    s->sq_mask = ctx->h.sq_entries - 1;
    s->kick_fd = -1;
    s->release_room = 64;
    s->release = calloc(s->release_room, sizeof(uint32_t));
    s->sq_buf = calloc(ctx->h.sq_entries, sizeof(uint32_t));
    s->held = calloc(client_held_words(ctx), sizeof(uint64_t));
    if (!s->release || !s->sq_buf || !s->held) {
        set_free(s);
        return client_fail(-ENOMEM, "no memory for a ring set");
    }
    s->kick_fd = client_place_fd(kick_fd);
    ctx->sets[ctx->set_count] = ctx->set_at[index] = s;
    /* Spinning threads read set_count without the lock; pairs with their acquire load. */
    __atomic_store_n(&ctx->set_count, ctx->set_count + 1, __ATOMIC_RELEASE);
    return 0;
}
