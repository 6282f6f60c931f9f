/* SPDX-License-Identifier: Apache-2.0
 *
 * iptables-save as a policy. The chains INPUT and OUTPUT of the table filter are walked as the kernel does: a jump into
 * a chain of the operator's own asks that chain's rules under the conditions of the jump. Only what a policy can say
 * exactly is carried over.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/usherctl/import.h"

#define WORD_MAX  96
#define DEPTH_MAX 8

struct line {
    uint32_t number;
    char *text;  /* whole, for reports */
    char *words; /* cut into words */
    char *word[WORD_MAX];
    size_t count;
};

struct reader {
    struct import *im;
    struct line *lines;
    size_t count;
    const char *version; /* "4", "6" */
    bool in_filter;
};

/* ---- words ---- */

/* Cuts a line into words; quotes hold blanks, a backslash the next character. */
static bool words_cut(struct line *l) {
    char *to = l->words;
    for (char *at = l->words; *at != '\0';) {
        while (*at == ' ')
            at++;
        if (*at == '\0')
            break;
        if (l->count == WORD_MAX)
            return false;
        l->word[l->count++] = to;
        for (bool quoted = false; *at != '\0' && (quoted || *at != ' '); at++) {
            if (*at == '"') {
                quoted = !quoted;
                continue;
            }
            if (*at == '\\' && at[1] != '\0')
                at++;
            *to++ = *at;
        }
        if (*at == ' ')
            at++;
        *to++ = '\0';
    }
    return true;
}

/* ---- options ---- */

struct option {
    const char *name;
    const char *key; /* of the policy; NULL = `take` does more */
    bool (*take)(struct import_rule *r, const char *value, bool negate);
};

static bool put(struct import_rule *r, const char *key, const char *value, bool negate) {
    char text[IMPORT_VALUE_MAX];
    return snprintf(text, sizeof text, "%s%s", negate ? "!" : "", value) < (int)sizeof text && import_set(r, key, text);
}

static bool take_protocol(struct import_rule *r, const char *value, bool negate) {
    const char *word = strcmp(value, "ipv6-icmp") == 0 || strcmp(value, "icmpv6") == 0 ? "icmp6" : value;
    return (strcmp(value, "all") == 0 && !negate) || put(r, "protocol", word, negate);
}

static bool take_ports(struct import_rule *r, const char *key, const char *value, bool negate) {
    char text[32];
    if (strchr(value, ',') != NULL || strlen(value) >= sizeof text)
        return false;
    (void)snprintf(text, sizeof text, "%s", value);
    char *colon = strchr(text, ':');
    if (colon != NULL)
        *colon = '-';
    return colon != text && put(r, key, text, negate);
}

static bool take_sport(struct import_rule *r, const char *value, bool negate) {
    return take_ports(r, "from_port", value, negate);
}
static bool take_dport(struct import_rule *r, const char *value, bool negate) {
    return take_ports(r, "to_port", value, negate);
}

static bool take_state(struct import_rule *r, const char *value, bool negate) {
    char text[IMPORT_VALUE_MAX] = "[";
    char copy[128];
    (void)snprintf(copy, sizeof copy, "%s", value);
    char *rest = NULL;
    for (char *w = strtok_r(copy, ",", &rest); w != NULL; w = strtok_r(NULL, ",", &rest)) {
        const char *word = strcmp(w, "NEW") == 0           ? "new"
                           : strcmp(w, "ESTABLISHED") == 0 ? "established"
                           : strcmp(w, "RELATED") == 0     ? "related"
                                                           : NULL;
        size_t n = strlen(text);
        if (word == NULL || negate)
            return false;
        (void)snprintf(text + n, sizeof text - n, "%s%s", n > 1 ? ", " : "", word);
    }
    size_t n = strlen(text);
    (void)snprintf(text + n, sizeof text - n, "]");
    return import_set(r, "state", text);
}

static bool take_interface(struct import_rule *r, const char *value, bool negate) {
    return strchr(value, '+') == NULL && put(r, "interface", value, negate);
}

static bool take_number(struct import_rule *r, const char *key, const char *value, bool negate) {
    size_t n = strspn(value, "0123456789");
    return n > 0 && value[n] == '\0' && put(r, key, value, negate);
}

static bool take_icmp(struct import_rule *r, const char *value, bool negate) {
    static const struct {
        const char *word, *type;
    } words[] = {{"echo-request", "8"}, {"echo-reply", "0"}, {"destination-unreachable", "3"}, {"time-exceeded", "11"}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strcmp(words[i].word, value) == 0)
            return put(r, "icmp_type", words[i].type, negate);
    const char *slash = strchr(value, '/');
    char type[8];
    if (slash == NULL)
        return take_number(r, "icmp_type", value, negate);
    (void)snprintf(type, sizeof type, "%.*s", (int)(slash - value < 7 ? slash - value : 7), value);
    return !negate && take_number(r, "icmp_type", type, false) && take_number(r, "icmp_code", slash + 1, false);
}

/* "5/sec" */
static bool take_limit(struct import_rule *r, const char *value, bool negate) {
    char text[32];
    size_t n = strspn(value, "0123456789");
    if (negate || n == 0 || n > 9 || (strcmp(value + n, "/sec") != 0 && strcmp(value + n, "/second") != 0))
        return false;
    (void)snprintf(text, sizeof text, "%.*s/s", (int)n, value);
    return import_set(r, "limit", text);
}

static bool take_burst(struct import_rule *r, const char *value, bool negate) {
    return take_number(r, "burst", value, negate);
}

static bool take_length(struct import_rule *r, const char *value, bool negate) {
    return take_ports(r, "length", value, negate);
}

/* Names of modules say nothing that their options do not. */
static bool take_module(struct import_rule *r, const char *value, bool negate) {
    static const char *const known[] = {"tcp",     "udp",   "icmp",  "icmp6", "multiport", "conntrack", "state",
                                        "comment", "limit", "owner", "dscp",  "length",    "cgroup",    "sctp"};
    (void)r;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(known[i], value) == 0)
            return !negate;
    return false;
}

static bool take_comment(struct import_rule *r, const char *value, bool negate) {
    (void)negate;
    return import_get(r, "comment") != NULL || import_set(r, "comment", value);
}

static const struct option options[] = {{"-p", NULL, take_protocol},
                                        {"-s", "from", NULL},
                                        {"-d", "to", NULL},
                                        {"-i", NULL, take_interface},
                                        {"-o", NULL, take_interface},
                                        {"-m", NULL, take_module},
                                        {"--sport", NULL, take_sport},
                                        {"--dport", NULL, take_dport},
                                        {"--sports", NULL, take_sport},
                                        {"--dports", NULL, take_dport},
                                        {"--state", NULL, take_state},
                                        {"--ctstate", NULL, take_state},
                                        {"--uid-owner", "user", NULL},
                                        {"--gid-owner", "group", NULL},
                                        {"--path", "cgroup", NULL},
                                        {"--icmp-type", NULL, take_icmp},
                                        {"--icmpv6-type", NULL, take_icmp},
                                        {"--limit", NULL, take_limit},
                                        {"--limit-burst", NULL, take_burst},
                                        {"--length", NULL, take_length},
                                        {"--dscp", "dscp", NULL},
                                        {"--comment", NULL, take_comment}};

static const struct option *option_find(const char *word) {
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        if (strcmp(options[i].name, word) == 0)
            return &options[i];
    return NULL;
}

/* ---- a rule ---- */

struct target {
    const char *name, *how; /* how: of a rejection */
    bool log;
};

static void lower(char *text) {
    for (; *text != '\0'; text++)
        *text = *text >= 'A' && *text <= 'Z' ? (char)(*text + 32) : *text;
}

/* "--tcp-flags MASK SET", "--syn" */
static bool take_flags(struct import_rule *r, const char *mask, const char *set, bool negate) {
    char text[128];
    (void)snprintf(text, sizeof text, "%s%s/%s", negate ? "!" : "", strcmp(set, "NONE") == 0 ? "" : set,
                   strcmp(mask, "ALL") == 0 ? "fin,syn,rst,psh,ack,urg" : mask);
    lower(text);
    return import_set(r, "tcp_flags", text);
}

/* A list of ports becomes a set with a name of its own. */
static bool ports_list(struct reader *rd, struct import_rule *r, const char *key, const char *value, bool negate) {
    char name[IMPORT_NAME_MAX], members[IMPORT_VALUE_MAX], at_name[IMPORT_NAME_MAX + 4];
    size_t n = 0;
    for (; *value != '\0' && n + 3 < sizeof members; value++) {
        members[n++] = *value == ':' ? '-' : *value;
        if (*value == ',')
            members[n++] = ' ';
    }
    members[n] = '\0';
    (void)snprintf(name, sizeof name, "ports-%u", rd->im->set_count + 1);
    (void)snprintf(at_name, sizeof at_name, "%s@%s", negate ? "!" : "", name);
    if (*value != '\0' || !import_set(r, key, at_name))
        return false;
    import_set_add(rd->im, name, "ports", members);
    return true;
}

struct words {
    struct reader *rd;
    struct line *l;
    size_t at;
    struct import_rule *r;
    struct target *t;
};

static bool take_target(struct words *w, const char *word) {
    const char *value = w->at + 1 < w->l->count ? w->l->word[++w->at] : "";
    if (strcmp(word, "--reject-with") == 0) {
        w->t->how = value;
        return true;
    }
    if (strcmp(word, "--log-prefix") == 0 || strcmp(word, "--log-level") == 0)
        return true;
    w->t->name = value;
    return strcmp(word, "-j") == 0; /* -g does not come back */
}

/* One option with its values. False: a policy cannot say it. */
static bool take_word(struct words *w) {
    struct line *l = w->l;
    bool negate = strcmp(l->word[w->at], "!") == 0;
    w->at += negate;
    if (w->at >= l->count)
        return false;
    const char *word = l->word[w->at];
    if (strcmp(word, "--syn") == 0)
        return take_flags(w->r, "SYN,RST,ACK,FIN", "SYN", negate);
    if (strcmp(word, "--tcp-flags") == 0 && w->at + 2 < l->count) {
        w->at += 2;
        return take_flags(w->r, l->word[w->at - 1], l->word[w->at], negate);
    }
    if (word[0] == '-' && (word[1] == 'j' || word[1] == 'g'))
        return !negate && take_target(w, word);
    if (strncmp(word, "--reject-with", 13) == 0 || strncmp(word, "--log-", 6) == 0)
        return take_target(w, word);
    const struct option *o = option_find(word);
    if (o == NULL || w->at + 1 >= l->count)
        return false;
    const char *value = l->word[++w->at];
    bool ports = strcmp(word, "--sports") == 0 || strcmp(word, "--dports") == 0;
    if (ports && strchr(value, ',') != NULL)
        return ports_list(w->rd, w->r, word[2] == 's' ? "from_port" : "to_port", value, negate);
    return o->key != NULL ? put(w->r, o->key, value, negate) : o->take(w->r, value, negate);
}

static bool verdict_set(struct import_rule *r, const struct target *t) {
    static const struct {
        const char *with, *word;
    } hows[] = {{"tcp-reset", "reset"},
                {"icmp-port-unreachable", "port"},
                {"icmp6-port-unreachable", "port"},
                {"icmp-host-unreachable", "host"},
                {"icmp-admin-prohibited", "admin"},
                {"icmp6-adm-prohibited", "admin"},
                {"icmp-host-prohibited", "admin"},
                {"icmp-net-unreachable", "host"}};
    const char *action = strcmp(t->name, "ACCEPT") == 0 ? "allow" : strcmp(t->name, "DROP") == 0 ? "drop" : "reject";
    const char *how = strcmp(action, "reject") == 0 ? "port" : NULL;
    for (size_t i = 0; t->how != NULL && i < sizeof hows / sizeof hows[0]; i++)
        how = strcmp(hows[i].with, t->how) == 0 ? hows[i].word : how;
    return import_set(r, "action", action) && (how == NULL || import_set(r, "reject_with", how));
}

static void chain_walk(struct reader *rd, const char *chain, const struct import_rule *given, const char *label,
                       uint32_t depth);

static void rule_take(struct reader *rd, struct line *l, const struct import_rule *given, const char *label,
                      uint32_t depth) {
    struct import_rule r = *given;
    struct target t = {.name = ""};
    struct words w = {rd, l, 2, &r, &t};
    for (; w.at < l->count; w.at++)
        if (!take_word(&w)) {
            import_lost(rd->im, l->number, l->text, "a policy has no such match, or two of a kind");
            return;
        }
    bool verdict = strcmp(t.name, "ACCEPT") == 0 || strcmp(t.name, "DROP") == 0 || strcmp(t.name, "REJECT") == 0;
    if (import_get(&r, "interface") != NULL && strcmp(import_get(&r, "interface"), "lo") == 0)
        return; /* nothing of lo ever comes to usherd */
    if (verdict && verdict_set(&r, &t))
        import_rule_add(rd->im, label, &r);
    else if (strcmp(t.name, "LOG") == 0 && import_set(&r, "log", "yes"))
        import_rule_add(rd->im, label, &r);
    else if (t.name[0] == '\0')
        import_rule_add(rd->im, label, &r); /* counts */
    else if (strcmp(t.name, "RETURN") == 0 || depth == DEPTH_MAX)
        import_lost(rd->im, l->number, l->text, "a policy has no chains to return from, nor any so deep");
    else if (import_get(&r, "limit") != NULL)
        import_lost(rd->im, l->number, l->text, "a limit in front of a chain would become one for each of its rules");
    else
        chain_walk(rd, t.name, &r, t.name, depth + 1);
}

static void chain_walk(struct reader *rd, const char *chain, const struct import_rule *given, const char *label,
                       uint32_t depth) {
    bool known = false;
    for (size_t i = 0; i < rd->count; i++) {
        struct line *l = &rd->lines[i];
        known |= l->count > 0 && l->word[0][0] == ':' && strcmp(l->word[0] + 1, chain) == 0;
        if (l->count > 2 && strcmp(l->word[0], "-A") == 0 && strcmp(l->word[1], chain) == 0)
            rule_take(rd, l, given, label, depth);
    }
    if (!known)
        import_lost(rd->im, 0, chain, "a target that a policy does not have");
}

/* A chain's policy is a rule behind all others: a tier's default has no direction. */
static void chain_policy(struct reader *rd, const char *chain, const struct import_rule *given) {
    for (size_t i = 0; i < rd->count; i++) {
        const struct line *l = &rd->lines[i];
        struct import_rule r = *given;
        if (l->count > 1 && l->word[0][0] == ':' && strcmp(l->word[0] + 1, chain) == 0 &&
            strcmp(l->word[1], "DROP") == 0 && import_set(&r, "action", "drop"))
            import_rule_add(rd->im, "policy", &r);
    }
}

static void base_chain(struct reader *rd, const char *chain, const char *direction) {
    struct import_rule given = {.count = 0};
    (void)import_set(&given, "direction", direction);
    (void)import_set(&given, "ip", rd->version);
    chain_walk(rd, chain, &given, direction, 0);
    chain_policy(rd, chain, &given);
}

/* ---- the whole ---- */

/* Keeps the lines of the table filter; those of others are lost, but for empty tables. */
static void line_take(struct reader *rd, const char *text, size_t size, uint32_t number) {
    struct line l = {.number = number, .text = strndup(text, size), .words = strndup(text, size)};
    if (l.text == NULL || l.words == NULL || l.text[0] == '#' || l.text[0] == '\0' || !words_cut(&l)) {
        if (l.text != NULL && strstr(l.text, "ip6tables-save") != NULL)
            rd->version = "6";
        free(l.text);
        free(l.words);
        return;
    }
    if (l.word[0][0] == '*')
        rd->in_filter = strcmp(l.word[0], "*filter") == 0;
    if (l.word[0][0] == '[' && l.count > 1) { /* iptables-save -c */
        memmove(l.word, l.word + 1, (l.count - 1) * sizeof l.word[0]);
        l.count--;
    }
    bool forward = l.count > 1 && strcmp(l.word[0], "-A") == 0 && strcmp(l.word[1], "FORWARD") == 0;
    if (rd->in_filter && !forward) {
        rd->lines[rd->count++] = l;
        return;
    }
    if (strcmp(l.word[0], "-A") == 0)
        import_lost(rd->im, number, l.text,
                    forward ? "usherd does not forward" : "only the table filter has a meaning for usherd");
    free(l.text);
    free(l.words);
}

bool import_iptables(struct import *im, const char *text, size_t size) {
    struct reader rd = {.im = im, .version = "4"};
    size_t lines = 1;
    for (size_t i = 0; i < size; i++)
        lines += text[i] == '\n';
    rd.lines = calloc(lines, sizeof *rd.lines);
    uint32_t number = 0;
    for (size_t at = 0; rd.lines != NULL && at < size;) {
        const char *end = memchr(text + at, '\n', size - at);
        size_t n = end != NULL ? (size_t)(end - text) - at : size - at;
        line_take(&rd, text + at, n, ++number);
        at += n + 1;
    }
    bool good = rd.count > 0;
    if (good) {
        base_chain(&rd, "INPUT", "in");
        base_chain(&rd, "OUTPUT", "out");
    } else {
        (void)fprintf(im->report, "%s: there is no table filter in it; give the output of iptables-save\n", im->name);
    }
    for (size_t i = 0; i < rd.count; i++) {
        free(rd.lines[i].text);
        free(rd.lines[i].words);
    }
    free(rd.lines);
    return good;
}
