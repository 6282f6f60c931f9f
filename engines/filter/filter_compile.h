/* SPDX-License-Identifier: Apache-2.0
 *
 * From a policy to the image that the filter engine judges with (filter_image.h). Control thread, heap memory; not part
 * of the module. 10,000 rules take some 10 ms.
 */
#ifndef USHER_ENGINES_FILTER_FILTER_COMPILE_H
#define USHER_ENGINES_FILTER_FILTER_COMPILE_H

#include "engines/filter/filter_image.h"
#include "nicbackend/ir/rule.h"

/* An owner that is known already. Index 0 is nobody and need not be said. */
struct filter_owner {
    uint32_t index;
    const struct nb_owner *owner;
};

struct filter_compiled {
    struct filter_image *image; /* fixed bytes, then the owners' bits; all behind is zero and not allocated */
    uint64_t bytes;             /* allocated */
    uint64_t sum;
    uint32_t chain_max; /* most rules one probe may have to compare */
};

/* The policy must have passed nb_policy_check(). -ENOMEM. */
int filter_compile(const struct nb_policy *policy, const struct filter_owner *owners, uint32_t owner_count,
                   uint64_t seed, struct filter_compiled *ret_compiled);
void filter_compiled_free(struct filter_compiled *c);
/* The bits of one owner, NULL = nobody; `ret_bits` has image->owner_words words. */
void filter_owner_bits(const struct nb_policy *policy, const struct nb_owner *owner, uint64_t *ret_bits);
/* A set as FILTER_CMD_SET takes it: set->count members of its kind. */
void filter_set_members(const struct nb_set *set, void *ret_members);
/* The same words that the engine makes of a packet: for explain and tests. */
void filter_words_of_view(const struct nb_view *view, uint32_t owner, struct filter_words *ret_words);

#endif
