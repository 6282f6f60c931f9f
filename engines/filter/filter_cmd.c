/* SPDX-License-Identifier: Apache-2.0
 *
 * Commands: the transaction that brings a policy, owners, counters. Between two polls of the shard's worker; the
 * longest one copies FILTER_PART_MAX bytes. Control is trusted to send what it compiled; the sum tells a
 * transaction that was mixed up from a whole one.
 */
#include "engines/filter/filter.h"

#include <errno.h>

#define COUNTS_MAX 1024u

static uint32_t idle_half(const struct filter_state *st) {
    return st->active == 0 ? 1 : 0;
}

static void abort_stage(struct filter_state *st) {
    st->staging = false;
}

static int begin(struct filter_state *st, const struct filter_cmd_begin *c) {
    abort_stage(st);
    if (c->size < sizeof(struct filter_image) || c->size > st->cfg.image_bytes)
        return -EFBIG;
    st->filled[idle_half(st)] = false;
    st->staging = true;
    st->stage_size = c->size;
    st->stage_at = st->stage_sum = 0;
    st->stage_fixed = 0;
    return 0;
}

/* The head of the image says how many bytes the sum is over. */
static void sum_part(struct filter_state *st, const struct filter_cmd_part *c) {
    if (c->offset == 0) {
        struct filter_image head;
        memcpy(&head, c->bytes, sizeof head);
        st->stage_fixed = head.fixed;
    }
    if (c->offset >= st->stage_fixed)
        return;
    uint64_t left = st->stage_fixed - c->offset;
    st->stage_sum = filter_sum(st->stage_sum, c->bytes, left < c->size ? left : c->size);
}

static int part(struct filter_state *st, const struct filter_cmd_part *c) {
    if (!st->staging || c->offset != st->stage_at)
        return -EBADMSG;
    if (c->size == 0 || c->size > FILTER_PART_MAX || c->size % 8 != 0 || c->size > st->stage_size - c->offset)
        return -EINVAL;
    if (c->offset == 0 && (c->bytes == NULL || c->size < sizeof(struct filter_image)))
        return -EINVAL;
    uint8_t *to = (uint8_t *)filter_half(st, idle_half(st)) + c->offset;
    if (c->bytes == NULL) {
        if (c->offset < st->stage_fixed)
            return -EINVAL;
        memset(to, 0, c->size);
    } else {
        memcpy(to, c->bytes, c->size);
        sum_part(st, c);
    }
    st->stage_at += c->size;
    return 0;
}

/* The new half is in force with one store; what was derived from the old one is void before the next packet. */
static int commit(struct filter_state *st, struct engine_io *io, const struct filter_cmd_commit *c) {
    uint32_t half = idle_half(st);
    const struct filter_image *img = filter_half(st, half);
    if (!st->staging || st->stage_at != st->stage_size || st->stage_sum != c->sum || img->magic != FILTER_MAGIC ||
        img->size != st->stage_size) {
        abort_stage(st);
        return -EBADMSG;
    }
    st->staging = false;
    st->sum[half] = c->sum;
    st->filled[half] = true;
    arena_barrier();
    st->active = half;
    filter_cache_clear(st);
    ENGINE_COUNT(io, FILTER_COUNT_COMMITS);
    return 0;
}

static int owner(struct filter_state *st, const struct filter_cmd_owner *c) {
    struct filter_image *img = filter_active(st);
    if (img == NULL)
        return -ENOENT;
    if (c->owner == 0 || c->owner >= img->owner_max || c->count != img->owner_words)
        return -ERANGE;
    uint64_t *bits = (uint64_t *)filter_at(img, FILTER_SEC_OWNERS) + (size_t)c->owner * img->owner_words;
    size_t size = (size_t)c->count * sizeof *bits;
    if (size == 0 || memcmp(bits, c->bits, size) == 0)
        return 0;
    memcpy(bits, c->bits, size);
    filter_cache_clear(st); /* flows of the index's last bearer may be in it */
    return 0;
}

/* Parts go where nobody looks; the last one turns to them and leaves the old members whole. */
static int set(struct filter_state *st, const struct filter_cmd_set *c) {
    struct filter_image *img = filter_active(st);
    if (img == NULL)
        return -ENOENT;
    if (c->set >= img->count[FILTER_SEC_SETS] || c->count > FILTER_SET_PART || c->offset > c->total ||
        c->count > c->total - c->offset)
        return -EINVAL;
    struct filter_set *s = (struct filter_set *)filter_at(img, FILTER_SEC_SETS) + c->set;
    if (c->total > s->room)
        return -ENOSPC;
    uint32_t idle = s->first == s->base ? s->base + s->room : s->base;
    size_t size = s->addrs ? sizeof(struct filter_addrs) : sizeof(struct filter_range);
    uint8_t *to = (uint8_t *)filter_at(img, s->addrs ? FILTER_SEC_ADDRS : FILTER_SEC_RANGES);
    if (c->count > 0)
        memcpy(to + (idle + (size_t)c->offset) * size, c->members, c->count * size);
    if (c->offset + c->count < c->total)
        return 0;
    arena_barrier();
    const uint32_t turned[2] = {idle, c->total};
    uint64_t word;
    memcpy(&word, turned, sizeof word);
    __atomic_store_n((uint64_t *)(void *)s, word, __ATOMIC_RELAXED);
    filter_cache_clear(st);
    return 0;
}

static int counts(struct filter_state *st, const struct filter_cmd_counts *c, struct engine_reply *r) {
    uint32_t half = c->previous ? idle_half(st) : st->active;
    if (half == FILTER_HALF_NONE || !st->filled[half])
        return -ENOENT;
    const struct filter_image *img = filter_half(st, half);
    enum filter_section s = c->named ? FILTER_SEC_COUNTERS : FILTER_SEC_RULE_COUNTS;
    if (c->count > COUNTS_MAX)
        return -EINVAL;
    uint32_t there = c->first < img->count[s] ? img->count[s] - c->first : 0;
    r->value = c->count < there ? c->count : there;
    if (r->value != 0)
        memcpy(c->counts, (const struct filter_count *)filter_at(img, s) + c->first, r->value * sizeof *c->counts);
    return 0;
}

static int info(struct filter_state *st, struct engine_reply *r) {
    const struct filter_image *img = filter_active(st);
    r->value = img != NULL;
    r->value64 = img != NULL ? img->revision : 0;
    return 0;
}

void filter_command(void *state, struct engine_io *io, const struct engine_cmd *cmd, struct engine_reply *r) {
    struct filter_state *st = (struct filter_state *)state;
    static const uint16_t sizes[] = {
        [FILTER_CMD_BEGIN] = sizeof(struct filter_cmd_begin),   [FILTER_CMD_PART] = sizeof(struct filter_cmd_part),
        [FILTER_CMD_COMMIT] = sizeof(struct filter_cmd_commit), [FILTER_CMD_ABORT] = sizeof(struct engine_cmd),
        [FILTER_CMD_OWNER] = sizeof(struct filter_cmd_owner),   [FILTER_CMD_COUNTS] = sizeof(struct filter_cmd_counts),
        [FILTER_CMD_SET] = sizeof(struct filter_cmd_set),       [FILTER_CMD_INFO] = sizeof(struct engine_cmd),
    };
    if (cmd->id >= ARRAY_LEN(sizes) || sizes[cmd->id] == 0 || cmd->size < sizes[cmd->id]) {
        r->error = cmd->id < ARRAY_LEN(sizes) && sizes[cmd->id] != 0 ? -EINVAL : -ENOTSUP;
        return;
    }
    switch ((enum filter_cmd_id)cmd->id) {
    case FILTER_CMD_BEGIN:
        r->error = begin(st, (const struct filter_cmd_begin *)cmd);
        break;
    case FILTER_CMD_PART:
        r->error = part(st, (const struct filter_cmd_part *)cmd);
        break;
    case FILTER_CMD_COMMIT:
        r->error = commit(st, io, (const struct filter_cmd_commit *)cmd);
        break;
    case FILTER_CMD_ABORT:
        abort_stage(st);
        r->error = 0;
        break;
    case FILTER_CMD_OWNER:
        r->error = owner(st, (const struct filter_cmd_owner *)cmd);
        break;
    case FILTER_CMD_SET:
        r->error = set(st, (const struct filter_cmd_set *)cmd);
        break;
    case FILTER_CMD_COUNTS:
        r->error = counts(st, (const struct filter_cmd_counts *)cmd, r);
        break;
    case FILTER_CMD_INFO:
        r->error = info(st, r);
        break;
    }
}
