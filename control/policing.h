/* SPDX-License-Identifier: Apache-2.0
 *
 * usherd and its policy: the file of the setting `policy` is in force before the first interface comes, and every new
 * owner is known to it before its first socket opens. Control thread.
 */
#ifndef USHER_CONTROL_POLICING_H
#define USHER_CONTROL_POLICING_H

#include <stddef.h>
#include <stdint.h>

struct owner;
struct usherd;

/* Nothing to do without a policy. 0, or -errno with a sentence. */
int policing_begin(struct usherd *u, char *err, size_t err_size);
void policing_end(struct usherd *u);
/* For the broker: an owner was seen, perhaps not for the first time. 0, or -errno: it may not have sockets. */
int policing_owner(void *usherd, uint32_t index, const struct owner *owner);
/* The policy in force, with all owners, into states of the filter engine that do not serve yet: see struct
 * runtime_upgrade.fill. */
int policing_again(void *usherd);

#endif
