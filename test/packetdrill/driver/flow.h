/* SPDX-License-Identifier: Apache-2.0
 *
 * The flow under test: between the script's numbers, which begin at nought, and those on the wire.
 */
#ifndef USHER_TEST_PACKETDRILL_DRIVER_FLOW_H
#define USHER_TEST_PACKETDRILL_DRIVER_FLOW_H

#include "engines/ipaddr.h"
#include "test/packetdrill/driver/script.h"

#define STAMPS_MAX 256
#define FRAME_MAX  66000

enum flow_state { FLOW_NONE, FLOW_LISTENING, FLOW_CONNECTING, FLOW_OPEN };

struct flow_test {
    enum flow_state state;
    bool v6;
    struct ipaddr local, remote;
    uint16_t local_port, remote_port;
    bool has_local_isn;
    uint32_t script_local_isn, live_local_isn;
    bool has_remote_isn;
    uint32_t remote_isn; /* the same on both sides */
    struct {
        uint32_t script, live;
    } stamps[STAMPS_MAX]; /* our host's timestamps as the script names them */
    uint32_t stamp_count;
};

/* The bytes of an incoming packet. */
size_t flow_build(const struct script *s, const struct event *e, struct flow_test *f, uint8_t *ret_packet);

/* An outgoing packet, read. */
struct seen {
    uint8_t flags, tos;
    uint32_t seq, ack, len;
    uint16_t win, urg, local_port, remote_port;
    struct ipaddr local, remote;
    const uint8_t *opts;
    uint32_t opts_len;
};
/* False: no sound TCP packet, with a reason. */
bool flow_read(const uint8_t *packet, size_t len, struct seen *ret_seen, const char **ret_why);
/* NULL, or what differs. Learns our initial number and timestamps. */
const char *flow_compare(struct flow_test *f, const struct segment *want, const struct seen *got);
/* As the script would write it. */
void flow_describe(const struct flow_test *f, const struct seen *g, char *ret_text, size_t size);

#endif
