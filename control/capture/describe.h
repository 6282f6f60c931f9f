/* SPDX-License-Identifier: Apache-2.0
 *
 * What is said of a captured packet: a sentence for people, and words for programs. Names come from elsewhere and may
 * be hostile (a program chooses its own): whatever is no plain character is shown as %XX. Pure; any thread.
 */
#ifndef USHER_CONTROL_CAPTURE_DESCRIBE_H
#define USHER_CONTROL_CAPTURE_DESCRIBE_H

#include <stddef.h>

#include "control/identity/owner.h"
#include "dataplane/capture/capture.h"

struct description {
    const struct capture_record *record;
    const struct owner *owner; /* NULL = nobody's, or not known */
    const char *user;          /* the owner's name, "" when it has none */
    const char *rule;          /* that ended it, NULL = none or not known */
};

/* "sent by flood, pid 12, user bob (1001), /usr/bin/flood, cgroup /x; dropped: the policy says so, rule no-flood" */
void describe_sentence(const struct description *d, char *ret_text, size_t size);
/* "dir=out point=drop verdict=drop reason=POLICY engine=filter rule=no-flood uid=1001 user=bob pid=12 ..." */
void describe_words(const struct description *d, char *ret_text, size_t size);

#endif
