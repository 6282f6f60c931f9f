/* SPDX-License-Identifier: Apache-2.0
 *
 * The control service from the inside: what its services share. Thread: control.
 */
#ifndef USHER_CONTROL_SERVICES_SERVICE_INTERNAL_H
#define USHER_CONTROL_SERVICES_SERVICE_INTERNAL_H

#include "control/log.h"
#include "control/rpc/rpc.h"
#include "control/services/drafts.h"
#include "control/services/service.h"
#include "control/usherd.h"
#include "engines/check.h"
#include "engines/ipaddr.h"

/* Types of the package, and a new message of one: PB_NEW(c, Engine, engine). */
#define PB(type) Usher__Control__V1__##type
#define PB_NEW(c, type, lower) ((PB(type) *)rpc_new((c), &usher__control__v1__##lower##__descriptor))
#define PB_REQUEST(lower) .request = &usher__control__v1__##lower##__descriptor
/* protobuf-c's texts are not const; nobody writes to them. */
#define PB_TEXT(text) ((char *)(uintptr_t)(text))

#define EVENTS_KEPT 1024u

struct event {
    uint64_t unix_ns;
    uint8_t level; /* enum log_level */
    char name[32];
    char text[344];
};

/* A stream that wants to know when something happened. */
struct watcher {
    struct watcher *next;
    struct rpc_call *call;
};

struct service {
    struct usherd *u;
    struct rpc_server *rpc;
    uint64_t started_unix_ns;
    bool draining;
    struct rpc_grant *grants;
    struct rpc_tls tls;
    struct event *events; /* EVENTS_KEPT of them, by number modulo */
    uint64_t event_next;  /* number of the next one; numbers begin at 1 */
    struct watcher *watchers;
    struct capture_host *captures;
    struct drafts drafts;
    struct rpc_service table[16];
};

uint64_t service_now_unix_ns(void);

extern const struct rpc_method daemon_methods[], engines_methods[], workers_methods[], ports_methods[],
    sessions_methods[], sockets_methods[], counters_methods[], events_methods[], capture_methods[], policies_methods[],
    qos_methods[], nics_methods[];
extern const size_t daemon_method_count, engines_method_count, workers_method_count, ports_method_count,
    sessions_method_count, sockets_method_count, counters_method_count, events_method_count, capture_method_count,
    policies_method_count, qos_method_count, nics_method_count;

/* events.c: a log_sink_fn; arg is the service. */
void events_take(void *arg, enum log_level level, const char *name, const char *text);

/* engine_upgrade.c: Engines.Upgrade. */
rpc_unary_fn engine_upgrade;

#endif
