/* SPDX-License-Identifier: Apache-2.0
 *
 * See sample.h. Some texts are as bad as clients can make them.
 */
#include "control/usherctl/sample.h"

#define T(text)  ((char *)(uintptr_t)(text))
#define NS_S     1000000000u
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define STATE(s) USHER__CONTROL__V1__SOCKET_STATE__SOCKET_STATE_##s
#define PROTO(p) USHER__CONTROL__V1__PROTOCOL__PROTOCOL_##p

/* clang-format off */
static PB(Owner) redis = {PROTOBUF_C_MESSAGE_INIT(&usher__control__v1__owner__descriptor), 812, 115, 121,
                          T("redis-server"), T("/usr/bin/redis-check-rdb"), T("/system.slice/redis.service")};
static PB(Owner) dns = {PROTOBUF_C_MESSAGE_INIT(&usher__control__v1__owner__descriptor), 4711, 1000, 1000,
                        T("unbound"), T("/usr/sbin/unbound"), T("/")};
static PB(Owner) evil = {PROTOBUF_C_MESSAGE_INIT(&usher__control__v1__owner__descriptor), 31337, 65534, 65534,
                         T("\033[31mred\007\xff"), T("/tmp/x"), T("/")};
/* clang-format on */

const PB(GetInfoResponse) * sample_info(void) {
    static PB(GetInfoResponse) i = USHER__CONTROL__V1__GET_INFO_RESPONSE__INIT;
    static PB(Caller) me = USHER__CONTROL__V1__CALLER__INIT;
    static char *addresses[] = {T("192.0.2.1:9480")};
    me.name = T("ada");
    me.role = USHER__CONTROL__V1__ROLE__ROLE_OPERATOR;
    me.via = T("unix");
    i.version = T("0.1.0");
    i.pid = 4242;
    i.started_unix_ns = SAMPLE_NOW - (uint64_t)(3 * 86400 + 4 * 3600) * NS_S;
    i.hostname = T("gate1");
    i.kernel = T("6.1.0-18-amd64");
    i.config_path = T("/etc/usher/usherd.yaml");
    i.session_socket = T("/run/usher/session.sock");
    i.control_socket = T("/run/usher/control.sock");
    i.n_control_addresses = COUNT(addresses);
    i.control_addresses = addresses;
    i.sessions = 3;
    i.sockets = 41;
    i.claims = 12;
    i.sessions_attached = 1733;
    i.sessions_refused = 2;
    i.keeper = T("systemd's fd store");
    i.log_level = T("info");
    i.caller = &me;
    return &i;
}

const PB(ListWorkersResponse) * sample_workers(void) {
    static PB(ListWorkersResponse) r = USHER__CONTROL__V1__LIST_WORKERS_RESPONSE__INIT;
    static PB(Worker) w[2] = {USHER__CONTROL__V1__WORKER__INIT, USHER__CONTROL__V1__WORKER__INIT};
    static PB(Shard) s[2] = {USHER__CONTROL__V1__SHARD__INIT, USHER__CONTROL__V1__SHARD__INIT};
    static PB(Worker) * ws[] = {&w[0], &w[1]};
    static PB(Shard) * ss[] = {&s[0], &s[1]};
    static uint32_t shards[] = {0, 1};
    for (uint32_t i = 0; i < 2; i++) {
        w[i].worker = i;
        w[i].cpu = i == 0 ? 2 : -1;
        w[i].running = i == 0;
        w[i].turns = i == 0 ? 81234567 : 12;
        w[i].busy_turns = i == 0 ? 61234567 : 3;
        w[i].sleeps = 4321;
        w[i].wakes = 4320;
        w[i].kicks = 999;
        w[i].busy_ns = i == 0 ? 3723 * (uint64_t)NS_S : 5400;
        w[i].spin_ns = 62 * (uint64_t)NS_S;
        w[i].delay_p99_ns = i == 0 ? 16384 : 0;
        s[i].shard = i;
        s[i].rx_packets = 1234567890u;
        s[i].tx_packets = 987654321u;
        s[i].to_session_packets = 1200000000u;
        s[i].from_session_packets = 980000000u;
        s[i].dropped_packets = i == 0 ? 0 : 1201;
        s[i].small_buffers_free = 4000;
        s[i].large_buffers_free = 256;
        s[i].sessions = 2;
    }
    w[0].shards = shards;
    w[0].n_shards = 2;
    r.mode = USHER__CONTROL__V1__SCHEDULING_MODE__SCHEDULING_MODE_COMPACTING;
    r.mode_why = T("asked for");
    r.time_unix_ns = SAMPLE_NOW;
    r.workers = ws;
    r.n_workers = 2;
    r.shards = ss;
    r.n_shards = 2;
    return &r;
}

const PB(ListPortsResponse) * sample_ports(void) {
    static PB(ListPortsResponse) r = USHER__CONTROL__V1__LIST_PORTS_RESPONSE__INIT;
    static PB(Port) p[2] = {USHER__CONTROL__V1__PORT__INIT, USHER__CONTROL__V1__PORT__INIT};
    static PB(PortQueue) q = USHER__CONTROL__V1__PORT_QUEUE__INIT;
    static PB(PortQueue) * qs[] = {&q};
    static PB(Port) * ps[] = {&p[0], &p[1]};
    q.rx_packets = 1234567890u;
    q.rx_bytes = 1234567890123u;
    q.tx_packets = 987654321u;
    q.tx_bytes = 54321098765u;
    p[0].name = T("enp1s0f0np0");
    p[0].up = true;
    p[0].kind = T("xdp");
    p[0].mode = T("native, zero-copy, need-wakeup");
    p[0].why = T("xdp, because the driver ice has native XDP with zero-copy");
    p[1].name = T("veth0");
    p[1].kind = T("packet");
    p[1].mode = T("mapped ring, 64 KB frames, tcx link");
    p[1].why = T("packet, because XDP on veth would convert every packet of the kernel's and cost it GSO");
    for (size_t i = 0; i < 2; i++) {
        p[i].mtu = i == 0 ? 9000 : 1500;
        p[i].mac = T("02:00:00:00:00:01");
        p[i].queues = qs;
        p[i].n_queues = 1;
    }
    r.time_unix_ns = SAMPLE_NOW;
    r.ports = ps;
    r.n_ports = 2;
    return &r;
}

const PB(ListSessionsResponse) * sample_sessions(void) {
    static PB(ListSessionsResponse) r = USHER__CONTROL__V1__LIST_SESSIONS_RESPONSE__INIT;
    static PB(Session) s[3] = {USHER__CONTROL__V1__SESSION__INIT, USHER__CONTROL__V1__SESSION__INIT,
                               USHER__CONTROL__V1__SESSION__INIT};
    static PB(Session) * ss[] = {&s[0], &s[1], &s[2]};
    static uint32_t shards[] = {0, 1};
    PB(Owner) *const owners[] = {&redis, &dns, &evil};
    for (size_t i = 0; i < 3; i++) {
        s[i].session_id = 17 + i;
        s[i].owner = owners[i];
        s[i].label = i == 2 ? T("two\nlines\033[2J") : T("cache");
        s[i].attached_unix_ns = SAMPLE_NOW - (i + 1) * 4000 * NS_S;
        s[i].sockets = (uint32_t)(i * 20 + 1);
        s[i].shards = shards;
        s[i].n_shards = i + 1 < 2 ? i + 1 : 2;
        s[i].tx_bytes = 16u << 20;
        s[i].rx_bytes = 64u << 20;
    }
    r.sessions = ss;
    r.n_sessions = 3;
    return &r;
}

static void socket_set(PB(Socket) * s, PB(Owner) * owner, PB(Protocol) proto, PB(SocketState) state, const char *local,
                       uint32_t local_port, const char *remote, uint32_t remote_port) {
    s->owner = owner;
    s->protocol = proto;
    s->state = state;
    s->local_address = T(local);
    s->local_port = local_port;
    s->remote_address = T(remote);
    s->remote_port = remote_port;
    s->how = T("packet on eth0");
    s->label = T("cache");
}

const PB(ListSocketsResponse) * sample_sockets(void) {
    static PB(ListSocketsResponse) r = USHER__CONTROL__V1__LIST_SOCKETS_RESPONSE__INIT;
    static PB(Socket) s[5];
    static PB(Socket) * ss[5];
    static PB(TcpInfo) tcp = USHER__CONTROL__V1__TCP_INFO__INIT, listen = USHER__CONTROL__V1__TCP_INFO__INIT;
    for (uint32_t i = 0; i < 5; i++) {
        usher__control__v1__socket__init(&s[i]);
        s[i].session_id = 17 + i / 2;
        s[i].handle = i;
        s[i].rx_bytes = 12345678u * (i + 1);
        s[i].tx_bytes = 2345u * i;
        s[i].rx_packets = 100000u * (i + 1);
        s[i].tx_packets = 10u * i;
        ss[i] = &s[i];
    }
    socket_set(&s[0], &redis, PROTO(TCP), STATE(LISTEN), "0.0.0.0", 6379, "", 0);
    socket_set(&s[1], &redis, PROTO(TCP), STATE(ESTABLISHED), "10.0.0.1", 6379, "10.0.0.77", 51234);
    socket_set(&s[2], &redis, PROTO(TCP), STATE(CLOSE_WAIT), "2001:db8:aaaa:bbbb::1234", 6379,
               "2001:db8:1111:2222:3333:4444:5555:6666", 61234);
    socket_set(&s[3], &dns, PROTO(UDP), STATE(UNCONNECTED), "::", 53, "", 0);
    socket_set(&s[4], &evil, PROTO(UDP), STATE(ESTABLISHED), "10.0.0.1", 40000, "192.0.2.9", 4433);
    tcp.rtt_us = 187;
    tcp.rtt_var_us = 40;
    tcp.retransmits = 3;
    tcp.congestion = T("cubic");
    listen.backlog = 511;
    listen.pending = 2;
    s[0].tcp = &listen;
    s[1].tcp = &tcp;
    s[2].tcp = &tcp;
    s[1].tx_queued_bytes = 65536;
    s[4].rx_dropped = 7;
    s[4].rx_queued_bytes = 2048;
    r.time_unix_ns = SAMPLE_NOW;
    r.sockets = ss;
    r.n_sockets = 5;
    return &r;
}

const PB(ListRefusalsResponse) * sample_refusals(void) {
    static PB(ListRefusalsResponse) r = USHER__CONTROL__V1__LIST_REFUSALS_RESPONSE__INIT;
    static PB(Refusal) f = USHER__CONTROL__V1__REFUSAL__INIT;
    static PB(Refusal) * fs[] = {&f};
    f.time_unix_ns = SAMPLE_NOW - 90 * (uint64_t)NS_S;
    f.owner = &dns;
    f.protocol = PROTO(UDP);
    f.local_address = T("127.0.0.1");
    f.local_port = 53;
    f.reason = T("127.0.0.1 is on lo, which usherd does not run: loopback stays with the kernel");
    f.count = 4;
    r.refusals = fs;
    r.n_refusals = 1;
    return &r;
}

const PB(CountersSnapshot) * sample_drops(void) {
    static PB(CountersSnapshot) r = USHER__CONTROL__V1__COUNTERS_SNAPSHOT__INIT;
    static PB(NamedCounter) n[2] = {USHER__CONTROL__V1__NAMED_COUNTER__INIT, USHER__CONTROL__V1__NAMED_COUNTER__INIT};
    static PB(NamedCounter) * ns[] = {&n[0], &n[1]};
    n[0].name = T("drop.UDP_NO_SOCKET");
    n[0].value = 1200;
    n[0].help = T("no socket on this UDP port");
    n[1].name = T("drop.SESSION_NO_CELL");
    n[1].value = 1;
    n[1].help = T("the session's receive region is full");
    r.counters = ns;
    r.n_counters = 2;
    r.time_unix_ns = SAMPLE_NOW;
    return &r;
}

/* ---- policies ---- */

const PB(DiffPolicyResponse) * sample_diff(void) {
    static PB(DiffPolicyResponse) r = USHER__CONTROL__V1__DIFF_POLICY_RESPONSE__INIT;
    static PB(PolicyChange) v[4];
    static PB(PolicyChange) * vs[] = {&v[0], &v[1], &v[2], &v[3]};
    static const char *const text[][4] = {
        {"default", "app", "allow", "drop"},
        {"set", "office", "addresses: 10.0.0.0/8", "addresses: 10.0.0.0/8, 192.168.1.5-192.168.1.9"},
        {"rule", "postgres", "", "to_port: 5432, user: bob, exe: /usr/lib/postgresql/15/bin/postgres, action: allow"},
        {"rule", "late", "action: drop", "action: drop"}};
    static const int kinds[] = {3, 3, 1, 4};
    for (int i = 0; i < 4; i++) {
        v[i] = (PB(PolicyChange))USHER__CONTROL__V1__POLICY_CHANGE__INIT;
        v[i].kind = (PB(PolicyChangeKind))kinds[i];
        v[i].what = T(text[i][0]);
        v[i].name = T(text[i][1]);
        v[i].before = T(text[i][2]);
        v[i].after = T(text[i][3]);
    }
    r.changes = vs;
    r.n_changes = r.change_count = 4;
    r.base_revision = 41;
    return &r;
}

const PB(ExplainPolicyResponse) * sample_explain(void) {
    static PB(ExplainPolicyResponse) r = USHER__CONTROL__V1__EXPLAIN_POLICY_RESPONSE__INIT;
    static PB(ExplainedTier) t[3];
    static PB(ExplainedTier) * ts[] = {&t[0], &t[1], &t[2]};
    static PB(PolicyRule) count = USHER__CONTROL__V1__POLICY_RULE__INIT, no = USHER__CONTROL__V1__POLICY_RULE__INIT;
    static PB(PolicyRule) * passed[] = {&count};
    static char *leaves[] = {T("mark 0x10")};
    static PB(ExplainedPlace) w[2];
    static PB(ExplainedPlace) * ws[] = {&w[0], &w[1]};
    static const char *const tiers[][2] = {{"platform", "allow"}, {"host", "reject"}, {"app", ""}};
    for (int i = 0; i < 3; i++) {
        t[i] = (PB(ExplainedTier))USHER__CONTROL__V1__EXPLAINED_TIER__INIT;
        t[i].tier = T(tiers[i][0]);
        t[i].asked = i < 2;
        t[i].verdict = T(tiers[i][1]);
    }
    count.name = T("count-databases");
    count.text = T("to_port: 5432, counter: databases, mark: 0x10");
    count.line = 7;
    no.name = T("no-postgres");
    no.text = T("to_port: 5432, action: reject, comment: only bob's own server may speak on this port");
    no.line = 12;
    t[1].rule = &no;
    t[1].passed = passed;
    t[1].n_passed = 1;
    r.packet = T("out tcp 0.0.0.0:40000 to 10.0.0.9:5432, new, of the owner given");
    r.verdict = T("reject");
    r.decided_by = T("rule no-postgres of tier host");
    r.error = T("ECONNREFUSED");
    r.tiers = ts;
    r.n_tiers = 3;
    for (int i = 0; i < 2; i++) {
        w[i] = (PB(ExplainedPlace))USHER__CONTROL__V1__EXPLAINED_PLACE__INIT;
        w[i].place = T(i == 0 ? "usherd's filter engine" : "hooks on kernel sockets");
        w[i].verdict = T(i == 0 ? "reject" : "allow");
        w[i].why = T(i == 0 ? "a packet of a socket that usherd carries"
                            : "rule no-postgres is open there: hooks have no rate limits");
    }
    r.places = ws;
    r.n_places = 2;
    r.leaves = leaves;
    r.n_leaves = 1;
    return &r;
}

const PB(PolicyHistoryResponse) * sample_history(void) {
    static PB(PolicyHistoryResponse) r = USHER__CONTROL__V1__POLICY_HISTORY_RESPONSE__INIT;
    static PB(PolicyRevision) v[3];
    static PB(PolicyRevision) * vs[] = {&v[0], &v[1], &v[2]};
    static const char *const text[][2] = {{"file /etc/usher/policy.yaml", ""},
                                          {"alice", "let bob's postgres speak"},
                                          {"alice", "set office with 10.9.0.0/16"}};
    for (int i = 0; i < 3; i++) {
        v[i] = (PB(PolicyRevision))USHER__CONTROL__V1__POLICY_REVISION__INIT;
        v[i].revision = (uint64_t)i + 40;
        v[i].time_unix_ns = SAMPLE_NOW - (uint64_t)(3 - i) * 4000 * (uint64_t)NS_S;
        v[i].by = T(text[i][0]);
        v[i].note = T(text[i][1]);
        v[i].rules = 120 + (uint32_t)i;
        v[i].bytes = 9000;
        v[i].state = (PB(RevisionState))(i == 2 ? 3 : 1);
    }
    r.revisions = vs;
    r.n_revisions = 3;
    return &r;
}

const PB(ListRulesResponse) * sample_rules(void) {
    static PB(ListRulesResponse) r = USHER__CONTROL__V1__LIST_RULES_RESPONSE__INIT;
    static PB(PolicyRule) v[2] = {USHER__CONTROL__V1__POLICY_RULE__INIT, USHER__CONTROL__V1__POLICY_RULE__INIT};
    static PB(PolicyRule) * vs[] = {&v[0], &v[1]};
    v[0].number = 1;
    v[0].tier = T("platform");
    v[0].name = T("no-spoofing");
    v[0].text = T("direction: in, from: '@ours', owner: nobody, action: drop");
    v[0].packets = 12;
    v[0].bytes = 720;
    v[1].number = 2;
    v[1].tier = T("host");
    v[1].name = T("postgres");
    v[1].text = T("to_port: 5432, user: bob, exe: /usr/lib/postgresql/15/bin/postgres, action: allow");
    v[1].packets = 123456789;
    v[1].bytes = 98765432100;
    r.rules = vs;
    r.n_rules = 2;
    return &r;
}

const PB(ListClassesResponse) * sample_classes(bool later) {
    static PB(ListClassesResponse)
        r[2] = {USHER__CONTROL__V1__LIST_CLASSES_RESPONSE__INIT, USHER__CONTROL__V1__LIST_CLASSES_RESPONSE__INIT};
    static PB(QosClass) c[2][4];
    static PB(QosClass) * cs[2][4];
    static const struct {
        const char *name;
        uint32_t depth, weight;
        uint64_t ceiling, rate;
    } of[4] = {{"root", 0, 1, 950000000, 700000000},
               {"games", 1, 2, 20000000, 19900000},
               {"people", 1, 6, 0, 0},
               {"bob", 2, 1, 0, 680100000}};
    uint32_t k = later ? 1 : 0;
    for (size_t i = 0; i < 4; i++) {
        c[k][i] = (PB(QosClass))USHER__CONTROL__V1__QOS_CLASS__INIT;
        c[k][i].name = T(of[i].name);
        c[k][i].depth = of[i].depth;
        c[k][i].weight = of[i].weight;
        c[k][i].ceiling_bps = of[i].ceiling;
        c[k][i].sent_bytes = 1u << 30;
        c[k][i].sent_bytes += later ? of[i].rate / 8 : 0;
        cs[k][i] = &c[k][i];
    }
    c[k][1].cgroup = T("/games.slice");
    c[k][1].dropped_packets = 7;
    c[k][1].waiting_bytes = 262144;
    c[k][3].user = T("bob");
    c[k][3].each = T("program");
    c[k][3].guarantee_bps = 50000000;
    r[k].time_unix_ns = SAMPLE_NOW + (later ? NS_S : 0);
    r[k].classes = cs[k];
    r[k].n_classes = 4;
    r[k].fallback = T("bob");
    return &r[k];
}
