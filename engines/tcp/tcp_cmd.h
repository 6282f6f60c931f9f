/* SPDX-License-Identifier: Apache-2.0
 *
 * What the host may ask of the tcp engine. Values only. Control sends these by mailbox; the session side of the shard
 * may call command() with the same structs straight from a client's submission ring, so that a connection costs no
 * system call. A socket index (`sock`) is what pkt->sock carries; it is valid from the reply of LISTEN or CONNECT, or
 * from NOTICE_ACCEPT, until NOTICE_CLOSED. Listeners have indexes of their own, with TCP_SOCK_LISTENER set.
 */
#ifndef USHER_ENGINES_TCP_CMD_H
#define USHER_ENGINES_TCP_CMD_H

#include "engines/engine.h"

#define TCP_SOCK_LISTENER 0x80000000u
#define TCP_CC_NAME_MAX 12

enum tcp_config_flag {
    TCP_CONFIG_NO_TIMESTAMPS = 1 << 0,
    TCP_CONFIG_NO_SACK = 1 << 1,
    TCP_CONFIG_NO_WSCALE = 1 << 2,
    TCP_CONFIG_ECN = 1 << 3,         /* ask for ECN when connecting; asked, it is granted */
    TCP_CONFIG_COOKIES_ALWAYS = 1 << 4, /* answer every SYN with a cookie, not only under pressure (tests) */
    TCP_CONFIG_NO_PACING = 1 << 5,
    TCP_CONFIG_NO_GSO = 1 << 6,
    TCP_CONFIG_NO_ECN = 1 << 7,      /* never grant it */
    TCP_CONFIG_FASTOPEN_FREE = 1 << 8, /* a SYN may bring data without a cookie, as Linux may be told (tests) */
};

/* Every zero means the default. */
struct tcp_config {
    uint32_t conn_max;      /* connections of one shard */
    uint32_t listener_max;
    uint32_t half_open_max; /* remembered half-open connections; beyond: SYN cookies */
    uint32_t time_wait_max; /* beyond: the oldest ends early */
    uint32_t item_max;      /* pieces of send queues, all connections together */
    uint32_t segment_max;   /* ranges in flight, all connections together */
    uint32_t ooo_packet_max; /* packets kept out of order, all connections together */
    uint32_t rcvbuf;        /* first receive window of a connection, bytes */
    uint32_t rcvbuf_max;    /* autotuning stops there */
    uint32_t rx_budget;     /* bytes all readers together may hold before windows stop to grow */
    uint32_t sndbuf_max;    /* send limit the engine advises at most */
    uint32_t time_wait_ms;
    uint32_t flags;         /* enum tcp_config_flag */
    uint16_t port_low, port_high; /* reserved range for outgoing connections; 0 = CONNECT must name the port */
    char congestion[TCP_CC_NAME_MAX]; /* "cubic" */
    uint64_t fastopen_key[2]; /* of cookies, the same as on other hosts of one service; both 0 = a secret of its own */
};

enum tcp_cmd_id {
    TCP_CMD_LISTEN = 1, /* struct tcp_cmd_listen */
    TCP_CMD_CONNECT,    /* struct tcp_cmd_connect */
    TCP_CMD_ADOPT,      /* struct tcp_cmd_adopt */
    TCP_CMD_SHUTDOWN,   /* struct tcp_cmd_sock: no more will be sent; FIN follows what is queued */
    TCP_CMD_CLOSE,      /* struct tcp_cmd_close; of a listener as well */
    TCP_CMD_OPTION,     /* struct tcp_cmd_option */
    TCP_CMD_INFO,       /* struct tcp_cmd_info */
    TCP_CMD_STATS,      /* struct tcp_cmd_stats */
    TCP_CMD_SYNC,       /* struct tcp_cmd_sync, after recover() */
    TCP_CMD_PORTS,      /* struct tcp_cmd_ports */
    TCP_CMD_HEIR,       /* struct tcp_cmd_sock: reply.value64 = sink of a listener that its SYN would go to now */
    TCP_CMD_GIVE,       /* struct tcp_cmd_give */
    TCP_CMD_FREEZE,     /* struct tcp_cmd_freeze, after recover() in a new process */
    TCP_CMD_RESUME,     /* struct tcp_cmd_resume */
};

enum tcp_option {
    TCP_OPT_NODELAY = 1,
    TCP_OPT_CORK,          /* 0 sends what is held back */
    TCP_OPT_QUICKACK,
    TCP_OPT_KEEPALIVE,     /* 1 = on */
    TCP_OPT_KEEP_IDLE,     /* seconds */
    TCP_OPT_KEEP_INTERVAL, /* seconds */
    TCP_OPT_KEEP_COUNT,
    TCP_OPT_USER_TIMEOUT,  /* milliseconds, 0 = by retries; set before connecting, the peer is told (RFC 5482) */
    TCP_OPT_MAXSEG,        /* before connecting or listening */
    TCP_OPT_CONGESTION,    /* value points nowhere: the name is in tcp_cmd_option.name */
    TCP_OPT_FASTOPEN,      /* listener: queue length, 0 = off. Connection, before CONNECT: see tcp_cmd_connect */
    TCP_OPT_RCVBUF,        /* bytes, 0 = autotune */
    TCP_OPT_SNDBUF,
    TCP_OPT_TOS,
    TCP_OPT_TTL,
    TCP_OPT_DEFER_ACCEPT,  /* listener: seconds to wait for data before NOTICE_ACCEPT */
    TCP_OPT_NOTSENT_LOWAT, /* bytes not yet sent below which NOTICE_WRITABLE is given; 0 = off */
    TCP_OPT_MAX_PACING,    /* bytes per second, 0 = no limit */
    TCP_OPT_LINGER2,       /* milliseconds an orphan stays in FIN-WAIT-2 */
    TCP_OPT_RETRIES,       /* SYN retransmissions */
    TCP_OPT_OWNER,
};

/* Options a connection is born with; zero = default. A listener's are inherited by what it accepts. */
struct tcp_options {
    uint32_t user_timeout_ms;
    uint32_t rcvbuf, sndbuf, notsent_lowat;
    uint32_t max_pacing;
    uint16_t keep_idle, keep_interval; /* seconds */
    uint16_t maxseg;
    uint8_t keep_count;
    uint8_t tos, ttl;
    uint8_t retries;
    bool nodelay, cork, quickack, keepalive;
    char congestion[TCP_CC_NAME_MAX];
};

/* reply.value = index (with TCP_SOCK_LISTENER). -EADDRINUSE unless both sides said reuseport; -ENOSPC table full. */
struct tcp_cmd_listen {
    struct engine_cmd cmd;
    struct flow flow;       /* local (any = wildcard) and local_port */
    uint64_t sink;          /* gets NOTICE_ACCEPT */
    uint32_t owner;
    uint32_t ifindex;       /* 0 = any interface */
    uint32_t backlog;       /* connections that may wait for ADOPT; as many again half open */
    uint32_t fastopen;      /* queue length, 0 = off */
    uint32_t defer_accept_s;
    bool v6only;
    bool reuseport;
    uint8_t spread;         /* 0 = hash over the flow, 1 = member with the fewest open connections */
    struct tcp_options opt;
};

/* reply.value = index. Local address any: the route's; local port 0: one of the reserved range (RFC 6056). The answer
 * is NOTICE_CONNECTED or NOTICE_ERROR. -EADDRINUSE, -EADDRNOTAVAIL (range exhausted), -ENOSPC, or the route's error. */
struct tcp_cmd_connect {
    struct engine_cmd cmd;
    struct flow flow;
    uint64_t sink;
    uint32_t owner;
    bool fastopen; /* the SYN waits for the first send request and carries it when a cookie is known (RFC 7413) */
    struct tcp_options opt;
};

struct tcp_cmd_adopt {
    struct engine_cmd cmd;
    uint32_t sock;
    uint32_t owner; /* 0 = the listener's */
    uint64_t sink;
    struct ipaddr peer; /* as NOTICE_ACCEPT said; -ENOENT when the index is another's by now. Port 0 = not checked */
    uint16_t peer_port;
};

/* For every command that names a socket, sink 0 = not checked; else -ENOENT when the socket is not that sink's. */
struct tcp_cmd_sock {
    struct engine_cmd cmd;
    uint32_t sock;
    uint32_t pad;
    uint64_t sink;
};

/* An adopted connection changes hands: what comes from now on goes to `to`. With to = 0 nobody has it: what comes is
 * kept, unacknowledged, until ADOPT, with which the counts of its bytes begin anew. reply.value = 1: its peer has hung
 * up, and `sink` was told. -EBUSY: bytes that it has sent are not acknowledged, and they lie in the giver's memory. */
struct tcp_cmd_give {
    struct engine_cmd cmd;
    uint32_t sock;
    uint32_t owner; /* of whoever gets it */
    uint64_t sink;
    uint64_t to;
};

struct tcp_cmd_close {
    struct engine_cmd cmd;
    uint32_t sock;
    bool abort;  /* RST now; queued data is lost (SO_LINGER with 0) */
    bool unread; /* the program leaves data unread: RST as well (RFC 9293 SHLD-3) */
    uint64_t sink;
};

struct tcp_cmd_option {
    struct engine_cmd cmd;
    uint32_t sock;
    uint32_t option; /* enum tcp_option */
    int64_t value;
    uint64_t sink;
    char name[TCP_CC_NAME_MAX];
};

/* Not the names of netinet/tcp.h, which users of this header may need as well. */
enum tcp_state {
    TCP_STATE_CLOSED,
    TCP_STATE_LISTEN,
    TCP_STATE_SYN_SENT,
    TCP_STATE_SYN_RCVD,
    TCP_STATE_ESTABLISHED,
    TCP_STATE_FIN_WAIT_1,
    TCP_STATE_FIN_WAIT_2,
    TCP_STATE_CLOSE_WAIT,
    TCP_STATE_CLOSING,
    TCP_STATE_LAST_ACK,
    TCP_STATE_TIME_WAIT,
    TCP_STATE_COUNT
};

struct tcp_conn_info {
    struct flow flow;
    uint64_t sink;
    uint64_t rx_bytes, tx_bytes;       /* in-order bytes that went up; bytes acknowledged */
    uint64_t rx_segments, tx_segments;
    uint64_t pacing_rate;              /* bytes per second, 0 = not paced */
    uint32_t owner;
    uint32_t rtt_us, rtt_var_us, rto_us, min_rtt_us;
    uint32_t cwnd, ssthresh, snd_wnd, rcv_wnd, mss, pmtu;
    uint32_t unacked, unsent;          /* bytes */
    uint32_t sacked, lost, retransmits, reordering;
    uint32_t rcv_limit, rcv_held, rcv_ooo;
    uint32_t backlog, pending;         /* listeners */
    uint8_t state;                     /* enum tcp_state */
    uint8_t ca_state;                  /* 0 open, 1 disorder, 2 cwr, 3 recovery, 4 loss */
    uint8_t backoff;
    uint8_t snd_wscale, rcv_wscale;
    bool timestamps, sack, ecn;
    char congestion[TCP_CC_NAME_MAX];
};
/* Written to *info, which the caller lends for the call. To list all sockets: each = true gives the first one at or
 * after `sock` (listeners follow connections); reply.value = its index, -ENOENT at the end. */
struct tcp_cmd_info {
    struct engine_cmd cmd;
    uint32_t sock;
    bool each;
    struct tcp_conn_info *info;
};

struct tcp_stats {
    uint32_t connections, listeners, half_open, time_wait;
    uint32_t items, segments, ooo_packets;
};
struct tcp_cmd_stats {
    struct engine_cmd cmd;
    struct tcp_stats *stats;
};

/* After a crash and recover(), once for each socket: the host may have delivered less than the engine had handed up,
 * and the engine may have taken less than the host had sent. rx_bytes = how much of the stream reached the client (as
 * counted by tcp_conn_info.rx_bytes): the receive side goes back to it; no ACK for more has left, because the host
 * delivers before it transmits. What the client still holds of it is `held`. reply.value = bytes of the send stream
 * that the engine has taken, modulo 2^32: the host sends again what comes after; reply.value64 = bytes acknowledged:
 * what NOTICE_TX_DONE has told, or would have. Notices for what happened (connected, hang-up) are given again.
 * -ENOENT: the connection ended, and its NOTICE_CLOSED is lost. */
struct tcp_cmd_sync {
    struct engine_cmd cmd;
    uint32_t sock;
    uint32_t held;
    uint64_t sink;
    uint64_t rx_bytes;
};

/* After recover() in a process whose clients have yet to come back. on: every connection stands still, unheard and
 * silent, until its owner resumes it; listeners and half-open connections go; and no stray segment is answered by a
 * reset, for its owner may be on the way. Off: that is over, and a connection that nobody has resumed is reset, some
 * in each call: reply.value = how many, 0 when there are no more. */
struct tcp_cmd_freeze {
    struct engine_cmd cmd;
    bool on;
};

/* The owner of a frozen connection is back. It goes on under `sink`, as after TCP_CMD_SYNC, whose arguments and notices
 * these are. -ENOENT: there is no such connection, or it is not `old_sink`'s; -EADDRINUSE: its place was taken. */
struct tcp_resumed {
    uint32_t sock;
    uint32_t taken; /* bytes of the send stream that the engine has, modulo 2^32 */
    uint32_t acked; /* bytes the peer has acknowledged, modulo 2^32 */
};
struct tcp_cmd_resume {
    struct engine_cmd cmd;
    struct flow flow;
    uint64_t old_sink, sink;
    uint32_t owner;
    uint32_t held;
    uint64_t rx_bytes;
    struct tcp_resumed *result;
};

/* The range of local ports of this shard, for outgoing connections. */
struct tcp_cmd_ports {
    struct engine_cmd cmd;
    uint16_t low, high;
};

#endif
