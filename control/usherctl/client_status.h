/* SPDX-License-Identifier: Apache-2.0
 *
 * What a gRPC status means to the one who typed the command. Pure; the details are usherd's bytes, or anybody's who
 * answers at that address.
 */
#ifndef USHER_CONTROL_USHERCTL_CLIENT_STATUS_H
#define USHER_CONTROL_USHERCTL_CLIENT_STATUS_H

#include <stddef.h>

#include "control/usherctl/client.h"

struct status_details {
    const uint8_t *bytes; /* google.rpc.Status, packed */
    size_t size;
};

/* `local`: over the UNIX socket, where the end of a connection means something else than over TCP. */
void status_fault(int code, const char *text, const struct status_details *details, bool local,
                  struct fault *ret_fault);

#endif
