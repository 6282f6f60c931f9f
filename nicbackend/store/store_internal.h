/* SPDX-License-Identifier: Apache-2.0
 *
 * The store as store.c and update.c see it.
 */
#ifndef USHER_NICBACKEND_STORE_STORE_INTERNAL_H
#define USHER_NICBACKEND_STORE_STORE_INTERNAL_H

#include "nicbackend/partition/index.h"
#include "nicbackend/store/store.h"

#define NB_TRIES 3 /* of an operation that fails for now */

struct nb_entry {
    struct nb_hw_rule rule;
    uint64_t handle;
    bool wanted; /* during an update: the new program has this very rule */
    bool gone;   /* to be swept out */
};

struct nb_retired {
    uint64_t credit;
    struct nb_count count;
};

struct nb_store {
    struct nb_backend *backend;
    struct nb_caps caps;
    struct nb_refusals *refusals;
    struct nb_entry *entries;
    uint32_t count, size;
    struct nb_retired *retired; /* by credit */
    uint32_t retired_count, retired_size;
};

/* Single operations: the device first, then the store. -ENOENT of the device is success: it is gone as wished. */
int nb_entry_add(struct nb_store *s, const struct nb_hw_rule *rule, struct nb_error *err);
int nb_entry_swap(struct nb_store *s, struct nb_entry *e, const struct nb_hw_rule *rule, struct nb_error *err);
int nb_entry_del(struct nb_store *s, struct nb_entry *e, struct nb_error *err);
void nb_entries_sweep(struct nb_store *s);
int nb_store_sync(struct nb_store *s);

#endif
