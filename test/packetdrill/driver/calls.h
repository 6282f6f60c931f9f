/* SPDX-License-Identifier: Apache-2.0
 *
 * The system calls of a script, made through packetdrill's interface.
 */
#ifndef USHER_TEST_PACKETDRILL_DRIVER_CALLS_H
#define USHER_TEST_PACKETDRILL_DRIVER_CALLS_H

#include "test/packetdrill/abi.h"
#include "test/packetdrill/driver/flow.h"

#define CALL_FD_MAX 64

struct calls {
    struct packetdrill_interface *ifc;
    const struct script *script;
    const struct flow_test *flow; /* what "..." means as an address */
    int live[CALL_FD_MAX];        /* by the script's number; 0 = none */
};

/* Makes the call and compares what it gives; ends the process when that is not what the script says. */
void calls_make(struct calls *c, const struct event *e);

#endif
