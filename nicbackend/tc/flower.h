/* SPDX-License-Identifier: Apache-2.0
 *
 * A flower filter as rtnetlink writes it: encoded from a flow (flow/flow.h) and read back. Pure but for the message's
 * memory; any thread.
 */
#ifndef USHER_NICBACKEND_TC_FLOWER_H
#define USHER_NICBACKEND_TC_FLOWER_H

#include <netlink/msg.h>

#include "nicbackend/flow/flow.h"

#define FLOWER_COOKIE_MAGIC 0x52485355u /* "USHR" */

/* Where a filter is: all that names it to the kernel. */
struct flower_at {
    uint32_t ifindex;
    uint32_t chain;
    uint16_t prio;
    uint16_t ethertype; /* host order: one for a priority */
    uint32_t handle;
};

enum flower_verdict { FLOWER_PASS, FLOWER_DROP, FLOWER_GOTO };

struct flower {
    struct flower_at at;
    struct nb_cube flow;     /* of FLOWER_GOTO: everything */
    uint8_t verdict;         /* enum flower_verdict */
    uint32_t goto_chain;     /* of FLOWER_GOTO */
    uint32_t flags;          /* TCA_CLS_FLAGS_* */
    uint64_t credit;         /* in the cookie */
    bool ours;               /* its cookie is of this kind; what was read back only */
    struct nb_count count;   /* what was read back only */
};

/* RTM_NEWTFILTER, RTM_DELTFILTER or RTM_GETTFILTER for this filter; NULL: no memory. */
struct nl_msg *flower_request(int type, int flags, const struct flower *f);
/* All filters of the chain. */
struct nl_msg *flower_list_request(uint32_t ifindex, uint32_t chain);
/* 0; -ENOENT: not a filter, or of another kind; -EINVAL: a flower filter that no flow of ours would be. `ret->at` is
 * filled for -EINVAL, too. */
int flower_read(const struct nlmsghdr *answer, struct flower *ret);

#endif
