/* SPDX-License-Identifier: Apache-2.0
 *
 * Fast open. The server's cookie is a keyed hash of the client's address, so nothing is remembered; the client keeps
 * cookies in a small direct-mapped cache. Data in a SYN may arrive twice (RFC 7413 section 2.1): only sockets that
 * asked for it get it.
 */
#include "engines/tcp/tcp_fastopen.h"

#include "engines/tcp/tcp_loss.h"
#include "engines/tcp/tcp_output.h"
#include "engines/tcp/tcp_prf.h"

#define FAILED_FOR TCP_COARSE_S(3600)

static struct tcp_fastopen_line *line_of(struct tcp_engine *st, const struct ipaddr *server) {
    uint32_t hash = hash_addr(&st->key, server, 0);
    return (struct tcp_fastopen_line *)arena_at(st, st->fastopen_lines) + (hash & (TCP_FASTOPEN_LINES - 1));
}

static bool usable(const struct tcp_ctx *x, const struct tcp_fastopen_line *line, const struct ipaddr *server) {
    return line->len != 0 && ipaddr_equal(&line->peer, server) &&
           !(line->failed && x->coarse - line->failed_at < FAILED_FOR);
}

bool tcp_fastopen_known(struct tcp_ctx *x, const struct ipaddr *server) {
    return usable(x, line_of(x->st, server), server);
}

bool tcp_fastopen_ask(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_opts *o, uint8_t cookie[16]) {
    const struct tcp_fastopen_line *line = line_of(x->st, &c->flow.remote);
    o->present |= TCP_O_FASTOPEN;
    o->cookie_len = 0;
    if (!usable(x, line, &c->flow.remote))
        return false;
    memcpy(cookie, line->cookie, sizeof line->cookie);
    o->cookie = cookie;
    o->cookie_len = line->len;
    return c->snd_end != c->iss + 1;
}

bool tcp_fastopen_send(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_head *h) {
    const struct tcp_fastopen_line *line = line_of(x->st, &c->flow.remote);
    uint32_t most = min_u32(tcp_advertised_mss(x->st, c), line->mss); /* c->mss does not know the peer's yet */
    struct tcp_build b = {.at = {c->q_next, c->q_next_off}, .seq = c->iss + 1};
    struct pkt *p;
    uint32_t got;
    b.len = min_u32(c->snd_end - c->iss - 1, most > TCP_OPTS_MAX ? most - TCP_OPTS_MAX : 0);
    if (b.len == 0 || tcp_build(x, c, &b, &p, &got) != TCP_BUILT)
        return false;
    if (!tcp_seg_append(x, c, b.seq, b.seq + got, 0, b.at)) {
        (void)pkt_vec_push(x->io->done, p);
        return false;
    }
    tcp_cursor_skip(x->st, &b.at, got);
    c->q_next = b.at.item;
    c->q_next_off = b.at.off;
    c->snd_nxt += got;
    tcp_push_down(x, p, h);
    return true;
}

void tcp_fastopen_answer(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_opts *o) {
    struct tcp_fastopen_line *line = line_of(x->st, &c->flow.remote);
    if ((o->present & TCP_O_FASTOPEN) && o->cookie_len != 0) {
        memset(line, 0, sizeof *line);
        line->peer = c->flow.remote;
        line->mss = tcp_cold(x->st, c)->peer_mss;
        memcpy(line->cookie, o->cookie, o->cookie_len);
        line->len = o->cookie_len;
    }
    c->flags &= ~(uint32_t)TCP_F_TFO;
    if (c->snd_una != c->snd_nxt) /* RFC 7413 section 4.2.2: the server took the SYN only */
        tcp_seg_mark_all_lost(x, c, true);
}

void tcp_fastopen_failed(struct tcp_ctx *x, const struct tcp_conn *c) {
    struct tcp_fastopen_line *line = line_of(x->st, &c->flow.remote);
    if (c->snd_nxt == c->iss + 1 || !ipaddr_equal(&line->peer, &c->flow.remote))
        return;
    line->failed = 1;
    line->failed_at = x->coarse;
}

/* Linux computes the same from the same key: hosts of both kinds may serve one address. */
void tcp_fastopen_cookie(const struct tcp_engine *st, const struct flow *f, uint8_t ret_cookie[TCP_FASTOPEN_COOKIE]) {
    const uint64_t six[4] = {f->remote.d[0], f->remote.d[1], f->local.d[0], f->local.d[1]};
    const uint64_t four = f->remote.d[1] >> 32 | (f->local.d[1] >> 32 << 32);
    bool v4 = ipaddr_is_v4(&f->remote);
    uint64_t v = tcp_prf(&st->fastopen_key, v4 ? &four : six, v4 ? 1 : ARRAY_LEN(six));
    memcpy(ret_cookie, &v, TCP_FASTOPEN_COOKIE);
}

bool tcp_fastopen_good(struct tcp_ctx *x, const struct tcp_listener *l, const struct tcp_rx *rx,
                       const struct tcp_opts *o) {
    uint8_t want[TCP_FASTOPEN_COOKIE];
    bool free = (x->st->cfg.flags & TCP_CONFIG_FASTOPEN_FREE) && rx->len != 0;
    if (l->fastopen == 0 || (!free && (!(o->present & TCP_O_FASTOPEN) || o->cookie_len == 0)))
        return false;
    tcp_fastopen_cookie(x->st, &rx->p->flow, want);
    bool good = free || (o->cookie_len == TCP_FASTOPEN_COOKIE && memcmp(want, o->cookie, sizeof want) == 0);
    if (good && l->fastopen_used < l->fastopen && l->pending < l->backlog)
        return true;
    ENGINE_COUNT(x->io, TCP_COUNT_FASTOPEN_BAD);
    return false;
}

void tcp_fastopen_done(struct tcp_ctx *x, struct tcp_conn *c) {
    struct tcp_listener *l = tcp_listener_at(x->st, tcp_cold(x->st, c)->listener);
    if (!(c->flags & TCP_F_TFO) || !(c->flags & TCP_F_PASSIVE))
        return;
    c->flags &= ~(uint32_t)TCP_F_TFO;
    if (l != NULL)
        l->fastopen_used -= l->fastopen_used > 0;
}
