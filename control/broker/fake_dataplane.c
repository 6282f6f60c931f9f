/* SPDX-License-Identifier: Apache-2.0
 *
 * See fake_dataplane.h. One thread; only for tests.
 */
#include "control/broker/fake_dataplane.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "nicbackend/claims.h"
#include "proto/usher_shm.h"

#define SOCKETS 4096

struct session {
    struct session_socket_params open[SOCKETS];
    bool used[SOCKETS];
    bool kicked;
};

struct fake_dataplane fake;

void fake_clear(void) {
    fake.trace[0] = '\0';
}

const struct session_socket_params *fake_opened(uint32_t h) {
    return &fake.last->open[h];
}

static int step(const char *what) {
    size_t used = strlen(fake.trace);
    if (used > sizeof fake.trace - 32)
        fake.trace[used = 0] = '\0';
    (void)snprintf(fake.trace + used, sizeof fake.trace - used, "%s%s", used > 0 ? " " : "", what);
    if (fake.fail_at > 0 && --fake.fail_at == 0) {
        (void)snprintf(fake.trace + strlen(fake.trace), 2, "!");
        return fake.fail_with;
    }
    return 0;
}

const char *detach_reason_text(enum detach_reason r) {
    static const char *const texts[] = {
#define DETACH(name, text) text,
#include "dataplane/session/detach.def"
#undef DETACH
    };
    return texts[r];
}

int session_create(struct runtime *rt, const struct session_params *params, struct session **ret_session,
                   struct session_fds *ret_fds) {
    (void)rt;
    int err = step("create"), pair[2];
    if (err != 0)
        return err;
    fake.params = *params;
    fake.last = *ret_session = calloc(1, sizeof **ret_session);
    ret_fds->memfd = memfd_create("fake", MFD_CLOEXEC);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        abort();
    ret_fds->wake_peer = pair[0];
    (void)close(pair[1]);
    fake.live_sessions++;
    return 0;
}

struct session_quota {
    uint32_t refs;
};

struct session_quota *session_quota_create(uint32_t stream_max) {
    struct session_quota *q = calloc(1, sizeof *q);
    fake.live_quotas++;
    fake.stream_max = stream_max;
    return q;
}

void session_quota_release(struct session_quota *q) {
    fake.live_quotas -= q != NULL;
    free(q);
}

struct session_key session_key_of(const struct session *s) {
    (void)s;
    return (struct session_key){{1, 2}};
}

void session_owner_set(struct session *s, uint32_t owner) {
    (void)s;
    fake.owner = owner;
}

void session_destroy(struct session *s, enum detach_reason why) {
    (void)why;
    (void)step("destroy");
    for (uint32_t i = 0; i < SOCKETS; i++)
        fake.live_sockets -= s->used[i];
    fake.live_sessions--;
    free(s);
}

int session_stream_set(struct session *s, struct session_socket *ret_socket) {
    int err = step("stream set");
    (void)s;
    if (err == 0)
        *ret_socket = (struct session_socket){.handle = UINT32_MAX, .kick_fd = -1, .tx_limit = 2000};
    return err;
}

int session_socket_open(struct session *s, const struct session_socket_params *params,
                        struct session_socket *ret_socket) {
    int err = step("open");
    uint32_t h = 0;
    if (err != 0)
        return err;
    while (s->used[h])
        h++;
    s->used[h] = true;
    s->open[h] = *params;
    fake.option = params->option_count > 0 ? params->options[0].option : 0;
    fake.live_sockets++;
    *ret_socket = (struct session_socket){.handle = h, .kick_fd = -1, .rx_quota = 1000, .tx_limit = 2000};
    if (!s->kicked)
        ret_socket->kick_fd = eventfd(0, EFD_CLOEXEC);
    s->kicked = true;
    return 0;
}

int session_socket_update(struct session *s, uint32_t handle, const struct session_socket_params *params) {
    int err = step("update");
    if (err == 0)
        s->open[handle] = *params;
    return err;
}

int session_socket_close(struct session *s, uint32_t handle) {
    (void)step("close");
    fake.live_sockets -= s->used[handle];
    s->used[handle] = false;
    return 0;
}

int session_socket_retire(struct session *s, uint32_t handle) {
    (void)s;
    (void)handle;
    return step("retire");
}

int session_socket_set_option(struct session *s, uint32_t handle, uint32_t option, int64_t value) {
    (void)s;
    (void)handle;
    (void)value;
    return option > 8 ? -EINVAL : step("option");
}

int session_socket_group(struct session *s, uint32_t handle, const struct ipaddr *group, uint32_t ifindex, bool leave) {
    (void)s;
    (void)handle;
    (void)group;
    (void)ifindex;
    return step(leave ? "leave" : "join");
}

int session_new_sq(struct session *s, uint32_t set, uint32_t *ret_index) {
    (void)s;
    *ret_index = set + 1;
    return step("sq");
}

uint32_t session_sockets(struct session *s, uint32_t after, struct session_socket_info *ret_info, uint32_t max) {
    uint32_t n = 0;
    for (uint32_t h = after + 1; h < SOCKETS && n < max; h++) {
        if (s->used[h])
            ret_info[n++] = (struct session_socket_info){.handle = h, .flow = s->open[h].flow};
    }
    return n;
}

struct session *session_next_detached(struct runtime *rt, enum detach_reason *ret_why) {
    (void)rt;
    struct session *s = fake.detached;
    fake.detached = NULL;
    *ret_why = DETACH_BAD_OP;
    return s;
}

int nb_claims_add(struct nb_claims *c, const struct nb_claim *claim) {
    (void)c;
    (void)claim;
    int err = step("claim+");
    fake.live_claims += err == 0;
    return err;
}

int nb_claims_del(struct nb_claims *c, const struct nb_claim *claim) {
    (void)c;
    (void)claim;
    fake.live_claims--;
    return step("claim-");
}

size_t nb_claims_list(const struct nb_claims *c, struct nb_claim *claims, size_t max) {
    (void)c;
    (void)claims;
    (void)max;
    return 0;
}

int nb_claims_keep(struct nb_claims *c, const struct nb_flow *flow) {
    (void)c;
    (void)flow;
    return 0;
}

int nb_claims_hold(struct nb_claims *c, const struct nb_flow *flow) {
    (void)c;
    (void)flow;
    int err = step("hold");
    fake.live_held += err == 0;
    return err;
}

int nb_claims_let_go(struct nb_claims *c, const struct nb_flow *flow) {
    (void)c;
    (void)flow;
    fake.live_held--;
    return step("let go");
}

int session_stream_share(struct session *s, uint32_t handle, struct session_stream *ret_stream) {
    (void)s;
    *ret_stream = (struct session_stream){.sock = handle, .flow = {.local_port = 7000}};
    return step("share");
}

int session_tx_file(const struct session *s, uint32_t off, uint32_t len) {
    (void)s;
    (void)off;
    (void)len;
    return -EINVAL;
}

int session_stream_adopt(struct session *s, const struct session_stream *stream, struct session_socket *ret_socket) {
    (void)s;
    *ret_socket = (struct session_socket){.handle = stream->sock + 100, .kick_fd = -1};
    return step("adopt");
}

int session_stream_leave(struct session *s, uint32_t handle, struct session_stream *ret_stream) {
    (void)s;
    *ret_stream = (struct session_stream){.sock = handle, .flow = {.local_port = 7000}};
    return step("stay");
}

void session_stream_recall(struct session *s, uint32_t handle) {
    (void)s;
    (void)handle;
    (void)step("recall");
}

void session_stream_drop(struct runtime *rt, const struct session_stream *stream, bool abort) {
    (void)rt;
    (void)stream;
    (void)step(abort ? "drop unread" : "drop");
}

uint32_t session_port_flows(struct runtime *rt, const uint64_t *ports, struct session_port_cursor *at,
                            struct session_port_flow *ret_flows, uint32_t max, bool *ret_end) {
    uint32_t n = 0;
    (void)rt;
    for (; at->sock < fake.stream_count && n < max; at->sock++) {
        uint16_t port = fake.streams[at->sock].flow.local_port;
        if (ports[port / 64] >> (port % 64) & 1)
            ret_flows[n++] = fake.streams[at->sock];
    }
    *ret_end = at->sock == fake.stream_count;
    return n;
}

void session_port_flows_look(struct runtime *rt, struct session_port_flow *flows, uint32_t count) {
    (void)rt;
    for (uint32_t i = 0; i < count; i++)
        flows[i].lives = fake.streams[flows[i].sock].lives;
}

void session_socket_undo(struct session *s, const struct session_socket *sock) {
    (void)session_socket_close(s, sock->handle);
    if (sock->kick_fd >= 0) {
        (void)close(sock->kick_fd);
        s->kicked = false;
    }
}

void session_port_flow_steer(struct runtime *rt, const struct session_port_flow *f, bool hold) {
    (void)rt;
    (void)f;
    (void)hold;
}

int nb_claims_settle(struct nb_claims *c, uint16_t port) {
    (void)c;
    (void)port;
    return 0;
}

int nb_claims_addr_add(struct nb_claims *c, const struct nb_addr *addr) {
    (void)c;
    (void)addr;
    int err = step("group+");
    fake.live_groups += err == 0;
    return err;
}

int nb_claims_addr_del(struct nb_claims *c, const struct nb_addr *addr) {
    (void)c;
    (void)addr;
    fake.live_groups--;
    return step("group-");
}
