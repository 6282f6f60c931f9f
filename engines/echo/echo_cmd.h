/* SPDX-License-Identifier: Apache-2.0
 *
 * The echo engine (stage APP): sends every datagram back to where it came from; or, as a generator, sends requests to a
 * peer and counts the answers. For tests and benches; control opens the transport sockets whose sink it is.
 */
#ifndef USHER_ENGINES_ECHO_CMD_H
#define USHER_ENGINES_ECHO_CMD_H

#include "engines/engine.h"

enum echo_cmd_id { ECHO_CMD_GENERATE = 1, ECHO_CMD_STATS };

/* Starts (window > 0) or stops a closed loop of `window` datagrams of `size` bytes from socket `sock` to `peer`. A
 * request that is not answered within timeout_ns is sent anew. */
struct echo_cmd_generate {
    struct engine_cmd cmd;
    uint32_t sock;
    uint32_t window;
    uint32_t size;
    uint16_t peer_port;
    struct ipaddr peer;
    ns_t timeout_ns;
};

/* reply.value64 = answers received so far; reply.value = requests sent anew. */
struct echo_cmd_stats {
    struct engine_cmd cmd;
};

#endif
