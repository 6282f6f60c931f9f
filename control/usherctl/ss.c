/* SPDX-License-Identifier: Apache-2.0
 *
 * `usherctl ss` for people whose fingers know ss: the same letters, columns, names of states and order of the details.
 * What usherd does not know is left out (the program's fd), what ss does not know is named as our own (session, how).
 */
#include "control/usherctl/ss.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "control/usherctl/filter.h"
#include "control/usherctl/json.h"
#include "control/usherctl/lists.h"
#include "control/usherctl/reflect.h"

#define DETAIL_MAX 768

const struct option_def ss_options[] = {
    {"tcp", 't', NULL, NULL, "TCP sockets", NULL},
    {"udp", 'u', NULL, NULL, "UDP sockets", NULL},
    {"listening", 'l', NULL, NULL, "only those that listen, or are not connected", NULL},
    {"all", 'a', NULL, NULL, "connected ones and those that listen", NULL},
    {"processes", 'p', NULL, NULL, "whose they are", NULL},
    {"info", 'i', NULL, NULL, "what TCP knows of a connection", NULL},
    {"extended", 'e', NULL, NULL, "user, cookie, session and how it is carried", NULL},
    {"numeric", 'n', NULL, NULL, "always so: usherctl looks no names up", NULL},
    {"ipv4", '4', NULL, NULL, "only IPv4", NULL},
    {"ipv6", '6', NULL, NULL, "only IPv6", NULL},
    {.name = NULL}};

static const struct table_column columns[] = {
    {"Netid", false, 0, 0},
    {"State", false, 0, 0},
    {"Recv-Q", false, 0, 0},
    {"Send-Q", false, 0, 0},
    {"Local Address:Port", true, 0, 0},
    {"Peer Address:Port", true, 0, 0},
    {"Process", false, 0, 16},
};

/* By the numbers of SocketState; as ss says them. */
static const char *const states[] = {"?",        "UNCONN",     "LISTEN",     "SYN-SENT",   "SYN-RECV",
                                     "ESTAB",    "FIN-WAIT-1", "FIN-WAIT-2", "CLOSE-WAIT", "CLOSING",
                                     "LAST-ACK", "TIME-WAIT",  "CLOSED"};

struct ss_view {
    struct ss_wish wish;
    struct table *table;
    char **details; /* of each row: lines under it, NULL = none */
    size_t count, room;
};

struct ss_view *ss_begin(const struct ss_wish *w) {
    struct ss_view *v = calloc(1, sizeof *v);
    if (v == NULL)
        return NULL;
    v->wish = *w;
    v->table = table_create(columns, sizeof columns / sizeof columns[0] - (w->processes ? 0 : 1));
    if (v->table == NULL) {
        free(v);
        return NULL;
    }
    return v;
}

static bool wanted(const struct ss_wish *w, const PB(Socket) * s) {
    bool waits = s->state == USHER__CONTROL__V1__SOCKET_STATE__SOCKET_STATE_LISTEN ||
                 s->state == USHER__CONTROL__V1__SOCKET_STATE__SOCKET_STATE_UNCONNECTED;
    bool v6 = strchr(s->local_address, ':') != NULL;
    if ((w->v4 || w->v6) && !(v6 ? w->v6 : w->v4))
        return false;
    return w->all || waits == w->listening;
}

/* ---- details ---- */

struct detail {
    char text[DETAIL_MAX];
    size_t used;
};

static void say(struct detail *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void say(struct detail *d, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(d->text + d->used, sizeof d->text - d->used, fmt, args);
    va_end(args);
    d->used = d->used + (size_t)n < sizeof d->text ? d->used + (size_t)n : sizeof d->text - 1;
}

static void say_extended(struct detail *d, const PB(Socket) * s) {
    if (s->owner != NULL)
        say(d, " uid:%u", s->owner->uid);
    say(d, " cookie:%" PRIx64 " session:%" PRIu64 " handle:%u shard:%u", s->cookie, s->session_id, s->handle, s->shard);
    if (s->how[0] != '\0')
        say(d, " how:\"%s\"", s->how);
}

/* In the order of ss -i. */
static void say_tcp(struct detail *d, const PB(Socket) * s) {
    const PB(TcpInfo) *t = s->tcp;
    if (t->timestamps)
        say(d, " ts");
    if (t->sack)
        say(d, " sack");
    if (t->ecn)
        say(d, " ecn");
    say(d, " %s wscale:%u,%u", t->congestion, t->send_window_scale, t->receive_window_scale);
    say(d, " rto:%.3g rtt:%.4g/%.4g mss:%u pmtu:%u", t->rto_us / 1e3, t->rtt_us / 1e3, t->rtt_var_us / 1e3,
        t->mss_bytes, t->pmtu_bytes);
    say(d, " cwnd:%u", t->mss_bytes > 0 ? t->cwnd_bytes / t->mss_bytes : 0);
    if (t->ssthresh_bytes > 0 && t->ssthresh_bytes < 1u << 30 && t->mss_bytes > 0)
        say(d, " ssthresh:%u", t->ssthresh_bytes / t->mss_bytes);
    say(d, " bytes_acked:%" PRIu64 " bytes_received:%" PRIu64 " segs_out:%" PRIu64 " segs_in:%" PRIu64, s->tx_bytes,
        s->rx_bytes, t->tx_segments, t->rx_segments);
    if (t->pacing_bytes_per_second > 0)
        say(d, " pacing_rate %" PRIu64 "bps", t->pacing_bytes_per_second * 8);
    if (t->unacked_bytes > 0)
        say(d, " unacked_bytes:%u", t->unacked_bytes);
    if (t->unsent_bytes > 0)
        say(d, " notsent:%u", t->unsent_bytes);
    if (t->retransmits > 0)
        say(d, " retrans:%u", t->retransmits);
    if (t->lost > 0)
        say(d, " lost_bytes:%u", t->lost);
    say(d, " rcv_space:%u snd_wnd:%u minrtt:%.4g", t->receive_window_bytes, t->send_window_bytes, t->rtt_min_us / 1e3);
}

static char *detail_of(const struct ss_wish *w, const PB(Socket) * s) {
    struct detail d = {.used = 0};
    d.text[0] = '\0';
    if (w->extended)
        say_extended(&d, s);
    if (w->info && s->tcp != NULL && s->state != USHER__CONTROL__V1__SOCKET_STATE__SOCKET_STATE_LISTEN)
        say_tcp(&d, s);
    return d.used > 0 ? strdup(d.text) : NULL;
}

/* ---- rows ---- */

static void cell_number(struct table *t, uint64_t n) {
    char text[24];
    (void)snprintf(text, sizeof text, "%" PRIu64, n);
    table_cell(t, text, TONE_PLAIN);
}

static void cell_field(struct table *t, const PB(Socket) * s, const char *path, enum show show) {
    char text[128];
    list_cell_text(&s->base, path, show, 0, text, sizeof text);
    table_cell(t, strcmp(text, "*:*") == 0 ? "0.0.0.0:*" : text, TONE_PLAIN);
}

static void row_add(struct ss_view *v, const PB(Socket) * s) {
    bool listener = s->tcp != NULL && s->state == USHER__CONTROL__V1__SOCKET_STATE__SOCKET_STATE_LISTEN;
    if (v->count == v->room) {
        size_t room = v->room > 0 ? 2 * v->room : 64;
        char **details = realloc(v->details, room * sizeof *details);
        if (details == NULL)
            return;
        v->details = details;
        v->room = room;
    }
    size_t state = (size_t)s->state;
    cell_field(v->table, s, "protocol", SHOW_WORD);
    table_cell(v->table, states[state < sizeof states / sizeof states[0] ? state : 0], TONE_PLAIN);
    cell_number(v->table, listener ? s->tcp->pending : s->rx_queued_bytes);
    cell_number(v->table, listener ? s->tcp->backlog : s->tx_queued_bytes);
    cell_field(v->table, s, "local", SHOW_ENDPOINT);
    if (s->remote_address[0] == '\0' && strchr(s->local_address, ':') != NULL)
        table_cell(v->table, "[::]:*", TONE_PLAIN);
    else
        cell_field(v->table, s, "remote", SHOW_ENDPOINT);
    if (v->wish.processes) {
        char who[160] = "";
        if (s->owner != NULL)
            (void)snprintf(who, sizeof who, "users:((\"%s\",pid=%u))", s->owner->comm, s->owner->pid);
        table_cell(v->table, who, TONE_PLAIN);
    }
    v->details[v->count++] = detail_of(&v->wish, s);
}

void ss_add(struct ss_view *v, const PB(ListSocketsResponse) * part) {
    for (size_t i = 0; i < part->n_sockets; i++) {
        if (wanted(&v->wish, part->sockets[i]))
            row_add(v, part->sockets[i]);
    }
}

void ss_end(struct ss_view *v, const struct screen *s) {
    table_print_with(v->table, s, (const char *const *)v->details);
    for (size_t i = 0; i < v->count; i++)
        free(v->details[i]);
    free((void *)v->details);
    table_destroy(v->table);
    free(v);
}

/* ---- the command ---- */

struct collector {
    struct ctl *ctl;
    struct ss_view *view;
    size_t shown;
};

static bool on_part(void *arg, const ProtobufCMessage *m) {
    struct collector *k = arg;
    const PB(ListSocketsResponse) *part = (const PB(ListSocketsResponse) *)m;
    if (k->ctl->output != OUTPUT_JSON) {
        ss_add(k->view, part);
        return true;
    }
    for (size_t i = 0; i < part->n_sockets; i++) {
        if (!wanted(&k->view->wish, part->sockets[i]))
            continue;
        (void)fputs(k->shown++ > 0 ? "," : "", k->ctl->screen.out);
        json_write(k->ctl->screen.out, &part->sockets[i]->base, 0);
    }
    return true;
}

int run_ss(struct ctl *c) {
    const char *const *given = c->given.second;
    const struct ss_wish wish = {
        .listening = given[SS_LISTENING] != NULL,
        .all = given[SS_ALL] != NULL,
        .processes = given[SS_PROCESSES] != NULL,
        .info = given[SS_INFO] != NULL,
        .extended = given[SS_EXTENDED] != NULL,
        .v4 = given[SS_IPV4] != NULL,
        .v6 = given[SS_IPV6] != NULL,
    };
    PB(ListSocketsRequest) request = USHER__CONTROL__V1__LIST_SOCKETS_REQUEST__INIT;
    PB(SocketFilter) filter = USHER__CONTROL__V1__SOCKET_FILTER__INIT;
    struct collector k = {c, ss_begin(&wish), 0};
    if (k.view == NULL) {
        fault_set(&c->fault, EXIT_FAILED, "no memory");
        return -1;
    }
    bool tcp = given[SS_TCP] != NULL, udp = given[SS_UDP] != NULL;
    if (tcp != udp)
        filter.protocol = tcp ? USHER__CONTROL__V1__PROTOCOL__PROTOCOL_TCP : USHER__CONTROL__V1__PROTOCOL__PROTOCOL_UDP;
    request.filter = &filter;
    if (c->output == OUTPUT_JSON)
        (void)fputs("{\"sockets\":[", c->screen.out);
    int error = ctl_stream(c, PB_METHOD(Sockets, List, list_sockets_response), &request, false, on_part, &k);
    if (c->output == OUTPUT_JSON)
        (void)fputs("]}\n", c->screen.out);
    struct screen s = c->screen;
    s.headers = s.headers && error == 0 && c->output != OUTPUT_JSON;
    ss_end(k.view, &s);
    return error;
}
