/* SPDX-License-Identifier: Apache-2.0
 *
 * What a device has been told, and how it is told something else without a moment of wrong verdicts:
 *
 *   1 add the covers of the new program      any packet may be punted, so this is always right
 *   2 delete the drops that are not in it    right by the old policy, which is still in force
 *   3 wait for the device; commit            software judges by the new policy from here on
 *   4 add the new drops                      their covers are all there
 *   5 delete the covers that are not in it   nothing needs them any more
 *
 * After every step, and when any step fails, the device is sound: it drops only what the policy in force drops. A cover
 * that the device does not take keeps the drops below it out; a drop that it does not let go of ends the change before
 * the commit. What the table was too full for is tried once more when the old rules are gone.
 *
 * Control thread. Counters: what a rule has counted is kept by its credit when it leaves the device.
 */
#ifndef USHER_NICBACKEND_STORE_STORE_H
#define USHER_NICBACKEND_STORE_STORE_H

#include "nicbackend/partition/partition.h"

struct nb_store;

/* Takes `backend`, and whatever rules a predecessor left in it as its own first program. */
int nb_store_create(struct nb_backend *backend, struct nb_store **ret_store, struct nb_error *err);
/* Leaves the rules in a device where they outlive the process, unless it is given an empty program first. */
void nb_store_destroy(struct nb_store *s);

const struct nb_caps *nb_store_caps(const struct nb_store *s);
const char *nb_store_backend(const struct nb_store *s);
const struct nb_refusals *nb_store_refusals(const struct nb_store *s);

struct nb_update {
    int (*commit)(void *arg); /* 0, or -errno: nothing has changed. NULL: software is as it should be already */
    void *arg;
    /* out */
    uint32_t added, deleted, kept, refused;
    bool committed;
    struct nb_error error; /* of the last operation that failed */
};

/* 0: the policy is in force, perhaps with fewer rules in the device than wished (`refused`). Else -errno, and the old
 * one still is, unless `committed`. */
int nb_store_update(struct nb_store *s, const struct nb_program *next, struct nb_update *update);

/* Asks the device what it has: rules that are not ours go (drops first), drops whose covers are lost go, and what has
 * vanished is forgotten. Returns how many differences there were (then update again), or -errno. */
int nb_store_audit(struct nb_store *s, struct nb_error *err);

/* What is in the device now; valid until the next call. */
uint32_t nb_store_count(const struct nb_store *s);
const struct nb_hw_rule *nb_store_rule(const struct nb_store *s, uint32_t i);
/* As a program, for nb_partition_params.resident; the caller frees it. */
int nb_store_program(const struct nb_store *s, struct nb_program *ret_program);
/* All that the device has dropped for this credit, ever. */
struct nb_count nb_store_credit(const struct nb_store *s, uint64_t credit);
/* The same of all credits, in pieces that add up. */
void nb_store_counts(const struct nb_store *s, void (*fn)(void *arg, uint64_t credit, struct nb_count count),
                     void *arg);

#endif
