/* SPDX-License-Identifier: Apache-2.0
 *
 * The tables of all services, the settings that say who may call them, and the door. Control thread.
 */
#include "control/services/service.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "control/audit/audit.h"
#include "control/listener.h"
#include "control/services/service_internal.h"
#include "dataplane/capture/capture.h"

uint64_t service_now_unix_ns(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static size_t table_fill(struct service *s) {
    const struct rpc_service table[] = {
        {"usher.control.v1.Daemon", daemon_methods, daemon_method_count, s},
        {"usher.control.v1.Engines", engines_methods, engines_method_count, s},
        {"usher.control.v1.Workers", workers_methods, workers_method_count, s},
        {"usher.control.v1.Ports", ports_methods, ports_method_count, s},
        {"usher.control.v1.Sessions", sessions_methods, sessions_method_count, s},
        {"usher.control.v1.Sockets", sockets_methods, sockets_method_count, s},
        {"usher.control.v1.Counters", counters_methods, counters_method_count, s},
        {"usher.control.v1.Events", events_methods, events_method_count, s},
        {"usher.control.v1.Capture", capture_methods, capture_method_count, s},
        {"usher.control.v1.Policies", policies_methods, policies_method_count, s},
        {"usher.control.v1.Qos", qos_methods, qos_method_count, s},
        {"usher.control.v1.Nics", nics_methods, nics_method_count, s},
    };
    STATIC_ASSERT(sizeof table <= sizeof s->table, "there is room for every service");
    memcpy(s->table, table, sizeof table);
    return ARRAY_LEN(table);
}

/* ---- settings ---- */

static size_t grants_add(struct rpc_grant *g, size_t n, const struct config_role *r) {
    /* The setting's roles begin at 0, the layer's at 1 in the same order. */
    enum rpc_role role = (enum rpc_role)(r->role + 1);
    for (uint32_t i = 0; i < r->user_count; i++)
        g[n++] = (struct rpc_grant){.role = role, .user = r->users[i].text};
    for (uint32_t i = 0; i < r->group_count; i++)
        g[n++] = (struct rpc_grant){.role = role, .group = r->groups[i].text};
    for (uint32_t i = 0; i < r->name_count; i++)
        g[n++] = (struct rpc_grant){.role = role, .name = r->names[i].text};
    return n;
}

static struct rpc_grant *grants_make(const struct config *cfg, size_t *ret_count) {
    struct rpc_grant *g = calloc(CONFIG_ROLE_MAX * 3 * CONFIG_MEMBER_MAX, sizeof *g);
    *ret_count = 0;
    for (uint32_t i = 0; g != NULL && i < cfg->control.role_count; i++)
        *ret_count = grants_add(g, *ret_count, &cfg->control.roles[i]);
    return g;
}

static struct rpc_limits limits_of(const struct config *cfg) {
    return (struct rpc_limits){.connections = cfg->control.connections,
                               .caller_connections = cfg->control.caller_connections,
                               .caller_calls = cfg->control.caller_calls,
                               .caller_rate = cfg->control.caller_rate,
                               .idle_stop_us = cfg->control.idle_stop_ns / 1000};
}

int service_settings(struct service *s) {
    size_t n;
    struct rpc_grant *grants = grants_make(&s->u->cfg, &n);
    const struct rpc_limits limits = limits_of(&s->u->cfg);
    int error = grants != NULL ? rpc_server_update(s->rpc, grants, n, &limits) : -ENOMEM;
    struct rpc_grant *old = error == 0 ? s->grants : grants;
    if (error == 0)
        s->grants = grants;
    free(old);
    return error;
}

static struct rpc_params params_of(struct service *s, const struct config *cfg) {
    s->tls = (struct rpc_tls){.address = cfg->control.tls.address,
                              .certificate = cfg->control.tls.certificate,
                              .key = cfg->control.tls.key,
                              .client_ca = cfg->control.tls.client_ca};
    return (struct rpc_params){
        .event = s->u->event,
        .path = s->u->control_socket,
        .listen_fd = listener_passed("control", SOCK_STREAM, false),
        .group = cfg->control.group,
        .mode = cfg->control.mode,
        .tls = cfg->control.tls.address[0] != '\0' ? &s->tls : NULL,
        .limits = limits_of(cfg),
        .audit = audit_write,
    };
}

/* ---- life ---- */

int service_create(struct usherd *u, struct service **ret_service, char *err, size_t err_size) {
    struct service *s = calloc(1, sizeof *s);
    if (s != NULL) {
        s->u = u;
        s->events = calloc(EVENTS_KEPT, sizeof *s->events);
    }
    if (s == NULL || s->events == NULL) {
        free(s);
        (void)snprintf(err, err_size, "no memory for the control service");
        return -ENOMEM;
    }
    if (capture_host_create(u->rt, &s->captures) != 0) {
        service_destroy(s);
        (void)snprintf(err, err_size, "no memory for captures");
        return -ENOMEM;
    }
    s->event_next = 1;
    s->started_unix_ns = service_now_unix_ns();
    struct rpc_params p = params_of(s, &u->cfg);
    p.grants = s->grants = grants_make(&u->cfg, &p.grant_count);
    p.service_count = table_fill(s);
    p.services = s->table;
    int error = rpc_server_create(&p, &s->rpc, err, err_size);
    if (error < 0) {
        service_destroy(s);
        return error;
    }
    log_sink_set(events_take, s);
    *ret_service = s;
    return 0;
}

void service_destroy(struct service *s) {
    if (s == NULL)
        return;
    log_sink_set(NULL, NULL);
    if (s->rpc != NULL && s->u->successor[0] != '\0')
        rpc_server_replaced(s->rpc);
    rpc_server_destroy(s->rpc);
    capture_host_destroy(s->captures); /* after the streams, which are captures */
    drafts_free(&s->drafts);
    free(s->grants);
    free(s->events);
    free(s);
}
