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

struct reader {
    struct policy *p;
    struct nb_rule *rule;
    struct nb_owner_match owner;
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
    return r->rule->match.ifindex != 0;
}

/* ---- owners ---- */

static bool read_id(struct reader *r, const char *text, bool group) {
    uint32_t *set = group ? &r->owner.gids : &r->owner.uids;
    struct nb_range range;
    if (text[0] == '@') {
        *set = policy_find_set(r->p, text + 1, NB_SET_ID, r->why);
        return *set != NB_NONE && owner_matched(r, group ? NB_OWNER_GID : NB_OWNER_UID);
    }
    if (!policy_read_id(text, group, &range, r->why))
        return false;
    *set = policy_add_set(r->p, NB_SET_ID, &range);
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
        return false;
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
    if (n >= (int)sizeof path || stat(path, &st) != 0)
        return false;
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

static bool read_counter(struct reader *r, const char *text) {
    struct policy *p = r->p;
    (void)snprintf(r->why, WHY_SIZE, "a counter's name has 1 to %d bytes", NAME_SIZE - 1);
    if (text[0] == '\0' || strlen(text) >= NAME_SIZE)
        return false;
    uint32_t i = 0;
    while (i < p->nb.counter_count && strcmp(p->counters[i].text, text) != 0)
        i++;
    if (i == p->nb.counter_count) {
        struct name *n = policy_grow(&p->counters, i, sizeof *n);
        if (n == NULL)
            return no_memory(r);
        (void)snprintf(n->text, sizeof n->text, "%s", text);
        p->nb.counter_count++;
    }
    r->rule->action.counter = i;
    return true;
}

static bool read_class(struct reader *r, const char *text) {
    struct nb_range n;
    if (!policy_read_range(text, UINT32_MAX, &n, r->why) || n.lo != n.hi)
        return false;
    r->rule->action.class_id = n.lo;
    r->rule->action.flags |= NB_ACT_CLASS;
    return true;
}

static bool read_mark(struct reader *r, const char *text) {
    struct nb_range n;
    if (!policy_read_range(text, UINT32_MAX, &n, r->why) || n.lo != n.hi)
        return false;
    r->rule->action.mark = n.lo;
    r->rule->action.mark_mask = UINT32_MAX;
    r->rule->action.flags |= NB_ACT_MARK;
    return true;
}

/* Packets a second; the burst is one second's. */
static bool read_limit(struct reader *r, const char *text) {
    struct nb_range n;
    if (!policy_read_range(text, 1u << 30, &n, r->why) || n.lo != n.hi || n.lo == 0)
        return false;
    struct nb_limit *l = policy_grow(&r->p->limits, r->p->nb.limit_count, sizeof *l);
    if (l == NULL)
        return no_memory(r);
    *l = (struct nb_limit){.rate = n.lo, .burst = n.lo};
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
    {"action", read_action, false, false},
    {"reject_with", read_reject_with, false, false},
    {"counter", read_counter, false, false},
    {"class", read_class, false, false},
    {"mark", read_mark, false, false},
    {"limit", read_limit, false, false},
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

/* Rules with the same predicate share it: one bit of every owner. */
static bool owner_index(struct reader *r) {
    struct policy *p = r->p;
    for (uint32_t i = 0; i < p->nb.owner_count; i++)
        if (memcmp(&p->owners[i], &r->owner, sizeof r->owner) == 0) {
            r->rule->match.owner = i;
            return true;
        }
    struct nb_owner_match *o = policy_grow(&p->owners, p->nb.owner_count, sizeof *o);
    if (o == NULL)
        return false;
    *o = r->owner;
    r->rule->match.owner = p->nb.owner_count++;
    return true;
}

void policy_read_rule(struct policy *p, const struct node *map, struct nb_rule *rule, struct problems *problems) {
    struct reader r = {.p = p, .rule = rule};
    for (const struct node *n = map->first; n != NULL; n = n->next)
        read_field(&r, n, problems);
    const uint32_t ports = NB_F_SPORT | NB_F_DPORT | NB_F_SPORT_SET | NB_F_DPORT_SET;
    const struct nb_match *m = &rule->match;
    if ((m->fields & ports) != 0 && (m->fields & NB_F_PROTO) != 0 && (m->invert & NB_F_PROTO) == 0 && m->proto != 6 &&
        m->proto != 17 && m->proto != 132 && m->proto != 136)
        problem_add(problems, &map->place, "protocol: has no ports; take the ports out or choose tcp, udp or sctp");
    if (r.owner.fields != 0 && !owner_index(&r))
        problem_add(problems, &map->place, "no memory is left for the rule's owner");
}
