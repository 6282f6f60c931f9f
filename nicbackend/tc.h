/* SPDX-License-Identifier: Apache-2.0
 *
 * The `tc` backend: flower filters on an interface's ingress, which its NIC takes over (skip_sw) or, when asked for,
 * the kernel itself runs. A kernel without flower and a NIC without offload are served by nicbackend/rules.h.
 *
 * Name space: a chain of our own behind one filter of chain 0 where the device has chains, else a range of priorities.
 * Each action carries a cookie. What the kernel has stored is read back and compared. Filters outlive the process; a
 * successor sees them as rules that it did not make, and replaces them.
 *
 * Thread: control only. An operation is one exchange with the kernel, 10 us and up, and what the device takes.
 */
#ifndef USHER_NICBACKEND_TC_H
#define USHER_NICBACKEND_TC_H

#include "nicbackend/flow/drops.h"

struct nb_tc;

enum nb_tc_place {
    NB_TC_HARDWARE, /* skip_sw: what the device refuses is refused */
    NB_TC_SOFTWARE, /* skip_hw */
};

struct nb_tc_params {
    uint32_t ifindex;
    enum nb_tc_place place;
    uint32_t rule_max; /* 0 = 8,192 */
    /* Of a device; the kernel has an order and no quirks. A device that does not keep to priorities gets drops of IPv4
     * only, and only where nothing overlaps. */
    bool ordered;
    struct nb_quirks quirks;
};

/* In the caller's network namespace. -EOPNOTSUPP: the kernel has no flower, or the device offloads none; -ENODEV. */
int nb_tc_create(const struct nb_tc_params *params, struct nb_tc **ret_tc, struct nb_error *err);
/* For nb_store_create(); its destroy() frees the whole, and leaves filters where they are unless there are none. */
struct nb_backend *nb_tc_backend(struct nb_tc *t);

#endif
