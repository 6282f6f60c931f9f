/* SPDX-License-Identifier: Apache-2.0
 *
 * usher.control.v1.Policies, the last part of an explanation: where on this host such a packet is judged, and what each
 * of these places says. Control thread.
 */
#include <string.h>

#include "control/coverage.h"
#include "control/nic.h"
#include "control/policing.h"
#include "control/policy/explain.h"
#include "control/services/policies.h"
#include "control/services/service_internal.h"
#include "nicbackend/cover.h"
#include "usher/control/v1/policies.pb-c.h"

#define PLACES_MAX 66u /* NICs, hooks, engine */

struct places {
    struct rpc_call *c;
    PB(ExplainPolicyResponse) * r;
};

static void place_add(struct places *l, const char *place, const char *verdict, const char *why) {
    PB(ExplainedPlace) *m = PB_NEW(l->c, ExplainedPlace, explained_place);
    m->place = PB_TEXT(place);
    m->verdict = PB_TEXT(verdict);
    m->why = PB_TEXT(why);
    if (l->r->n_places < PLACES_MAX)
        l->r->places[l->r->n_places++] = m;
}

/* ---- NICs ---- */

/* Number of what decides, as NICs count: behind the rules come the defaults of the tiers. */
static uint32_t decisive(const struct policy *p, const struct nb_outcome *o) {
    uint32_t rule = o->rule[o->tier];
    return rule < NB_RULE_UNASKED ? rule : policy_rules(p)->rule_count + o->tier;
}

static void nic_add(struct places *l, const struct nic_report *nic, const struct nic_place *place,
                    const struct nb_outcome *out) {
    bool allowed = out->verdict == NB_ALLOW, all = !allowed && place->placed > 0 && place->placed == place->entries;
    const char *name = rpc_text(l->c, "rules in front of %s (%s)", nic->name, nic->backend);
    if (all)
        place_add(l, name, "drop", "all of what decides is there; it goes no further");
    else if (allowed || place->placed == 0)
        place_add(
            l, name, "allow",
            allowed ? "only drops are there; it goes on"
                    : rpc_text(l->c, "it goes on: %s", place->why[0] != '\0' ? place->why : "nothing of it is there"));
    else
        place_add(l, name, "drop",
                  rpc_text(l->c, "if it is among the %u of %u parts of the rule that are there; else it goes on: %s",
                           place->placed, place->entries, place->why));
}

static void nics_add(struct places *l, const struct service *s, const struct policy *p, const struct explanation *e) {
    struct nic_report nic;
    struct nic_place place;
    for (uint32_t i = 0; e->view.dir == NB_IN && nic_report(s->u->nic, i, &nic); i++)
        if ((e->view.ifindex == 0 || e->view.ifindex == nic.ifindex) &&
            nic_place(s->u->nic, i, decisive(p, &e->out), &place))
            nic_add(l, &nic, &place, &e->out);
}

/* ---- hooks ---- */

struct wanted {
    uint32_t rule;
    const char *why;
};

static void gap_find(void *arg, uint32_t rule, const char *why) {
    struct wanted *w = arg;
    if (rule == w->rule)
        w->why = why;
}

static void hooks_judge(struct places *l, const struct policy *p, const struct explanation *e, const char *name) {
    struct nb_cover_answer answer;
    if (nb_cover_judge(policy_rules(p), &e->view, &e->owner, &answer) != 0) {
        place_add(l, name, "allow", "they do not hold so many rules: kernel sockets are not judged");
        return;
    }
    struct wanted w = {answer.open, ""};
    if (answer.open != NB_NONE)
        (void)nb_cover_gaps(policy_rules(p), gap_find, &w);
    const char *open = answer.open != NB_NONE
                           ? rpc_text(l->c, "rule %s is open there: %s", policy_rule_name(p, answer.open), w.why)
                           : "";
    if (answer.denied)
        place_add(l, name, e->view.dir == NB_IN ? "drop" : "reject",
                  e->view.dir == NB_IN ? "a kernel socket's packet"
                                       : "a kernel socket's packet; its program gets EPERM");
    else
        place_add(l, name, "allow", open[0] != '\0' ? open : "a kernel socket's packet");
}

static void hooks_add(struct places *l, const struct service *s, const struct policy *p, const struct explanation *e,
                      bool live) {
    static const char name[] = "hooks on kernel sockets";
    const char *why = live ? coverage_why(s->u) : "";
    if (why[0] != '\0')
        place_add(l, name, "allow", rpc_text(l->c, "kernel sockets are not judged: %s", why));
    else if (!e->owned)
        place_add(l, name, "allow", "no socket's packet: what is forwarded, raw or the kernel's own passes");
    else
        hooks_judge(l, p, e, name);
}

void policies_places(struct rpc_call *c, const struct service *s, const struct policy *p, const struct explanation *e,
                     bool live, PB(ExplainPolicyResponse) * r) {
    static const char engine[] = "usherd's filter engine";
    struct places l = {c, r};
    r->places = rpc_alloc_array(c, PB(ExplainedPlace) *, PLACES_MAX);
    if (live)
        nics_add(&l, s, p, e);
    place_add(&l, engine, policy_verdict_name(e->out.verdict),
              e->owned
                  ? "a packet of a socket that usherd carries"
                  : "a packet to a port that usherd has, for no socket of it; what it does not have is the kernel's");
    hooks_add(&l, s, p, e, live);
    r->where = r->places[0]->place;
    r->where_why = r->places[0]->why;
}
