/* SPDX-License-Identifier: Apache-2.0
 *
 * tcp-differ [FIRST-SEED [COUNT]]: the same segments to the kernel's TCP and to the engine, and the same class of
 * answer from both wherever the RFCs define one: whether there is an answer, its flags, its numbers relative to the
 * flow, and whether the window is open. After each segment comes a probe, one byte of old data, which every living
 * connection answers at once with what it has: that compares the state, whatever each side delays.
 *
 * Not compared, because the two may differ: when acceptable data is acknowledged; whether an ACK of what was never
 * sent is answered (RFC 9293: yes; Linux: no); whether a segment without ACK is answered when it is out of the window
 * (again); what is said after the peer's FIN to more data.
 *
 * The engine's clock is virtual, the kernel's is not: a machine that pauses in the middle of a story makes the kernel's
 * timers do what the engine had no time for (a timeout shrinks the window, and the next write does not leave). Such a
 * difference is a matter of luck, a wrong answer is not: a story that shows one is told again, and only what shows in
 * every telling counts. Bounded time; needs root, else it says SKIPPED and ends with 77.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "test/packetdrill/driver/flow.h"
#include "test/packetdrill/kernel_side.h"
#include "test/packetdrill/program.h"

#define FIN         0x01
#define SYN         0x02
#define RST         0x04
#define PSH         0x08
#define ACK         0x10
#define STEPS       24u
#define SEEDS       3000u
#define SECONDS     20
#define TELLINGS    10u
#define PORT_FIRST  10000u
#define PORT_COUNT  50000u
#define REPLIES_MAX 64

enum side { KERNEL, ENGINE, SIDES };
static const char *const side_name[SIDES] = {"kernel", "engine"};

struct replies {
    struct seen v[REPLIES_MAX];
    uint32_t count;
};

struct differ {
    struct kernel_side kernel;
    struct program program;
    int listener;    /* the engine's */
    int conn[SIDES]; /* accepted */
    struct flow_test flow[SIDES];
    struct script script; /* only for its name in messages */
    uint64_t rng, seed;
    uint32_t sent;      /* bytes that the programs have written, plus one: what may be acknowledged */
    uint32_t peer_next; /* the peer's next number, as the last probe told */
    uint32_t compared, answers;
    uint32_t telling, told; /* of this story; of all */
    bool ahead;             /* data went out of order: no FIN any more */
    bool verbose;           /* one story only: show it */
};

/* The interpreter that flow.c comes with ends the process through this. */
_Noreturn void script_fail(const struct script *s, int line, const char *fmt, ...) {
    (void)s;
    fprintf(stderr, "tcp-differ: step %d: %s\n", line, fmt);
    exit(1);
}

static uint32_t roll(struct differ *d, uint32_t below) {
    d->rng = d->rng * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)((d->rng >> 33) % below);
}

/* ---- both wires ---- */

static void collect(struct differ *d, enum side side, struct replies *ret) {
    static uint8_t packet[SIDES][REPLIES_MAX][2048];
    ret->count = 0;
    while (ret->count < REPLIES_MAX) {
        uint8_t *p = packet[side][ret->count];
        const char *why;
        ns_t at;
        ssize_t n = side == KERNEL ? read(d->kernel.tun, p, 2048) : (ssize_t)stack_sent(d->program.stack, p, 2048, &at);
        if (n <= 0)
            return;
        struct seen *got = &ret->v[ret->count];
        /* Data is not compared: on a machine that pauses, the kernel may have repeated some. */
        if (flow_read(p, (size_t)n, got, &why) && got->len == 0 && got->remote_port == d->flow[side].remote_port)
            ret->count++;
    }
}

static void inject(struct differ *d, const struct segment *g, struct replies ret[SIDES]) {
    static uint8_t packet[FRAME_MAX];
    struct segment copy = *g;
    const struct event e = {.segment = &copy};
    for (enum side side = KERNEL; side < SIDES; side++) {
        size_t n = flow_build(&d->script, &e, &d->flow[side], packet);
        if (side == ENGINE)
            stack_receive(d->program.stack, packet, n);
        else if (write(d->kernel.tun, packet, n) != (ssize_t)n)
            perror("tcp-differ: the tun device takes no packet");
        collect(d, side, &ret[side]);
    }
}

/* ---- judging ---- */

static uint32_t number(const struct differ *d, enum side side, const struct seen *g) {
    return g->seq - d->flow[side].live_local_isn;
}

static uint32_t acked(const struct differ *d, enum side side, const struct seen *g) {
    return g->flags & ACK ? g->ack - d->flow[side].remote_isn : 0;
}

static void describe(const struct differ *d, enum side side, const char *what, const struct replies *r) {
    char text[400];
    printf("  %s, %s: %u packets\n", side_name[side], what, r->count);
    for (uint32_t i = 0; i < r->count; i++) {
        flow_describe(&d->flow[side], &r->v[i], text, sizeof text);
        printf("    %s\n", text);
    }
}

/* Returns while the story is to be told again. */
static void differ(const struct differ *d, uint32_t step, const struct segment *g, const char *what,
                   const struct replies *answer, const struct replies *probe) {
    if (d->telling < TELLINGS)
        return;
    printf("seed %lu, step %u: %s\n  segment: flags %#x seq %u len %u ack %u win %u\n", d->seed, step, what, g->flags,
           g->seq, g->len, g->ack, g->win);
    for (enum side side = KERNEL; side < SIDES; side++) {
        describe(d, side, "the answer", &answer[side]);
        describe(d, side, "the probe's", &probe[side]);
    }
    printf("  tcp-differ %lu 1 shows it\n", d->seed);
    exit(1);
}

/* NULL, or what the last packets of both sides differ in. */
static const char *compare_last(const struct differ *d, const struct replies r[SIDES]) {
    if ((r[KERNEL].count == 0) != (r[ENGINE].count == 0))
        return "one answers, the other does not";
    if (r[KERNEL].count == 0)
        return NULL;
    const struct seen *k = &r[KERNEL].v[r[KERNEL].count - 1], *e = &r[ENGINE].v[r[ENGINE].count - 1];
    if ((k->flags & ~PSH) != (e->flags & ~PSH))
        return "other flags";
    if (number(d, KERNEL, k) != number(d, ENGINE, e))
        return "another sequence number";
    if (acked(d, KERNEL, k) != acked(d, ENGINE, e))
        return "another acknowledgement";
    if (!(k->flags & RST) && (k->win == 0) != (e->win == 0))
        return "one window is closed";
    return NULL;
}

static bool has_reset(const struct replies *r) {
    return r->count != 0 && (r->v[r->count - 1].flags & RST);
}

/* Whether the answer to `g` itself is defined; the probe's always is. */
static bool defined(const struct differ *d, const struct segment *g, uint32_t next) {
    if (next != d->peer_next)
        return false; /* it was taken: acknowledged now or later */
    if ((g->flags & ACK) && g->ack - d->sent - 1 < 1u << 31)
        return false;
    return g->flags & (ACK | RST | SYN);
}

/* ---- a story ---- */

static struct segment some_segment(struct differ *d) {
    static const uint8_t flags[] = {ACK,       ACK, ACK | PSH, ACK | PSH, ACK | FIN, RST,
                                    RST | ACK, SYN, SYN | ACK, 0,         FIN,       PSH};
    static const int32_t seqs[] = {0, 0, 0, 0, -1, 1, -1000, 500, 1000, 5000, 200000, -200000, INT32_MIN};
    static const uint32_t lens[] = {0, 0, 1, 100, 1000, 1000};
    static const int32_t acks[] = {0, 0, 0, 0, 0, -1, -50, 1, 100, -100000, 100000};
    struct segment g = {.inbound = true};
    g.flags = flags[roll(d, ARRAY_LEN(flags))];
    g.seq = d->peer_next + (uint32_t)seqs[roll(d, ARRAY_LEN(seqs))];
    g.len = g.flags & (SYN | RST) ? 0 : lens[roll(d, ARRAY_LEN(lens))];
    /* A peer that contradicts itself, with data behind its FIN, gets what it deserves: the RFCs do not say what. */
    bool ahead = g.seq - d->peer_next - 1 < 1u << 16;
    if (ahead || d->ahead)
        g.flags &= (uint8_t)~FIN;
    if (d->ahead && (d->seed & 1) && (g.flags & RST)) /* Linux takes a reset at the end of a SACK block as well */
        g.flags = ACK;
    d->ahead |= ahead && g.len != 0;
    g.has_ack = g.flags & ACK;
    g.ack = d->sent + (uint32_t)acks[roll(d, ARRAY_LEN(acks))];
    if ((int32_t)(g.ack - d->sent) < -50 || (int32_t)g.ack < 1)
        g.len = 0; /* RFC 5961 section 5: data with an ACK too old is dropped; Linux takes some of it */
    g.win = 32000;
    return g;
}

static bool open_both(struct differ *d, bool sack) {
    struct segment g = {.inbound = true, .flags = SYN, .win = 32000, .opts = {2, 4, 3, 232}, .opts_len = 4};
    struct replies r[SIDES];
    if (sack) {
        static const uint8_t more[4] = {1, 1, 4, 2};
        memcpy(g.opts + 4, more, 4);
        g.opts_len = 8;
    }
    inject(d, &g, r);
    for (enum side side = KERNEL; side < SIDES; side++) {
        if (r[side].count != 1 || (r[side].v[0].flags & (SYN | ACK)) != (SYN | ACK))
            return false;
        d->flow[side].live_local_isn = r[side].v[0].seq;
        d->flow[side].has_local_isn = true;
    }
    g = (struct segment){.inbound = true, .flags = ACK, .seq = 1, .has_ack = true, .ack = 1, .win = 32000};
    inject(d, &g, r);
    d->conn[KERNEL] = accept(d->kernel.listener, NULL, NULL);
    d->conn[ENGINE] = program_accept(&d->program, d->listener, NULL, NULL);
    int one = 1; /* so that a write is a segment, whatever is acknowledged */
    setsockopt(d->conn[KERNEL], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    (void)program_setsockopt(&d->program, d->conn[ENGINE], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return d->conn[KERNEL] >= 0 && d->conn[ENGINE] >= 0;
}

/* Both programs write a little, now and then. */
static void maybe_write(struct differ *d) {
    static uint8_t data[100];
    struct iovec iov = {data, sizeof data};
    struct replies r[SIDES];
    if (roll(d, 8) != 0 || d->sent > 400)
        return;
    if (send(d->conn[KERNEL], data, sizeof data, MSG_NOSIGNAL) != sizeof data)
        return;
    (void)program_send(&d->program, d->conn[ENGINE], &iov, 1, 0, 0);
    d->sent += sizeof data;
    for (enum side side = KERNEL; side < SIDES; side++)
        collect(d, side, &r[side]);
}

/* NULL, or what the two sides differ in. */
static const char *judge(const struct differ *d, const struct segment *g, const struct replies answer[SIDES],
                         const struct replies probe[SIDES]) {
    const char *wrong = compare_last(d, probe);
    const struct replies *k = &probe[KERNEL];
    if (wrong != NULL || k->count == 0 || has_reset(k) || !defined(d, g, acked(d, KERNEL, &k->v[k->count - 1])))
        return wrong;
    return compare_last(d, answer);
}

enum course { ON, OVER, DIFFERS };

static enum course step(struct differ *d, uint32_t i) {
    struct replies answer[SIDES], probe[SIDES];
    const struct segment g = some_segment(d);
    struct segment p = {.inbound = true, .flags = ACK, .seq = 0, .len = 1, .has_ack = true, .ack = 1, .win = 32000};
    inject(d, &g, answer);
    inject(d, &p, probe);
    stack_advance(d->program.stack, stack_now(d->program.stack) + NS_PER_MS, false);
    if (d->verbose) {
        printf("step %u: flags %#x seq %u len %u ack %u win %u\n", i, g.flags, g.seq, g.len, g.ack, g.win);
        for (enum side side = KERNEL; side < SIDES; side++)
            describe(d, side, "the answer", &answer[side]);
    }
    const char *wrong = judge(d, &g, answer, probe);
    if (wrong != NULL) {
        differ(d, i, &g, wrong, answer, probe);
        return DIFFERS;
    }
    const struct replies *k = &probe[KERNEL];
    d->compared += k->count != 0;
    d->answers += k->count != 0 && answer[KERNEL].count != 0;
    if (k->count == 0 || has_reset(k))
        return OVER;
    d->peer_next = acked(d, KERNEL, &k->v[k->count - 1]);
    return (g.flags & FIN) && d->peer_next == g.seq + g.len + 1 ? OVER : ON;
}

static void begin(struct differ *d, uint64_t seed) {
    d->seed = seed;
    d->rng = seed * 0x9e3779b97f4a7c15ull;
    d->sent = d->peer_next = 1;
    d->ahead = false;
    for (enum side side = KERNEL; side < SIDES; side++) {
        uint8_t local[4] = {192, 168, 0, 1}, remote[4] = {192, 0, 2, 1};
        d->flow[side] = (struct flow_test){.local = ipaddr_from_v4(local), .remote = ipaddr_from_v4(remote)};
        d->flow[side].local_port = 8080;
        d->flow[side].remote_port = (uint16_t)(PORT_FIRST + d->told % PORT_COUNT);
        d->conn[side] = -1;
    }
    d->told++;
}

static void end(struct differ *d) {
    const struct linger hard = {.l_onoff = 1};
    struct replies r;
    if (d->conn[KERNEL] >= 0) {
        setsockopt(d->conn[KERNEL], SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        close(d->conn[KERNEL]);
    }
    if (d->conn[ENGINE] >= 0) {
        (void)program_setsockopt(&d->program, d->conn[ENGINE], SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        (void)program_close(&d->program, d->conn[ENGINE]);
    }
    for (enum side side = KERNEL; side < SIDES; side++)
        collect(d, side, &r);
}

static enum course tell(struct differ *d, uint64_t seed) {
    enum course at = ON;
    begin(d, seed);
    if (!open_both(d, seed & 1)) {
        at = DIFFERS;
        if (d->telling == TELLINGS) {
            fprintf(stderr, "tcp-differ: seed %lu: the handshake fails\n", seed);
            exit(1);
        }
    }
    for (uint32_t i = 0; i < STEPS && at == ON; i++) {
        at = step(d, i);
        if (at == ON)
            maybe_write(d);
    }
    end(d);
    return at;
}

/* Ends the process when every telling shows a difference. */
static void story(struct differ *d, uint64_t seed) {
    d->telling = 1;
    while (tell(d, seed) == DIFFERS)
        d->telling++;
}

static void open_engine(struct differ *d) {
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(8080)};
    uint8_t local[4] = {192, 168, 0, 1};
    struct ipaddr a = ipaddr_from_v4(local);
    program_settings(&d->program, "wscale=0,timestamps=0,ecn=0");
    program_start(&d->program);
    stack_address(d->program.stack, &a);
    d->listener = program_socket(&d->program, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK(program_bind(&d->program, d->listener, (struct sockaddr *)&in, sizeof in) == 0);
    CHECK(program_listen(&d->program, d->listener, 64) == 0);
}

static void kernel_settings(void) {
    kernel_side_setting("tcp_timestamps", "0");
    kernel_side_setting("tcp_window_scaling", "0");
    kernel_side_setting("tcp_ecn", "0");
    /* Nothing that waits for a clock, where it can be told so. */
    kernel_side_setting("tcp_congestion_control", "reno"); /* others may pace */
    kernel_side_setting("tcp_comp_sack_nr", "0");
    kernel_side_setting("tcp_early_retrans", "0");
    kernel_side_setting("tcp_autocorking", "0");
    kernel_side_setting("tcp_invalid_ratelimit", "0");
    kernel_side_setting("tcp_challenge_ack_limit", "2147483647");
}

int main(int argc, char **argv) {
    static struct differ d;
    const char *why;
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 0) : 1, count = argc > 2 ? strtoull(argv[2], NULL, 0) : SEEDS;
    time_t start = time(NULL);
    d.verbose = count == 1;
    if (kernel_side_open(&d.kernel, &why) < 0) {
        printf("SKIPPED: %s: %s\n", why, strerror(errno));
        return 77;
    }
    kernel_settings();
    open_engine(&d);
    uint64_t seed = first;
    for (; seed < first + count && time(NULL) - start < SECONDS; seed++)
        story(&d, seed);
    program_end(&d.program);
    printf("%lu stories, %u told again, %u segments compared, %u of them answered at once\n", seed - first,
           d.told - (uint32_t)(seed - first), d.compared, d.answers);
    return 0;
}
