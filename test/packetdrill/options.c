/* SPDX-License-Identifier: Apache-2.0
 *
 * Socket options: a table of what is known, what it is before anybody sets it, and which option of the engine it is.
 * See program.h.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "test/packetdrill/program.h"

#ifndef TCP_INQ
#define TCP_INQ 36
#endif

/* `born` says where in struct tcp_options the value lies for a socket that has no connection yet. */
struct row {
    int level, name;
    int value;       /* until it is set */
    uint32_t option; /* enum tcp_option, 0 = the program's side only */
    int scale;       /* the engine counts in units this much smaller */
    uint16_t born, born_size;
};

#define BORN(field) offsetof(struct tcp_options, field), sizeof(((struct tcp_options *)0)->field)

static const struct row rows[] = {
    {SOL_TCP, TCP_NODELAY, 0, TCP_OPT_NODELAY, 1, BORN(nodelay)},
    {SOL_TCP, TCP_CORK, 0, TCP_OPT_CORK, 1, BORN(cork)},
    {SOL_TCP, TCP_QUICKACK, 1, TCP_OPT_QUICKACK, 1, BORN(quickack)},
    {SOL_TCP, TCP_KEEPIDLE, 7200, TCP_OPT_KEEP_IDLE, 1, BORN(keep_idle)},
    {SOL_TCP, TCP_KEEPINTVL, 75, TCP_OPT_KEEP_INTERVAL, 1, BORN(keep_interval)},
    {SOL_TCP, TCP_KEEPCNT, 9, TCP_OPT_KEEP_COUNT, 1, BORN(keep_count)},
    {SOL_TCP, TCP_SYNCNT, 6, TCP_OPT_RETRIES, 1, BORN(retries)},
    {SOL_TCP, TCP_USER_TIMEOUT, 0, TCP_OPT_USER_TIMEOUT, 1, BORN(user_timeout_ms)},
    {SOL_TCP, TCP_NOTSENT_LOWAT, 0, TCP_OPT_NOTSENT_LOWAT, 1, BORN(notsent_lowat)},
    {SOL_TCP, TCP_LINGER2, 60, TCP_OPT_LINGER2, 1000, 0, 0},
    {SOL_TCP, TCP_DEFER_ACCEPT, 0, TCP_OPT_DEFER_ACCEPT, 1, 0, 0},
    {SOL_TCP, TCP_FASTOPEN, 0, TCP_OPT_FASTOPEN, 1, 0, 0},
    {SOL_TCP, TCP_FASTOPEN_CONNECT, 0, 0, 1, 0, 0},
    {SOL_TCP, TCP_WINDOW_CLAMP, 0, 0, 1, 0, 0},
    {SOL_TCP, TCP_INQ, 0, 0, 1, 0, 0},
    {SOL_SOCKET, SO_KEEPALIVE, 0, TCP_OPT_KEEPALIVE, 1, BORN(keepalive)},
    {SOL_SOCKET, SO_REUSEADDR, 0, 0, 1, 0, 0},
    {SOL_SOCKET, SO_REUSEPORT, 0, 0, 1, 0, 0},
    {SOL_SOCKET, SO_OOBINLINE, 0, 0, 1, 0, 0},
    {SOL_SOCKET, SO_ZEROCOPY, 0, 0, 1, 0, 0},
    {SOL_SOCKET, SO_PRIORITY, 0, 0, 1, 0, 0},
    {SOL_SOCKET, SO_MARK, 0, 0, 1, 0, 0},
    {SOL_SOCKET, SO_BUSY_POLL, 0, 0, 1, 0, 0},
    {SOL_SOCKET, SO_MAX_PACING_RATE, -1, TCP_OPT_MAX_PACING, 1, BORN(max_pacing)},
    {SOL_IP, IP_TOS, 0, TCP_OPT_TOS, 1, BORN(tos)},
    {SOL_IP, IP_TTL, 64, TCP_OPT_TTL, 1, BORN(ttl)},
    {SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_WANT, 0, 1, 0, 0},
    {SOL_IP, IP_RECVERR, 0, 0, 1, 0, 0},
    {SOL_IP, IP_FREEBIND, 0, 0, 1, 0, 0},
    {SOL_IPV6, IPV6_TCLASS, 0, TCP_OPT_TOS, 1, BORN(tos)},
    {SOL_IPV6, IPV6_UNICAST_HOPS, 64, TCP_OPT_TTL, 1, BORN(ttl)},
    {SOL_IPV6, IPV6_V6ONLY, 0, 0, 1, 0, 0},
    {SOL_IPV6, IPV6_RECVERR, 0, 0, 1, 0, 0},
};
STATIC_ASSERT(ARRAY_LEN(rows) <= OPTION_MAX, "a value for each row");

static uint32_t row_of(int level, int name) {
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].level == level && rows[i].name == name)
            return i;
    return UINT32_MAX;
}

int program_option(const struct fd *f, int level, int name) {
    uint32_t i = row_of(level, name);
    CHECK(i != UINT32_MAX);
    return f->options_set >> i & 1 ? f->values[i] : rows[i].value;
}

static bool engine_knows(const struct fd *f) {
    return f->kind == FD_STREAM && f->state != STREAM_NEW && f->state != STREAM_ENDED;
}

static int tell_engine(struct program *p, const struct fd *f, uint32_t option, int64_t value, const char *name) {
    struct tcp_cmd_option c = {.cmd = {TCP_CMD_OPTION, sizeof c}, .sock = f->sock, .option = option, .value = value};
    c.sink = program_sink(p, f);
    if (name != NULL)
        memcpy(c.name, name, strnlen(name, sizeof c.name - 1));
    return stack_command(p->stack, STACK_TCP, &c).error;
}

static void born(struct fd *f, const struct row *r, int value) {
    if (r->born_size != 0)
        memcpy((uint8_t *)&f->opt + r->born, &value, r->born_size);
}

/* TCP_CORK released and TCP_NODELAY set send what was held back. */
static int set_int(struct program *p, struct fd *f, uint32_t i, int value) {
    const struct row *r = &rows[i];
    bool flag = r->option == TCP_OPT_NODELAY || r->option == TCP_OPT_CORK || r->option == TCP_OPT_QUICKACK ||
                r->option == TCP_OPT_KEEPALIVE;
    value = flag ? value != 0 : value;
    if (r->option == TCP_OPT_NOTSENT_LOWAT && value < 0)
        value = 0; /* the largest number: no mark */
    if (r->option == TCP_OPT_MAX_PACING && value < 0)
        value = 0;
    int error = 0;
    if (r->option != 0 && engine_knows(f))
        error = tell_engine(p, f, r->option, (int64_t)value * r->scale, NULL);
    if (error == -ENOPROTOOPT && f->state == STREAM_LISTENING)
        error = 0; /* the listener keeps it for nobody; accept() starts with what the program's side remembers */
    if (error < 0)
        return error;
    born(f, r, value);
    return 0;
}

static int set_maxseg(struct program *p, struct fd *f, int value) {
    if (value < 88 || value > 32767)
        return -EINVAL;
    f->opt.maxseg = (uint16_t)value;
    return engine_knows(f) ? tell_engine(p, f, TCP_OPT_MAXSEG, value, NULL) : 0;
}

/* Linux doubles what it is told and says so. */
static int set_buffer(struct program *p, struct fd *f, int name, int value) {
    uint32_t bytes = (uint32_t)value * 2;
    if (value < 0)
        return -EINVAL;
    if (name == SO_SNDBUF)
        f->opt.sndbuf = bytes;
    else
        f->opt.rcvbuf = bytes;
    if (!engine_knows(f))
        return 0;
    return tell_engine(p, f, name == SO_SNDBUF ? TCP_OPT_SNDBUF : TCP_OPT_RCVBUF, bytes, NULL);
}

static int set_congestion(struct program *p, struct fd *f, const char *name, socklen_t len) {
    char text[TCP_CC_NAME_MAX] = "";
    memcpy(text, name, len < sizeof text - 1 ? len : sizeof text - 1);
    int error = engine_knows(f) ? tell_engine(p, f, TCP_OPT_CONGESTION, 0, text) : 0;
    if (error == 0)
        memcpy(f->opt.congestion, text, sizeof text);
    return error;
}

int program_setsockopt(struct program *p, int fd, int level, int name, const void *value, socklen_t len) {
    struct fd *f = program_fd(p, fd);
    int v = 0;
    if (f == NULL)
        return -EBADF;
    if (value == NULL)
        return -EFAULT;
    memcpy(&v, value, len < sizeof v ? len : sizeof v);
    if (level == SOL_SOCKET && name == SO_LINGER && len >= sizeof f->linger) {
        memcpy(&f->linger, value, sizeof f->linger);
        return 0;
    }
    if (level == SOL_TCP && name == TCP_CONGESTION)
        return set_congestion(p, f, value, len);
    if (level == SOL_TCP && name == TCP_MAXSEG)
        return set_maxseg(p, f, v);
    if (level == SOL_SOCKET && (name == SO_SNDBUF || name == SO_RCVBUF))
        return set_buffer(p, f, name, v);
    uint32_t i = row_of(level, name);
    if (i == UINT32_MAX)
        return -ENOPROTOOPT;
    int error = set_int(p, f, i, v);
    if (error == 0) {
        f->values[i] = v;
        f->options_set |= 1ull << i;
    }
    return error;
}

void program_options_inherit(struct fd *child, const struct fd *listener) {
    memcpy(child->values, listener->values, sizeof child->values);
    child->options_set = listener->options_set;
    child->opt = listener->opt;
    child->linger = listener->linger;
}

static int give(void *value, socklen_t *len, const void *from, size_t n) {
    *len = *len < n ? *len : (socklen_t)n;
    memcpy(value, from, *len);
    return 0;
}

static struct tcp_conn_info info_of(struct program *p, const struct fd *f) {
    struct tcp_conn_info info = {.mss = 536, .congestion = "cubic"};
    struct tcp_cmd_info ask = {.cmd = {TCP_CMD_INFO, sizeof ask}, .sock = f->sock, .info = &info};
    if (engine_knows(f) && f->state != STREAM_LISTENING)
        (void)stack_command(p->stack, STACK_TCP, &ask);
    else if (f->opt.congestion[0] != '\0')
        memcpy(info.congestion, f->opt.congestion, sizeof info.congestion);
    return info;
}

static int get_tcp_info(struct program *p, const struct fd *f, void *value, socklen_t *len) {
    const struct tcp_conn_info i = info_of(p, f);
    struct tcp_info t = {.tcpi_state = i.state == TCP_STATE_ESTABLISHED ? TCP_ESTABLISHED : TCP_CLOSE,
                         .tcpi_ca_state = i.ca_state,
                         .tcpi_snd_mss = i.mss,
                         .tcpi_rtt = i.rtt_us,
                         .tcpi_rttvar = i.rtt_var_us,
                         .tcpi_rto = i.rto_us,
                         .tcpi_unacked = i.mss == 0 ? 0 : (i.unacked + i.mss - 1) / i.mss,
                         .tcpi_snd_cwnd = i.mss == 0 ? 0 : i.cwnd / i.mss,
                         .tcpi_snd_ssthresh = i.mss == 0 ? 0 : i.ssthresh / i.mss,
                         .tcpi_total_retrans = i.retransmits,
                         .tcpi_pmtu = i.pmtu};
    return give(value, len, &t, sizeof t);
}

/* Answers that are not one int that was set. False: it is one. */
static bool get_special(struct program *p, struct fd *f, int level, int name, int *ret_value) {
    if (level == SOL_SOCKET && name == SO_ERROR) {
        *ret_value = f->error;
        f->error = 0;
    } else if (level == SOL_SOCKET && name == SO_TYPE) {
        *ret_value = f->kind == FD_STREAM ? SOCK_STREAM : SOCK_DGRAM;
    } else if (level == SOL_SOCKET && name == SO_ACCEPTCONN) {
        *ret_value = f->state == STREAM_LISTENING;
    } else if (level == SOL_SOCKET && name == SO_SNDBUF) {
        *ret_value = (int)f->opt.sndbuf;
    } else if (level == SOL_SOCKET && name == SO_RCVBUF) {
        *ret_value = (int)f->opt.rcvbuf;
    } else if (level == SOL_TCP && name == TCP_MAXSEG) {
        bool passive = f->state == STREAM_NEW || f->state == STREAM_LISTENING;
        *ret_value = passive ? (f->opt.maxseg != 0 ? f->opt.maxseg : 536) : (int)info_of(p, f).mss;
    } else {
        return false;
    }
    return true;
}

int program_getsockopt(struct program *p, int fd, int level, int name, void *value, socklen_t *len) {
    struct fd *f = program_fd(p, fd);
    int v;
    if (f == NULL)
        return -EBADF;
    if (value == NULL || len == NULL)
        return -EFAULT;
    if (level == SOL_SOCKET && name == SO_LINGER)
        return give(value, len, &f->linger, sizeof f->linger);
    if (level == SOL_TCP && name == TCP_INFO)
        return get_tcp_info(p, f, value, len);
    if (level == SOL_TCP && name == TCP_CONGESTION) {
        const struct tcp_conn_info i = info_of(p, f);
        return give(value, len, i.congestion, sizeof i.congestion);
    }
    if (get_special(p, f, level, name, &v))
        return give(value, len, &v, sizeof v);
    if (row_of(level, name) == UINT32_MAX)
        return -ENOPROTOOPT;
    v = program_option(f, level, name);
    return give(value, len, &v, sizeof v);
}
