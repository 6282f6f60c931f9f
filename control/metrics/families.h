/* SPDX-License-Identifier: Apache-2.0
 *
 * What usherd shows of itself, as metrics. Every label has a bounded set of values: workers, interfaces, reasons,
 * engines, the policy's classes; never an address, a port, a user or a program.
 *
 * Thread: control.
 */
#ifndef USHER_CONTROL_METRICS_FAMILIES_H
#define USHER_CONTROL_METRICS_FAMILIES_H

#include <stdio.h>

#include "control/broker/broker.h"

struct policy;

struct metrics_source {
    struct runtime *rt;
    struct broker *const *broker; /* *broker may be NULL: it comes last and goes first */
    const uint32_t *sessions_max;
    const struct policy *(*policy)(void *arg); /* the one in force, or NULL; NULL: nobody knows */
    void *policy_arg;
    void (*more)(void *arg, FILE *out); /* families of rooms that this one does not know; NULL = none */
    void *arg;
};

/* Writes all families. Costs one read of each counter and one letter to each shard (the tcp engine's gauges), one
 * for 1,024 classes. */
void metrics_write(FILE *out, const struct metrics_source *src);

#endif
