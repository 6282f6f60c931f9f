/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads a script: characters to tokens to events, by recursive descent. See script.h.
 */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test/packetdrill/driver/script.h"

#define TOKEN_MAX  512
#define SCRIPT_MAX (1u << 20)

struct reader {
    struct script *s;
    char *at;
    int line;
    char token[TOKEN_MAX]; /* the token in hand; empty at the end */
    bool quoted;
};

_Noreturn void script_fail(const struct script *s, int line, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "%s:%d: ", s->path, line);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static void *make(size_t size) {
    void *p = calloc(1, size);
    if (p == NULL)
        abort();
    return p;
}

/* ---- tokens ---- */

static bool skip_comment(struct reader *r) {
    if (r->at[0] == '/' && r->at[1] == '/') {
        r->at += strcspn(r->at, "\n");
        return true;
    }
    if (r->at[0] != '/' || r->at[1] != '*')
        return false;
    for (r->at += 2; *r->at != '\0' && !(r->at[0] == '*' && r->at[1] == '/'); r->at++)
        r->line += *r->at == '\n';
    r->at += *r->at != '\0' ? 2 : 0;
    return true;
}

static void skip_space(struct reader *r) {
    do {
        for (; isspace((unsigned char)*r->at); r->at++)
            r->line += *r->at == '\n';
    } while (skip_comment(r));
}

static size_t token_length(const char *at) {
    static const char *const marks[] = {"...", "--"};
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++)
        if (strncmp(at, marks[i], strlen(marks[i])) == 0)
            return strlen(marks[i]);
    if (isdigit((unsigned char)*at) || (*at == '.' && isdigit((unsigned char)at[1]))) {
        size_t n = 0; /* a number, a time, a hexadecimal cookie; "0...0.2" is two times */
        while (isalnum((unsigned char)at[n]) || (at[n] == '.' && at[n + 1] != '.' && n > 0) || (n == 0 && at[n] == '.'))
            n++;
        return n;
    }
    size_t n = 0;
    while (isalnum((unsigned char)at[n]) || at[n] == '_')
        n++;
    if (n > 0 && at[n] == '.' && at[n + 1] == ' ')
        n++; /* flags: "S." */
    return n > 0 ? n : 1;
}

static void next(struct reader *r) {
    skip_space(r);
    r->quoted = *r->at == '"';
    size_t n = r->quoted ? strcspn(++r->at, "\"") : *r->at == '\0' ? 0 : token_length(r->at);
    if (n >= TOKEN_MAX)
        script_fail(r->s, r->line, "a word of more than %d letters", TOKEN_MAX);
    memcpy(r->token, r->at, n);
    r->token[n] = '\0';
    r->at += n + r->quoted;
}

static bool is(const struct reader *r, const char *token) {
    return !r->quoted && strcmp(r->token, token) == 0;
}

static bool take(struct reader *r, const char *token) {
    if (!is(r, token))
        return false;
    next(r);
    return true;
}

static void want(struct reader *r, const char *token) {
    if (!take(r, token))
        script_fail(r->s, r->line, "\"%s\" where \"%s\" should be", r->token, token);
}

static int64_t number(struct reader *r) {
    char *end;
    bool minus = take(r, "-");
    int64_t n = (int64_t)strtoull(r->token, &end, 0);
    if (end == r->token || *end != '\0')
        script_fail(r->s, r->line, "\"%s\" where a number should be", r->token);
    next(r);
    return minus ? -n : n;
}

static char *word(struct reader *r) {
    char *w = strdup(r->token);
    next(r);
    return w;
}

/* ---- calls ---- */

static struct value parse_value(struct reader *r);

static struct value parse_list(struct reader *r, const char *end) {
    struct value v = {.kind = VALUE_LIST};
    while (!take(r, end)) {
        v.items = realloc(v.items, (v.count + 1) * sizeof *v.items);
        v.items[v.count++] = parse_value(r);
        if (!is(r, end))
            want(r, ",");
    }
    return v;
}

static struct value field(struct reader *r, char *name) {
    struct value v = {.kind = VALUE_FIELD, .text = name, .items = make(sizeof v), .count = 1};
    v.items[0] = parse_value(r);
    return v;
}

static struct value parse_word(struct reader *r) {
    struct value v = {.kind = VALUE_INT};
    char *name = word(r);
    if (take(r, "(")) { /* htons(8080) is what is in it; so is inet_addr("...") */
        struct value inner = parse_list(r, ")");
        if (inner.count == 1 && !is(r, "="))
            return inner.items[0];
    }
    if (take(r, "="))
        return field(r, name);
    if (!symbol_find(name, &v.n))
        script_fail(r->s, r->line, "the name \"%s\" is not known; add it to symbols.c", name);
    return v;
}

static struct value parse_one(struct reader *r) {
    struct value v = {.kind = VALUE_ELLIPSIS};
    if (r->quoted)
        return (struct value){.kind = VALUE_STRING, .text = word(r)};
    if (take(r, "..."))
        return v;
    if (take(r, "["))
        return parse_list(r, "]");
    if (take(r, "{"))
        return parse_list(r, "}");
    if (isalpha((unsigned char)r->token[0]))
        return parse_word(r);
    v.kind = VALUE_INT;
    v.n = number(r);
    return v;
}

static struct value parse_value(struct reader *r) {
    struct value v = parse_one(r);
    while (take(r, "|"))
        v.n |= parse_one(r).n;
    return v;
}

static struct call *parse_call(struct reader *r) {
    struct call *c = make(sizeof *c);
    c->name = word(r);
    want(r, "(");
    c->args = parse_list(r, ")");
    want(r, "=");
    c->any_result = take(r, "...");
    if (!c->any_result)
        c->result = number(r);
    if (c->result < 0 && isalpha((unsigned char)r->token[0]))
        c->error = word(r);
    if (take(r, "("))
        while (!take(r, ")"))
            next(r);
    return c;
}

/* ---- packets ---- */

static const char flag_letters[] = "FSRP.UEW"; /* by bit, as in the header */

static uint8_t parse_flags(struct reader *r) {
    uint8_t flags = 0;
    if (take(r, "-"))
        return 0;
    for (const char *p = r->token; *p != '\0'; p++) {
        const char *at = strchr(flag_letters, *p);
        if (at == NULL)
            script_fail(r->s, r->line, "\"%s\" where flags of a segment should be", r->token);
        flags |= (uint8_t)(1u << (at - flag_letters));
    }
    next(r);
    return flags;
}

static void option_bytes(struct reader *r, struct segment *g, const void *bytes, size_t n) {
    if (g->opts_len + n > OPTS_MAX)
        script_fail(r->s, r->line, "options of more than %d bytes", OPTS_MAX);
    memcpy(g->opts + g->opts_len, bytes, n);
    g->opts_len += (uint32_t)n;
}

static void option_number(struct reader *r, struct segment *g, uint64_t v, size_t n) {
    uint8_t b[4];
    for (size_t i = 0; i < n; i++)
        b[i] = (uint8_t)(v >> 8 * (n - 1 - i));
    option_bytes(r, g, b, n);
}

static void option_head(struct reader *r, struct segment *g, uint8_t kind, uint8_t len) {
    const uint8_t head[2] = {kind, len};
    option_bytes(r, g, head, 2);
}

static void parse_sack(struct reader *r, struct segment *g) {
    uint32_t at = g->opts_len;
    option_head(r, g, 5, 2);
    while (isdigit((unsigned char)r->token[0])) {
        option_number(r, g, (uint64_t)number(r), 4);
        want(r, ":");
        option_number(r, g, (uint64_t)number(r), 4);
    }
    g->opts[at + 1] = (uint8_t)(g->opts_len - at);
}

static void parse_cookie(struct reader *r, struct segment *g) {
    uint32_t at = g->opts_len;
    option_head(r, g, 34, 2);
    if (!is(r, ",") && !is(r, ">")) {
        for (const char *p = r->token; p[0] != '\0' && p[1] != '\0'; p += 2) {
            const char two[3] = {p[0], p[1], '\0'};
            option_number(r, g, strtoul(two, NULL, 16), 1);
        }
        next(r);
    }
    g->opts[at + 1] = (uint8_t)(g->opts_len - at);
}

static void parse_option(struct reader *r, struct segment *g) {
    if (take(r, "nop")) {
        option_number(r, g, 1, 1);
    } else if (take(r, "eol")) {
        option_number(r, g, 0, 1);
    } else if (take(r, "mss")) {
        option_head(r, g, 2, 4);
        option_number(r, g, (uint64_t)number(r), 2);
    } else if (take(r, "wscale")) {
        option_head(r, g, 3, 3);
        option_number(r, g, (uint64_t)number(r), 1);
    } else if (take(r, "sackOK")) {
        option_head(r, g, 4, 2);
    } else if (take(r, "sack")) {
        parse_sack(r, g);
    } else if (take(r, "FO")) {
        parse_cookie(r, g);
    } else if (take(r, "TS")) {
        option_head(r, g, 8, 10);
        want(r, "val");
        option_number(r, g, (uint64_t)number(r), 4);
        want(r, "ecr");
        option_number(r, g, (uint64_t)number(r), 4);
    } else {
        script_fail(r->s, r->line, "the TCP option \"%s\" is not known", r->token);
    }
}

static void parse_options(struct reader *r, struct segment *g) {
    if (!take(r, "<"))
        return;
    g->any_opts = take(r, "...");
    while (!take(r, ">")) {
        if (!take(r, ","))
            parse_option(r, g);
    }
    while (g->opts_len % 4 != 0)
        option_number(r, g, 0, 1);
}

static void parse_numbers(struct reader *r, struct segment *g) {
    g->seq = (uint32_t)number(r);
    want(r, ":");
    (void)number(r);
    want(r, "(");
    g->len = (uint32_t)number(r);
    want(r, ")");
}

static void parse_ip_info(struct reader *r, struct segment *g) {
    static const char *const ecn[] = {"noecn", "ect1", "ect0", "ce"};
    if (!take(r, "[") && !take(r, "("))
        return;
    for (uint8_t i = 0; i < 4; i++) {
        if (!is(r, ecn[i]))
            continue;
        g->has_tos = true;
        g->tos = i;
        g->tos_mask = 3;
    }
    if (take(r, "tos")) {
        g->has_tos = true;
        g->tos = (uint8_t)number(r);
        g->tos_mask = 0xff;
    } else {
        next(r);
    }
    if (!take(r, "]"))
        want(r, ")");
}

static void parse_icmp(struct reader *r, struct segment *g) {
    static const struct {
        const char *name;
        uint32_t code;
    } codes[] = {{"net_unreachable", 0},  {"host_unreachable", 1}, {"protocol_unreachable", 2},
                 {"port_unreachable", 3}, {"frag_needed", 4},      {"admin_prohibited", 13}};
    g->icmp = take(r, "packet_too_big") ? ICMP_TOO_BIG : ICMP_UNREACHABLE;
    if (g->icmp == ICMP_UNREACHABLE)
        want(r, "unreachable");
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (take(r, codes[i].name))
            g->icmp_code = codes[i].code;
    if (take(r, "mtu"))
        g->icmp_mtu = (uint32_t)number(r);
    if (take(r, "[")) {
        parse_numbers(r, g);
        want(r, "]");
    }
}

static struct segment *parse_segment(struct reader *r) {
    struct segment *g = make(sizeof *g);
    g->inbound = is(r, "<");
    next(r);
    parse_ip_info(r, g);
    if (take(r, "icmp")) {
        parse_icmp(r, g);
        return g;
    }
    g->flags = parse_flags(r);
    parse_numbers(r, g);
    if ((g->has_ack = take(r, "ack")))
        g->ack = (uint32_t)number(r);
    if ((g->has_win = take(r, "win")))
        g->win = (uint16_t)number(r);
    if (take(r, "urg"))
        g->urg = (uint16_t)number(r);
    parse_options(r, g);
    return g;
}

/* ---- events ---- */

static int64_t parse_time(struct reader *r) {
    char *end;
    double t = strtod(r->token, &end);
    if (end == r->token || *end != '\0')
        script_fail(r->s, r->line, "\"%s\" where a time should be", r->token);
    next(r);
    return (int64_t)(t * 1e6 + 0.5);
}

static struct event *parse_event(struct reader *r) {
    struct event *e = make(sizeof *e);
    bool blocks = false;
    int64_t end = 0;
    e->line = r->line;
    e->time = take(r, "*") ? TIME_ANY : take(r, "+") ? TIME_RELATIVE : TIME_ABSOLUTE;
    if (e->time != TIME_ANY)
        e->from_us = e->to_us = parse_time(r);
    if (take(r, "~")) {
        (void)take(r, "+");
        e->range = true;
        e->to_us = parse_time(r);
    } else if (take(r, "...")) {
        blocks = true;
        end = parse_time(r);
    }
    if (is(r, "<") || is(r, ">")) {
        e->segment = parse_segment(r);
        return e;
    }
    if (!isalpha((unsigned char)r->token[0]))
        script_fail(r->s, r->line, "\"%s\" where a packet or a call should be", r->token);
    e->call = parse_call(r);
    e->call->blocks = blocks;
    e->call->end_us = end;
    return e;
}

/* --name=value, one a line. */
static void parse_flag(struct reader *r) {
    char name[64], value[256];
    int n = 0;
    if (sscanf(r->at, "%63[a-z_]=%255[^\n]%n", name, value, &n) != 2)
        script_fail(r->s, r->line, "an option that is not --name=value");
    bool quoted = value[0] == '"' && value[strlen(value) - 1] == '"';
    char *v = quoted ? strndup(value + 1, strlen(value) - 2) : strdup(value);
    r->at += n;
    if (strcmp(name, "ip_version") == 0) {
        r->s->v6 = strcmp(v, "ipv6") == 0;
        r->s->mapped = strcmp(v, "ipv4-mapped-ipv6") == 0;
    } else if (strcmp(name, "tolerance_usecs") == 0) {
        r->s->tolerance_us = strtol(v, NULL, 0);
    } else if (strcmp(name, "so_flags") == 0) {
        r->s->so_flags = v;
    } else if (strcmp(name, "local_ip") == 0) {
        r->s->local_ip = v;
    } else if (strcmp(name, "remote_ip") == 0) {
        r->s->remote_ip = v;
    } else {
        script_fail(r->s, r->line, "the option --%s is not known", name);
    }
    next(r);
}

void script_read(const char *path, struct script *ret_script) {
    struct reader r = {.s = ret_script, .line = 1, .at = make(SCRIPT_MAX)};
    *ret_script = (struct script){.path = path, .tolerance_us = 4000};
    FILE *f = fopen(path, "re");
    if (f == NULL)
        script_fail(ret_script, 0, "cannot be read");
    size_t n = fread(r.at, 1, SCRIPT_MAX - 8, f);
    fclose(f);
    r.at[n] = '\0';
    next(&r);
    while (is(&r, "--"))
        parse_flag(&r);
    for (struct event **tail = &ret_script->events; r.token[0] != '\0' || r.quoted; tail = &(*tail)->next)
        *tail = parse_event(&r);
}
