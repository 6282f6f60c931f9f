/* SPDX-License-Identifier: Apache-2.0
 *
 * NICs and Usher's own sockets, see nic.h. What a NIC dropped for a socket goes before the socket does; what it may
 * drop comes when the socket is there. A change edits what the NIC has; when that cannot be, all of it is made again:
 * at once where something has to go, else when the NIC is next looked after.
 */
#include <errno.h>

#include "control/log.h"
#include "control/nic_internal.h"
#include "control/nic_sockets.h"
#include "control/policy/policy.h"

typedef int cells_fn(struct nb_plan *plan, const struct nb_partition_params *p, const struct nb_cell *cells,
                     uint32_t count, struct nb_program *program);

static int port_edit(struct nic *nic, struct nic_port *p, cells_fn *fn, const struct nb_cell *cells, uint32_t count) {
    const struct nb_world world = NB_WORLD_UNKNOWN;
    struct nb_program program;
    struct nb_partition_params params;
    struct nb_update u = {.commit = NULL};
    int error = nic_port_params(p, policy_rules(nic->policy), &world, &program, &params);
    if (error == 0 && (error = fn(&p->plan, &params, cells, count, &program)) == 0) {
        error = nb_store_update(p->store, &program, &u);
        p->plan.broken = p->plan.broken || error != 0 || u.refused != 0;
        p->behind = p->behind || error != 0;
    }
    nb_program_free(&program);
    return error;
}

/* Nothing else helps against a NIC that does not let go: its rules are taken out of the packets' way. */
static void port_silence(struct nic_port *p, int error) {
    log_error("nic", "%s: the device does not let go of rules (%d); it judges no more, software does", p->name, error);
    for (uint32_t hook = 0; hook < NB_RULES_HOOK_COUNT; hook++)
        nb_rules_detach(p->rules, (enum nb_rules_hook)hook);
    p->hook = NULL;
}

/* No NIC drops packets to this port for their owner's sake any more. */
static void port_clear(struct nic *nic, uint8_t proto, uint16_t number) {
    struct nb_cell area;
    if (nic_sockets_area(nic->sockets, proto, number, &area) == 0)
        return;
    for (uint32_t i = 0; i < NIC_MAX; i++) {
        struct nic_port *p = &nic->ports[i];
        if (p->store == NULL)
            continue;
        int error = port_edit(nic, p, nb_plan_go, &area, 1);
        if (error == -E2BIG)
            error = nic_port_follow(nic, p);
        if (error != 0 && error != -ENOENT)
            port_silence(p, error);
    }
}

static void port_fill(struct nic *nic, const struct nb_cell *cells, uint32_t count) {
    for (uint32_t i = 0; i < NIC_MAX && count > 0; i++) {
        struct nic_port *p = &nic->ports[i];
        int error = p->store != NULL ? port_edit(nic, p, nb_plan_come, cells, count) : 0;
        if (error != 0 && error != -ENOENT)
            p->plan.rough = true;
    }
}

static uint32_t cells_of(const struct nic *nic, const struct flow *f, struct nb_cell *cells, struct nb_owner *owner) {
    return nic->policy == NULL ? 0 : nic_sockets_cells(nic->sockets, f->proto, f->local_port, cells, owner);
}

void nic_socket_comes(struct nic *nic, const struct nic_socket *s) {
    struct nb_cell cells[NIC_CELLS_OF_PORT];
    struct nb_owner owner;
    bool had = cells_of(nic, &s->flow, cells, &owner) > 0;
    int error = nic_sockets_add(nic->sockets, s);
    if (had && (error != 0 || cells_of(nic, &s->flow, cells, &owner) == 0))
        port_clear(nic, s->flow.proto, s->flow.local_port);
}

void nic_socket_lives(struct nic *nic, const struct nic_socket *s) {
    struct nb_cell cells[NIC_CELLS_OF_PORT];
    struct nb_owner owner;
    uint64_t begin = nic_now_ns();
    uint32_t count = cells_of(nic, &s->flow, cells, &owner);
    if (count == 0)
        return;
    port_fill(nic, cells, count);
    nic->socket_ns = nic_now_ns() - begin;
}

void nic_socket_goes(struct nic *nic, const struct nic_socket *s) {
    struct nb_cell cells[NIC_CELLS_OF_PORT];
    struct nb_owner owner;
    bool had = cells_of(nic, &s->flow, cells, &owner) > 0;
    nic_sockets_remove(nic->sockets, s);
    if (had)
        port_clear(nic, s->flow.proto, s->flow.local_port);
    nic_socket_lives(nic, s); /* others may have the port */
}

void nic_address(struct nic *nic, const struct ipaddr *addr, bool gone) {
    nic_sockets_address(nic->sockets, addr, gone);
    for (uint32_t i = 0; i < NIC_MAX && nic->policy != NULL; i++) {
        struct nic_port *p = &nic->ports[i];
        p->plan.rough = true;
        int error = p->store != NULL && gone ? nic_port_follow(nic, p) : 0;
        if (error != 0)
            port_silence(p, error);
    }
}
