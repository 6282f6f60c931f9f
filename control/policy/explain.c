/* SPDX-License-Identifier: Apache-2.0
 *
 * See explain.h. A packet's words are read by the same readers as a rule's: it is described by a rule of one field
 * each, and what that rule would match is what the packet is.
 */
#include "control/policy/explain.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "control/identity/owner.h"
#include "control/policy/policy_internal.h"

#define PROTO_TCP    6
#define LENGTH_USUAL 60u
#define PORT_USUAL   40000u

static int wrong(struct explain_error *err, const char *field, const char *text) {
    err->field = field;
    (void)snprintf(err->text, sizeof err->text, "%s: %s", field, text);
    return -EINVAL;
}

static bool has_ports(uint8_t proto) {
    return proto == PROTO_TCP || proto == 17 || proto == 132 || proto == 136;
}

/* ---- headers: one rule says what they are ---- */

static bool word_add(char *text, size_t size, const char *key, const char *value) {
    size_t n = strlen(text);
    for (const char *c = value; *c != '\0'; c++)
        if (strchr("'\"\\\n", *c) != NULL)
            return false;
    return value[0] == '\0' || snprintf(text + n, size - n, ", %s: '%s'", key, value) < (int)(size - n);
}

/* A policy of one rule with these fields; NULL with an error. */
static struct policy *rule_of(const struct explain_packet *q, struct explain_error *err) {
    const struct {
        const char *key, *value;
    } words[] = {{"direction", q->direction[0] != '\0' ? q->direction : "in"},
                 {"protocol", q->protocol[0] != '\0' ? q->protocol : "tcp"},
                 {"state", q->state[0] != '\0' ? q->state : "new"},
                 {"tcp_flags", q->tcp_flags},
                 {"interface", q->interface},
                 {"dscp", q->dscp},
                 {"user", q->user},
                 {"group", q->group},
                 {"exe", q->exe},
                 {"comm", q->comm},
                 {"cgroup", q->cgroup}};
    char text[2048] = "rules: [{name: packet";
    static struct problems problems;
    struct policy *p = NULL;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (words[i].value[0] == '!' || words[i].value[0] == '@' ||
            !word_add(text, sizeof text - 4, words[i].key, words[i].value)) {
            (void)wrong(err, words[i].key, "one plain value is wanted here");
            return NULL;
        }
    memcpy(text + strlen(text), "}]", sizeof "}]");
    problems.count = 0;
    if (policy_parse("packet", text, strlen(text), 0, &p, &problems) == 0)
        return p;
    /* "packet:1:30: field: what is wrong" */
    const char *at = problems.count > 0 ? problems.text[0] : "packet: no memory is left";
    for (int colons = 0; *at != '\0' && colons < 3; at++)
        colons += *at == ':';
    (void)snprintf(err->text, sizeof err->text, "%.180s", at + (*at == ' ' ? 1 : 0));
    err->field = "packet";
    return NULL;
}

/* "10.0.0.1", "10.0.0.1:80", "fd00::1", "[fd00::1]:80", ":80" */
static bool end_read(const char *text, struct nb_addr *addr, uint16_t *port) {
    char host[64] = "";
    const char *colon = strrchr(text, ':');
    bool bracket = text[0] == '[', v6 = !bracket && colon != NULL && strchr(text, ':') != colon;
    size_t n = v6 || colon == NULL ? strlen(text) : (size_t)(colon - text);
    uint8_t v4[4];
    if (n >= sizeof host || (bracket && (n < 2 || text[n - 1] != ']')))
        return false;
    memcpy(host, text + bracket, n - 2u * bracket);
    if (!v6 && colon != NULL) {
        char why[WHY_SIZE];
        struct nb_range r;
        if (!policy_read_range(colon + 1, 65535, &r, why) || r.lo != r.hi)
            return false;
        *port = (uint16_t)r.lo;
    }
    if (host[0] == '\0')
        return true;
    if (inet_pton(AF_INET, host, v4) == 1) {
        *addr = nb_addr_from_v4(v4);
        return true;
    }
    return inet_pton(AF_INET6, host, addr->b) == 1;
}

static bool is_v4(const struct nb_addr *a) {
    static const uint8_t v4[12] = {[10] = 0xff, 0xff};
    return memcmp(a->b, v4, sizeof v4) == 0;
}

static int ends_read(const struct explain_packet *q, struct nb_view *v, struct explain_error *err) {
    const uint8_t any[4] = {0};
    v->src = v->dst = nb_addr_from_v4(any);
    v->sport = v->dport = has_ports(v->proto) ? PORT_USUAL : 0;
    const char *how = "write 10.0.0.1:80, [fd00::1]:80 or :80";
    if (!end_read(q->source, &v->src, &v->sport))
        return wrong(err, "source", how);
    if (!end_read(q->destination, &v->dst, &v->dport))
        return wrong(err, "destination", how);
    const struct nb_addr none = nb_addr_from_v4(any);
    if (is_v4(&v->src) != is_v4(&v->dst)) { /* the one that nobody gave follows the other */
        struct nb_addr *absent = memcmp(&v->src, &none, sizeof none) == 0 ? &v->src : &v->dst;
        if (memcmp(absent, &none, sizeof none) != 0)
            return wrong(err, "destination", "is of another IP version than the source");
        *absent = (struct nb_addr){{0}};
    }
    v->ip_version = is_v4(&v->src) ? 4 : 6;
    v->ethertype = v->ip_version == 4 ? 0x0800 : 0x86dd;
    return 0;
}

static void view_make(const struct explain_packet *q, const struct nb_match *m, struct nb_view *v) {
    *v = (struct nb_view){.dir = m->dir, .state = m->state, .proto = m->proto, .parsed = NB_PARSED_IP};
    v->length = v->bytes = q->length != 0 ? q->length : LENGTH_USUAL;
    v->dscp = (m->fields & NB_F_DSCP) != 0 ? m->dscp : 0;
    v->ifindex = (m->fields & NB_F_IFINDEX) != 0 ? m->ifindex : 0;
    v->vlan = (uint16_t)q->vlan;
    v->icmp_type = (uint8_t)q->icmp_type;
    v->icmp_code = (uint8_t)q->icmp_code;
    if (has_ports(v->proto))
        v->parsed |= NB_PARSED_PORTS;
    if (v->proto == 1 || v->proto == 58)
        v->parsed |= NB_PARSED_ICMP;
    if (v->proto == PROTO_TCP)
        v->tcp_flags = (m->fields & NB_F_TCP_FLAGS) != 0 ? m->tcp_flags : m->state == NB_STATE_NEW ? 0x02 : 0x10;
}

/* ---- whose ---- */

static uint32_t first_of(const struct policy *one, uint32_t set) {
    const struct nb_set *s = &policy_rules(one)->sets[set];
    return s->count > 0 ? s->ranges[0].lo : 0;
}

/* False: nobody's. */
static bool owner_make(const struct policy *p, const struct explain_packet *q, const struct policy *one,
                       struct nb_owner *o) {
    const struct nb_match *m = &policy_rules(one)->rules[0].match;
    *o = (struct nb_owner){.uid = UINT32_MAX, .gid = UINT32_MAX};
    if (q->owner != NULL)
        policy_owner(p, q->owner, o);
    if (m->owner == NB_NONE)
        return q->owner != NULL;
    const struct nb_owner_match *w = &policy_rules(one)->owners[m->owner];
    if ((w->fields & NB_OWNER_CGROUP) != 0) {
        struct owner path = {.pid = 0};
        struct nb_owner seen;
        (void)snprintf(path.cgroup, sizeof path.cgroup, "%s%s", q->cgroup[0] == '/' ? "" : "/", q->cgroup);
        policy_owner(p, &path, &seen);
        memcpy(o->cgroup, seen.cgroup, sizeof o->cgroup);
        o->label = seen.label;
    }
    if ((w->fields & NB_OWNER_UID) != 0)
        o->uid = first_of(one, w->uids);
    if ((w->fields & NB_OWNER_GID) != 0)
        o->gid = first_of(one, w->gids);
    if ((w->fields & NB_OWNER_EXE) != 0) {
        o->exe_dev = w->exe_dev;
        o->exe_inode = w->exe_inode;
    }
    if ((w->fields & NB_OWNER_COMM) != 0)
        memcpy(o->comm, w->comm, sizeof o->comm);
    return true;
}

/* ---- the answer ---- */

static void packet_text(const struct explain_packet *q, struct explanation *e) {
    char src[INET6_ADDRSTRLEN], dst[INET6_ADDRSTRLEN], ports[2][8] = {"", ""};
    const struct nb_view *v = &e->view;
    int family = v->ip_version == 4 ? AF_INET : AF_INET6, skip = v->ip_version == 4 ? 12 : 0;
    const char *open = family == AF_INET6 && has_ports(v->proto) ? "[" : "", *close = open[0] != '\0' ? "]" : "";
    (void)inet_ntop(family, v->src.b + skip, src, sizeof src);
    (void)inet_ntop(family, v->dst.b + skip, dst, sizeof dst);
    if (has_ports(v->proto)) {
        (void)snprintf(ports[0], sizeof ports[0], ":%u", v->sport);
        (void)snprintf(ports[1], sizeof ports[1], ":%u", v->dport);
    }
    (void)snprintf(e->packet, sizeof e->packet, "%s %s %s%s%s%s to %s%s%s%s, %s, %s", v->dir == NB_IN ? "in" : "out",
                   q->protocol[0] != '\0' ? q->protocol : "tcp", open, src, close, ports[0], open, dst, close, ports[1],
                   q->state[0] != '\0' ? q->state : "new", e->owned ? "of the owner given" : "nobody's");
}

static void passed_find(const struct policy *p, const struct nb_owner *owner, struct explanation *e) {
    const struct nb_policy *nb = policy_rules(p);
    for (uint32_t i = 0; i < nb->rule_count; i++) {
        const struct nb_rule *r = &nb->rules[i];
        uint32_t decided = e->out.rule[r->tier];
        bool over = r->limit != NB_NONE && (nb->limits[r->limit].flags & NB_LIMIT_OVER) != 0;
        if (decided == NB_RULE_UNASKED || i >= decided || r->action.verdict != NB_CONTINUE || over ||
            e->passed_count[r->tier] == EXPLAIN_PASSED_MAX || !nb_rule_matches(nb, &r->match, &e->view, owner))
            continue;
        e->passed[r->tier][e->passed_count[r->tier]++] = i;
    }
}

int explain(const struct policy *p, const struct explain_packet *q, struct explanation *e, struct explain_error *err) {
    if (q->vlan > 4095 || q->icmp_type > 255 || q->icmp_code > 255)
        return wrong(err, q->vlan > 4095 ? "vlan" : "icmp_type", "no packet has that");
    struct policy *one = rule_of(q, err);
    if (one == NULL)
        return -EINVAL;
    memset(e, 0, sizeof *e);
    view_make(q, &policy_rules(one)->rules[0].match, &e->view);
    int error = ends_read(q, &e->view, err);
    if (error == 0) {
        e->owned = owner_make(p, q, one, &e->owner);
        packet_text(q, e);
        nb_interpret(policy_rules(p), NULL, &e->view, e->owned ? &e->owner : NULL, 0, &e->out);
        passed_find(p, e->owned ? &e->owner : NULL, e);
    }
    policy_destroy(one);
    return error;
}

const char *explain_errno(const struct explanation *e) {
    if (e->out.verdict == NB_ALLOW || e->view.dir == NB_IN || !e->owned)
        return "";
    if (e->out.verdict == NB_DROP)
        return "EPERM";
    if (e->out.reject == NB_REJECT_HOST)
        return "EHOSTUNREACH";
    return e->out.reject == NB_REJECT_ADMIN ? "EACCES" : "ECONNREFUSED";
}
