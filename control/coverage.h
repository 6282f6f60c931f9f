/* SPDX-License-Identifier: Apache-2.0
 *
 * The policy on kernel sockets: usherd's side of nicbackend/cover.h. Without a policy nothing is attached and nothing
 * costs. Where the hooks cannot be had, usherd serves all the same and says that kernel sockets are not judged.
 *
 * Thread: control.
 */
#ifndef USHER_CONTROL_COVERAGE_H
#define USHER_CONTROL_COVERAGE_H

#include <stddef.h>
#include <stdio.h>

struct coverage;
struct nb_fd;
struct policy;
struct usherd;

/* What a predecessor left in the store: taken out of u->inherited, before claims look there. */
void coverage_inherit(struct usherd *u);
/* Hooks for the policy in force, when there is one; interfaces are known. What was inherited is let go after that:
 * there is no moment without hooks. */
void coverage_begin(struct usherd *u);
void coverage_end(struct usherd *u);
/* `policy` is in force from now on. Makes the hooks if there are none yet. What they cannot do is logged. */
void coverage_policy(struct usherd *u, const struct policy *policy);
/* Why kernel sockets are not judged by the policy in force; "" when they are. */
const char *coverage_why(const struct usherd *u);
/* Links or their addresses changed. */
void coverage_links(struct usherd *u);
/* For the store; 0 when there are no hooks. */
size_t coverage_fds(const struct usherd *u, struct nb_fd *fds, size_t max);
void coverage_metrics_write(const struct usherd *u, FILE *out);

#endif
