/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: the shared memory of a session, written by a hostile client between the daemon's turns. Entries with any
 * content, entries that are nearly right, and any bytes anywhere; meanwhile control moves its streams to and fro.
 * Whatever it does, the session ends with every packet back in its pool.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "dataplane/core/test_kit.h"
#include "test/fuzz/fuzz_input.h"

#define STEPS_MAX  64
#define SHARED_MAX 8

static struct kit kit;
static struct session_stream shared[SHARED_MAX]; /* in no session */
static uint32_t shared_count;

static void put_raw(struct kit_client *c, struct fuzz_input *in) {
    struct ush_sqe e;
    fuzz_fill(in, &e, sizeof e);
    fake_client_put(&c->c, &e);
}

static void put_send(struct kit_client *c, struct fuzz_input *in) {
    uint8_t wrong = fuzz_u8(in);
    struct ush_sqe e = {.op = USH_OP_SEND, .flags = USH_SEND_TO | (wrong & 128 ? USH_SEND_FROM : 0)};
    e.send.handle = wrong & 1 ? fuzz_u32(in) : c->sock.handle;
    e.send.off = wrong & 2 ? fuzz_u32(in) : fuzz_u16(in);
    e.send.len = wrong & 4 ? fuzz_u32(in) : fuzz_u16(in) % 4096u;
    e.send.gso_size = wrong & 8 ? fuzz_u16(in) : 0;
    e.send.port = wrong & 16 ? fuzz_u16(in) : 7;
    memcpy(e.send.addr, kit_addr(1).b, 16);
    if (wrong & 32)
        fuzz_fill(in, e.send.addr, 16);
    if (wrong & 64)
        e.flags = fuzz_u8(in);
    fake_client_put(&c->c, &e);
}

static void put_release(struct kit_client *c, struct fuzz_input *in) {
    struct ush_sqe e = {.op = USH_OP_RELEASE, .count = fuzz_u8(in) % 17};
    for (uint32_t i = 0; i < e.count && i < 14; i++)
        e.release.cell[i] = fuzz_u16(in) * c->c.h.rx_cell_min;
    fake_client_put(&c->c, &e);
}

static uint32_t stream_of(const struct kit_client *c, struct fuzz_input *in) {
    uint8_t which = fuzz_u8(in);
    uint32_t index = c->c.h.socket_max + which % 4 + (which & 128 ? c->c.h.client_socket_max : 0);
    return which & 64 ? fuzz_u32(in) : USH_HANDLE(index, which >> 4 & 1);
}

/* Mostly legal, so that it gets deep. */
static void put_stream(struct kit_client *c, struct fuzz_input *in) {
    uint8_t what = fuzz_u8(in);
    struct ush_sqe e = {.op = (uint8_t)(USH_OP_CONNECT + (what & 7))};
    STATIC_ASSERT(USH_OP_CONNECT + 7 == USH_OP_PARK, "every operation of a stream is tried");
    e.send.handle = e.connect.handle = stream_of(c, in);
    if (what & 16) {
        e.op = USH_OP_SEND;
        e.send.off = fuzz_u16(in);
        e.send.len = what & 32 ? fuzz_u32(in) : fuzz_u16(in);
        e.flags = what & 64 ? USH_SEND_URGENT : 0;
    } else if (e.op == USH_OP_CONNECT) {
        e.connect.port = what & 32 ? fuzz_u16(in) : 80;
        e.flags = (uint8_t)(what >> 6 << 1); /* FASTOPEN, BOUND */
        e.connect.bound = e.flags & USH_CONNECT_BOUND ? fuzz_u8(in) : 0;
        memcpy(e.connect.addr, kit_addr(1).b, 16);
    } else {
        e.flags = e.op == USH_OP_CLOSE ? what >> 6 : e.op == USH_OP_OPTION ? what >> 7 : 0;
        e.stream.option = fuzz_u8(in) % (USH_STREAM_OPTION_COUNT + 1);
        e.stream.value = fuzz_u32(in);
    }
    fake_client_put(&c->c, &e);
}

static void take(struct kit_client *c, struct fuzz_input *in) {
    struct ush_cqe e;
    for (uint32_t i = fuzz_u8(in) % 16; i > 0 && fake_client_take(&c->c, &e); i--)
        if (e.type == USH_CQ_RECV || (e.type == USH_CQ_INFO && e.info.cell != USH_NONE))
            fake_client_release(&c->c, e.type == USH_CQ_RECV ? e.recv.cell : e.info.cell);
    if (fuzz_u8(in) & 1)
        fake_client_release_flush(&c->c);
}

static void spoil_word(struct kit_client *c, struct fuzz_input *in) {
    uint64_t at = (uint64_t)fuzz_u32(in) * 4 % c->c.size;
    uint32_t value = fuzz_u32(in);
    memcpy(c->c.base + at, &value, sizeof value);
}

static void spoil_set(struct kit_client *c, struct fuzz_input *in) {
    ((uint32_t *)c->c.set)[fuzz_u16(in) % (sizeof *c->c.set / 4)] = fuzz_u32(in);
}

static void spoil_entry(struct kit_client *c, struct fuzz_input *in) {
    uint8_t *line = (uint8_t *)&c->c.sq[(c->c.sq_tail - fuzz_u8(in) % 4) % c->c.h.sq_entries];
    line[fuzz_u8(in) % 64] = fuzz_u8(in);
}

static void move_tail(struct kit_client *c, struct fuzz_input *in) {
    c->c.sq_tail += (uint32_t)(int16_t)fuzz_u16(in);
}

static void turn(struct kit_client *c, struct fuzz_input *in) {
    (void)c;
    for (uint32_t i = fuzz_u8(in) % 8 + 1; i > 0; i--)
        (void)kit_turn(&kit);
}

/* ---- what control does meanwhile: streams go from session to session ---- */

static void share(struct kit_client *c, struct fuzz_input *in) {
    uint32_t handle = stream_of(c, in);
    if (shared_count < SHARED_MAX && session_stream_share(c->s, handle, &shared[shared_count]) == 0)
        shared_count++;
}

static void adopt(struct kit_client *c, struct fuzz_input *in) {
    struct session_socket made;
    (void)in;
    if (shared_count == 0)
        return;
    int err = session_stream_adopt(c->s, &shared[shared_count - 1], &made);
    if (err == 0 && made.kick_fd >= 0)
        (void)close(made.kick_fd);
    shared_count -= err == 0 || err == -ENOENT;
}

static void drop(struct kit_client *c, struct fuzz_input *in) {
    (void)c;
    if (shared_count > 0)
        session_stream_drop(kit.rt, &shared[--shared_count], fuzz_u8(in) & 1);
}

static void recall(struct kit_client *c, struct fuzz_input *in) {
    session_stream_recall(c->s, stream_of(c, in));
}

static void read_region(struct kit_client *c, struct fuzz_input *in) {
    uint32_t off = fuzz_u32(in), len = fuzz_u16(in);
    int fd = session_tx_file(c->s, off % 3 ? off % (uint32_t)c->c.h.tx_size : off, len);
    if (fd >= 0)
        (void)close(fd);
}

/* The session is about to end, and others have copies. */
static void leave(struct kit_client *c) {
    for (uint32_t i = 0; i < 4 && shared_count < SHARED_MAX; i++) {
        uint32_t index = c->c.h.socket_max + i % 2 + (i / 2) * c->c.h.client_socket_max;
        for (uint32_t g = 0; g < 2 && shared_count < SHARED_MAX; g++) {
            if (session_stream_leave(c->s, USH_HANDLE(index, g), &shared[shared_count]) == 0)
                shared_count++;
        }
    }
}

static void (*const steps[])(struct kit_client *c, struct fuzz_input *in) = {
    put_raw,    put_send,   put_release, take,  spoil_word, spoil_set, spoil_entry, move_tail,  turn,
    put_stream, put_stream, turn,        share, adopt,      drop,      recall,      read_region};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct kit_client client;
    struct fuzz_input in = {data, size};
    enum detach_reason why;
    if (kit.rt == NULL) {
        kit_open(&kit, NULL);
        (void)kit_echo(&kit, 0, 7);
        kit_tcp(&kit, 64);
    }
    struct session_socket listener;
    kit_attach(&kit, &client, 5000);
    (void)kit_listen(&client, 80, &listener);
    for (uint32_t i = 0; i < STEPS_MAX && in.left > 0; i++)
        steps[fuzz_u8(&in) % ARRAY_LEN(steps)](&client, &in);
    kit_settle(&kit);
    if (session_next_detached(kit.rt, &why) == NULL)
        leave(&client);
    kit_detach(&kit, &client);
    kit_settle(&kit);
    while (shared_count > 0)
        drop(&client, &in);
    kit_settle(&kit);
    for (uint32_t i = 0; i < 64 && kit.rt->zombies != NULL; i++) {
        kit_pass(NS_PER_SEC); /* what the client had closed lingers for a while */
        kit_settle(&kit);
        session_reap(kit.rt);
    }
    const struct pkt_pool *pool = &kit.rt->shard[0]->small.pool;
    if (pool->free_count != pool->count || kit.rt->zombies != NULL) {
        fprintf(stderr, "fuzz: %u of %u packets came back\n", pool->free_count, pool->count);
        abort();
    }
    return 0;
}
