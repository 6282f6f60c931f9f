/* SPDX-License-Identifier: Apache-2.0
 *
 * usherd's engines: the options that the settings give them, and their upgrade under traffic. Thread: control.
 */
#ifndef USHER_CONTROL_ENGINES_H
#define USHER_CONTROL_ENGINES_H

#include "dataplane/core/runtime.h"

struct usherd;

/* Before the workers start. 0, or -errno with a sentence. */
int engines_load(struct usherd *u, const char *name, struct runtime_error *err);
/* `file` NULL: the module of that name in the engine folder, which a package may have replaced. 0 with the report, or
 * -errno with a sentence; then the old version goes on. */
int engines_upgrade(struct usherd *u, uint32_t engine, const char *file, struct runtime_upgrade_report *ret_report,
                    struct runtime_error *err);

#endif
