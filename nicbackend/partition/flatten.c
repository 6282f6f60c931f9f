/* SPDX-License-Identifier: Apache-2.0
 *
 * See flatten.h.
 */
#include "nicbackend/partition/flatten.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nicbackend/partition/expand.h"

const char *nb_reason_text(enum nb_reason reason) {
    static const char *const texts[] = {
#define NB_REASON_TEXT(name, text, advice) text,
        NB_REASONS(NB_REASON_TEXT)
#undef NB_REASON_TEXT
    };
    return texts[reason];
}

const char *nb_reason_advice(enum nb_reason reason) {
    static const char *const texts[] = {
#define NB_REASON_ADVICE(name, text, advice) advice,
        NB_REASONS(NB_REASON_ADVICE)
#undef NB_REASON_ADVICE
    };
    return texts[reason];
}

/* --- what hardware cannot see ---------------------------------------------------------------------------------- */

enum certainty { NEVER, MAYBE, ALWAYS };

static enum certainty state_matches(const struct nb_match *m, const struct nb_cell *c) {
    uint8_t wanted = (uint8_t)((m->invert & NB_F_STATE) != 0 ? ~m->state : m->state);
    if ((wanted & c->states) == 0)
        return NEVER;
    return (c->states & ~wanted) == 0 ? ALWAYS : MAYBE;
}

static enum certainty owner_matches(const struct nb_policy *p, const struct nb_match *m, const struct nb_cell *c) {
    if (!c->owner_known)
        return MAYBE;
    return nb_owner_matches(p, &p->owners[m->owner], c->owner) ? ALWAYS : NEVER;
}

static enum certainty hidden_matches(const struct nb_policy *p, const struct nb_match *m, const struct nb_cell *c) {
    enum certainty state = (m->fields & NB_F_STATE) != 0 ? state_matches(m, c) : ALWAYS;
    enum certainty owner = m->owner != NB_NONE ? owner_matches(p, m, c) : ALWAYS;
    enum certainty length = (m->fields & NB_F_LENGTH) != 0 ? MAYBE : ALWAYS;
    enum certainty least = state < owner ? state : owner;
    return least < length ? least : length;
}

static bool sees_all(const struct nb_match *m) {
    return (m->fields & (NB_F_STATE | NB_F_LENGTH)) == 0 && m->owner == NB_NONE;
}

/* --- what a rule does ------------------------------------------------------------------------------------------ */

/* Why hardware may not end packets in the rule's stead. */
static enum nb_reason action_reason(const struct nb_action *a, uint32_t limit) {
    if (limit != NB_NONE)
        return NB_REASON_LIMITED;
    if ((a->flags & (NB_ACT_LOG | NB_ACT_MIRROR)) != 0)
        return NB_REASON_MARKS;
    if (a->verdict == NB_REJECT)
        return NB_REASON_REJECTS;
    return a->verdict == NB_DROP ? NB_REASON_NONE : NB_REASON_ALLOWS;
}

/* A rule that only counts is no obstacle unless counters are to be exact; marks end with the packet. */
static bool leaves_nothing(const struct nb_rule *r, bool exact) {
    return r->action.verdict == NB_CONTINUE && !exact && r->limit == NB_NONE && r->action.counter == NB_NONE &&
           (r->action.flags & (NB_ACT_LOG | NB_ACT_MIRROR)) == 0;
}

static bool other_way(const struct nb_match *m, uint32_t ifindex) {
    bool in = (m->fields & NB_F_DIR) == 0 || ((m->dir & NB_IN) != 0) != ((m->invert & NB_F_DIR) != 0);
    bool here = (m->fields & NB_F_IFINDEX) == 0 || (m->ifindex == ifindex) != ((m->invert & NB_F_IFINDEX) != 0);
    return !in || !here;
}

/* --- items ----------------------------------------------------------------------------------------------------- */

struct flattening {
    const struct nb_flatten_params *p;
    struct nb_items *items;
    uint32_t rule;
    uint32_t above; /* what goes to the rule's rank: a cell stands above the rest */
    int error;
};

static bool asked_for(const struct flattening *f, uint32_t place) {
    return f->p->only == NULL || f->p->only[place] != 0;
}

static uint32_t prec_of(const struct flattening *f) {
    if (f->p->ranks == NULL)
        return 0;
    return f->rule == UINT32_MAX ? UINT32_MAX : f->p->ranks[f->rule] + f->above;
}

static void item_add(struct flattening *f, const struct nb_cube *cube, bool drop) {
    struct nb_items *items = f->items;
    if (f->p->near != NULL && !nb_cube_overlaps(f->p->near, cube))
        return;
    if (items->count == items->size) {
        uint32_t size = items->size == 0 ? 64 : items->size * 2;
        struct nb_item *v = realloc(items->v, size * sizeof *v);
        if (v == NULL) {
            f->error = -ENOMEM;
            return;
        }
        items->v = v;
        items->size = size;
    }
    items->v[items->count++] = (struct nb_item){.cube = *cube, .rule = f->rule, .prec = prec_of(f), .drop = drop};
}

static void reason_set(struct flattening *f, enum nb_reason reason) {
    if (f->items->reasons[f->rule] == NB_REASON_NONE)
        f->items->reasons[f->rule] = (uint8_t)reason;
}

static void add_met(struct flattening *f, const struct nb_cubes *cubes, const struct nb_cell *cell, bool drop) {
    struct nb_cube one;
    for (uint32_t i = 0; i < cubes->count && f->error == 0; i++)
        if (nb_cube_meet(&cubes->v[i], &cell->cube, &one))
            item_add(f, &one, drop);
}

static bool meets(const struct nb_cubes *cubes, const struct nb_cell *cell) {
    for (uint32_t i = 0; i < cubes->count; i++)
        if (nb_cube_overlaps(&cubes->v[i], &cell->cube))
            return true;
    return false;
}

static enum nb_reason hidden_reason(const struct nb_match *m) {
    if (m->owner != NB_NONE)
        return NB_REASON_OWNER;
    return (m->fields & NB_F_STATE) != 0 ? NB_REASON_STATE : NB_REASON_LENGTH;
}

/* Behind the last cell in which the rule always matches; 0 when there is none. Cells that are disjoint hide nothing
 * from one another, only from the rest. */
static uint32_t last_certain(const struct flattening *f, const struct nb_match *m, enum certainty rest) {
    const struct nb_world *w = f->p->world;
    if (rest == ALWAYS)
        return w->cell_count + 1;
    uint32_t i = w->disjoint ? 0 : w->cell_count;
    while (i > 0 && hidden_matches(f->p->policy, m, &w->cells[i - 1]) != ALWAYS)
        i--;
    return i;
}

/* Cell by cell, so that each is asked for its own sockets. A cell where the rule never matches is shielded from what a
 * wider cell behind it may say, if that would drop. Where the rest punts, disjoint cells need not do so again. */
static void add_by_cells(struct flattening *f, const struct nb_match *m, const struct nb_cubes *cubes, bool drops) {
    const struct nb_world *w = f->p->world;
    struct nb_cell rest = w->rest;
    enum certainty of_rest = hidden_matches(f->p->policy, m, &w->rest);
    uint32_t certain = drops ? last_certain(f, m, of_rest) : 0;
    bool punted = w->disjoint && of_rest == MAYBE;
    memset(&rest.cube, 0, sizeof rest.cube);
    for (uint32_t i = 0; i < w->cell_count + !w->no_rest && f->error == 0; i++) {
        const struct nb_cell *cell = i < w->cell_count ? &w->cells[i] : &rest;
        if (!meets(cubes, cell))
            continue;
        enum certainty c = hidden_matches(f->p->policy, m, cell);
        bool sure = drops && c == ALWAYS;
        if (c == MAYBE && drops)
            reason_set(f, hidden_reason(m));
        f->above = i < w->cell_count;
        if ((c != NEVER || i + 1 < certain) && (sure || !punted || i == w->cell_count))
            add_met(f, cubes, cell, sure);
    }
    f->above = 0;
}

/* Without looking at it closely: could the match have a key of the cube? */
static bool may_meet(const struct nb_match *m, const struct nb_cube *near) {
    uint32_t plain = m->fields & ~m->invert, port = (uint32_t)near->value.dport[0] << 8 | near->value.dport[1];
    if ((plain & NB_F_DPORT) != 0 && near->mask.dport[0] == 0xff && near->mask.dport[1] == 0xff &&
        (port < m->dport.lo || port > m->dport.hi))
        return false;
    if ((plain & NB_F_PROTO) != 0 && ((m->proto ^ near->value.proto) & near->mask.proto) != 0)
        return false;
    for (int i = 0; i < 16 && (plain & NB_F_SRC) != 0; i++)
        if (((m->src.b[i] ^ near->value.src[i]) & m->src_mask.b[i] & near->mask.src[i]) != 0)
            return false;
    return true;
}

static void flatten_rule(struct flattening *f, const struct nb_rule *r) {
    struct nb_cubes cubes;
    bool wide;
    const struct nb_cell everywhere = {.owner_known = false};
    if ((f->p->near != NULL && !may_meet(&r->match, f->p->near)) || (f->p->world->no_rest && sees_all(&r->match)))
        return;
    if (other_way(&r->match, f->p->ifindex))
        return reason_set(f, NB_REASON_OUTGOING);
    enum nb_reason reason = action_reason(&r->action, r->limit);
    reason_set(f, reason);
    if (leaves_nothing(r, f->p->exact))
        return;
    f->error = nb_expand(f->p->policy, &r->match, f->p->cube_max, &cubes, &wide);
    if (f->error != 0)
        return;
    if (wide)
        reason_set(f, NB_REASON_CUBES);
    bool drops = reason == NB_REASON_NONE && !wide;
    if (sees_all(&r->match))
        add_met(f, &cubes, &everywhere, drops);
    else
        add_by_cells(f, &r->match, &cubes, drops);
    free(cubes.v);
}

/* The default of a tier: true when lower tiers have a say after it. */
static bool flatten_default(struct flattening *f, uint8_t tier) {
    const struct nb_action *a = &f->p->policy->defaults[tier];
    const struct nb_cell everywhere = {.owner_known = false};
    f->rule = f->p->policy->rule_count + tier;
    enum nb_reason reason = action_reason(a, NB_NONE);
    reason_set(f, reason);
    if (a->verdict == NB_ALLOW && (a->flags & (NB_ACT_LOG | NB_ACT_MIRROR)) == 0 && a->counter == NB_NONE)
        return true;
    if (asked_for(f, f->rule) && !f->p->world->no_rest)
        item_add(f, &everywhere.cube, reason == NB_REASON_NONE);
    return false;
}

/* --- nobody's business ----------------------------------------------------------------------------------------- */

/* What nobody asks rules about: frames without an IP packet (ARP), ICMP's errors, and neighbour discovery. The masks
 * take a few of their kin along. */
static void flatten_exempt(struct flattening *f) {
    static const struct {
        uint8_t proto, type, mask;
    } icmp[] = {{1, 3, 0xff},  {1, 4, 0xfe},    {1, 11, 0xff},  {1, 12, 0xff},
                {58, 0, 0xf8}, {58, 132, 0xfc}, {58, 136, 0xfc}};
    struct nb_cube c;
    f->rule = UINT32_MAX;
    memset(&c, 0, sizeof c);
    c.mask.parsed = NB_PARSED_IP | NB_PARSED_PORTS | NB_PARSED_ICMP;
    item_add(f, &c, false);
    for (size_t i = 0; i < sizeof icmp / sizeof icmp[0] && f->error == 0; i++) {
        c.value.parsed = NB_PARSED_IP | NB_PARSED_ICMP;
        c.mask.parsed = NB_PARSED_IP | NB_PARSED_ICMP | NB_PARSED_PORTS;
        c.value.proto = icmp[i].proto;
        c.value.icmp_type = icmp[i].type;
        c.mask.proto = 0xff;
        c.mask.icmp_type = icmp[i].mask;
        item_add(f, &c, false);
    }
}

int nb_flatten(const struct nb_flatten_params *params, struct nb_items *ret_items) {
    const struct nb_policy *p = params->policy;
    struct nb_items items = {.reasons = calloc(p->rule_count + NB_TIER_COUNT, 1)};
    struct flattening f = {.p = params, .items = &items, .error = items.reasons == NULL ? -ENOMEM : 0};
    uint32_t next = 0;
    bool more = true;
    if (f.error == 0 && params->only == NULL && !params->world->no_rest)
        flatten_exempt(&f);
    for (uint8_t tier = 0; tier < NB_TIER_COUNT && more && f.error == 0; tier++) {
        for (; next < p->rule_count && p->rules[next].tier == tier && f.error == 0; next++) {
            f.rule = next;
            if (asked_for(&f, next))
                flatten_rule(&f, &p->rules[next]);
        }
        if (f.error == 0)
            more = flatten_default(&f, tier);
    }
    if (f.error != 0) {
        nb_items_free(&items);
        return f.error;
    }
    *ret_items = items;
    return 0;
}

void nb_items_free(struct nb_items *items) {
    free(items->v);
    free(items->reasons);
    *items = (struct nb_items){.v = NULL};
}
