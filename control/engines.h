/* SPDX-License-Identifier: Apache-2.0
 *
 * The engines that usherd runs: those of the settings at its beginning, and those an operator loads, unloads and
 * upgrades. An engine brings along what belongs to it: options, tcp its ports, echo its service.
 *
 * Thread: control.
 */
#ifndef USHER_CONTROL_ENGINES_H
#define USHER_CONTROL_ENGINES_H

#include "dataplane/core/runtime.h"

struct usherd;

/* Are those of the settings fit? Into a runtime that never starts. */
int engines_try(struct usherd *u, struct runtime_error *err);
/* Before the workers start: what engines.load names, and those of policies. 0 or -errno with `err`. */
int engines_begin(struct usherd *u, struct runtime_error *err);

/* The echo service of the settings: nothing when there is none, or no engine for it. */
int engines_echo_begin(struct usherd *u, struct runtime_error *err);
void engines_echo_end(struct usherd *u);

/* While usherd serves. -EEXIST: it runs already; -ENOENT: no such module; -EBUSY: its kind is loaded at start only;
 * else the module is not fit. */
int engines_load(struct usherd *u, const char *name, struct runtime_error *err);
/* -ENOENT: it does not run; -EBUSY: programs or the policy need it. */
int engines_unload(struct usherd *u, const char *name, struct runtime_error *err);
/* `file` NULL: the module of that name in the engine folder, which a package may have replaced. 0 with the report, or
 * -errno with a sentence; then the old version goes on. */
int engines_upgrade(struct usherd *u, uint32_t engine, const char *file, struct runtime_upgrade_report *ret_report,
                    struct runtime_error *err);

#endif
