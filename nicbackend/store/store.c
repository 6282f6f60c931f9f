/* SPDX-License-Identifier: Apache-2.0
 *
 * Entries of the store, its counters, and the audit. See store.h.
 */
#include "nicbackend/store/store_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- what has left --------------------------------------------------------------------------------------------- */

static uint32_t retired_at(const struct nb_store *s, uint64_t credit) {
    uint32_t lo = 0, hi = s->retired_count;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (s->retired[mid].credit < credit)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Room is made before the device is asked, so that nothing counted is lost. */
static int retired_reserve(struct nb_store *s) {
    if (s->retired_count < s->retired_size)
        return 0;
    uint32_t size = s->retired_size == 0 ? 64 : s->retired_size * 2;
    struct nb_retired *v = realloc(s->retired, size * sizeof *v);
    if (v == NULL)
        return -ENOMEM;
    s->retired = v;
    s->retired_size = size;
    return 0;
}

static void retire(struct nb_store *s, const struct nb_hw_rule *rule, struct nb_count count) {
    if (rule->action != NB_HW_DROP || count.packets == 0)
        return;
    uint32_t at = retired_at(s, rule->credit);
    if (at == s->retired_count || s->retired[at].credit != rule->credit) {
        memmove(&s->retired[at + 1], &s->retired[at], (s->retired_count - at) * sizeof *s->retired);
        s->retired[at] = (struct nb_retired){.credit = rule->credit};
        s->retired_count++;
    }
    s->retired[at].count.packets += count.packets;
    s->retired[at].count.bytes += count.bytes;
}

struct nb_count nb_store_credit(const struct nb_store *s, uint64_t credit) {
    uint32_t at = retired_at(s, credit);
    struct nb_count sum = {0, 0}, one;
    if (at < s->retired_count && s->retired[at].credit == credit)
        sum = s->retired[at].count;
    for (uint32_t i = 0; i < s->count; i++) {
        const struct nb_entry *e = &s->entries[i];
        if (e->rule.action != NB_HW_DROP || e->rule.credit != credit)
            continue;
        if (s->backend->ops->read(s->backend, e->handle, &one) == 0) {
            sum.packets += one.packets;
            sum.bytes += one.bytes;
        }
    }
    return sum;
}

void nb_store_counts(const struct nb_store *s, void (*fn)(void *arg, uint64_t credit, struct nb_count count),
                     void *arg) {
    struct nb_count one;
    for (uint32_t i = 0; i < s->retired_count; i++)
        fn(arg, s->retired[i].credit, s->retired[i].count);
    for (uint32_t i = 0; i < s->count; i++) {
        const struct nb_entry *e = &s->entries[i];
        if (e->rule.action == NB_HW_DROP && s->backend->ops->read(s->backend, e->handle, &one) == 0)
            fn(arg, e->rule.credit, one);
    }
}

/* --- entries --------------------------------------------------------------------------------------------------- */

static int entries_reserve(struct nb_store *s) {
    if (s->count < s->size)
        return 0;
    uint32_t size = s->size == 0 ? 64 : s->size * 2;
    struct nb_entry *v = realloc(s->entries, size * sizeof *v);
    if (v == NULL)
        return -ENOMEM;
    s->entries = v;
    s->size = size;
    return 0;
}

int nb_entry_add(struct nb_store *s, const struct nb_hw_rule *rule, struct nb_error *err) {
    uint64_t handle = 0;
    int error = entries_reserve(s);
    if (error != 0)
        return error;
    error = -EAGAIN;
    for (int i = 0; i < NB_TRIES && error == -EAGAIN; i++)
        error = s->backend->ops->add(s->backend, rule, &handle, err);
    if (error == 0)
        s->entries[s->count++] = (struct nb_entry){.rule = *rule, .handle = handle, .wanted = true};
    return error;
}

int nb_entry_swap(struct nb_store *s, struct nb_entry *e, const struct nb_hw_rule *rule, struct nb_error *err) {
    struct nb_count final = {0, 0};
    int error = retired_reserve(s);
    if (error != 0)
        return error;
    error = -EAGAIN;
    for (int i = 0; i < NB_TRIES && error == -EAGAIN; i++)
        error = s->backend->ops->swap(s->backend, e->handle, rule, &final, err);
    if (error != 0)
        return error;
    retire(s, &e->rule, final);
    e->rule = *rule;
    return 0;
}

int nb_entry_del(struct nb_store *s, struct nb_entry *e, struct nb_error *err) {
    struct nb_count final = {0, 0};
    int error = retired_reserve(s);
    if (error != 0)
        return error;
    error = -EAGAIN;
    for (int i = 0; i < NB_TRIES && error == -EAGAIN; i++)
        error = s->backend->ops->del(s->backend, e->handle, &final, err);
    if (error != 0 && error != -ENOENT)
        return error;
    retire(s, &e->rule, final);
    e->gone = true;
    return 0;
}

void nb_entries_sweep(struct nb_store *s) {
    uint32_t kept = 0;
    while (kept < s->count && !s->entries[kept].gone)
        kept++;
    for (uint32_t i = kept; i < s->count; i++)
        if (!s->entries[i].gone)
            s->entries[kept++] = s->entries[i];
    s->count = kept;
}

int nb_store_sync(struct nb_store *s) {
    int error = -EAGAIN;
    for (int i = 0; i < NB_TRIES && error == -EAGAIN; i++)
        error = s->backend->ops->sync(s->backend);
    return error;
}

/* --- the audit ------------------------------------------------------------------------------------------------- */

struct dumped {
    struct nb_entry *v;
    uint32_t count, size;
    int error;
};

static void on_dump(void *arg, uint64_t handle, const struct nb_hw_rule *rule) {
    struct dumped *d = arg;
    if (d->count == d->size) {
        uint32_t size = d->size == 0 ? 64 : d->size * 2;
        struct nb_entry *v = realloc(d->v, size * sizeof *v);
        d->error = v == NULL ? -ENOMEM : d->error;
        if (v == NULL)
            return;
        d->v = v;
        d->size = size;
    }
    d->v[d->count++] = (struct nb_entry){.rule = *rule, .handle = handle};
}

static int dump(struct nb_store *s, struct dumped *d) {
    int error = s->backend->ops->dump(s->backend, on_dump, d);
    return error != 0 ? error : d->error;
}

static bool same_rule(const struct nb_hw_rule *a, const struct nb_hw_rule *b) {
    return a->prec == b->prec && a->action == b->action && a->credit == b->credit && nb_cube_equal(&a->cube, &b->cube);
}

static int by_handle(const void *a, const void *b) {
    const struct nb_entry *x = a, *y = b;
    return (x->handle > y->handle) - (x->handle < y->handle);
}

/* Both sorted by handle. Entries that the device has lost are gone; what is left of `d` is not ours. */
static int compare(struct nb_store *s, struct dumped *d) {
    int differences = 0;
    uint32_t k = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        struct nb_entry *e = &s->entries[i];
        while (k < d->count && d->v[k].handle < e->handle)
            k++;
        bool there = k < d->count && d->v[k].handle == e->handle && same_rule(&d->v[k].rule, &e->rule);
        if (there)
            d->v[k].wanted = true;
        else
            e->gone = true;
        differences += !there;
    }
    for (k = 0; k < d->count; k++)
        differences += !d->v[k].wanted;
    return differences;
}

static bool lost_its_cover(const struct nb_store *s, const struct nb_entry *drop) {
    for (uint32_t i = 0; i < s->count; i++) {
        const struct nb_entry *e = &s->entries[i];
        if (e->gone && e->rule.action == NB_HW_PUNT && nb_cube_overlaps(&e->rule.cube, &drop->rule.cube))
            return true;
    }
    return false;
}

static int purge(struct nb_store *s, struct dumped *d, uint8_t action, struct nb_error *err) {
    int error = 0;
    for (uint32_t i = 0; i < d->count && error == 0; i++)
        if (!d->v[i].wanted && d->v[i].rule.action == action)
            error = nb_entry_del(s, &d->v[i], err);
    return error;
}

static int repair(struct nb_store *s, struct dumped *d, struct nb_error *err) {
    int error = purge(s, d, NB_HW_DROP, err);
    for (uint32_t i = 0; i < s->count && error == 0; i++) {
        struct nb_entry *e = &s->entries[i];
        if (!e->gone && e->rule.action == NB_HW_DROP && lost_its_cover(s, e))
            error = nb_entry_del(s, e, err);
    }
    if (error == 0)
        error = purge(s, d, NB_HW_PUNT, err);
    nb_entries_sweep(s);
    return error != 0 ? error : nb_store_sync(s);
}

int nb_store_audit(struct nb_store *s, struct nb_error *err) {
    struct dumped d = {.v = NULL};
    int error = dump(s, &d), differences = 0;
    if (error == 0) {
        if (d.count > 1)
            qsort(d.v, d.count, sizeof *d.v, by_handle);
        if (s->count > 1)
            qsort(s->entries, s->count, sizeof *s->entries, by_handle);
        differences = compare(s, &d);
        if (differences != 0)
            error = repair(s, &d, err);
    }
    free(d.v);
    return error != 0 ? error : differences;
}

/* --- all of it ------------------------------------------------------------------------------------------------- */

int nb_store_create(struct nb_backend *backend, struct nb_store **ret_store, struct nb_error *err) {
    struct nb_store *s = calloc(1, sizeof *s);
    struct dumped d = {.v = NULL};
    if (s == NULL)
        return nb_fail(err, -ENOMEM, "no memory for the rules of a NIC");
    s->backend = backend;
    int error = backend->ops->caps(backend, &s->caps, err);
    if (error == 0 && (error = nb_refusals_create(&s->refusals)) != 0)
        nb_fail(err, error, "no memory for the rules of a NIC");
    if (error == 0 && (error = dump(s, &d)) != 0)
        nb_fail(err, error, "cannot read what rules the backend %s has: %s", backend->ops->name, strerror(-error));
    if (error != 0) {
        free(d.v);
        nb_refusals_destroy(s->refusals);
        free(s);
        return error;
    }
    s->entries = d.v;
    s->count = d.count;
    s->size = d.size;
    *ret_store = s;
    return 0;
}

void nb_store_destroy(struct nb_store *s) {
    if (s == NULL)
        return;
    s->backend->ops->destroy(s->backend);
    nb_refusals_destroy(s->refusals);
    free(s->entries);
    free(s->retired);
    free(s);
}

const struct nb_caps *nb_store_caps(const struct nb_store *s) {
    return &s->caps;
}

const char *nb_store_backend(const struct nb_store *s) {
    return s->backend->ops->name;
}

const struct nb_refusals *nb_store_refusals(const struct nb_store *s) {
    return s->refusals;
}

uint32_t nb_store_count(const struct nb_store *s) {
    return s->count;
}

const struct nb_hw_rule *nb_store_rule(const struct nb_store *s, uint32_t i) {
    return &s->entries[i].rule;
}

int nb_store_program(const struct nb_store *s, struct nb_program *ret_program) {
    struct nb_program p = {
        .rules = malloc((s->count + NB_PROGRAM_ROOM) * sizeof *p.rules), .count = s->count, .room = NB_PROGRAM_ROOM};
    if (p.rules == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < s->count; i++)
        p.rules[i] = s->entries[i].rule;
    *ret_program = p;
    return 0;
}
