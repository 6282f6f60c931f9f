/* SPDX-License-Identifier: Apache-2.0
 *
 * The suite that every backend passes: random operations, after which each packet of the toy world must fare as the
 * rules say, and the device must list and count what it was told. Tests only.
 */
#ifndef USHER_NICBACKEND_STORE_CONFORM_FIXTURE_H
#define USHER_NICBACKEND_STORE_CONFORM_FIXTURE_H

#include "nicbackend/backend.h"

struct conform {
    struct nb_backend *backend;
    bool (*drops)(void *arg, const struct nb_view *view); /* does the device drop it now? */
    void *arg;
    /* Takes every rule and does exactly what it says. Else it may refuse rules (-EOPNOTSUPP) and drop less than the
     * rules say, never more. */
    bool exact;
};

/* Deletes what it has made. Returns how many packets were dropped. */
uint32_t conform_run(const struct conform *c, uint64_t seed);

#endif
