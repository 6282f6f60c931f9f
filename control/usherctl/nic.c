/* SPDX-License-Identifier: Apache-2.0
 *
 * usherctl nic: which rules die before they reach usherd, and why not more.
 */
#include "control/usherctl/nic.h"

#include <inttypes.h>

#include "usher/control/v1/nics.pb-c.h"

/* clang-format off */
#define L(title, rank) {title, false, rank, 0}
#define R(title, rank) {title, true, rank, 0}
#define FLEX(title, rank, min) {title, false, rank, min}
static const struct list_column nic_columns[] = {
    {L("INTERFACE", 0), "interface", SHOW_TEXT}, {L("HOOK", 0), "hook", SHOW_TEXT},
    {R("ENTRIES", 0), "entries", SHOW_NUMBER},   {R("COVERS", 1), "covers", SHOW_NUMBER},
    {R("OF", 1), "entry_max", SHOW_NUMBER},      {R("REFUSED", 0), "refused", SHOW_ALARM},
    {R("LAST CHANGE", 2), "change_ns", SHOW_NS}, {FLEX("WHY NOT", 0, 16), "why", SHOW_TEXT},
};
static const struct list_column rule_columns[] = {
    {L("INTERFACE", 1), "interface", SHOW_TEXT}, {FLEX("RULE", 0, 12), "name", SHOW_TEXT},
    {L("WHERE", 0), "place", SHOW_WORD},         {R("PLACED", 2), "placed", SHOW_NUMBER},
    {R("OF", 2), "entries", SHOW_NUMBER},        {R("PACKETS", 0), "packets", SHOW_COUNT},
    {FLEX("WHY", 0, 24), "why", SHOW_TEXT},
};
#define COLUMNS(table) table, sizeof table / sizeof table[0]
const struct list list_nics = {"nics", &usher__control__v1__nic__descriptor,
                               "no interface has rules in front: see the setting interfaces[].nic",
                               COLUMNS(nic_columns)};
const struct list list_nic_rules = {"rules", &usher__control__v1__nic_rule__descriptor,
                                    "no interface has rules in front, or the policy has no rules",
                                    COLUMNS(rule_columns)};
/* clang-format on */

int run_nic_show(struct ctl *c) {
    const PB(ListNicsRequest) request = USHER__CONTROL__V1__LIST_NICS_REQUEST__INIT;
    PB(ListNicsResponse) *a = ctl_call(c, PB_METHOD(Nics, List, list_nics_response), &request);
    if (a == NULL)
        return -1;
    if (c->output == OUTPUT_JSON)
        ctl_json(c, a);
    else
        list_print(&list_nics, &a->base, 0, &c->screen);
    ctl_free(a);
    return 0;
}

int run_nic_rules(struct ctl *c) {
    PB(ListNicRulesRequest) request = USHER__CONTROL__V1__LIST_NIC_RULES_REQUEST__INIT;
    if (c->given.arg_count > 0)
        request.name = (char *)(uintptr_t)c->given.args[0];
    return ctl_list_stream(c, PB_METHOD(Nics, ListRules, list_nic_rules_response), &request, &list_nic_rules);
}

/* ---- one rule, in sentences ---- */

static bool explain_part(void *arg, const ProtobufCMessage *part) {
    const PB(ListNicRulesResponse) *r = (const PB(ListNicRulesResponse) *)(const void *)part;
    FILE *out = ((struct ctl *)arg)->screen.out;
    for (size_t i = 0; i < r->n_rules; i++) {
        const PB(NicRule) *rule = r->rules[i];
        bool all = rule->placed == rule->entries && rule->placed > 0;
        (void)fprintf(out, "%s: %s has %u of its %u entries in the NIC; %" PRIu64 " packets died there\n",
                      rule->interface, rule->name, rule->placed, rule->entries, rule->packets);
        if (!all)
            (void)fprintf(out, "  why not more: %s\n  what to do:   %s\n", rule->why, rule->advice);
    }
    return true;
}

static int explain_updates(struct ctl *c) {
    const PB(ListNicsRequest) request = USHER__CONTROL__V1__LIST_NICS_REQUEST__INIT;
    PB(ListNicsResponse) *a = ctl_call(c, PB_METHOD(Nics, List, list_nics_response), &request);
    for (size_t i = 0; a != NULL && i < a->n_nics; i++) {
        const PB(Nic) *n = a->nics[i];
        (void)fprintf(c->screen.out, "%s: %s, %u of %u entries taken; the last change took %.1f ms", n->interface,
                      n->hook[0] != '\0' ? n->hook : n->why, n->entries, n->entry_max, (double)n->change_ns / 1e6);
        if (n->socket_ns != 0)
            (void)fprintf(c->screen.out, ", the last socket %.0f us", (double)n->socket_ns / 1e3);
        (void)fputc('\n', c->screen.out);
    }
    ctl_free(a);
    return a == NULL ? -1 : 0;
}

int run_nic_explain(struct ctl *c) {
    PB(ListNicRulesRequest) request = USHER__CONTROL__V1__LIST_NIC_RULES_REQUEST__INIT;
    if (c->output == OUTPUT_JSON)
        return run_nic_rules(c);
    request.name = (char *)(uintptr_t)c->given.args[0];
    int error = explain_updates(c);
    if (error == 0)
        error = ctl_stream(c, PB_METHOD(Nics, ListRules, list_nic_rules_response), &request, false, explain_part, c);
    return error;
}
