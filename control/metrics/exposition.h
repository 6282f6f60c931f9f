/* SPDX-License-Identifier: Apache-2.0
 *
 * Prometheus' text format, version 0.0.4: a family (HELP and TYPE) and the samples under it. Knows no metric.
 *
 * Thread: any; a writer is its caller's own.
 */
#ifndef USHER_CONTROL_METRICS_EXPOSITION_H
#define USHER_CONTROL_METRICS_EXPOSITION_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define LABEL_MAX 4

enum metric_type { METRIC_COUNTER, METRIC_GAUGE };

/* Names follow Prometheus' rules, which the caller sees to; values of labels may hold anything and are escaped. */
struct label {
    const char *name, *value;
};

/* Begins a family; its samples follow at once. */
void exposition_family(FILE *out, const char *name, enum metric_type type, const char *help);
/* `labels` ends with a NULL name; NULL = none. */
void exposition_count(FILE *out, const char *name, const struct label *labels, uint64_t value);
/* Nanoseconds, shown in seconds as is the custom. */
void exposition_seconds(FILE *out, const char *name, const struct label *labels, uint64_t ns);

#endif
