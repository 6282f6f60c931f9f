/* SPDX-License-Identifier: Apache-2.0
 *
 * usher-drill LIBRARY SCRIPT...: runs packetdrill scripts against a stack that is a shared object with packetdrill's
 * interface. Each script has a process of its own. A system call that blocks runs in a second thread; everything else,
 * the clock included, in the first.
 */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "test/packetdrill/driver/calls.h"

#define TOLERANCE_PERCENT 12.5
#define BLOCKED_STEPS     2000000 /* of a millisecond: longer than any script */

struct run {
    struct script s;
    struct packetdrill_interface ifc;
    struct calls calls;
    struct flow_test flow;
    int64_t start_us;
    const struct event *last;
    int64_t last_us;
    bool last_was_inbound;
    pthread_t thread;
    bool running; /* the thread was started and not yet waited for */
    bool done;
    const struct event *blocked;
    int64_t blocked_end_us;
};

/* ---- time ---- */

static int64_t now_us(struct run *r) {
    struct timeval tv;
    (void)r->ifc.gettimeofday(r->ifc.userdata, &tv, NULL);
    return (int64_t)tv.tv_sec * 1000000 + tv.tv_usec - r->start_us;
}

static void check_time(struct run *r, const struct event *e, const char *what, int64_t from, int64_t to, int64_t at) {
    int64_t slack = r->s.tolerance_us, wide = (int64_t)((double)(from - r->last_us) * TOLERANCE_PERCENT / 100);
    slack = wide > slack ? wide : slack;
    if (e->time != TIME_ANY && (at < from - slack || at > to + slack))
        script_fail(&r->s, e->line, "%s at %.6f s, it should be at %.6f s", what, (double)at / 1e6, (double)from / 1e6);
}

/* Packets that come in one after the other count from one another, all else from what the clock says. */
static void place(struct run *r, struct event *e) {
    bool inbound = e->segment != NULL && e->segment->inbound;
    if (e->time == TIME_ABSOLUTE)
        return;
    int64_t base = r->last != NULL && inbound && r->last_was_inbound ? r->last_us : now_us(r);
    e->from_us += base;
    e->to_us += base;
    if (e->call != NULL && e->call->blocks)
        e->call->end_us += base;
}

static void wait_until(struct run *r, const struct event *e) {
    int64_t left = e->from_us - now_us(r);
    if (left > 0)
        (void)r->ifc.usleep(r->ifc.userdata, (useconds_t)left);
    check_time(r, e, "the turn came", e->from_us, e->to_us, now_us(r));
}

/* ---- calls ---- */

static void *blocked_call(void *arg) {
    struct run *r = arg;
    calls_make(&r->calls, r->blocked);
    r->blocked_end_us = now_us(r);
    __atomic_store_n(&r->done, true, __ATOMIC_RELEASE);
    return NULL;
}

static void finish_blocked(struct run *r) {
    if (!r->running)
        return;
    for (uint32_t i = 0; i < BLOCKED_STEPS && !__atomic_load_n(&r->done, __ATOMIC_ACQUIRE); i++)
        (void)r->ifc.usleep(r->ifc.userdata, 1000);
    if (!__atomic_load_n(&r->done, __ATOMIC_ACQUIRE))
        script_fail(&r->s, r->blocked->line, "the call never ends");
    pthread_join(r->thread, NULL);
    r->running = false;
    const struct call *c = r->blocked->call;
    check_time(r, r->blocked, "the call ended", c->end_us, c->end_us, r->blocked_end_us);
}

/* A call may begin a flow: then what the script says next is about that one. */
static void note_flow(struct run *r, const struct call *c) {
    bool fast = strcmp(c->name, "sendto") == 0 && c->args.count > 3 && (c->args.items[3].n & MSG_FASTOPEN);
    bool begins = strcmp(c->name, "connect") == 0 || fast;
    if (strcmp(c->name, "listen") != 0 && !begins)
        return;
    struct flow_test fresh = {.v6 = r->flow.v6, .local = r->flow.local, .remote = r->flow.remote};
    fresh.state = begins ? FLOW_CONNECTING : FLOW_LISTENING;
    fresh.local_port = begins ? 0 : 8080;
    fresh.remote_port = begins ? 8080 : (uint16_t)(r->flow.remote_port + 1);
    r->flow = fresh;
}

static void run_call(struct run *r, const struct event *e) {
    wait_until(r, e);
    finish_blocked(r);
    note_flow(r, e->call);
    if (!e->call->blocks) {
        calls_make(&r->calls, e);
        return;
    }
    r->blocked = e;
    r->done = false;
    r->running = pthread_create(&r->thread, NULL, blocked_call, r) == 0;
}

/* ---- packets ---- */

static void run_inbound(struct run *r, const struct event *e) {
    static uint8_t packet[FRAME_MAX];
    wait_until(r, e);
    if (r->flow.state == FLOW_NONE || r->flow.state == FLOW_LISTENING) {
        r->flow.state = FLOW_OPEN;
        r->flow.remote_port = r->flow.remote_port < 40000 ? 40000 : r->flow.remote_port;
        r->flow.local_port = 8080;
    }
    size_t n = flow_build(&r->s, e, &r->flow, packet);
    (void)r->ifc.netdev_send(r->ifc.userdata, packet, n);
}

static bool of_flow(const struct run *r, const struct seen *g) {
    return g->remote_port == r->flow.remote_port && (r->flow.local_port == 0 || g->local_port == r->flow.local_port);
}

/* The next packet of the flow; those of flows before it are none of this one's business. */
static int64_t next_packet(struct run *r, const struct event *e, struct seen *ret_seen) {
    static uint8_t packet[FRAME_MAX];
    for (;;) {
        size_t n = sizeof packet;
        long long at = 0;
        const char *why;
        if (r->ifc.netdev_receive(r->ifc.userdata, packet, &n, &at) != 0 || n == 0)
            script_fail(&r->s, e->line, "no packet comes");
        if (!flow_read(packet, n, ret_seen, &why))
            script_fail(&r->s, e->line, "%s", why);
        if (of_flow(r, ret_seen))
            return at - r->start_us;
    }
}

/* A stack may send in several packets what the script shows as one: they are joined as long as they follow. */
static int64_t joined_packet(struct run *r, const struct event *e, struct seen *ret_seen) {
    int64_t at = next_packet(r, e, ret_seen);
    while (ret_seen->len != 0 && ret_seen->len < e->segment->len) {
        struct seen more;
        (void)next_packet(r, e, &more);
        if (more.seq != ret_seen->seq + ret_seen->len)
            script_fail(&r->s, e->line, "%u bytes come, then a packet that does not follow them", ret_seen->len);
        ret_seen->len += more.len;
        ret_seen->flags = more.flags;
    }
    return at;
}

static void run_outbound(struct run *r, const struct event *e) {
    struct seen got;
    char text[400];
    if (r->flow.state == FLOW_CONNECTING)
        r->flow.local_port = 0;
    int64_t at = joined_packet(r, e, &got);
    if (r->flow.state == FLOW_CONNECTING) {
        r->flow.state = FLOW_OPEN;
        r->flow.local_port = got.local_port;
    }
    const char *differs = flow_compare(&r->flow, e->segment, &got);
    flow_describe(&r->flow, &got, text, sizeof text);
    if (differs != NULL)
        script_fail(&r->s, e->line, "%s at %.6f s: %s", differs, (double)at / 1e6, text);
    check_time(r, e, text, e->from_us, e->to_us, at);
}

/* ---- a script ---- */

static struct ipaddr address(const struct script *s, const char *said, const char *v4, const char *v6) {
    uint8_t bytes[16];
    const char *text = said != NULL ? said : s->v6 ? v6 : v4;
    if (inet_pton(s->v6 ? AF_INET6 : AF_INET, text, bytes) != 1)
        script_fail(s, 1, "\"%s\" is no address", text);
    return s->v6 ? ipaddr_from_v6(bytes) : ipaddr_from_v4(bytes);
}

static void run_events(struct run *r) {
    r->start_us = 0;
    r->start_us = now_us(r);
    for (struct event *e = r->s.events; e != NULL; e = e->next) {
        bool inbound = e->segment != NULL && e->segment->inbound;
        place(r, e);
        if (e->call != NULL)
            run_call(r, e);
        else if (inbound)
            run_inbound(r, e);
        else
            run_outbound(r, e);
        r->last = e;
        r->last_us = e->from_us;
        r->last_was_inbound = inbound;
    }
    finish_blocked(r);
}

static int run_script(const char *library, const char *path) {
    static struct run r;
    void *so = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    packetdrill_init_fn *init = NULL;
    if (so != NULL)
        *(void **)&init = dlsym(so, PACKETDRILL_INIT_SYMBOL);
    if (init == NULL) {
        fprintf(stderr, "usher-drill: %s cannot be used: %s\n", library, dlerror());
        return 1;
    }
    script_read(path, &r.s);
    init(r.s.so_flags, &r.ifc);
    r.calls = (struct calls){.ifc = &r.ifc, .script = &r.s, .flow = &r.flow};
    r.flow.v6 = r.s.v6;
    r.flow.local = address(&r.s, r.s.local_ip, "192.168.0.1", "fd3d:fa7b:d17d::1");
    r.flow.remote = address(&r.s, r.s.remote_ip, "192.0.2.1", "2001:db8::1");
    run_events(&r);
    r.ifc.free(r.ifc.userdata);
    return 0;
}

int main(int argc, char **argv) {
    int failed = 0;
    if (argc < 3) {
        fprintf(stderr, "usage: usher-drill LIBRARY SCRIPT...\n");
        return 2;
    }
    for (int i = 2; i < argc; i++) {
        int status = 0;
        fflush(stdout);
        pid_t child = argc == 3 ? 0 : fork();
        if (child == 0)
            return run_script(argv[1], argv[i]);
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
            printf("FAILED %s\n", argv[i]);
            failed++;
        }
    }
    if (argc > 3)
        printf("%d scripts, %d failed\n", argc - 2, failed);
    return failed != 0;
}
