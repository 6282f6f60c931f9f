/* SPDX-License-Identifier: Apache-2.0
 *
 * From the rule IR to what the hooks hold. Pure functions on values, any thread.
 */
#ifndef USHER_NICBACKEND_COVER_COMPILE_H
#define USHER_NICBACKEND_COVER_COMPILE_H

#include "nicbackend/cover.h"
#include "nicbackend/cover/cover_abi.h"

/* Number of rules made, at most COVER_RULES; -E2BIG. `gap` may be NULL. */
int cover_compile(const struct nb_policy *policy, struct cover_rule *ret_rules, struct cover_bank *ret_bank,
                  nb_cover_gap_fn *gap, void *arg);
/* What a hook with these rules says of a kernel socket's packet. */
void cover_answer(const struct cover_rule *rules, const struct cover_bank *bank, const struct nb_view *view,
                  const struct nb_owner *owner, struct nb_cover_answer *ret_answer);

#endif
