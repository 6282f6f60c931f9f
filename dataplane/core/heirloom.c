/* SPDX-License-Identifier: Apache-2.0
 *
 * What one usherd leaves to the next: memfds with the states of stream transports and with the keys of the sessions. An
 * engine's records are sound at any instruction (engines/arena.h), so it makes no difference whether the predecessor
 * stopped or was killed. Control thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "dataplane/core/runtime_internal.h"
#include "dataplane/session/session.h"
#include "engines/tcp/tcp_cmd.h"

#define CODE         "code" /* by protocol number */
#define RECORD_BYTES (4u << 20)

static void name_make(char *name, size_t size, const char *what, uint32_t shard) {
    (void)snprintf(name, size, RUNTIME_HEIRLOOM "%s.%u", what, shard);
}

/* Connections are what a client cannot make anew: all other sockets it opens again. */
static bool is_kept(const struct engine_ops *ops) {
    return ops->stage == STAGE_TRANSPORT && ops->credit != NULL;
}

static void heirloom_note(const char *what, uint32_t shard, int fd, struct runtime_heirloom *ret, uint32_t max,
                          uint32_t *count) {
    if (*count == max)
        return;
    name_make(ret[*count].name, sizeof ret[*count].name, what, shard);
    ret[(*count)++].fd = fd;
}

uint32_t runtime_heirlooms(const struct runtime *rt, struct runtime_heirloom *ret_heirlooms, uint32_t max) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < rt->shard_count; i++) {
        const struct shard *sh = rt->shard[i];
        heirloom_note("keys", i, sh->key_memory.memfd, ret_heirlooms, max, &n);
        for (uint32_t e = 0; e < rt->engine_count; e++) {
            if (is_kept(&rt->engine[e].ops))
                heirloom_note(rt->engine[e].ops.name, i, sh->node[e].arena.memfd, ret_heirlooms, max, &n);
        }
    }
    for (uint32_t e = 0; e < rt->engine_count; e++) {
        if (is_kept(&rt->engine[e].ops) && rt->engine[e].memfd >= 0)
            heirloom_note(CODE, rt->engine[e].ops.proto, rt->engine[e].memfd, ret_heirlooms, max, &n);
    }
    return n;
}

void runtime_inherit(struct runtime *rt, const char *name, int fd) {
    if (rt->heirloom_count == ARRAY_LEN(rt->heirloom)) {
        close(fd);
        return;
    }
    struct runtime_heirloom *h = &rt->heirloom[rt->heirloom_count++];
    (void)snprintf(h->name, sizeof h->name, "%s", name);
    h->fd = fd;
}

/* The fd of that name, which is the caller's then; -1 when there is none. */
static int heirloom_take(struct runtime *rt, const char *what, uint32_t shard) {
    char name[sizeof rt->heirloom[0].name];
    name_make(name, sizeof name, what, shard);
    for (uint32_t i = 0; i < rt->heirloom_count; i++) {
        if (strcmp(rt->heirloom[i].name, name) != 0)
            continue;
        int fd = rt->heirloom[i].fd;
        rt->heirloom[i] = rt->heirloom[--rt->heirloom_count];
        return fd;
    }
    return -1;
}

/* The same, and it stays where it is. */
static int heirloom_find(const struct runtime *rt, const char *what, uint32_t number) {
    char name[sizeof rt->heirloom[0].name];
    name_make(name, sizeof name, what, number);
    for (uint32_t i = 0; i < rt->heirloom_count; i++) {
        if (strcmp(rt->heirloom[i].name, name) == 0)
            return rt->heirloom[i].fd;
    }
    return -1;
}

void heirlooms_drop(struct runtime *rt) {
    while (rt->heirloom_count > 0)
        close(rt->heirloom[--rt->heirloom_count].fd);
}

/* Each record in turn, by the code that made it and by ours. */
static int records_move(const struct engine_ops *old, void *from, const struct engine_ops *fresh, void *to) {
    uint32_t version = old->layout_version < fresh->layout_version ? old->layout_version : fresh->layout_version;
    uint8_t *record = malloc(RECORD_BYTES);
    uint64_t cursor = 0;
    int64_t n = record == NULL ? -ENOMEM : 1;
    while (n > 0 && (n = old->save(from, &cursor, record, RECORD_BYTES)) > 0) {
        int error = fresh->load(to, version, record, (size_t)n);
        n = error < 0 ? error : n;
    }
    free(record);
    return (int)n;
}

/* A state of another layout: the predecessor's own code repairs it and says what is in it. */
static int heirloom_translate(struct runtime *rt, struct node *nd, const struct arena_memory *a, uint32_t *ret_lost) {
    struct module code;
    struct runtime_error err;
    int fd = heirloom_find(rt, CODE, nd->ops->proto);
    if (fd < 0 || module_load_fd(&code, fd, &err) < 0)
        return -EUCLEAN;
    int error = strcmp(code.ops.name, nd->ops->name) == 0 ? code.ops.recover(a->base, a->size, ret_lost) : -EUCLEAN;
    if (error == 0)
        error = records_move(&code.ops, a->base, nd->ops, nd->st);
    module_unload(&code);
    return error;
}

/* 0: the state is in nd, and the memory where it was is gone or nd's. */
static int heirloom_take_over(struct runtime *rt, struct node *nd, struct arena_memory *a, uint32_t *ret_lost) {
    if (nd->ops->recover(a->base, a->size, ret_lost) == 0) {
        arena_memory_destroy(&nd->arena);
        nd->arena = *a;
        nd->st = a->base;
        return 0;
    }
    int error = heirloom_translate(rt, nd, a, ret_lost);
    arena_memory_destroy(a);
    return error;
}

void heirloom_adopt(struct runtime *rt, uint32_t shard, struct node *nd) {
    struct arena_memory a;
    uint32_t lost = 0;
    int fd = is_kept(nd->ops) ? heirloom_take(rt, nd->ops->name, shard) : -1;
    if (fd < 0)
        return;
    int error = arena_memory_adopt(&a, fd);
    if (error < 0)
        close(fd);
    else
        error = heirloom_take_over(rt, nd, &a, &lost);
    rt->estate.arenas += error == 0;
    rt->estate.refused += error < 0;
    rt->estate.lost += error == 0 ? lost : 0;
}

/* A copy, because there may be another number of slots; connections of those that are gone cannot be resumed. */
static bool keys_inherit(struct runtime *rt, struct shard *sh) {
    struct arena_memory old;
    int fd = heirloom_take(rt, "keys", sh->index);
    if (fd < 0)
        return false;
    if (arena_memory_adopt(&old, fd) < 0) {
        close(fd);
        return false;
    }
    size_t bytes = sh->session_max * sizeof *sh->keys;
    memcpy(sh->keys, old.base, bytes < old.size ? bytes : old.size);
    arena_memory_destroy(&old);
    return true;
}

static void keys_forget(struct shard *sh) {
    for (uint32_t slot = 0; slot < sh->session_max; slot++) {
        if (!sh->slot_taken[slot])
            sh->keys[slot] = (struct session_key){{0, 0}};
    }
}

static int freeze(struct runtime *rt, uint32_t shard, bool on, uint32_t *ret_reset) {
    const struct tcp_cmd_freeze cmd = {.cmd = {TCP_CMD_FREEZE, sizeof cmd}, .on = on};
    struct engine_reply reply = {.error = 0};
    uint32_t engine;
    int error = runtime_engine_find(rt, "tcp", &engine);
    if (error == 0)
        error = runtime_command(rt, shard, engine, &cmd.cmd, &reply);
    *ret_reset = reply.value;
    return error;
}

static void quiet_run(struct shard *sh, void *arg) {
    sh->quiet = *(const bool *)arg;
}

int runtime_estate_open(struct runtime *rt, struct runtime_estate *ret_estate) {
    uint32_t none;
    int error = 0;
    for (uint32_t i = 0; i < rt->shard_count; i++) {
        rt->shard[i]->quiet = keys_inherit(rt, rt->shard[i]);
    }
    heirlooms_drop(rt);
    for (uint32_t i = 0; i < rt->shard_count && rt->estate.arenas > 0 && error == 0; i++)
        error = freeze(rt, i, true, &none);
    *ret_estate = rt->estate;
    return error;
}

uint32_t runtime_estate_close(struct runtime *rt) {
    uint32_t reset = 0, some;
    bool quiet = false;
    for (uint32_t i = 0; i < rt->shard_count; i++) {
        (void)runtime_call(rt, i, quiet_run, &quiet);
        keys_forget(rt->shard[i]);
    }
    for (uint32_t i = 0; i < rt->shard_count && rt->estate.arenas > 0; i++) {
        while (freeze(rt, i, false, &some) == 0 && some > 0)
            reset += some;
    }
    rt->estate.arenas = 0;
    return reset;
}
