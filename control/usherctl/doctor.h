/* SPDX-License-Identifier: Apache-2.0
 *
 * What keeps this host from carrying packets well: each weakness with what it costs and how to mend it. The checks are
 * pure: they read files below a root folder, or messages of usherd.
 */
#ifndef USHER_CONTROL_USHERCTL_DOCTOR_H
#define USHER_CONTROL_USHERCTL_DOCTOR_H

#include "control/usherctl/ctl.h"

#define FINDING_MAX 96

enum verdict { VERDICT_OK, VERDICT_NOTE, VERDICT_WARN, VERDICT_FAIL };

struct finding {
    enum verdict verdict;
    const char *id;    /* stable: "host.kernel" */
    char what[256];    /* what was found */
    const char *costs; /* "" when all is well */
    const char *mend;
};

struct findings {
    struct finding list[FINDING_MAX];
    size_t count; /* those beyond the end are dropped */
};

/* What usherd said; NULL where it said nothing. */
struct doctor_answers {
    const PB(GetInfoResponse) *info;
    const PB(ListWorkersResponse) *workers;
    const PB(ListPortsResponse) *ports;
    const PB(CountersSnapshot) *drops;
    const PB(ListRefusalsResponse) *refusals;
};

/* `root`: "" for this host. */
void doctor_host(const char *root, struct findings *f);
/* /sys and /proc of the interfaces that usherd runs, and of its process. */
void doctor_nic(const char *root, const struct doctor_answers *a, struct findings *f);
void doctor_daemon(const struct doctor_answers *a, struct findings *f);
void doctor_print(const struct findings *f, const struct screen *s);
void doctor_json(const struct findings *f, FILE *out);

void finding_add(struct findings *f, enum verdict verdict, const char *id, const char *costs, const char *mend,
                 const char *fmt, ...) __attribute__((format(printf, 6, 7)));

#endif
