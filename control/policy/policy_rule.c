/* SPDX-License-Identifier: Apache-2.0
 *
 * One rule of a policy file: a table says which field is read by what. Control thread.
 */
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "control/policy/policy_internal.h"

#define SOURCES_DEFAULT 4096u        /* of a limit for each source */
#define LIMIT_MAX       (1ull << 33) /* tokens: nano-tokens of a bucket fit 64 bits */

struct reader {
    struct policy *p;
    struct nb_rule *rule;
    struct nb_owner_match owner;
    struct nb_limit limit; /* rate 0: there is none */
    bool negate;
    char why[WHY_SIZE];
};

static void matched(struct reader *r, uint32_t field) {
    r->rule->match.fields |= field;
    r->rule->match.invert |= r->negate ? field : 0;
}

static bool owner_matched(struct reader *r, uint32_t field) {
    r->owner.fields |= field;
    r->owner.invert |= r->negate ? field : 0;
    return true;
}

static bool no_memory(struct reader *r) {
    (void)snprintf(r->why, WHY_SIZE, "no memory is left for it");
    return false;
}

/* ---- headers ---- */

static bool read_direction(struct reader *r, const char *text) {
    static const char *const words[] = {"in", "out", NULL};
    uint32_t i;
    if (!policy_read_word(text, words, &i, r->why))
        return false;
    r->rule->match.dir = i == 0 ? NB_IN : NB_OUT;
    matched(r, NB_F_DIR);
    return true;
}

static bool read_protocol(struct reader *r, const char *text) {
    static const char *const words[] = {"tcp", "udp", "icmp", "icmp6", "sctp", NULL};
    static const uint8_t numbers[] = {6, 17, 1, 58, 132};
    struct nb_range n;
    uint32_t i;
    if (policy_read_word(text, words, &i, r->why))
        r->rule->match.proto = numbers[i];
    else if (policy_read_range(text, 255, &n, r->why) && n.lo == n.hi)
        r->rule->match.proto = (uint8_t)n.lo;
    else
        return policy_read_word(text, words, &i, r->why);
    matched(r, NB_F_PROTO);
    return true;
}

/* A prefix is a value under a mask; any other range becomes a set of its own. */
static bool as_mask(const struct nb_addr_range *a, struct nb_addr *value, struct nb_addr *mask) {
    bool host = false;
    for (uint32_t i = 0; i < 128; i++) {
        bool same = ((a->lo.b[i / 8] ^ a->hi.b[i / 8]) >> (7 - i % 8) & 1) == 0;
        bool zero = (a->lo.b[i / 8] >> (7 - i % 8) & 1) == 0;
        if ((host && same) || (!same && !zero))
            return false;
        host |= !same;
        mask->b[i / 8] |= (uint8_t)(same ? 0x80 >> i % 8 : 0);
    }
    *value = a->lo;
    return true;
}

static bool read_address(struct reader *r, const char *text, bool src) {
    struct nb_match *m = &r->rule->match;
    uint32_t *set = src ? &m->src_set : &m->dst_set;
    struct nb_addr_range range;
    if (text[0] == '@') {
        *set = policy_find_set(r->p, text + 1, NB_SET_ADDR, r->why);
        matched(r, src ? NB_F_SRC_SET : NB_F_DST_SET);
        return *set != NB_NONE;
    }
    if (!policy_read_addr(text, &range, r->why))
        return false;
    if (!as_mask(&range, src ? &m->src : &m->dst, src ? &m->src_mask : &m->dst_mask)) {
        (void)snprintf(r->why, WHY_SIZE, "'%.60s' is no prefix; name a set that has the range, as \"@office\"", text);
        return false;
    }
    matched(r, src ? NB_F_SRC : NB_F_DST);
    return true;
}

static bool read_from(struct reader *r, const char *text) {
    return read_address(r, text, true);
}

static bool read_to(struct reader *r, const char *text) {
    return read_address(r, text, false);
}

static bool read_port(struct reader *r, const char *text, bool src) {
    struct nb_match *m = &r->rule->match;
    uint32_t *set = src ? &m->sport_set : &m->dport_set;
    if (text[0] == '@') {
        *set = policy_find_set(r->p, text + 1, NB_SET_PORT, r->why);
        matched(r, src ? NB_F_SPORT_SET : NB_F_DPORT_SET);
        return *set != NB_NONE;
    }
    matched(r, src ? NB_F_SPORT : NB_F_DPORT);
    return policy_read_range(text, 65535, src ? &m->sport : &m->dport, r->why);
}

static bool read_from_port(struct reader *r, const char *text) {
    return read_port(r, text, true);
}

static bool read_to_port(struct reader *r, const char *text) {
    return read_port(r, text, false);
}

static bool read_state(struct reader *r, const char *text) {
    static const char *const words[] = {"new", "established", "related", NULL};
    uint32_t i;
    if (!policy_read_word(text, words, &i, r->why))
        return false;
    r->rule->match.state |= (uint8_t)(1u << i);
    matched(r, NB_F_STATE);
    return true;
}

static bool read_ip(struct reader *r, const char *text) {
    static const char *const words[] = {"4", "6", NULL};
    uint32_t i;
    if (!policy_read_word(text, words, &i, r->why))
        return false;
    r->rule->match.ip_version = i == 0 ? 4 : 6;
    matched(r, NB_F_IP_VERSION);
    return true;
}

static bool read_interface(struct reader *r, const char *text) {
    r->rule->match.ifindex = if_nametoindex(text);
    matched(r, NB_F_IFINDEX);
    (void)snprintf(r->why, WHY_SIZE, "no interface '%.40s' here now; `ip link` lists them", text);
    if (r->rule->match.ifindex != 0)
        return true;
    r->rule->match.ifindex = UINT32_MAX; /* no packet's */
    return policy_absent_note(r->p, r->why);
}

static bool one_number(struct reader *r, const char *text, uint32_t max, uint32_t *ret) {
    struct nb_range n;
    if (!policy_read_range(text, max, &n, r->why))
        return false;
    (void)snprintf(r->why, WHY_SIZE, "'%.60s' is a range; one number is wanted here", text);
    *ret = n.lo;
    return n.lo == n.hi;
}

static bool read_vlan(struct reader *r, const char *text) {
    uint32_t n = 0;
    bool good = one_number(r, text, 4095, &n);
    r->rule->match.vlan = (uint16_t)n;
    matched(r, NB_F_VLAN);
    return good;
}

static bool read_length(struct reader *r, const char *text) {
    matched(r, NB_F_LENGTH);
    return policy_read_range(text, UINT32_MAX, &r->rule->match.length, r->why);
}

/* A number, "ef", "cs1" or "af41" (RFC 2474, 2597, 3246). */
static bool read_dscp(struct reader *r, const char *text) {
    uint32_t n = 64;
    size_t size = strlen(text);
    if (strcmp(text, "ef") == 0)
        n = 46;
    else if (size == 3 && strncmp(text, "cs", 2) == 0 && text[2] >= '0' && text[2] <= '7')
        n = 8u * (uint32_t)(text[2] - '0');
    else if (size == 4 && strncmp(text, "af", 2) == 0 && text[2] >= '1' && text[2] <= '4' && text[3] >= '1' &&
             text[3] <= '3')
        n = 8u * (uint32_t)(text[2] - '0') + 2u * (uint32_t)(text[3] - '0');
    else if (!one_number(r, text, 63, &n))
        return false;
    r->rule->match.dscp = (uint8_t)n;
    matched(r, NB_F_DSCP);
    return true;
}

static bool flag_bits(const char *text, size_t size, uint8_t *ret) {
    static const char *const names[] = {"fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"};
    *ret = 0;
    for (const char *at = text, *end = text + size; at < end;) {
        const char *comma = memchr(at, ',', (size_t)(end - at));
        size_t n = (size_t)((comma != NULL ? comma : end) - at), i = 0;
        while (i < 8 && (strlen(names[i]) != n || strncmp(names[i], at, n) != 0))
            i++;
        if (i == 8)
            return false;
        *ret |= (uint8_t)(1u << i);
        at += n + 1;
    }
    return true;
}

/* "syn" is set, or "syn/syn,ack": of these two, syn alone is. */
static bool read_tcp_flags(struct reader *r, const char *text) {
    struct nb_match *m = &r->rule->match;
    size_t n = strcspn(text, "/");
    const char *mask = text[n] == '/' ? text + n + 1 : text;
    (void)snprintf(r->why, WHY_SIZE,
                   "'%.60s' is none; write syn, or syn/syn,ack, of fin, syn, rst, psh, ack, urg, ece, cwr", text);
    matched(r, NB_F_TCP_FLAGS);
    return flag_bits(text, n, &m->tcp_flags) && flag_bits(mask, strlen(mask), &m->tcp_flags_mask) &&
           m->tcp_flags_mask != 0 && (m->tcp_flags & ~m->tcp_flags_mask) == 0;
}

static bool read_icmp_type(struct reader *r, const char *text) {
    uint32_t n = 0;
    bool good = one_number(r, text, 255, &n);
    r->rule->match.icmp_type = (uint8_t)n;
    matched(r, NB_F_ICMP_TYPE);
    return good;
}

static bool read_icmp_code(struct reader *r, const char *text) {
    uint32_t n = 0;
    bool good = one_number(r, text, 255, &n);
    r->rule->match.icmp_code = (uint8_t)n;
    matched(r, NB_F_ICMP_CODE);
    return good;
}

static bool read_truth(struct reader *r, const char *text, bool *ret) {
    static const char *const words[] = {"no", "yes", "false", "true", NULL};
    uint32_t i;
    if (!policy_read_word(text, words, &i, r->why))
        return false;
    *ret = i % 2 == 1;
    return true;
}

static bool read_fragment(struct reader *r, const char *text) {
    bool wanted;
    if (!read_truth(r, text, &wanted))
        return false;
    r->negate ^= !wanted;
    matched(r, NB_F_FRAGMENT);
    return true;
}

/* ---- owners ---- */

static bool read_id(struct reader *r, const char *text, bool group) {
    uint32_t *set = group ? &r->owner.gids : &r->owner.uids;
    struct nb_range range;
    if (text[0] == '@') {
        *set = policy_find_set(r->p, text + 1, NB_SET_ID, r->why);
        return *set != NB_NONE && owner_matched(r, group ? NB_OWNER_GID : NB_OWNER_UID);
    }
    bool absent;
    bool good = policy_read_id(text, group, &range, &absent, r->why);
    if (!good && !(absent && policy_absent_note(r->p, r->why)))
        return false;
    *set = policy_add_ids(r->p, good ? &range : NULL);
    return *set == NB_NONE ? no_memory(r) : owner_matched(r, group ? NB_OWNER_GID : NB_OWNER_UID);
}

static bool read_user(struct reader *r, const char *text) {
    return read_id(r, text, false);
}

static bool read_group(struct reader *r, const char *text) {
    return read_id(r, text, true);
}

static bool read_exe(struct reader *r, const char *text) {
    struct stat st;
    if (stat(text, &st) != 0) {
        (void)snprintf(r->why, WHY_SIZE, "'%.80s' cannot be looked at: %s", text, strerror(errno));
        if (!policy_absent_note(r->p, r->why))
            return false;
        st.st_dev = st.st_ino = UINT64_MAX; /* no program's */
    }
    r->owner.exe_dev = st.st_dev;
    r->owner.exe_inode = st.st_ino;
    return owner_matched(r, NB_OWNER_EXE);
}

static bool read_comm(struct reader *r, const char *text) {
    (void)snprintf(r->why, WHY_SIZE, "a program's short name has 1 to %d bytes", NB_COMM_SIZE - 1);
    if (text[0] == '\0' || strlen(text) >= NB_COMM_SIZE)
        return false;
    (void)snprintf(r->owner.comm, sizeof r->owner.comm, "%s", text);
    return owner_matched(r, NB_OWNER_COMM);
}

static bool read_cgroup(struct reader *r, const char *text) {
    char path[512];
    struct stat st;
    int n = snprintf(path, sizeof path, "/sys/fs/cgroup%s%s", text[0] == '/' ? "" : "/", text);
    (void)snprintf(r->why, WHY_SIZE, "no cgroup '%.80s' in /sys/fs/cgroup", text);
    if (n >= (int)sizeof path)
        return false;
    if (stat(path, &st) != 0) {
        if (!policy_absent_note(r->p, r->why))
            return false;
        st.st_ino = UINT64_MAX;
    }
    r->owner.cgroup = st.st_ino;
    return owner_matched(r, NB_OWNER_CGROUP);
}

static bool read_pid(struct reader *r, const char *text) {
    struct nb_range n;
    if (!policy_read_range(text, 1u << 22, &n, r->why) || n.lo != n.hi)
        return false;
    r->owner.pid = n.lo;
    return owner_matched(r, NB_OWNER_PID);
}

static bool read_label(struct reader *r, const char *text) {
    uint32_t i = 0;
    while (i < r->p->label_count && strcmp(r->p->labels[i].name, text) != 0)
        i++;
    (void)snprintf(r->why, WHY_SIZE, "no label '%.60s'; define it under labels:", text);
    if (i == r->p->label_count)
        return false;
    r->owner.label = r->p->labels[i].number;
    return owner_matched(r, NB_OWNER_LABEL);
}

static bool read_owner(struct reader *r, const char *text) {
    (void)snprintf(r->why, WHY_SIZE, "'%.40s' is not nobody, the only word here", text);
    return strcmp(text, "nobody") == 0 && owner_matched(r, NB_OWNER_NOBODY);
}

/* ---- actions ---- */

static bool read_action(struct reader *r, const char *text) {
    static const char *const words[] = {"continue", "allow", "drop", "reject", NULL};
    uint32_t i;
    if (!policy_read_word(text, words, &i, r->why))
        return false;
    r->rule->action.verdict = (uint8_t)i;
    return true;
}

static bool read_reject_with(struct reader *r, const char *text) {
    static const char *const words[] = {"auto", "reset", "port", "host", "admin", NULL};
    uint32_t i;
    if (!policy_read_word(text, words, &i, r->why))
        return false;
    r->rule->action.reject = (uint8_t)i;
    return true;
}

static bool same_counter(const void *counters, uint32_t index, const void *wanted) {
    return strcmp(((const struct name *)counters)[index].text, wanted) == 0;
}

static bool read_counter(struct reader *r, const char *text) {
    struct policy *p = r->p;
    (void)snprintf(r->why, WHY_SIZE, "a counter's name has 1 to %d bytes", NAME_SIZE - 1);
    if (text[0] == '\0' || strlen(text) >= NAME_SIZE)
        return false;
    uint64_t hash = finder_hash_text(text);
    uint32_t i = finder_get(&p->counter_finder, hash, same_counter, p->counters, text);
    if (i == FINDER_NONE) {
        i = p->nb.counter_count;
        struct name *n = policy_grow(&p->counters, i, sizeof *n);
        if (n == NULL || !finder_add(&p->counter_finder, hash, i))
            return no_memory(r);
        (void)snprintf(n->text, sizeof n->text, "%s", text);
        p->nb.counter_count++;
    }
    r->rule->action.counter = i;
    return true;
}

static bool read_class(struct reader *r, const char *text) {
    uint32_t id = classes_find(&r->p->classes, text);
    (void)snprintf(r->why, WHY_SIZE, "'%.60s' is no class that has packets; define it under qos.classes:", text);
    r->rule->action.class_id = id;
    r->rule->action.flags |= NB_ACT_CLASS;
    return id != CLASS_NONE;
}

/* The IR has it, for NICs that spread flows. In software a packet goes where its socket lives, or nobody takes it. */
static bool read_steer(struct reader *r, const char *text) {
    (void)text;
    (void)snprintf(r->why, WHY_SIZE,
                   "packets go to the shard of their socket; no port of this version steers them by rule");
    return false;
}

/* "7", "0x10", or "0x10/0xf0": those bits only. */
static bool read_mark(struct reader *r, const char *text) {
    struct nb_action *a = &r->rule->action;
    char *end;
    unsigned long mark = strtoul(text, &end, 0), mask = UINT32_MAX;
    (void)snprintf(r->why, WHY_SIZE, "'%.40s' is no mark; write 7, 0x10 or 0x10/0xf0", text);
    if (*end == '/' && end[1] >= '0' && end[1] <= '9')
        mask = strtoul(end + 1, &end, 0);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || mark > UINT32_MAX || mask > UINT32_MAX || (mark & ~mask) != 0)
        return false;
    a->mark = (uint32_t)mark;
    a->mark_mask = (uint32_t)mask;
    a->flags |= NB_ACT_MARK;
    return true;
}

static bool read_flag(struct reader *r, const char *text, uint16_t flag) {
    bool wanted;
    if (!read_truth(r, text, &wanted))
        return false;
    r->rule->action.flags |= wanted ? flag : 0;
    return true;
}

static bool read_log(struct reader *r, const char *text) {
    return read_flag(r, text, NB_ACT_LOG);
}

static bool read_mirror(struct reader *r, const char *text) {
    return read_flag(r, text, NB_ACT_MIRROR);
}

/* ---- limits ---- */

static bool read_limit(struct reader *r, const char *text) {
    bool bytes;
    if (!policy_read_amount(text, &r->limit.rate, &bytes, r->why))
        return false;
    r->limit.flags |= bytes ? NB_LIMIT_BYTES : 0;
    return true;
}

static bool read_burst(struct reader *r, const char *text) {
    bool bytes;
    return policy_read_amount(text, &r->limit.burst, &bytes, r->why);
}

static bool read_per(struct reader *r, const char *text) {
    (void)snprintf(r->why, WHY_SIZE, "'%.40s' is not source, the only word here", text);
    r->limit.flags |= NB_LIMIT_PER_SOURCE;
    return strcmp(text, "source") == 0;
}

static bool read_sources(struct reader *r, const char *text) {
    return one_number(r, text, 1u << 20, &r->limit.source_max);
}

static bool read_over(struct reader *r, const char *text) {
    bool wanted;
    if (!read_truth(r, text, &wanted))
        return false;
    r->limit.flags |= wanted ? NB_LIMIT_OVER : 0;
    return true;
}

/* Every rule that has a limit has its own. A burst that nobody named is one second's. */
static bool limit_make(struct reader *r) {
    struct nb_limit *l = policy_grow(&r->p->limits, r->p->nb.limit_count, sizeof *l);
    if (l == NULL)
        return false;
    *l = r->limit;
    if (l->burst == 0)
        l->burst = l->rate;
    if ((l->flags & NB_LIMIT_PER_SOURCE) != 0 && l->source_max == 0)
        l->source_max = SOURCES_DEFAULT;
    r->rule->limit = r->p->nb.limit_count++;
    return true;
}

/* ---- the table ---- */

static const struct {
    const char *name;
    bool (*read)(struct reader *r, const char *text);
    bool match; /* may be inverted */
    bool list;
} fields[] = {
    {"direction", read_direction, true, false},
    {"protocol", read_protocol, true, false},
    {"from", read_from, true, false},
    {"to", read_to, true, false},
    {"from_port", read_from_port, true, false},
    {"to_port", read_to_port, true, false},
    {"state", read_state, true, true},
    {"ip", read_ip, true, false},
    {"interface", read_interface, true, false},
    {"user", read_user, true, false},
    {"group", read_group, true, false},
    {"exe", read_exe, true, false},
    {"comm", read_comm, true, false},
    {"cgroup", read_cgroup, true, false},
    {"pid", read_pid, true, false},
    {"label", read_label, true, false},
    {"owner", read_owner, false, false},
    {"vlan", read_vlan, true, false},
    {"length", read_length, true, false},
    {"dscp", read_dscp, true, false},
    {"tcp_flags", read_tcp_flags, true, false},
    {"icmp_type", read_icmp_type, true, false},
    {"icmp_code", read_icmp_code, true, false},
    {"fragment", read_fragment, true, false},
    {"action", read_action, false, false},
    {"reject_with", read_reject_with, false, false},
    {"counter", read_counter, false, false},
    {"log", read_log, false, false},
    {"mirror", read_mirror, false, false},
    {"class", read_class, false, false},
    {"mark", read_mark, false, false},
    {"steer", read_steer, false, false},
    {"limit", read_limit, false, false},
    {"burst", read_burst, false, false},
    {"per", read_per, false, false},
    {"sources", read_sources, false, false},
    {"over", read_over, false, false},
};
#define FIELD_COUNT (sizeof fields / sizeof fields[0])

static void read_value(struct reader *r, size_t f, const struct node *n, struct problems *problems) {
    if (n->kind != NODE_SCALAR) {
        problem_add(problems, &n->place, "%s: one value is wanted here", fields[f].name);
        return;
    }
    r->negate = fields[f].match && n->text[0] == '!';
    if (!fields[f].read(r, n->text + (r->negate ? 1 : 0)))
        problem_add(problems, &n->place, "%s: %s", fields[f].name, r->why);
}

static void read_field(struct reader *r, const struct node *n, struct problems *problems) {
    size_t f = 0;
    while (f < FIELD_COUNT && strcmp(fields[f].name, n->key) != 0)
        f++;
    if (f == FIELD_COUNT) {
        if (strcmp(n->key, "name") != 0 && strcmp(n->key, "tier") != 0 && strcmp(n->key, "comment") != 0)
            problem_add(problems, &n->key_place, "%s: a rule has no such field", n->key);
        return;
    }
    if (!fields[f].list || n->kind != NODE_LIST) {
        read_value(r, f, n, problems);
        return;
    }
    for (const struct node *item = n->first; item != NULL; item = item->next)
        read_value(r, f, item, problems);
}

static bool same_owner(const void *owners, uint32_t index, const void *wanted) {
    return memcmp((const struct nb_owner_match *)owners + index, wanted, sizeof(struct nb_owner_match)) == 0;
}

/* Rules with the same predicate share it: one bit of every owner. */
static bool owner_index(struct reader *r) {
    struct policy *p = r->p;
    uint64_t hash = finder_hash(&r->owner, sizeof r->owner);
    uint32_t i = finder_get(&p->owner_finder, hash, same_owner, p->owners, &r->owner);
    if (i == FINDER_NONE) {
        i = p->nb.owner_count;
        struct nb_owner_match *o = policy_grow(&p->owners, i, sizeof *o);
        if (o == NULL || !finder_add(&p->owner_finder, hash, i))
            return false;
        *o = r->owner;
        p->nb.owner_count++;
    }
    r->rule->match.owner = i;
    return true;
}

/* What no field says alone. */
static void whole_check(const struct reader *r, const struct node *map, struct problems *problems) {
    const uint32_t ports = NB_F_SPORT | NB_F_DPORT | NB_F_SPORT_SET | NB_F_DPORT_SET;
    const struct nb_match *m = &r->rule->match;
    if ((m->fields & ports) != 0 && (m->fields & NB_F_PROTO) != 0 && (m->invert & NB_F_PROTO) == 0 && m->proto != 6 &&
        m->proto != 17 && m->proto != 132 && m->proto != 136)
        problem_add(problems, &map->place, "protocol: has no ports; take the ports out or choose tcp, udp or sctp");
    if ((r->owner.fields & NB_OWNER_NOBODY) != 0 && r->owner.fields != NB_OWNER_NOBODY)
        problem_add(problems, &map->place, "owner: nobody has no user, program or cgroup; take one of them out");
    const bool parts = r->limit.burst != 0 || r->limit.flags != 0 || r->limit.source_max != 0;
    if (r->limit.rate == 0 && parts)
        problem_add(problems, &map->place, "limit: burst, per, sources and over belong to a limit; write one");
    if (r->limit.source_max != 0 && (r->limit.flags & NB_LIMIT_PER_SOURCE) == 0)
        problem_add(problems, &map->place, "sources: is for limits with per: source");
    if (r->limit.rate > LIMIT_MAX || r->limit.burst > LIMIT_MAX)
        problem_add(problems, &map->place, "limit: rate and burst are at most %llu", LIMIT_MAX);
}

void policy_read_rule(struct policy *p, const struct node *map, struct nb_rule *rule, struct problems *problems) {
    struct reader r = {.p = p, .rule = rule};
    for (const struct node *n = map->first; n != NULL; n = n->next)
        read_field(&r, n, problems);
    whole_check(&r, map, problems);
    if (r.owner.fields != 0 && !owner_index(&r))
        problem_add(problems, &map->place, "no memory is left for the rule's owner");
    if (r.limit.rate != 0 && !limit_make(&r))
        problem_add(problems, &map->place, "no memory is left for the rule's limit");
}
