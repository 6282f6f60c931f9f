/* SPDX-License-Identifier: Apache-2.0
 *
 * The applications: who sends what to whom, and the judgement on what arrives.
 */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "engines/wire.h"
#include "test/sim/model.h"

#define MAGIC          0x52454854415f5355ull
#define HEADER         24u /* magic, number, length, kind */
#define PAYLOAD_MAX    65535u
#define STREAM_PAYLOAD 1ull << 40
#define GSO_PIECES     4u

/* The bytes of datagram `id`. Everything in it follows from its number and length. */
static void payload_fill(const struct model *m, uint64_t id, const struct model_datagram *d, uint8_t *ret_bytes) {
    struct prng p = prng_stream(m->options.seed, (STREAM_PAYLOAD) + id);
    uint64_t magic = MAGIC;
    uint32_t kind = d->kind;
    memcpy(ret_bytes, &magic, 8);
    memcpy(ret_bytes + 8, &id, 8);
    memcpy(ret_bytes + 16, &d->len, 4);
    memcpy(ret_bytes + 20, &kind, 4);
    for (uint32_t at = HEADER; at < d->len; at += 8) {
        uint64_t word = prng_next(&p);
        memcpy(ret_bytes + at, &word, d->len - at < 8 ? d->len - at : 8);
    }
}

static uint64_t datagram_new(struct model *m) {
    if (m->datagram_count == m->datagram_capacity) {
        m->datagram_capacity = m->datagram_capacity == 0 ? 1024 : 2 * m->datagram_capacity;
        m->datagram = (struct model_datagram *)realloc(m->datagram, m->datagram_capacity * sizeof *m->datagram);
        CHECK(m->datagram != NULL);
    }
    m->datagram[m->datagram_count] = (struct model_datagram){.copies = 1, .sent = m->world.now};
    return m->datagram_count++;
}

static uint32_t draw_size(struct model *m) {
    uint64_t max = m->options.v[SIM_size_max] > HEADER ? m->options.v[SIM_size_max] : HEADER;
    if (prng_chance(&m->traffic, PPM / 2))
        return (uint32_t)prng_between(&m->traffic, HEADER, max < 100 ? max : 100);
    return (uint32_t)prng_between(&m->traffic, HEADER, max);
}

/* Sends one datagram, or several of one size in one buffer, from one socket to another one's address. */
void model_send(struct model *m, uint32_t from, uint32_t to, uint64_t answers, bool probe) {
    static uint8_t bytes[PAYLOAD_MAX];
    const struct model_socket *s = &m->socket[from], *peer = &m->socket[to];
    uint32_t len = draw_size(m), pieces = 1;
    bool many = prng_chance(&m->traffic, m->options.v[SIM_gso_ppm]);
    bool lend = prng_chance(&m->traffic, m->options.v[SIM_lend_ppm]);
    if (many && len <= 1200)
        pieces = (uint32_t)prng_between(&m->traffic, 2, GSO_PIECES);
    uint64_t first = m->datagram_count;
    for (uint32_t i = 0; i < pieces; i++) {
        uint64_t id = datagram_new(m);
        struct model_datagram *d = &m->datagram[id];
        d->from = from;
        d->to = to;
        d->len = len;
        d->kind = answers == UINT64_MAX ? KIND_REQUEST : KIND_RESPONSE;
        d->answers = answers;
        d->probe = probe;
        payload_fill(m, id, d, bytes + (size_t)i * len);
    }
    struct host_send send = {.payload = bytes,
                             .len = pieces * len,
                             .sock = s->sock,
                             .proto = PROTO_UDP,
                             .lend = lend,
                             .gso_size = pieces > 1 ? (uint16_t)len : 0};
    bool connected = !ipaddr_is_any(&s->flow.remote);
    if (!connected) {
        send.remote = model_addr(peer->host->params.id, s->v6);
        send.remote_port = peer->flow.local_port;
    }
    int rc = host_submit(s->host, &send);
    m->stats.sent += rc == 0 ? pieces : 0;
    m->stats.refused += rc != 0 ? pieces : 0;
    for (uint64_t id = first; rc != 0 && id < m->datagram_count; id++)
        m->datagram[id].copies = 0; /* never sent: must not arrive */
}

/* ------------------------------------------------------------------------------------------------------ traffic */

static bool may_talk(const struct model_socket *from, const struct model_socket *to) {
    if (!to->server || to->state != SOCKET_OPEN || from->v6 != to->v6)
        return false;
    if (ipaddr_is_any(&from->flow.remote))
        return true;
    struct ipaddr addr = model_addr(to->host->params.id, to->v6);
    return ipaddr_equal(&from->flow.remote, &addr) && from->flow.remote_port == to->flow.local_port;
}

/* A random open socket that `wanted` accepts, UINT32_MAX when there is none. */
static uint32_t pick(struct model *m, const struct host *host, bool not_host, const struct model_socket *talks_to) {
    uint32_t seen = 0, found = UINT32_MAX;
    for (uint32_t i = 0; i < m->socket_count; i++) {
        const struct model_socket *s = &m->socket[i];
        bool fits = talks_to != NULL ? may_talk(talks_to, s) : s->state == SOCKET_OPEN && !s->server;
        if (fits && (s->host == host) != not_host && prng_below(&m->traffic, ++seen) == 0)
            found = i;
    }
    return found;
}

void model_tick(void *arg, uint64_t host) {
    struct model *m = (struct model *)arg;
    if (m->quiet)
        return;
    struct host *h = m->host[host];
    uint64_t mean = NS_PER_SEC / (m->options.v[SIM_rate] > 0 ? m->options.v[SIM_rate] : 1);
    world_post(&m->world, m->world.now + prng_between(&m->traffic, 1, 2 * mean), model_tick, m, host);
    bool local = prng_chance(&m->traffic, m->options.v[SIM_local_ppm]);
    uint32_t from = pick(m, h, false, NULL);
    if (from == UINT32_MAX)
        return;
    uint32_t to = pick(m, h, !local, &m->socket[from]);
    if (to != UINT32_MAX)
        model_send(m, from, to, UINT64_MAX, false);
}

/* With a healed wire every client must get an answer from a server it may talk to. */
void model_probe(struct model *m) {
    for (uint32_t i = 0; i < m->socket_count; i++) {
        if (m->socket[i].state != SOCKET_OPEN || m->socket[i].server)
            continue;
        uint32_t to = pick(m, m->socket[i].host, true, &m->socket[i]);
        if (to == UINT32_MAX)
            to = pick(m, m->socket[i].host, false, &m->socket[i]);
        if (to == UINT32_MAX)
            continue;
        m->stats.probes++;
        model_send(m, i, to, UINT64_MAX, true);
        world_run(&m->world, m->world.now + NS_PER_SEC);
    }
}

/* ----------------------------------------------------------------------------------------------------- judgement */

static void blame(struct model *m, const struct host *h, const struct pkt *p, const char *what) {
    char local[INET6_ADDRSTRLEN], remote[INET6_ADDRSTRLEN];
    inet_ntop(AF_INET6, p->flow.local.b, local, sizeof local);
    inet_ntop(AF_INET6, p->flow.remote.b, remote, sizeof remote);
    world_fail(&m->world, "host %u delivers to %s port %u a datagram of %u bytes from %s port %u %s", h->params.id,
               local, p->flow.local_port, pkt_bytes(p), remote, p->flow.remote_port, what);
}

static struct model_socket *judge_socket(struct model *m, const struct host *h, const struct pkt *p) {
    uint32_t handle = SINK_HANDLE(p->sink);
    if (handle >= m->socket_count || SINK_INDEX(p->sink) != h->params.id) {
        blame(m, h, p, "with a sink that nobody gave out");
        return NULL;
    }
    struct model_socket *s = &m->socket[handle];
    const char *wrong = s->host != h                               ? "for another host's socket"
                        : s->state == SOCKET_CLOSED                ? "for a closed socket"
                        : s->flow.local_port != p->flow.local_port ? "for a socket on another port"
                        : p->owner != handle + 1                   ? "with another socket's owner"
                                                                   : NULL;
    if (wrong != NULL)
        blame(m, h, p, wrong);
    return wrong == NULL ? s : NULL;
}

static uint32_t gather(const struct pkt *p, uint8_t *ret_bytes) {
    memcpy(ret_bytes, p->data, p->len);
    uint32_t len = p->len;
    for (uint32_t i = 0; i < p->frag_count; len += p->frag[i].len, i++)
        memcpy(ret_bytes + len, p->frag[i].base, p->frag[i].len);
    return len;
}

/* Was the datagram damaged such that its checksum could not tell? Only a wire that damages frames may do that. */
static bool collides(const struct model *m, const uint8_t *got, const uint8_t *sent, uint32_t len) {
    return m->options.v[SIM_corrupt_ppm] > 0 && csum_fold(csum_add(0, got, len)) == csum_fold(csum_add(0, sent, len));
}

static const char *judge_datagram(struct model *m, const struct host *h, const struct pkt *p, const uint8_t *got,
                                  uint32_t len, uint64_t id) {
    static uint8_t want[PAYLOAD_MAX + 8];
    const struct model_datagram *d = &m->datagram[id];
    const struct model_socket *from = &m->socket[d->from], *to = &m->socket[d->to];
    struct ipaddr source = model_addr(from->host->params.id, from->v6), dest = model_addr(h->params.id, from->v6);
    if (to->host != h || to->flow.local_port != p->flow.local_port)
        return "that was sent to somebody else";
    if (p->flow.proto != PROTO_UDP || !ipaddr_equal(&p->flow.remote, &source) ||
        p->flow.remote_port != from->flow.local_port || !ipaddr_equal(&p->flow.local, &dest))
        return "with a wrong address";
    if (d->len != len)
        return "of another length than was sent";
    payload_fill(m, id, d, want);
    if (memcmp(got, want, d->len) == 0)
        return NULL;
    if (!collides(m, got, want, d->len))
        return "with altered bytes";
    m->stats.collisions++;
    return NULL;
}

/* A datagram that came back: only the kernel could carry it, here to a port of this host that nobody has open. */
static const char *judge_bounced(struct model *m, const struct model_socket *s, const struct pkt *p, const uint8_t *got,
                                 uint32_t len, uint64_t id) {
    static uint8_t want[PAYLOAD_MAX + 8];
    struct model_datagram *d = &m->datagram[id];
    if (d->from != s->handle || m->socket[d->to].host != s->host)
        return "that came back to somebody else";
    if (d->len != len || p->flow.remote_port != m->socket[d->to].flow.local_port)
        return "that came back as another one";
    payload_fill(m, id, d, want);
    if (memcmp(got, want, d->len) != 0)
        return "that came back with altered bytes";
    if (d->copies == 0 || d->delivered == d->copies)
        return "that came back and arrived as well";
    d->copies--;
    m->stats.bounced++;
    return NULL;
}

static void judge_answer(struct model *m, struct host *h, struct model_datagram *d, const struct pkt *p) {
    const struct model_datagram *question = &m->datagram[d->answers];
    if (question->from != d->to || question->to != d->from)
        blame(m, h, p, "that answers somebody else's request");
    m->stats.answered += d->delivered == 1;
    m->stats.probes_answered += d->delivered == 1 && question->probe;
}

/* One datagram that came in `p`. */
static void judge(struct model *m, struct host *h, struct model_socket *s, const struct pkt *p, const uint8_t *got,
                  uint32_t len) {
    uint64_t magic = 0, id = UINT64_MAX;
    if (len >= HEADER) {
        memcpy(&magic, got, 8);
        memcpy(&id, got + 8, 8);
    }
    if (magic != MAGIC || id >= m->datagram_count) {
        blame(m, h, p, "that nobody sent");
        return;
    }
    if (p->flags & PKT_BOUNCED) {
        const char *wrong = judge_bounced(m, s, p, got, len, id);
        if (wrong != NULL)
            blame(m, h, p, wrong);
        return;
    }
    const char *wrong = judge_datagram(m, h, p, got, len, id);
    struct model_datagram *d = &m->datagram[id];
    if (wrong == NULL && ++d->delivered > d->copies)
        wrong = d->copies == 0 ? "that was never sent" : "once too often";
    if (wrong != NULL) {
        blame(m, h, p, wrong);
        return;
    }
    m->stats.delivered++;
    WORLD_TRACE(&m->world.app, 'r', m->world.now, s->handle, id);
    WORLD_TRACE(&m->world.wire, 'r', m->world.now, s->handle, id);
    if (d->kind == KIND_RESPONSE)
        judge_answer(m, h, d, p);
    else if (s->state == SOCKET_OPEN)
        model_send(m, s->handle, d->from, id, d->probe);
}

/* A packet with gso_size carries several datagrams of that size; the last may be shorter. */
void model_deliver(void *arg, struct host *h, const struct pkt *p) {
    static uint8_t got[PAYLOAD_MAX + 1];
    struct model *m = (struct model *)arg;
    struct model_socket *s = judge_socket(m, h, p);
    if (s == NULL)
        return;
    if (pkt_bytes(p) == 0 || pkt_bytes(p) > PAYLOAD_MAX) {
        blame(m, h, p, "of a length that nobody sent");
        return;
    }
    s->received++;
    uint32_t len = gather(p, got), piece = (p->flags & PKT_GSO) && p->gso_size > 0 ? p->gso_size : len;
    for (uint32_t at = 0; at < len && !m->world.failed; at += piece)
        judge(m, h, s, p, got + at, len - at < piece ? len - at : piece);
}

void model_duplicated(struct model *m, const uint8_t *frame, uint32_t len) {
    uint64_t magic = MAGIC, id;
    const uint8_t *at = (const uint8_t *)memmem(frame, len, &magic, sizeof magic);
    if (at == NULL || (size_t)(frame + len - at) < 16)
        return;
    memcpy(&id, at + 8, 8);
    if (id < m->datagram_count && m->datagram[id].copies > 0)
        m->datagram[id].copies++;
}
