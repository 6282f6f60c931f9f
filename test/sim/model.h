/* SPDX-License-Identifier: Apache-2.0
 *
 * The applications and the control planes of all simulated hosts, and the oracle over them. Applications send requests
 * with a number and bytes that follow from the number; servers answer. The oracle knows every datagram that was ever
 * sent, so it sees one that was invented, altered, delivered to the wrong socket, or too often.
 */
#ifndef USHER_TEST_SIM_MODEL_H
#define USHER_TEST_SIM_MODEL_H

#include "engines/ip/ip_cmd.h"
#include "engines/udp/udp_cmd.h"
#include "test/sim/host.h"
#include "test/sim/options.h"

#define MODEL_HOST_MAX 8
#define MODEL_SOCKET_MAX 4096 /* ever opened in one run; handles are never used again */

enum model_socket_state { SOCKET_CLOSED, SOCKET_OPEN, SOCKET_UNSURE /* the host died of the command */ };

struct model_socket {
    struct host *host;
    struct flow flow; /* as opened: local any = wildcard; remote all zero = not connected */
    uint32_t handle;
    uint32_t sock; /* the engine's index */
    enum model_socket_state state;
    bool v6;       /* family it sends in */
    bool server;
    bool closing;
    uint64_t received; /* since it was opened */
};

enum model_kind { KIND_REQUEST = 1, KIND_RESPONSE };

/* One datagram that was handed to an engine. Its number is its place in the table. */
struct model_datagram {
    uint64_t answers; /* RESPONSE: number of the request */
    ns_t sent;
    uint32_t from, to; /* socket handles; the target may have been closed meanwhile */
    uint32_t len;
    uint16_t kind;
    uint16_t copies;    /* how often it may arrive */
    uint16_t delivered;
    bool probe;
};

struct model_stats {
    uint64_t sent, refused, delivered, bounced, answered, notices, collisions, probes, probes_answered;
};

struct model {
    struct world world;
    struct sim_options options;
    struct host *host[MODEL_HOST_MAX];
    struct ip_config ip_config;
    struct udp_config udp_config;
    struct model_socket socket[MODEL_SOCKET_MAX];
    uint32_t socket_count;
    struct model_datagram *datagram;
    uint64_t datagram_count, datagram_capacity;
    struct prng traffic, churn, upgrade, kill, flap;
    uint16_t next_port;
    bool quiet; /* no new requests, sockets, upgrades or deaths */
    struct model_stats stats;
};

struct model_result {
    bool failed;
    uint64_t app_hash, wire_hash;
    struct model_stats stats;
    uint64_t frames, deaths, upgrades, drops;
    uint64_t drop[DROP_COUNT]; /* by reason */
    char failure[512]; /* the first one, empty when there is none */
};

/* One whole run. */
void model_run(const struct sim_options *options, struct model_result *ret_result);

/* model_app.c */
void model_deliver(void *arg, struct host *h, const struct pkt *p);
void model_duplicated(struct model *m, const uint8_t *frame, uint32_t len);
void model_tick(void *arg, uint64_t host);
void model_send(struct model *m, uint32_t from, uint32_t to, uint64_t answers, bool probe);
void model_probe(struct model *m);

/* model_control.c */
struct ipaddr model_addr(uint32_t host, bool v6);
void model_open_sockets(struct model *m, struct host *h);
void model_event(void *arg, struct host *h, const struct engine_event *ev);
void model_notice(void *arg, struct host *h, const struct notice *n);
void model_restarted(void *arg, struct host *h);
void model_configure(struct model *m, struct host *h);
void model_churn(void *arg, uint64_t value);
void model_flap(void *arg, uint64_t value);
void model_audit(struct model *m, struct host *h);

#endif
