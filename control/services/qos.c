/* SPDX-License-Identifier: Apache-2.0
 *
 * usher.control.v1.Qos. Control thread.
 */
#include <errno.h>
#include <string.h>

#include "control/policing.h"
#include "control/policy/classes_install.h"
#include "control/services/service_internal.h"
#include "engines/qos/qos_cmd.h"
#include "usher/control/v1/qos.pb-c.h"

static PB(QosClass) *
    class_message(struct rpc_call *c, const struct classes *all, uint32_t id, const struct qos_stat *stat) {
    const struct class_spec *s = &all->v[id];
    PB(QosClass) *m = PB_NEW(c, QosClass, qos_class);
    m->name = PB_TEXT(s->name);
    m->parent = PB_TEXT(s->parent == CLASS_NONE ? "" : all->v[s->parent].name);
    m->depth = s->depth - 1;
    m->leaf = s->children == 0;
    m->weight = s->weight;
    m->guarantee_bps = s->guarantee * 8;
    m->ceiling_bps = s->ceiling * 8;
    m->burst_bytes = s->burst;
    m->queue_bytes = s->queue;
    m->each = PB_TEXT(s->children == 0 ? class_eachs[s->each] : "");
    m->user = PB_TEXT(s->user);
    m->cgroup = PB_TEXT(s->cgroup);
    m->sent_packets = stat->packets;
    m->sent_bytes = stat->bytes;
    m->dropped_packets = stat->drops;
    m->waiting_packets = stat->waiting_packets;
    m->waiting_bytes = stat->waiting_bytes;
    return m;
}

static void facts_fill(struct rpc_call *c, const struct classes *all, PB(ListClassesResponse) * r) {
    r->overhead_bytes = all->overhead;
    r->fallback = PB_TEXT(all->v[all->fallback].name);
    r->interfaces = rpc_alloc_array(c, char *, CLASS_INTERFACE_MAX);
    for (uint32_t i = 0; i < all->interface_count; i++)
        r->interfaces[r->n_interfaces++] = PB_TEXT(all->interface[i].name);
}

static enum rpc_code list_classes(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    const struct policy *policy = policing_policy(s->u->policing);
    const struct classes *all = policy != NULL ? policy_classes(policy) : NULL;
    PB(ListClassesResponse) *r = PB_NEW(c, ListClassesResponse, list_classes_response);
    (void)request;
    r->time_unix_ns = service_now_unix_ns();
    if (all == NULL || all->count == 0) {
        rpc_answer(c, &r->base);
        return RPC_OK;
    }
    struct qos_stat *stats = rpc_alloc_array(c, struct qos_stat, all->count);
    int error = classes_stats(s->u->rt, stats, all->count);
    if (error != 0)
        return rpc_fail(c, RPC_UNAVAILABLE, "WORKER_SILENT", NULL,
                        "the worker that has the classes does not answer (%s); `usherctl workers` shows what it does",
                        strerror(-error));
    facts_fill(c, all, r);
    r->classes = rpc_alloc_array(c, PB(QosClass) *, all->count);
    for (uint32_t i = 0; i < all->count; i++)
        r->classes[r->n_classes++] = class_message(c, all, i, &stats[i]);
    rpc_answer(c, &r->base);
    return RPC_OK;
}

const struct rpc_method qos_methods[] = {
    {.name = "ListClasses", PB_REQUEST(list_classes_request), .role = RPC_ROLE_VIEWER, .unary = list_classes},
};
const size_t qos_method_count = ARRAY_LEN(qos_methods);
