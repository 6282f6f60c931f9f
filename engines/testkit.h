/* SPDX-License-Identifier: Apache-2.0
 *
 * A fixture for tests and benches of engines: an io with its vecs, two packet pools, ports, and frames to feed. Heap
 * memory, one thread, no clock: `now` is the test's. Not part of any engine.
 *
 * A call on an engine appends to the vecs; testkit_clear() puts everything in them back and empties them. A packet that
 * an engine keeps is missing from its pool: testkit_missing() counts those.
 */
#ifndef USHER_ENGINES_TESTKIT_H
#define USHER_ENGINES_TESTKIT_H

#include "engines/engine.h"

#define TESTKIT_COUNTER_MAX 64
#define TESTKIT_SMALL 512
#define TESTKIT_LARGE 16

struct testkit {
    struct engine_io io;
    struct pkt_vec up, down, drop, done, shown;
    struct pkt_pool small, large;
    struct port_info ports[PORT_SLOT_MAX];
    struct notice notices[NOTICE_VEC_MAX];
    struct engine_event events[EVENT_VEC_MAX];
    uint64_t rng;
};

struct testkit_engine {
    const struct engine_ops *ops;
    void *st;
    size_t size;
    uint64_t counters[TESTKIT_COUNTER_MAX];
};

/* Slot 0 is up, Ethernet, MTU 1500, no offloads, MAC 02:00:00:00:00:01, ifindex 10; slots 1.. the same with the slot
 * added to the last byte and the ifindex. */
struct testkit *testkit_create(void);
void testkit_destroy(struct testkit *tk);

/* CHECKs that the engine's ops are complete and that init succeeds. */
void testkit_open(struct testkit_engine *e, const struct engine_ops *ops, const void *cfg, uint64_t seed);
void testkit_close(struct testkit *tk, struct testkit_engine *e); /* fini; what it kept is put back */
/* What a restart does: recover() on the very same memory. CHECKs that it succeeds; returns the records lost. */
uint32_t testkit_recover(struct testkit_engine *e);
/* What an upgrade does: save() all of `from`, load() it into a fresh `to`. Returns 0 or the first error. */
int testkit_transfer(struct testkit_engine *to, const struct testkit_engine *from);

void testkit_input(struct testkit *tk, struct testkit_engine *e, struct pkt **pkts, uint32_t n);
void testkit_output(struct testkit *tk, struct testkit_engine *e, struct pkt **pkts, uint32_t n);
uint32_t testkit_run(struct testkit *tk, struct testkit_engine *e, uint32_t budget);
struct engine_reply testkit_command(struct testkit *tk, struct testkit_engine *e, const void *cmd);

void testkit_put(struct pkt *p);
void testkit_clear(struct testkit *tk);
uint32_t testkit_missing(const struct testkit *tk);
/* Takes packet i out of a vec, for passing it to the next engine. */
struct pkt *testkit_take(struct pkt_vec *vec, uint32_t i);

struct ipaddr testkit_addr(const char *text); /* "10.0.0.1", "fd00::1" */
struct flow testkit_flow(const char *local, uint16_t local_port, const char *remote, uint16_t remote_port);

/* A received frame, as the sender made it: `f` is seen from this host (remote is the sender). Slot 0, Ethernet. The
 * checksums are right. payload may be NULL (zeros). */
struct pkt *testkit_udp_frame(struct testkit *tk, const struct flow *f, const void *payload, uint32_t len);
/* The same without a link header, `data` at the IP header. */
struct pkt *testkit_udp_packet(struct testkit *tk, const struct flow *f, const void *payload, uint32_t len);
/* A frame of raw bytes. */
struct pkt *testkit_raw(struct testkit *tk, const void *bytes, uint32_t len);
/* A send request of `len` bytes for socket `sock`; `to` may be NULL (connected). */
struct pkt *testkit_request(struct testkit *tk, uint32_t sock, const struct flow *to, const void *payload,
                            uint32_t len);
/* Makes an IPv4 header's checksum right again after a test changed the header. */
void testkit_fix_ip4(uint8_t *header);
/* The transport checksum of a packet with data at its IP header is right. */
bool testkit_csum_ok(const struct pkt *p, uint32_t ip_offset);

#endif
