/* SPDX-License-Identifier: Apache-2.0
 *
 * What the services of sessions and of sockets share. Thread: control.
 */
#ifndef USHER_CONTROL_SERVICES_SESSIONS_H
#define USHER_CONTROL_SERVICES_SESSIONS_H

#include "control/identity/owner.h"
#include "control/services/service_internal.h"

struct Usher__Control__V1__Owner;

/* `o` may be NULL. Borrows its texts until the message is packed. */
struct Usher__Control__V1__Owner *owner_message(struct rpc_call *c, const struct owner *o);

#endif
