/* SPDX-License-Identifier: Apache-2.0
 *
 * See engines.h.
 */
#include "control/engines.h"

#include <stdio.h>
#include <string.h>

#include "control/log.h"
#include "control/policing.h"
#include "control/policy/classes.h"
#include "control/usherd.h"
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

int engines_load(struct usherd *u, const char *name, struct runtime_error *err) {
    union options options;
    uint32_t index;
    return runtime_engine_load(u->rt, name, options_of(u, name, &options), &index, err);
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
