/* SPDX-License-Identifier: Apache-2.0
 *
 * A NIC that is not there: any capabilities, and every vice that a real one may have. For tests, the checker, and for
 * asking what a device of a given kind would take of a policy. Control thread; deterministic for a seed.
 */
#ifndef USHER_NICBACKEND_MODEL_MODEL_H
#define USHER_NICBACKEND_MODEL_MODEL_H

#include "nicbackend/backend.h"

struct nb_model;

struct nb_model_params {
    struct nb_caps caps;
    uint64_t seed;
    bool delayed;       /* operations take effect at any time and in any order until sync() */
    uint32_t fail_at;   /* this operation fails with fail_error, the first being 1; 0 = none */
    int fail_error;
    uint32_t die_at;    /* from this one on the device does not answer */
    uint32_t refuse_in; /* one in so many rules it will not take, whatever it says it can; 0 = none */
    void (*watch)(void *arg); /* after each operation; may judge */
    void *watch_arg;
};

int nb_model_create(const struct nb_model_params *params, struct nb_model **ret_model);
struct nb_backend *nb_model_backend(struct nb_model *m);
/* The rules stay, as in a device that outlives the daemon; the vices are new. For a second store on the same device. */
void nb_model_renew(struct nb_model *m, const struct nb_model_params *params);
/* nb_backend_ops.destroy() leaves it alone: stores come and go. */
void nb_model_destroy(struct nb_model *m);

/* Could the device drop this packet now? Ties are decided against you. `ret_credit` is of one rule that could. */
bool nb_model_may_drop(struct nb_model *m, const struct nb_key *key, uint64_t *ret_credit);
/* Does it, for certain? Counts. */
bool nb_model_packet(struct nb_model *m, const struct nb_key *key, uint32_t bytes);
/* Each rule is lost with a chance of `lost` in 256. */
void nb_model_reset(struct nb_model *m, uint32_t lost);
/* Somebody else's rule in our name space. */
int nb_model_intrude(struct nb_model *m, const struct nb_hw_rule *rule);
uint32_t nb_model_operations(const struct nb_model *m);

#endif
