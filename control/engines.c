/* SPDX-License-Identifier: Apache-2.0
 *
 * See engines.h.
 */
#include "control/engines.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "control/echo_service.h"
#include "control/log.h"
#include "control/policing.h"
#include "control/policy/classes.h"
#include "control/recovery.h"
#include "control/usherd.h"
#include "engines/check.h"
#include "engines/ip/ip_cmd.h"
#include "engines/qos/qos_cmd.h"
#include "engines/tcp/tcp_cmd.h"
#include "engines/udp/udp_cmd.h"

union options {
    struct ip_config ip;
    struct udp_config udp;
    struct tcp_config tcp;
    struct qos_config qos;
};

/* What the settings say to that engine; NULL = nothing, it has defaults. */
static const void *options_of(const struct usherd *u, const char *name, union options *ret) {
    const struct config *c = &u->cfg;
    if (strcmp(name, "ip") == 0)
        ret->ip = (struct ip_config){.addr_max = c->engines.ip.addresses,
                                     .route_max = c->engines.ip.routes,
                                     .neigh_max = c->engines.ip.neighbours,
                                     .pmtu_max = c->engines.ip.paths,
                                     .reassembly_max = c->engines.ip.reassemblies,
                                     .neigh_queue_max = c->engines.ip.neighbour_queue,
                                     .icmp_per_second = c->engines.ip.icmp_per_second};
    else if (strcmp(name, "udp") == 0)
        ret->udp = (struct udp_config){.socket_max = c->engines.udp.sockets, .member_max = c->engines.udp.memberships};
    else if (strcmp(name, "tcp") == 0)
        ret->tcp = (struct tcp_config){.conn_max = c->engines.tcp.connections,
                                       .port_low = (uint16_t)c->engines.tcp.port_low,
                                       .port_high = (uint16_t)c->engines.tcp.port_high};
    else if (strcmp(name, "qos") == 0)
        ret->qos = (struct qos_config){.node_max = CLASS_MAX,
                                       .packet_max = runtime_shard_count(u->rt) *
                                                     (c->runtime.small_buffers + c->runtime.large_buffers),
                                       .small_max = c->runtime.small_buffers,
                                       .large_max = c->runtime.large_buffers,
                                       .owner_max = OWNERS_PER_SESSION * c->sessions.max + 1};
    else
        return NULL;
    return ret;
}

static int load(struct usherd *u, const char *name, struct runtime_error *err) {
    union options options;
    uint32_t index;
    return runtime_engine_load(u->rt, name, options_of(u, name, &options), &index, err);
}

/* Each shard has a part of the ports of outgoing connections, so that the answers find it. */
static int ports_share(struct usherd *u, uint32_t engine) {
    uint32_t shards = runtime_shard_count(u->rt), low = u->cfg.engines.tcp.port_low;
    uint32_t part = (u->cfg.engines.tcp.port_high - low + 1) / shards;
    int error = 0;
    for (uint32_t i = 0; i < shards && shards > 1 && part > 0 && error == 0; i++) {
        uint32_t first = low + i * part, last = first + part - 1;
        struct tcp_cmd_ports cmd = {.cmd = {TCP_CMD_PORTS, sizeof cmd}, .low = (uint16_t)first, .high = (uint16_t)last};
        error = runtime_command(u->rt, i, engine, &cmd.cmd, NULL);
        for (uint32_t port = first; port <= last && error == 0; port++) {
            const struct flow flow = {.local_port = (uint16_t)port, .proto = IPPROTO_TCP};
            error = runtime_steer(u->rt, &flow, i, true);
        }
    }
    return error;
}

int engines_try(struct usherd *u, struct runtime_error *err) {
    int error = 0;
    for (uint32_t i = 0; i < u->cfg.engines.load_count && error == 0; i++)
        error = load(u, u->cfg.engines.load[i].text, err);
    return error;
}

int engines_begin(struct usherd *u, struct runtime_error *err) {
    static const char *const of_policy[] = {"filter", "qos"};
    uint32_t tcp, filter;
    int error = engines_try(u, err);
    for (size_t i = 0; i < ARRAY_LEN(of_policy) && error == 0; i++) {
        if (runtime_engine_find(u->rt, of_policy[i], &filter) != 0)
            error = load(u, of_policy[i], err);
    }
    if (error == 0)
        error = runtime_qos_ports(u->rt, 0);
    if (error == 0 && (error = runtime_engine_find(u->rt, "filter", &filter)) == 0)
        error = runtime_stage_set(u->rt, filter, false); /* until there is a policy */
    if (error == 0)
        error = runtime_engine_find(u->rt, "ip", &u->ip_engine) | runtime_engine_find(u->rt, "udp", &u->udp_engine);
    if (error == 0 && runtime_engine_find(u->rt, "tcp", &tcp) == 0)
        error = ports_share(u, tcp);
    if (error == 0)
        error = recovery_open(u);
    u->echo_engine = UINT32_MAX;
    (void)runtime_engine_find(u->rt, "echo", &u->echo_engine);
    return error;
}

/* ---- the echo service ---- */

int engines_echo_begin(struct usherd *u, struct runtime_error *err) {
    if (u->echo_engine == UINT32_MAX || u->cfg.echo.port_count + u->cfg.echo.generate_count == 0)
        return 0;
    return echo_service_create(u->rt, &u->cfg, u->udp_engine, u->echo_engine, u->claims, &u->echo, err->text,
                               sizeof err->text);
}

void engines_echo_end(struct usherd *u) {
    echo_service_destroy(u->echo);
    u->echo = NULL;
}

/* ---- while usherd serves ---- */

int engines_load(struct usherd *u, const char *name, struct runtime_error *err) {
    int error = load(u, name, err);
    if (error != 0)
        return error;
    (void)runtime_engine_find(u->rt, "echo", &u->echo_engine);
    if (strcmp(name, "echo") == 0)
        error = engines_echo_begin(u, err);
    if (error != 0) {
        struct runtime_error ignored;
        (void)engines_unload(u, name, &ignored);
        return error;
    }
    log_info("engine.load", "engine %s runs in %u shards", name, runtime_shard_count(u->rt));
    return 0;
}

int engines_unload(struct usherd *u, const char *name, struct runtime_error *err) {
    uint32_t index;
    if (runtime_engine_find(u->rt, name, &index) != 0) {
        (void)snprintf(err->text, sizeof err->text, "no engine \"%.32s\" is loaded", name);
        return -ENOENT;
    }
    if (strcmp(name, "filter") == 0 || strcmp(name, "qos") == 0) {
        (void)snprintf(err->text, sizeof err->text, "engine %s stays: a policy may come at any time", name);
        return -EBUSY;
    }
    if (index == u->echo_engine) {
        engines_echo_end(u);
        u->echo_engine = UINT32_MAX;
    }
    int error = runtime_engine_unload(u->rt, index, err);
    if (error == 0)
        log_info("engine.unload", "engine %s is out of all shards", name);
    return error;
}

int engines_upgrade(struct usherd *u, uint32_t engine, const char *file, struct runtime_upgrade_report *ret_report,
                    struct runtime_error *err) {
    union options options;
    char name[ENGINE_NAME_MAX] = "";
    (void)snprintf(name, sizeof name, "%s", runtime_engine_name(u->rt, engine)); /* the old module's goes with it */
    struct runtime_upgrade how = {.file = file, .cfg = options_of(u, name, &options)};
    if (strcmp(name, "filter") == 0) {
        how.fill = policing_again;
        how.arg = u;
    }
    int error = runtime_engine_upgrade(u->rt, engine, &how, ret_report, err);
    if (error == 0)
        usherd_keep(u);
    if (error != 0)
        log_warning("engine.upgrade", "%s", err->text);
    else
        log_info("engine.upgrade", "%s: layout %u to %u, %llu records moved, black-out %llu us", name,
                 ret_report->layout_before, ret_report->layout_after, (unsigned long long)ret_report->records,
                 (unsigned long long)ret_report->black_out_ns / 1000);
    return error;
}
