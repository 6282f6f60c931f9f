/* SPDX-License-Identifier: Apache-2.0
 *
 * After a predecessor that died: its connections are taken over and stand still until their programs come back, and its
 * claims stay, for as long as the setting keeper.recovery_grace says. Then what nobody came for is reset and the kernel
 * gets the other ports back. Thread: control.
 */
#ifndef USHER_CONTROL_RECOVERY_H
#define USHER_CONTROL_RECOVERY_H

#include <stddef.h>

struct usherd;

/* Gives the runtime what the store kept of its predecessor's. Before engines are loaded. */
void recovery_inherit(struct usherd *u);
/* After they are loaded, before the workers start. 0 or -errno. */
int recovery_open(struct usherd *u);
/* Programs can come back from now on; the time runs. */
int recovery_begin(struct usherd *u, char *err);
void recovery_end(struct usherd *u);

#endif
