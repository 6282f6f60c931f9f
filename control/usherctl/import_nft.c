/* SPDX-License-Identifier: Apache-2.0
 *
 * `nft -j list ruleset` as a policy. JSON is YAML, so control/config/tree.h reads it and knows where each rule stood.
 * Base chains of a hook are asked one after the other and each may close, as a policy's tiers: the first becomes
 * platform, the last app. A jump asks the rules of its chain under the conditions of the jump. Only what a policy can
 * say exactly is carried over.
 */
#include <stdlib.h>
#include <string.h>

#include "control/config/tree.h"
#include "control/usherctl/import.h"

#define DEPTH_MAX 8
#define BASE_MAX  3
#define NODES_MAX 2000000u

struct reader {
    struct import *im;
    const struct node *list; /* of all objects */
};

static const char *text_of(const struct node *map, const char *key) {
    const struct node *n = tree_get(map, key);
    return n != NULL && n->kind == NODE_SCALAR ? n->text : "";
}

static bool is(const char *a, const char *b) {
    return strcmp(a, b) == 0;
}

/* ---- values ---- */

/* Appends `more`; false: it does not fit. */
static bool add(char *to, const char *more) {
    size_t n = strlen(to);
    return snprintf(to + n, IMPORT_VALUE_MAX - n, "%s", more) < (int)(IMPORT_VALUE_MAX - n);
}

/* A number, an address, a prefix or a range as a policy writes it. */
static bool scalar_text(const struct node *n, char *to) {
    const struct node *prefix = tree_get(n, "prefix"), *range = tree_get(n, "range");
    if (n->kind == NODE_SCALAR)
        return n->text[0] != '@' && add(to, n->text);
    if (prefix != NULL)
        return add(to, text_of(prefix, "addr")) && add(to, "/") && add(to, text_of(prefix, "len"));
    const struct node *hi = tree_at(range, 1);
    if (hi == NULL || range->first->kind != NODE_SCALAR || hi->kind != NODE_SCALAR)
        return false;
    return add(to, range->first->text) && add(to, "-") && add(to, hi->text);
}

/* All of them as a policy's list; NULL: one is none. To be freed. */
static char *members_text(const struct node *list) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    bool good = out != NULL;
    for (const struct node *n = list != NULL ? list->first : NULL; good && n != NULL; n = n->next) {
        const struct node *elem = tree_get(n, "elem"), *value = elem != NULL ? tree_get(elem, "val") : n;
        char one[IMPORT_VALUE_MAX] = "";
        good = value != NULL && scalar_text(value, one);
        (void)fprintf(out, "'%s'%s", one, n->next != NULL ? ", " : "");
    }
    if (out != NULL)
        (void)fclose(out);
    if (good)
        return text;
    free(text);
    return NULL;
}

/* A set that stood in a rule gets a name. */
static bool set_made(struct reader *rd, const struct node *list, const char *kind, char *to) {
    char name[IMPORT_NAME_MAX], *members = list->kind == NODE_LIST ? members_text(list) : NULL;
    if (members == NULL)
        return false;
    (void)snprintf(name, sizeof name, "set-%u", rd->im->set_count + 1);
    import_set_add(rd->im, name, kind, members);
    free(members);
    return add(to, "@") && add(to, name);
}

/* An address or port: a value, "@set", or a set made for it. */
static bool field_value(struct reader *rd, const struct node *right, const char *kind, char *to) {
    const struct node *set = tree_get(right, "set");
    char name[IMPORT_NAME_MAX];
    if (right->kind == NODE_SCALAR && right->text[0] == '@') {
        import_name(right->text + 1, name);
        return add(to, "@") && add(to, name);
    }
    if (set != NULL)
        return set_made(rd, set, kind, to);
    if (tree_get(right, "range") == NULL || is(kind, "ports"))
        return scalar_text(right, to);
    const struct node one = {.kind = NODE_MAP, .first = right->first},
                      list = {.kind = NODE_LIST, .first = (struct node *)(uintptr_t)&one};
    return set_made(rd, &list, kind, to);
}

/* ---- matches ---- */

static const char *protocol_word(const char *text) {
    return is(text, "icmpv6") || is(text, "ipv6-icmp") || is(text, "58") ? "icmp6" : text;
}

static bool plain_set(struct import_rule *r, const char *key, const struct node *right, bool negate) {
    char value[IMPORT_VALUE_MAX] = "";
    return add(value, negate ? "!" : "") && scalar_text(right, value) && import_set(r, key, value);
}

static bool icmp_set(struct import_rule *r, const char *field, const struct node *right, bool negate, bool v6) {
    static const struct {
        const char *word, *v4, *v6;
    } words[] = {
        {"echo-request", "8", "128"},    {"echo-reply", "0", "129"},         {"destination-unreachable", "3", "1"},
        {"time-exceeded", "11", "3"},    {"packet-too-big", "", "2"},        {"nd-router-solicit", "", "133"},
        {"nd-router-advert", "", "134"}, {"nd-neighbor-solicit", "", "135"}, {"nd-neighbor-advert", "", "136"}};
    char value[IMPORT_VALUE_MAX];
    if (right->kind != NODE_SCALAR)
        return false;
    const char *text = right->text;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        text = is(words[i].word, right->text) ? (v6 ? words[i].v6 : words[i].v4) : text;
    (void)snprintf(value, sizeof value, "%s%s", negate ? "!" : "", text);
    return text[0] >= '0' && text[0] <= '9' && import_set(r, is(field, "type") ? "icmp_type" : "icmp_code", value);
}

static bool payload_set(struct reader *rd, struct import_rule *r, const struct node *payload, const struct node *right,
                        bool negate) {
    const char *proto = text_of(payload, "protocol"), *field = text_of(payload, "field");
    char value[IMPORT_VALUE_MAX] = "";
    bool ip = is(proto, "ip") || is(proto, "ip6"), addr = is(field, "saddr") || is(field, "daddr");
    bool port = is(field, "sport") || is(field, "dport"), icmp = is(proto, "icmp") || is(proto, "icmpv6");
    if (ip && !import_set(r, "ip", is(proto, "ip") ? "4" : "6"))
        return false;
    if (ip && (is(field, "protocol") || is(field, "nexthdr")))
        return right->kind == NODE_SCALAR && !negate && import_set(r, "protocol", protocol_word(right->text));
    if (ip && is(field, "dscp"))
        return plain_set(r, "dscp", right, negate);
    if (icmp && (is(field, "type") || is(field, "code")))
        return import_set(r, "protocol", is(proto, "icmp") ? "icmp" : "icmp6") &&
               icmp_set(r, field, right, negate, !is(proto, "icmp"));
    if (is(proto, "vlan") && is(field, "id"))
        return plain_set(r, "vlan", right, negate);
    if (!(ip && addr) && !port)
        return false;
    if (port && !is(proto, "th") && !import_set(r, "protocol", proto))
        return false;
    return add(value, negate ? "!" : "") && field_value(rd, right, port ? "ports" : "addresses", value) &&
           import_set(r,
                      is(field, "saddr")   ? "from"
                      : is(field, "daddr") ? "to"
                      : is(field, "sport") ? "from_port"
                                           : "to_port",
                      value);
}

static bool meta_set(struct import_rule *r, const char *key, const struct node *right, bool negate) {
    static const struct {
        const char *meta, *key;
    } keys[] = {{"iifname", "interface"}, {"oifname", "interface"}, {"iif", "interface"}, {"oif", "interface"},
                {"skuid", "user"},        {"skgid", "group"},       {"length", "length"}};
    if (right->kind == NODE_SCALAR && !negate && (is(key, "l4proto") || is(key, "protocol") || is(key, "nfproto"))) {
        if (is(key, "l4proto"))
            return import_set(r, "protocol", protocol_word(right->text));
        return (is(right->text, "ip") || is(right->text, "ipv4"))
                   ? import_set(r, "ip", "4")
                   : (is(right->text, "ip6") || is(right->text, "ipv6")) && import_set(r, "ip", "6");
    }
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (is(keys[i].meta, key))
            return (right->kind != NODE_SCALAR || strchr(right->text, '*') == NULL) &&
                   plain_set(r, keys[i].key, right, negate);
    return false;
}

static bool state_set(struct import_rule *r, const struct node *right, bool negate) {
    const struct node *list = right->kind == NODE_LIST ? right : tree_get(right, "set");
    char value[IMPORT_VALUE_MAX] = "[";
    const struct node one = {.kind = NODE_SCALAR, .text = right->text};
    if (negate)
        return false;
    for (const struct node *n = right->kind == NODE_SCALAR ? &one
                                : list != NULL             ? list->first
                                                           : NULL;
         n != NULL; n = n->next) {
        bool known =
            n->kind == NODE_SCALAR && (is(n->text, "new") || is(n->text, "established") || is(n->text, "related"));
        if (!known || !add(value, strlen(value) > 1 ? ", " : "") || !add(value, n->text))
            return false;
    }
    return strlen(value) > 1 && add(value, "]") && import_set(r, "state", value);
}

static bool flags_text(const struct node *n, char *to) {
    if (n->kind == NODE_SCALAR)
        return add(to, n->text);
    const struct node *list = n->kind == NODE_LIST ? n : tree_get(n, "|");
    for (const struct node *f = list != NULL ? list->first : NULL; f != NULL; f = f->next)
        if (f->kind != NODE_SCALAR || !add(to, f->text) || (f->next != NULL && !add(to, ",")))
            return false;
    return list != NULL;
}

/* tcp flags & (syn | ack) == syn; or tcp flags syn: any of those. */
static bool flags_set(struct import_rule *r, const struct node *match, bool negate) {
    const struct node *left = tree_get(match, "left"), *right = tree_get(match, "right"), *both = tree_get(left, "&");
    const struct node *payload = tree_get(tree_at(both, 0), "payload"), *mask = tree_at(both, 1);
    char value[IMPORT_VALUE_MAX] = "";
    if (payload == NULL || mask == NULL || !is(text_of(payload, "field"), "flags"))
        return false;
    return add(value, negate ? "!" : "") && flags_text(right, value) && add(value, "/") && flags_text(mask, value) &&
           import_set(r, "protocol", "tcp") && import_set(r, "tcp_flags", value);
}

static bool match_set(struct reader *rd, struct import_rule *r, const struct node *match) {
    const char *op = text_of(match, "op");
    const struct node *left = tree_get(match, "left"), *right = tree_get(match, "right");
    bool negate = is(op, "!=");
    if (left == NULL || right == NULL || (!negate && !is(op, "==") && !is(op, "in")))
        return false;
    const struct node *payload = tree_get(left, "payload"), *meta = tree_get(left, "meta"), *ct = tree_get(left, "ct");
    if (payload != NULL && is(text_of(payload, "field"), "flags"))
        return right->kind == NODE_SCALAR && plain_set(r, "tcp_flags", right, negate) &&
               import_set(r, "protocol", "tcp");
    if (payload != NULL)
        return payload_set(rd, r, payload, right, negate);
    if (meta != NULL)
        return meta_set(r, text_of(meta, "key"), right, negate);
    if (ct != NULL)
        return is(text_of(ct, "key"), "state") && state_set(r, right, negate);
    return flags_set(r, match, negate);
}

/* ---- statements ---- */

static bool limit_set(struct import_rule *r, const struct node *limit) {
    char value[48];
    const char *unit = text_of(limit, "rate_unit"), *burst = text_of(limit, "burst"), *inv = text_of(limit, "inv");
    const char *bytes = is(unit, "kbytes") ? "KiB" : is(unit, "mbytes") ? "MiB" : is(unit, "bytes") ? "B" : "";
    if (!is(text_of(limit, "per"), "second"))
        return false;
    (void)snprintf(value, sizeof value, "%.20s%s/s", text_of(limit, "rate"), bytes);
    bool good = import_set(r, "limit", value) && (!is(inv, "true") || import_set(r, "over", "yes"));
    return good && (burst[0] == '\0' || is(burst, "0") || bytes[0] != '\0' || import_set(r, "burst", burst));
}

static bool reject_set(struct import_rule *r, const struct node *reject) {
    static const struct {
        const char *expr, *word;
    } words[] = {{"port-unreachable", "port"}, {"host-unreachable", "host"},  {"net-unreachable", "host"},
                 {"no-route", "host"},         {"admin-prohibited", "admin"}, {"addr-unreachable", "host"}};
    const char *expr = text_of(reject, "expr"), *word = "port";
    if (is(text_of(reject, "type"), "tcp reset"))
        word = "reset";
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        word = is(words[i].expr, expr) ? words[i].word : word;
    return import_set(r, "action", "reject") && import_set(r, "reject_with", word);
}

static bool mangle_set(struct import_rule *r, const struct node *mangle) {
    const struct node *meta = tree_get(tree_get(mangle, "key"), "meta"), *value = tree_get(mangle, "value");
    return meta != NULL && is(text_of(meta, "key"), "mark") && value != NULL && value->kind == NODE_SCALAR &&
           import_set(r, "mark", value->text);
}

/* One statement but jumps; false: a policy cannot say it. */
static bool statement_set(struct reader *rd, struct import_rule *r, const struct node *s) {
    const char *key = s->kind == NODE_MAP && s->first != NULL ? s->first->key : "";
    const struct node *value = s->kind == NODE_MAP ? s->first : NULL;
    if (is(key, "match"))
        return match_set(rd, r, value);
    if (is(key, "accept") || is(key, "drop"))
        return import_set(r, "action", is(key, "accept") ? "allow" : "drop");
    if (is(key, "reject"))
        return reject_set(r, value);
    if (is(key, "counter"))
        return value->kind != NODE_SCALAR || is(value->text, "null") || import_set(r, "counter", value->text);
    if (is(key, "log"))
        return import_set(r, "log", "yes");
    if (is(key, "limit"))
        return value->kind == NODE_MAP && limit_set(r, value);
    return is(key, "mangle") ? mangle_set(r, value) : is(key, "continue");
}

/* ---- chains ---- */

static bool same_table(const struct node *a, const struct node *b) {
    return is(text_of(a, "family"), text_of(b, "family")) && is(text_of(a, "table"), text_of(b, "table"));
}

static void chain_walk(struct reader *rd, const struct node *from, const char *chain, const struct import_rule *given,
                       uint32_t depth);

static void describe(const struct node *rule, char text[IMPORT_VALUE_MAX], const char *what) {
    (void)snprintf(text, IMPORT_VALUE_MAX, "rule %s of %s %s %s, statement \"%s\"", text_of(rule, "handle"),
                   text_of(rule, "family"), text_of(rule, "table"), text_of(rule, "chain"), what);
}

static void rule_take(struct reader *rd, const struct node *rule, const struct import_rule *given, uint32_t depth) {
    const struct node *expr = tree_get(rule, "expr");
    struct import_rule r = *given;
    char text[IMPORT_VALUE_MAX], name[IMPORT_NAME_MAX];
    const struct node *jump = NULL;
    for (const struct node *s = expr != NULL ? expr->first : NULL; s != NULL; s = s->next) {
        const char *what = s->kind == NODE_MAP && s->first != NULL ? s->first->key : "?";
        if (is(what, "jump")) {
            jump = s->first;
            continue;
        }
        if (statement_set(rd, &r, s))
            continue;
        describe(rule, text, what);
        import_lost(rd->im, rule->place.line, text, "a policy cannot say this, or has two of a kind");
        return;
    }
    const char *interface = import_get(&r, "interface"), *comment = text_of(rule, "comment");
    if (interface != NULL && is(interface, "lo"))
        return; /* nothing of lo ever comes to usherd */
    if (comment[0] != '\0' && import_get(&r, "comment") == NULL)
        (void)import_set(&r, "comment", comment);
    (void)snprintf(name, sizeof name, "%.20s-%.30s", text_of(rule, "table"), text_of(rule, "chain"));
    if (jump == NULL) {
        import_rule_add(rd->im, name, &r);
    } else if (depth == DEPTH_MAX || import_get(&r, "limit") != NULL) {
        describe(rule, text, "jump");
        import_lost(rd->im, rule->place.line, text, "behind a limit, or too many jumps deep");
    } else {
        chain_walk(rd, rule, text_of(jump, "target"), &r, depth + 1);
    }
}

static void chain_walk(struct reader *rd, const struct node *from, const char *chain, const struct import_rule *given,
                       uint32_t depth) {
    for (const struct node *n = rd->list->first; n != NULL; n = n->next) {
        const struct node *rule = tree_get(n, "rule");
        if (rule != NULL && same_table(rule, from) && is(text_of(rule, "chain"), chain))
            rule_take(rd, rule, given, depth);
    }
}

static int by_priority(const void *a, const void *b) {
    long x = strtol(text_of(*(const struct node *const *)a, "prio"), NULL, 10);
    long y = strtol(text_of(*(const struct node *const *)b, "prio"), NULL, 10);
    return (x > y) - (x < y);
}

static void base_chain(struct reader *rd, const struct node *chain, const char *direction, const char *tier) {
    struct import_rule given = {.count = 0};
    const char *family = text_of(chain, "family");
    (void)import_set(&given, "tier", tier);
    (void)import_set(&given, "direction", direction);
    if (is(family, "ip") || is(family, "ip6"))
        (void)import_set(&given, "ip", is(family, "ip") ? "4" : "6");
    chain_walk(rd, chain, text_of(chain, "name"), &given, 0);
    if (is(text_of(chain, "policy"), "drop") && import_set(&given, "action", "drop"))
        import_rule_add(rd->im, "policy", &given);
}

static void hook_take(struct reader *rd, const char *hook, const char *direction) {
    static const char *const tiers[BASE_MAX][BASE_MAX] = {{"host"}, {"host", "app"}, {"platform", "host", "app"}};
    const struct node *chains[BASE_MAX];
    size_t count = 0;
    for (const struct node *n = rd->list->first; n != NULL; n = n->next) {
        const struct node *chain = tree_get(n, "chain");
        if (chain == NULL || !is(text_of(chain, "hook"), hook) || !is(text_of(chain, "type"), "filter"))
            continue;
        if (count < BASE_MAX)
            chains[count++] = chain;
        else
            import_lost(rd->im, chain->place.line, text_of(chain, "name"), "a policy has three tiers, no more");
    }
    qsort(chains, count, sizeof chains[0], by_priority);
    for (size_t i = 0; i < count; i++)
        base_chain(rd, chains[i], direction, tiers[count - 1][i]);
}

/* Chains at hooks that usherd's packets do not pass, and maps. */
static void others_report(struct reader *rd) {
    for (const struct node *n = rd->list->first; n != NULL; n = n->next) {
        const struct node *chain = tree_get(n, "chain"), *map = tree_get(n, "map");
        const char *hook = chain != NULL ? text_of(chain, "hook") : "";
        bool ours = (is(hook, "input") || is(hook, "output")) && is(text_of(chain, "type"), "filter");
        if (hook[0] != '\0' && !ours)
            import_lost(rd->im, n->place.line, text_of(chain, "name"),
                        "only filters of input and output have a meaning");
        if (map != NULL)
            import_lost(rd->im, n->place.line, text_of(map, "name"), "a policy has no maps");
    }
}

static void set_take(struct reader *rd, const struct node *set, uint32_t line) {
    const char *type = text_of(set, "type");
    bool addr = is(type, "ipv4_addr") || is(type, "ipv6_addr"), port = is(type, "inet_service");
    char name[IMPORT_NAME_MAX], *members = addr || port ? members_text(tree_get(set, "elem")) : NULL;
    import_name(text_of(set, "name"), name);
    if (members != NULL)
        import_set_add(rd->im, name, port ? "ports" : "addresses", members);
    else
        import_lost(rd->im, line, text_of(set, "name"), "a set of what a policy has no sets of");
    free(members);
}

static void sets_take(struct reader *rd) {
    for (const struct node *n = rd->list->first; n != NULL; n = n->next) {
        const struct node *set = tree_get(n, "set");
        if (set != NULL)
            set_take(rd, set, n->place.line);
    }
}

bool import_nft(struct import *im, const char *text, size_t size) {
    struct problems *problems = calloc(1, sizeof *problems);
    struct tree *t = NULL;
    struct reader rd = {.im = im};
    if (problems == NULL || tree_create(&t) != 0) {
        free(problems);
        return false;
    }
    tree_limits_set(t, UINT32_MAX, NODES_MAX);
    const struct node *root = tree_parse(t, im->name, text, size, problems);
    rd.list = root != NULL ? tree_get(root, "nftables") : NULL;
    bool good = rd.list != NULL && rd.list->kind == NODE_LIST;
    if (good) {
        sets_take(&rd);
        others_report(&rd);
        hook_take(&rd, "input", "in");
        hook_take(&rd, "output", "out");
    } else {
        (void)fprintf(im->report, "%s: no ruleset is in it; give the output of `nft -j list ruleset`%s%s\n", im->name,
                      problems->count > 0 ? ": " : "", problems->count > 0 ? problems->text[0] : "");
    }
    tree_destroy(t);
    free(problems);
    return good;
}
