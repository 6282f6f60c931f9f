/* SPDX-License-Identifier: Apache-2.0
 *
 * See capture_line.h. The two ends, "ADDRESS.PORT > ADDRESS.PORT:", are what every such line has: they are looked for
 * first. What stands in front of them tells the way, what stands behind them the protocol, and the brackets at the end
 * of a line of usherctl's whose the packet is.
 */
#include "control/usherctl/capture_line.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARROW     " > "
#define TOKEN_MAX 64u
#define PORT_MAX  65535u

struct parse {
    const char *before; /* the line ... */
    const char *arrow;  /* ... of which the ends are here */
    const char *after;  /* what follows them */
    bool v6, ports;
};

static bool number(const char *text, uint32_t most, uint32_t *ret) {
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || n > most)
        return false;
    *ret = (uint32_t)n;
    return true;
}

/* ---- the ends ---- */

struct end {
    char address[TOKEN_MAX];
    uint32_t port;
    bool v6, has_port;
};

static bool is_address(const char *text, bool *ret_v6) {
    struct in6_addr a;
    *ret_v6 = strchr(text, ':') != NULL;
    return inet_pton(*ret_v6 ? AF_INET6 : AF_INET, text, &a) == 1;
}

/* "10.0.0.1", "10.0.0.1.80", "fd00::1.80" */
static bool end_read(const char *text, size_t n, struct end *ret) {
    if (n == 0 || n >= TOKEN_MAX)
        return false;
    memcpy(ret->address, text, n);
    ret->address[n] = '\0';
    ret->has_port = false;
    if (is_address(ret->address, &ret->v6))
        return true;
    char *dot = strrchr(ret->address, '.');
    if (dot == NULL || !number(dot + 1, PORT_MAX, &ret->port))
        return false;
    *dot = '\0';
    ret->has_port = true;
    return is_address(ret->address, &ret->v6);
}

static void end_write(const struct end *e, char *to, size_t size) {
    if (!e->has_port)
        (void)snprintf(to, size, "%s", e->address);
    else if (e->v6)
        (void)snprintf(to, size, "[%s]:%u", e->address, e->port);
    else
        (void)snprintf(to, size, "%s:%u", e->address, e->port);
}

static bool ends_at(const char *text, const char *arrow, struct capture_line *l, struct parse *p) {
    struct end source, destination;
    const char *from = arrow, *to = arrow + strlen(ARROW);
    while (from > text && strchr(" \t\n\"", from[-1]) == NULL)
        from--;
    size_t n = strcspn(to, " \t\n,\"");
    const char *after = to + n;
    n -= n > 0 && to[n - 1] == ':';
    if (!end_read(from, (size_t)(arrow - from), &source) || !end_read(to, n, &destination) ||
        source.v6 != destination.v6 || source.has_port != destination.has_port)
        return false;
    *p = (struct parse){.before = text, .arrow = from, .after = after, .v6 = source.v6, .ports = source.has_port};
    end_write(&source, l->source, sizeof l->source);
    end_write(&destination, l->destination, sizeof l->destination);
    (void)snprintf(l->address, sizeof l->address, "%.45s", source.address);
    return true;
}

/* Of several arrows (MAC addresses, what an ICMP error quotes) the first between two addresses. */
static bool ends_find(const char *text, struct capture_line *l, struct parse *p) {
    for (const char *at = strstr(text, ARROW); at != NULL; at = strstr(at + 1, ARROW))
        if (ends_at(text, at, l, p))
            return true;
    return false;
}

/* ---- in front of them ---- */

static bool is_way(const char *word, size_t n, char *ret_direction) {
    static const struct {
        const char *word, *direction;
    } ways[] = {{"in", "in"}, {"out", "out"}, {"In", "in"}, {"Out", "out"}};
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        if (strlen(ways[i].word) == n && strncmp(word, ways[i].word, n) == 0) {
            memcpy(ret_direction, ways[i].direction, strlen(ways[i].direction) + 1);
            return true;
        }
    }
    return false;
}

/* "18:00:30.314150 va out IP", "18:00:30.3 eth0  Out IP", "... vlan 5, p 0," */
static void way_read(const struct parse *p, struct capture_line *l) {
    const char *word = NULL, *last = NULL;
    size_t n = 0, last_n = 0;
    for (const char *at = p->before; at < p->arrow; at = word + n) {
        word = at + strspn(at, " \t\n");
        n = strcspn(word, " \t\n");
        if (word >= p->arrow || n == 0)
            return;
        if (last != NULL && l->direction[0] == '\0' && is_way(word, n, l->direction) && last_n < sizeof l->interface) {
            memcpy(l->interface, last, last_n);
            l->interface[last_n] = '\0';
        }
        if (last_n == 4 && strncmp(last, "vlan", 4) == 0)
            l->vlan = (uint32_t)strtoul(word, NULL, 10) & 0xfff;
        last = word;
        last_n = n;
    }
}

/* ---- behind them ---- */

static void flags_read(const char *letters, struct capture_line *l) {
    static const struct {
        char letter;
        const char *word;
    } flags[] = {{'S', "syn"}, {'F', "fin"}, {'R', "rst"}, {'P', "psh"},
                 {'U', "urg"}, {'.', "ack"}, {'E', "ece"}, {'W', "cwr"}};
    bool opens = false, answers = false;
    for (; *letters != ']' && *letters != '\0'; letters++) {
        for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
            size_t used = strlen(l->flags);
            if (flags[i].letter == *letters)
                (void)snprintf(l->flags + used, sizeof l->flags - used, "%s%s", used > 0 ? "," : "", flags[i].word);
        }
        opens |= *letters == 'S';
        answers |= *letters == '.';
    }
    (void)snprintf(l->state, sizeof l->state, opens && !answers ? "new" : "established");
}

struct icmp_name {
    const char *words;
    uint8_t type, code;
};
static const struct icmp_name icmp4[] = {
    {"echo request", 8, 0}, {"echo reply", 0, 0}, {"port ", 3, 3}, {"host ", 3, 1}, {"time exceeded", 11, 0},
};
static const struct icmp_name icmp6[] = {
    {"echo request", 128, 0},
    {"echo reply", 129, 0},
    {"neighbor solicitation", 135, 0},
    {"neighbor advertisement", 136, 0},
    {"router solicitation", 133, 0},
    {"router advertisement", 134, 0},
    {"port", 1, 4},
    {"packet too big", 2, 0},
    {"time exceeded", 3, 0},
};

static void icmp_read(const struct parse *p, const char *text, struct capture_line *l) {
    const struct icmp_name *names = p->v6 ? icmp6 : icmp4;
    size_t count = p->v6 ? sizeof icmp6 / sizeof icmp6[0] : sizeof icmp4 / sizeof icmp4[0];
    (void)snprintf(l->protocol, sizeof l->protocol, p->v6 ? "icmp6" : "icmp");
    if (sscanf(text, "ICMP type %u code %u", &l->icmp_type, &l->icmp_code) == 2)
        return;
    for (size_t i = 0; i < count; i++) {
        if (strstr(text, names[i].words) == NULL)
            continue;
        l->icmp_type = names[i].type;
        l->icmp_code = names[i].code;
        return;
    }
}

/* "length 64", the last one in front of the owner: bytes behind the transport header, of ICMP with it. */
static void length_read(const struct parse *p, uint32_t header, struct capture_line *l) {
    const char *end = strstr(p->after, "  ("), *found = NULL;
    for (const char *at = strstr(p->after, "length "); at != NULL && (end == NULL || at < end);
         at = strstr(at + 1, "length "))
        found = at;
    unsigned long n = found != NULL ? strtoul(found + strlen("length "), NULL, 10) : 0;
    if (found != NULL && n <= PORT_MAX)
        l->length = (uint32_t)n + header + (p->v6 ? 40 : 20);
}

static int protocol_read(const struct parse *p, struct capture_line *l) {
    const char *flags = strstr(p->after, "Flags ["), *tcp = strstr(p->after, "TCP ["), *icmp = strstr(p->after, "ICMP");
    uint32_t proto;
    if (p->ports && (flags != NULL || tcp != NULL)) {
        (void)snprintf(l->protocol, sizeof l->protocol, "tcp");
        flags_read(strchr(flags != NULL ? flags : tcp, '[') + 1, l);
        length_read(p, 20, l);
    } else if (p->ports) { /* tcpdump looks into many protocols of UDP and then does not name it */
        (void)snprintf(l->protocol, sizeof l->protocol, strstr(p->after, "sctp") != NULL ? "sctp" : "udp");
        length_read(p, 8, l);
    } else if (icmp != NULL) {
        icmp_read(p, icmp, l);
        length_read(p, 0, l);
    } else {
        const char *word = strstr(p->after, "protocol ");
        if (word == NULL || sscanf(word, "protocol %u", &proto) != 1 || proto > 255)
            return -1;
        (void)snprintf(l->protocol, sizeof l->protocol, "%u", proto);
        length_read(p, 0, l);
    }
    return 0;
}

/* ---- whose ---- */

/* Up to one of `ends`; "%2C" is a comma again. */
static void word_copy(const char *from, const char *ends, char *to, size_t size) {
    size_t n = 0;
    for (; *from != '\0' && strchr(ends, *from) == NULL && n + 1 < size; from++) {
        unsigned byte;
        bool coded = from[0] == '%' && sscanf(from + 1, "%2X", &byte) == 1;
        to[n++] = coded ? (char)byte : *from;
        from += coded ? 2 : 0;
    }
    to[n] = '\0';
}

static void owner_read(const char *text, struct capture_line *l) {
    static const char *const begins[] = {"sent by ", "sent past Usher by ", "for a kernel socket of ", "for "};
    const char *at = NULL, *pid = NULL, *uid, *exe, *cgroup;
    for (size_t i = 0; i < sizeof begins / sizeof begins[0] && at == NULL; i++) {
        at = strstr(text, begins[i]);
        at = at != NULL ? at + strlen(begins[i]) : NULL;
    }
    if (at == NULL)
        return;
    pid = strstr(at, ", pid ");
    uid = strstr(at, "uid ");
    exe = strstr(at, ", /");
    cgroup = strstr(at, ", cgroup ");
    const char *name = strstr(at, "user "), *bracket = name != NULL ? strchr(name, '(') : NULL;
    if (pid != NULL)
        word_copy(at, ",", l->comm, sizeof l->comm);
    if (bracket != NULL)
        word_copy(bracket + 1, ")", l->user, sizeof l->user);
    else if (uid != NULL)
        word_copy(uid + strlen("uid "), ",;)\"", l->user, sizeof l->user);
    if (exe != NULL)
        word_copy(exe + 2, ",;)\"", l->exe, sizeof l->exe);
    if (cgroup != NULL)
        word_copy(cgroup + strlen(", cgroup "), ",;)\"", l->cgroup, sizeof l->cgroup);
}

int capture_line_read(const char *text, struct capture_line *l, char *why, size_t size) {
    struct parse p;
    *l = (struct capture_line){.length = 0};
    if (!ends_find(text, l, &p)) {
        (void)snprintf(why, size,
                       strstr(text, "ARP") != NULL
                           ? "ARP has nothing that rules of addresses, ports and protocols look at: describe "
                             "its way and its owner by the options"
                           : "no two addresses with \" > \" between them are in this line; give one of "
                             "`usherctl capture` or `tcpdump -n`");
        return -1;
    }
    way_read(&p, l);
    if (protocol_read(&p, l) != 0) {
        (void)snprintf(why, size, "the protocol of this packet is not in the line; name it by --protocol");
        return -1;
    }
    const char *brackets = strstr(p.after, "  (");
    if (brackets != NULL)
        owner_read(brackets, l);
    return 0;
}
