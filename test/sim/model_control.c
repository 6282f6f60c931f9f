/* SPDX-License-Identifier: Apache-2.0
 *
 * The control planes: addresses, routes and neighbours as the kernel would report them, sockets opened and closed, and
 * what a restarted control plane does: find out which of its commands took effect, and go on.
 */
#include <errno.h>
#include <string.h>

#include "engines/wire.h"
#include "test/sim/model.h"

#define CMD(id_, type)                                                                                                 \
    { .id = (id_), .size = sizeof(type) }
#define PREFIX4 (96 + 24)
#define PREFIX6 64

struct ipaddr model_addr(uint32_t host, bool v6) {
    const uint8_t v4[4] = {10, 0, 0, (uint8_t)(host + 1)};
    if (!v6)
        return ipaddr_from_v4(v4);
    uint8_t bytes[16] = {0xfd, 0x00, [15] = (uint8_t)(host + 1)};
    return ipaddr_from_v6(bytes);
}

static struct ipaddr prefix_of(bool v6) {
    struct ipaddr a = model_addr(0, v6);
    a.b[15] = 0;
    return a;
}

/* A command that must be accepted. False when the host died of it. */
static bool command(struct model *m, struct host *h, const char *engine, const struct engine_cmd *cmd,
                    struct engine_reply *ret_reply) {
    int rc = host_command(h, engine, cmd, ret_reply);
    if (rc == 0 && ret_reply->error != 0)
        world_fail(&m->world, "host %u: %s refuses command %u: %d %s", h->params.id, engine, cmd->id, ret_reply->error,
                   ret_reply->text);
    return rc == 0 && !m->world.failed;
}

static bool configure_family(struct model *m, struct host *h, bool v6) {
    struct engine_reply reply;
    struct ip_cmd_addr addr = {.cmd = CMD(IP_CMD_ADDR, addr),
                               .addr = model_addr(h->params.id, v6),
                               .prefix_len = v6 ? PREFIX6 : PREFIX4,
                               .dedicated = h->params.dedicated};
    struct ip_cmd_route route = {
        .cmd = CMD(IP_CMD_ROUTE, route), .prefix = prefix_of(v6), .prefix_len = v6 ? PREFIX6 : PREFIX4, .metric = 256};
    return command(m, h, "ip", &addr.cmd, &reply) && command(m, h, "ip", &route.cmd, &reply);
}

/* What a netlink dump tells the engine; stale entries are swept. */
void model_configure(struct model *m, struct host *h) {
    struct engine_reply reply;
    struct ip_cmd_flush flush = {.cmd = CMD(IP_CMD_FLUSH, flush), .begin = true};
    if (!command(m, h, "ip", &flush.cmd, &reply) || !configure_family(m, h, false) || !configure_family(m, h, true))
        return;
    flush.begin = false;
    (void)command(m, h, "ip", &flush.cmd, &reply);
}

/* ----------------------------------------------------------------------------------------------------- neighbours */

static struct host *host_by_addr(const struct model *m, const struct ipaddr *a) {
    for (uint32_t i = 0; i < MODEL_HOST_MAX && m->host[i] != NULL; i++) {
        struct ipaddr v4 = model_addr(i, false), v6 = model_addr(i, true);
        if (ipaddr_equal(a, &v4) || ipaddr_equal(a, &v6))
            return m->host[i];
    }
    return NULL;
}

/* value = asking host | address's host << 8 | v6 << 16 | state << 24 */
static void neigh_tell(void *arg, uint64_t value) {
    struct model *m = (struct model *)arg;
    struct host *h = m->host[value & 0xff], *peer = m->host[value >> 8 & 0xff];
    struct ip_cmd_neigh neigh = {.cmd = CMD(IP_CMD_NEIGH, neigh),
                                 .addr = model_addr(peer->params.id, value >> 16 & 1),
                                 .state = (uint8_t)(value >> 24)};
    memcpy(neigh.mac, peer->params.mac, sizeof neigh.mac);
    struct engine_reply reply;
    (void)command(m, h, "ip", &neigh.cmd, &reply);
}

static uint64_t neigh_value(const struct host *h, uint32_t peer, bool v6, uint32_t state) {
    return h->params.id | peer << 8 | (uint32_t)v6 << 16 | state << 24;
}

void model_event(void *arg, struct host *h, const struct engine_event *ev) {
    struct model *m = (struct model *)arg;
    if (ev->kind != EVENT_NEIGH_WANTED)
        return;
    const struct host *peer = host_by_addr(m, &ev->addr);
    world_log(&m->world, "host %u wants a neighbour%s", h->params.id, peer == NULL ? " that does not exist" : "");
    if (peer == NULL)
        return; /* a damaged packet made it ask; the kernel would fail too, later */
    ns_t delay = (1 + prng_below(&m->flap, m->options.v[SIM_neigh_us] + 1)) * NS_PER_US;
    world_post(&m->world, m->world.now + delay, neigh_tell, m,
               neigh_value(h, peer->params.id, !ipaddr_is_v4(&ev->addr), 1));
}

/* The kernel forgets a neighbour; the engine has to ask again. */
void model_flap(void *arg, uint64_t value) {
    struct model *m = (struct model *)arg;
    (void)value;
    if (m->quiet)
        return;
    uint64_t hosts = m->options.v[SIM_hosts];
    uint64_t h = prng_below(&m->flap, hosts), peer = (h + 1 + prng_below(&m->flap, hosts - 1)) % hosts;
    bool v6 = prng_below(&m->flap, 2), gone = prng_below(&m->flap, 2);
    neigh_tell(m, neigh_value(m->host[h], (uint32_t)peer, v6, gone ? 2 : 0));
    uint64_t mean = NS_PER_SEC / m->options.v[SIM_neigh_flap];
    world_post(&m->world, m->world.now + prng_between(&m->flap, 1, 2 * mean), model_flap, m, 0);
}

void model_notice(void *arg, struct host *h, const struct notice *n) {
    struct model *m = (struct model *)arg;
    uint32_t handle = SINK_HANDLE(n->sink);
    if (SINK_KIND(n->sink) != SINK_SESSION || handle >= m->socket_count || m->socket[handle].host != h)
        world_fail(&m->world, "host %u: a notice of kind %u for a socket it does not have", h->params.id, n->kind);
    m->stats.notices++;
    WORLD_TRACE(&m->world.app, 'n', m->world.now, handle, n->kind, n->value);
    world_log(&m->world, "host %u notice %u value %u", h->params.id, n->kind, n->value);
}

/* -------------------------------------------------------------------------------------------------------- sockets */

static uint64_t sink_of(const struct model_socket *s) {
    return SINK(SINK_SESSION, s->host->params.id, s->handle);
}

static void socket_open_command(struct model *m, struct model_socket *s) {
    struct udp_cmd_open open = {
        .cmd = CMD(UDP_CMD_OPEN, open), .flow = s->flow, .sink = sink_of(s), .owner = s->handle + 1};
    struct engine_reply reply;
    s->state = SOCKET_UNSURE;
    if (!command(m, s->host, "udp", &open.cmd, &reply))
        return;
    s->sock = reply.value;
    s->state = SOCKET_OPEN;
    WORLD_TRACE(&m->world.app, 'o', m->world.now, s->handle);
}

static void socket_close_command(struct model *m, struct model_socket *s) {
    struct udp_cmd_close close = {.cmd = CMD(UDP_CMD_CLOSE, close), .sock = s->sock};
    struct engine_reply reply;
    s->state = SOCKET_UNSURE;
    s->closing = true;
    host_cancel(s->host, s->sock);
    if (!command(m, s->host, "udp", &close.cmd, &reply))
        return;
    s->state = SOCKET_CLOSED;
    WORLD_TRACE(&m->world.app, 'c', m->world.now, s->handle);
}

/* A server on every host can be met by clients of both families; every second client is connected. */
static void socket_new(struct model *m, struct host *h, bool server) {
    if (m->socket_count == MODEL_SOCKET_MAX)
        return;
    struct model_socket *s = &m->socket[m->socket_count];
    *s = (struct model_socket){.host = h, .handle = m->socket_count, .server = server};
    s->v6 = prng_below(&m->churn, 2);
    bool wildcard = prng_below(&m->churn, 2), connected = prng_below(&m->churn, 2);
    uint64_t target = prng_next(&m->churn);
    s->flow.proto = PROTO_UDP;
    s->flow.local_port = m->next_port++;
    if (!wildcard || !s->v6)
        s->flow.local = model_addr(h->params.id, s->v6);
    if (wildcard && !s->v6)
        memset(&s->flow.local.b[12], 0, 4);
    if (!server && connected) {
        uint32_t fits = 0, found = UINT32_MAX;
        for (uint32_t i = 0; i < m->socket_count; i++)
            if (m->socket[i].server && m->socket[i].state == SOCKET_OPEN && m->socket[i].v6 == s->v6 &&
                target % ++fits == 0)
                found = i;
        if (found != UINT32_MAX) {
            s->flow.remote = model_addr(m->socket[found].host->params.id, s->v6);
            s->flow.remote_port = m->socket[found].flow.local_port;
            s->flow.local = model_addr(h->params.id, s->v6);
        }
    }
    m->socket_count++;
    socket_open_command(m, s);
}

void model_open_sockets(struct model *m, struct host *h) {
    for (uint64_t i = 0; i < m->options.v[SIM_sockets]; i++)
        socket_new(m, h, i % 2 == 0);
}

void model_churn(void *arg, uint64_t value) {
    struct model *m = (struct model *)arg;
    (void)value;
    if (m->quiet)
        return;
    struct model_socket *s = &m->socket[prng_below(&m->churn, m->socket_count)];
    if (s->state == SOCKET_OPEN && !s->host->dead) {
        struct host *h = s->host;
        socket_close_command(m, s);
        if (!h->dead)
            socket_new(m, h, prng_below(&m->churn, 2));
    }
    uint64_t mean = NS_PER_SEC / m->options.v[SIM_churn];
    world_post(&m->world, m->world.now + prng_between(&m->churn, 1, 2 * mean), model_churn, m, 0);
}

/* --------------------------------------------------------------------------------------------- audit and recovery */

/* What the engine says of its socket `sock`; false when it has none there, or the host died of the question. */
static bool socket_info(struct host *h, uint32_t sock, struct udp_info *ret_info) {
    struct udp_cmd_info info = {.cmd = CMD(UDP_CMD_INFO, info), .sock = sock, .info = ret_info};
    struct engine_reply reply;
    return host_command(h, "udp", &info.cmd, &reply) == 0 && reply.error == 0;
}

/* Every socket that control knows to be open is there as it was opened. */
void model_audit(struct model *m, struct host *h) {
    for (uint32_t i = 0; i < m->socket_count && !h->dead && !m->world.failed; i++) {
        const struct model_socket *s = &m->socket[i];
        struct udp_info info;
        if (s->host != h || s->state != SOCKET_OPEN)
            continue;
        bool there = socket_info(h, s->sock, &info);
        if (h->dead)
            return;
        bool same = there && info.sink == sink_of(s) && info.owner == s->handle + 1 &&
                    ipaddr_equal(&info.flow.local, &s->flow.local) && info.flow.local_port == s->flow.local_port &&
                    ipaddr_equal(&info.flow.remote, &s->flow.remote) && info.flow.remote_port == s->flow.remote_port;
        if (!same)
            world_fail(&m->world, "host %u: socket %u of port %u is %s", h->params.id, s->sock, s->flow.local_port,
                       there ? "not what was opened" : "gone");
        else if (h->stats.deaths == 0 && info.rx_packets != s->received)
            world_fail(&m->world, "host %u: port %u counts %llu datagrams, its reader got %llu", h->params.id,
                       s->flow.local_port, (unsigned long long)info.rx_packets, (unsigned long long)s->received);
    }
}

/* The host died of the socket's last command: did it take effect? */
static void settle(struct model *m, struct model_socket *s) {
    struct udp_info info;
    uint32_t found = UINT32_MAX;
    for (uint32_t i = 0; i < m->udp_config.socket_max && !s->host->dead; i++)
        if (socket_info(s->host, i, &info) && info.sink == sink_of(s))
            found = i;
    if (s->host->dead)
        return;
    world_log(&m->world, "port %u was unsure and is %s", s->flow.local_port, found == UINT32_MAX ? "closed" : "open");
    if (found != UINT32_MAX)
        s->sock = found;
    if (s->closing && found != UINT32_MAX)
        socket_close_command(m, s);
    else if (!s->closing && found == UINT32_MAX)
        socket_open_command(m, s);
    else
        s->state = found == UINT32_MAX ? SOCKET_CLOSED : SOCKET_OPEN;
}

void model_restarted(void *arg, struct host *h) {
    struct model *m = (struct model *)arg;
    model_audit(m, h);
    for (uint32_t i = 0; i < m->socket_count && !h->dead && !m->world.failed; i++)
        if (m->socket[i].host == h && m->socket[i].state == SOCKET_UNSURE)
            settle(m, &m->socket[i]);
    /* The records survived, so a resync is not needed; every second successor does one all the same. */
    if (!h->dead && prng_below(&m->kill, 2))
        model_configure(m, h);
}
