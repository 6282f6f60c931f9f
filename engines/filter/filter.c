/* SPDX-License-Identifier: Apache-2.0
 *
 * The filter engine's life: memory, recovery, the ops table. It keeps no packets and has no timers. What judges is in
 * filter_packet.c (packets), filter_cache.c, filter_classify.c and filter_act.c.
 */
#include "engines/filter/filter.h"

#include <errno.h>

static const struct filter_config default_config = {.image_bytes = 32u << 20, .cache_lines = 16384, .talk_lines = 8192};

static const struct engine_counter counters[FILTER_COUNT_COUNT] = {
    [FILTER_COUNT_JUDGED] = {"judged_packets", "packets that met the policy"},
    [FILTER_COUNT_DROPPED] = {"dropped_packets", "packets that the policy dropped"},
    [FILTER_COUNT_REJECTED] = {"rejected_packets", "packets that the policy dropped and answered"},
    [FILTER_COUNT_RELATED] = {"related_packets", "errors about own packets and own neighbour discovery, let pass"},
    [FILTER_COUNT_MISSES] = {"cache_misses", "packets of flows that were not in the flow cache"},
    [FILTER_COUNT_EVICTED] = {"cache_evictions", "flows that another one pushed out of the flow cache"},
    [FILTER_COUNT_UNCACHED] = {"uncached_packets", "packets that so many rules match that nothing is remembered"},
    [FILTER_COUNT_TALK_EVICTED] = {"talk_evictions", "conversations that another one pushed out"},
    [FILTER_COUNT_TOLD] = {"told_packets", "senders on this host that were told of their packet's end"},
    [FILTER_COUNT_COMMITS] = {"committed_policies", "policies that came into force"},
    [FILTER_COUNT_LOGGED] = {"logged_packets", "packets of which a rule left a record"},
    [FILTER_COUNT_UNLOGGED] = {"unlogged_packets",
                               "packets without the record that a rule wanted: there were too many"},
};

static bool config_good(const struct filter_config *c, const char **ret_why) {
    *ret_why = "image_bytes: at least 4096 and below 2 GiB";
    if (c->image_bytes < 4096 || c->image_bytes >= 1u << 31)
        return false;
    *ret_why = "cache_lines and talk_lines: powers of two from 64 to 16777216";
    const uint32_t lines[] = {c->cache_lines, c->talk_lines};
    for (uint32_t i = 0; i < ARRAY_LEN(lines); i++)
        if (lines[i] < 64 || lines[i] > 1u << 24 || (lines[i] & (lines[i] - 1)) != 0)
            return false;
    return true;
}

static void plan(struct filter_state *st) {
    st->a.size = arena_round(sizeof *st);
    st->cache_lines = arena_plan_derived(&st->a, (size_t)st->cfg.cache_lines * sizeof(struct filter_line));
    st->talk_lines = arena_plan_derived(&st->a, (size_t)st->cfg.talk_lines * sizeof(struct filter_talk));
    st->trace_lines = arena_plan_derived(&st->a, FILTER_TRACE_MAX * sizeof(struct filter_trace));
    st->slot_lines = arena_plan_derived(&st->a, FILTER_TRACE_SLOTS * sizeof(uint32_t));
    for (uint32_t i = 0; i < 2; i++)
        st->half_lines[i] = arena_plan_derived(&st->a, st->cfg.image_bytes);
}

static size_t state_size(const void *cfg, char *err, size_t err_size) {
    struct filter_state st = {.cfg = cfg != NULL ? *(const struct filter_config *)cfg : default_config};
    const char *why;
    if (!config_good(&st.cfg, &why)) {
        engine_say(err, err_size, why);
        return 0;
    }
    plan(&st);
    return st.a.size;
}

static int init(void *state, size_t size, const void *cfg, uint64_t seed) {
    struct filter_state *st = (struct filter_state *)state;
    st->cfg = cfg != NULL ? *(const struct filter_config *)cfg : default_config;
    plan(st);
    if (st->a.size > size)
        return -ENOSPC;
    st->a.magic = ARENA_MAGIC;
    st->a.layout_version = FILTER_LAYOUT;
    st->a.seed = seed;
    st->active = FILTER_HALF_NONE;
    st->generation = 1;
    hash_key_init(&st->key, seed);
    return 0;
}

/* A death may have cut a bucket's chain: limits begin anew. */
static void clear_limits(struct filter_image *img) {
    memset(filter_at(img, FILTER_SEC_METERS), 0, img->size - img->at[FILTER_SEC_METERS]);
}

/* Sets change in place and are not under the sum. */
static bool sets_whole(const struct filter_image *img) {
    const struct filter_set *s = (const struct filter_set *)filter_at(img, FILTER_SEC_SETS);
    for (uint32_t i = 0; i < img->count[FILTER_SEC_SETS]; i++)
        if ((s[i].first != s[i].base && s[i].first != s[i].base + s[i].room) || s[i].count > s[i].room ||
            s[i].base + 2ull * s[i].room > img->count[s[i].addrs ? FILTER_SEC_ADDRS : FILTER_SEC_RANGES])
            return false;
    return true;
}

static bool image_whole(struct filter_state *st, uint32_t half) {
    const struct filter_image *img = filter_half(st, half);
    return st->filled[half] && img->magic == FILTER_MAGIC && img->size <= st->cfg.image_bytes &&
           img->fixed <= img->size && filter_sum(0, img, img->fixed) == st->sum[half] && sets_whole(img);
}

static int recover(void *state, size_t size, uint32_t *ret_lost) {
    struct filter_state *st = (struct filter_state *)state, planned = {.cfg = st->cfg};
    const char *why;
    if (!config_good(&st->cfg, &why))
        return -EUCLEAN;
    plan(&planned);
    if (!arena_same_plan(&st->a, &planned.a) || arena_recover(&st->a, size, FILTER_LAYOUT) != 0)
        return -EUCLEAN;
    *ret_lost = 0;
    st->cache_lines = planned.cache_lines;
    st->talk_lines = planned.talk_lines;
    st->trace_lines = planned.trace_lines;
    st->slot_lines = planned.slot_lines;
    memcpy(st->half_lines, planned.half_lines, sizeof st->half_lines);
    st->staging = false;
    hash_key_init(&st->key, st->a.seed);
    if (st->active != FILTER_HALF_NONE && (st->active > 1 || !image_whole(st, st->active))) {
        st->active = FILTER_HALF_NONE;
        *ret_lost = 1;
    }
    if (st->active != FILTER_HALF_NONE) {
        st->filled[1 - st->active] = false;
        clear_limits(filter_active(st));
    }
    memset(arena_at(st, st->talk_lines), 0, (size_t)st->cfg.talk_lines * sizeof(struct filter_talk));
    filter_cache_clear(st);
    return 0;
}

static void fini(void *state, struct engine_io *io) {
    (void)state;
    (void)io;
}

static uint32_t run(void *state, struct engine_io *io, uint32_t budget) {
    (void)state;
    (void)io;
    (void)budget;
    return 0;
}

static ns_t next_deadline(const void *state) {
    (void)state;
    return NS_NEVER;
}

/* A policy of another layout is not carried over: control, which has its source, installs it anew. */
static int64_t save(const void *state, uint64_t *cursor, uint8_t *buf, size_t size) {
    (void)state;
    (void)cursor;
    (void)buf;
    (void)size;
    return 0;
}

static int load(void *state, uint32_t from_version, const uint8_t *rec, size_t size) {
    (void)state;
    (void)from_version;
    (void)rec;
    (void)size;
    return -EBADMSG;
}

/* 1 no such half, 2 the policy is damaged, 3 generation 0. */
static int check(const void *state) {
    struct filter_state *st = (struct filter_state *)(uintptr_t)state;
    if (st->active > FILTER_HALF_NONE)
        return 1;
    if (st->active != FILTER_HALF_NONE && !image_whole(st, st->active))
        return 2;
    return st->generation == 0 ? 3 : 0;
}

__attribute__((visibility("default"))) extern const struct engine_ops usher_engine;
const struct engine_ops usher_engine = {
    .abi = ENGINE_ABI,
    .size = sizeof(struct engine_ops),
    .name = "filter",
    .stage = STAGE_FILTER,
    .caps = ENGINE_CAP_INPUT | ENGINE_CAP_OUTPUT,
    .layout_version = FILTER_LAYOUT,
    .counter_count = FILTER_COUNT_COUNT,
    .counters = counters,
    .state_size = state_size,
    .init = init,
    .recover = recover,
    .fini = fini,
    .input = filter_input,
    .output = filter_output,
    .run = run,
    .next_deadline = next_deadline,
    .command = filter_command,
    .save = save,
    .load = load,
    .check = check,
};
