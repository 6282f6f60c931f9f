/* SPDX-License-Identifier: Apache-2.0
 *
 * For tests of this room: a runtime with udp, echo and sessions on it, over a link engine that is nothing but a label
 * (test_label.c), so that the pipeline can be tested without IP. Tests only.
 */
#ifndef USHER_DATAPLANE_CORE_TEST_KIT_H
#define USHER_DATAPLANE_CORE_TEST_KIT_H

#include "dataplane/core/runtime_internal.h"
#include "dataplane/core/worker.h"
#include "dataplane/session/session_internal.h"
#include "engines/echo/echo_cmd.h"
#include "engines/udp/udp_cmd.h"
#include "test/harness/fake_client.h"

extern const struct engine_ops kit_link;
extern const struct engine_ops usher_engine_udp, usher_engine_echo, usher_engine_tcp;

enum { KIT_LINK, KIT_UDP, KIT_ECHO, KIT_TCP };

struct kit {
    struct runtime *rt;
    struct runtime_error err;
};

struct kit_client {
    struct session *s;
    struct session_fds fds;
    struct fake_client c;
    struct session_socket sock;
};

/* 10.0.0.n of the host itself: such frames turn round. */
struct ipaddr kit_addr(uint8_t n);
/* Of another host: such frames leave by slot 0. */
struct ipaddr kit_far_addr(uint8_t n);

/* A runtime with the three engines; not started. Aborts the test when it cannot be made. */
void kit_open(struct kit *k, const struct runtime_config *cfg);
void kit_close(struct kit *k);
/* Adds the tcp engine, for at most `conn_max` connections. */
void kit_tcp(struct kit *k, uint32_t conn_max);
/* The session listens on `port`. */
int kit_listen(struct kit_client *kc, uint16_t port, struct session_socket *ret_sock);
/* The echo engine gets port `port` on every address of ours, in shard `shard`. Returns the transport's socket. */
uint32_t kit_echo(struct kit *k, uint32_t shard, uint16_t port);
/* A session with one socket bound to `port`; mapped, as a client would. */
void kit_attach(struct kit *k, struct kit_client *kc, uint16_t port);
int kit_bind(struct kit *k, struct kit_client *kc, uint16_t port, struct session_socket *ret_sock);
void kit_detach(struct kit *k, struct kit_client *kc);
/* One turn of every shard by hand, when the workers do not run. Returns work done. */
uint32_t kit_turn(struct kit *k);
void kit_pass(ns_t ns);         /* virtual time goes by */
void kit_settle(struct kit *k); /* turns until idle */
uint64_t kit_drops(struct kit *k, enum drop_reason why);

#endif
