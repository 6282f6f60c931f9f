/* SPDX-License-Identifier: Apache-2.0
 *
 * A dataplane and claim hooks that only write down what they are told, for tests of the broker: the order of steps is
 * what matters there. Any call can be made to fail.
 */
#ifndef USHER_CONTROL_BROKER_FAKE_DATAPLANE_H
#define USHER_CONTROL_BROKER_FAKE_DATAPLANE_H

#include "dataplane/session/session.h"

struct fake_dataplane {
    char trace[4096];      /* "create open claim+ ..." since the last clear */
    uint32_t fail_at;      /* the Nth call from now fails; 0 = none */
    int fail_with;         /* -errno */
    uint32_t live_sessions, live_sockets, live_claims, live_groups, live_quotas, live_held;
    uint32_t stream_max, owner; /* of the last quota; of the last session_owner_set() */
    struct session *detached; /* what session_next_detached() gives out next */
    struct session *last;
    struct session_params params;
    struct session_port_flow streams[4]; /* that the transports have */
    uint32_t stream_count;
    uint32_t option; /* the first of the last listener's */
};

extern struct fake_dataplane fake;
void fake_clear(void);
/* What handle `h` of the last session was opened with; its options are gone. */
const struct session_socket_params *fake_opened(uint32_t h);

#endif
