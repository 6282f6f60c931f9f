/* SPDX-License-Identifier: Apache-2.0
 *
 * usher.control.v1.Nics. Control thread; counts are read from the devices' tables.
 */
#include <string.h>

#include "control/nic.h"
#include "control/policing.h"
#include "control/policy/policy.h"
#include "control/services/service_internal.h"
#include "usher/control/v1/nics.pb-c.h"

#define NICS_MAX 64u
#define PART_MAX 256u

static PB(Nic) * nic_message(struct rpc_call *c, const struct nic_report *r) {
    PB(Nic) *m = PB_NEW(c, Nic, nic);
    m->interface = PB_TEXT(r->name);
    m->ifindex = r->ifindex;
    m->backend = PB_TEXT(r->backend);
    m->hook = PB_TEXT(r->hook);
    m->why = PB_TEXT(r->why);
    m->entries = r->entries;
    m->covers = r->punts;
    m->entry_max = r->rule_max;
    m->mask_max = r->mask_max;
    m->refused = r->refused;
    m->change_ns = r->change_ns;
    m->socket_ns = r->socket_ns;
    return m;
}

static enum rpc_code list(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    struct nic_report report;
    PB(ListNicsResponse) *r = PB_NEW(c, ListNicsResponse, list_nics_response);
    (void)request;
    r->nics = rpc_alloc_array(c, PB(Nic) *, NICS_MAX);
    while (r->n_nics < NICS_MAX && nic_report(s->u->nic, (uint32_t)r->n_nics, &report)) {
        r->nics[r->n_nics] = nic_message(c, &report);
        r->n_nics++;
    }
    rpc_answer(c, &r->base);
    return RPC_OK;
}

/* ---- rules ---- */

struct rules_state {
    uint64_t revision;
    uint32_t nic, next, first, end;
    bool sent;
};

static enum rpc_code rules_open(struct rpc_call *c, void *arg, const void *request, void *state) {
    const struct service *s = arg;
    const PB(ListNicRulesRequest) *q = request;
    const struct policy *p = policing_policy(s->u->policing);
    struct rules_state *l = state;
    l->revision = policing_revision(s->u->policing);
    l->end = p != NULL ? policy_rules(p)->rule_count : 0;
    if (q->name[0] == '\0')
        return RPC_OK;
    l->first = l->next = p != NULL ? policy_rule_find(p, q->name) : NB_NONE;
    if (l->first == NB_NONE)
        return rpc_fail(c, RPC_NOT_FOUND, "RULE_UNKNOWN", "name", "the policy in force has no rule \"%.60s\"", q->name);
    l->end = l->first + 1;
    return RPC_OK;
}

static PB(NicRule) * rule_message(struct rpc_call *c, const struct policy *p, const struct nic_report *nic, uint32_t i,
                                  const struct nic_place *place) {
    PB(NicRule) *m = PB_NEW(c, NicRule, nic_rule);
    m->interface = PB_TEXT(nic->name);
    m->number = i + 1;
    m->name = PB_TEXT(policy_rule_name(p, i));
    m->entries = place->entries;
    m->placed = place->placed;
    m->why = PB_TEXT(place->why);
    m->advice = PB_TEXT(place->advice);
    m->packets = place->packets;
    m->bytes = place->bytes;
    m->place = place->placed == 0               ? USHER__CONTROL__V1__NIC_PLACE__NIC_PLACE_SOFTWARE
               : place->placed < place->entries ? USHER__CONTROL__V1__NIC_PLACE__NIC_PLACE_PARTLY
                                                : USHER__CONTROL__V1__NIC_PLACE__NIC_PLACE_NIC;
    return m;
}

/* The next rule of the interface, or the first of the next interface. */
static bool step(const struct service *s, struct rules_state *l, struct nic_report *ret_nic,
                 struct nic_place *ret_place) {
    while (nic_report(s->u->nic, l->nic, ret_nic)) {
        if (l->next < l->end && nic_place(s->u->nic, l->nic, l->next, ret_place)) {
            l->next++;
            return true;
        }
        l->nic++;
        l->next = l->first;
    }
    return false;
}

static enum rpc_next rules_next(struct rpc_call *c, void *arg, void *state) {
    const struct service *s = arg;
    struct rules_state *l = state;
    struct nic_report nic;
    struct nic_place place;
    PB(ListNicRulesResponse) *r = PB_NEW(c, ListNicRulesResponse, list_nic_rules_response);
    if (l->revision != policing_revision(s->u->policing)) {
        (void)rpc_fail(c, RPC_UNAVAILABLE, "REVISION_CHANGED", NULL, "the policy changed meanwhile; ask again");
        return RPC_NEXT_END;
    }
    r->revision = l->revision;
    r->rules = rpc_alloc_array(c, PB(NicRule) *, PART_MAX);
    while (r->n_rules < PART_MAX && step(s, l, &nic, &place))
        r->rules[r->n_rules++] = rule_message(c, policing_policy(s->u->policing), &nic, l->next - 1, &place);
    if (r->n_rules == 0 && l->sent)
        return RPC_NEXT_END;
    l->sent = true;
    rpc_answer(c, &r->base);
    return RPC_NEXT_SENT;
}

static void rules_close(void *arg, void *state) {
    (void)arg;
    (void)state;
}

const struct rpc_method nics_methods[] = {
    {.name = "List", PB_REQUEST(list_nics_request), .role = RPC_ROLE_VIEWER, .unary = list},
    {.name = "ListRules",
     PB_REQUEST(list_nic_rules_request),
     .role = RPC_ROLE_VIEWER,
     .open = rules_open,
     .next = rules_next,
     .close = rules_close,
     .state_size = sizeof(struct rules_state)},
};
const size_t nics_method_count = ARRAY_LEN(nics_methods);
