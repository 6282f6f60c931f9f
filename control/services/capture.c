/* SPDX-License-Identifier: Apache-2.0
 *
 * usher.control.v1.Capture: a stream is a job of control/capture; its parts go out one at a time, as the caller reads.
 * Control thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "control/capture/filter.h"
#include "control/capture/job.h"
#include "control/interfaces.h"
#include "control/policing.h"
#include "control/policy/policy.h"
#include "control/services/service_internal.h"
#include "dataplane/port/port.h"
#include "usher/control/v1/capture.pb-c.h"

struct capturing {
    struct rpc_call *call;
    struct job *job;
    sd_event_source *news;
};

static int on_news(sd_event_source *source, int fd, uint32_t events, void *arg) {
    const struct capturing *k = arg;
    (void)source;
    (void)fd;
    (void)events;
    rpc_stream_ready(k->call);
    return 0;
}

/* ---- the request ---- */

static enum rpc_code interfaces_choose(struct rpc_call *c, const struct service *s, const PB(StartCaptureRequest) * q,
                                       uint32_t *ret_ports) {
    for (size_t i = 0; i < q->n_interfaces; i++) {
        uint32_t slot = 0;
        const struct interface *face = NULL;
        for (; slot < PORT_SLOT_MAX; slot++) {
            face = interfaces_slot(s->u->interfaces, slot);
            if (face != NULL && strcmp(face->name, q->interfaces[i]) == 0)
                break;
        }
        if (slot == PORT_SLOT_MAX)
            return rpc_fail(c, RPC_NOT_FOUND, "INTERFACE_UNKNOWN", "interfaces",
                            "usherd does not run an interface %.64s; `usherctl ports` lists those it runs",
                            q->interfaces[i]);
        *ret_ports |= 1u << slot;
    }
    return RPC_OK;
}

/* What has no interface is left out when interfaces were named. */
static enum rpc_code points_choose(struct rpc_call *c, const PB(StartCaptureRequest) * q, uint32_t *ret_points) {
    static const uint8_t point_of[] = {[1] = TAP_RX, [2] = TAP_TX, [3] = TAP_DROP, [4] = TAP_LOCAL, [5] = TAP_MIRROR};
    for (size_t i = 0; i < q->n_points; i++) {
        if (q->points[i] < 1 || q->points[i] > 5)
            return rpc_fail(c, RPC_INVALID_ARGUMENT, "OUT_OF_RANGE", "points", "there is no point %d", q->points[i]);
        *ret_points |= 1u << point_of[q->points[i]];
    }
    if (q->n_points == 0)
        *ret_points = 1u << TAP_RX | 1u << TAP_TX | 1u << TAP_DROP | (q->n_interfaces == 0 ? 1u << TAP_LOCAL : 0);
    return RPC_OK;
}

static enum rpc_code sizes_check(struct rpc_call *c, const PB(StartCaptureRequest) * q) {
    if (strlen(q->filter) > FILTER_EXPRESSION_MAX)
        return rpc_fail(c, RPC_INVALID_ARGUMENT, "TOO_LONG", "filter",
                        "the filter has more than %u bytes; ask for less", FILTER_EXPRESSION_MAX);
    if (q->snaplen > CAPTURE_SNAP_MAX)
        return rpc_fail(c, RPC_INVALID_ARGUMENT, "OUT_OF_RANGE", "snaplen", "a packet has at most %u bytes, not %u",
                        CAPTURE_SNAP_MAX, q->snaplen);
    if (q->buffer_bytes > CAPTURE_RING_MAX)
        return rpc_fail(c, RPC_INVALID_ARGUMENT, "OUT_OF_RANGE", "buffer_bytes",
                        "a buffer of %u bytes is too large; at most %u are possible", q->buffer_bytes,
                        CAPTURE_RING_MAX);
    return RPC_OK;
}

static void names_fill(struct rpc_call *c, const struct service *s, struct job_names *ret_names) {
    for (uint32_t slot = 0; slot < PORT_SLOT_MAX; slot++) {
        const struct interface *face = interfaces_slot(s->u->interfaces, slot);
        if (face != NULL)
            (void)snprintf(ret_names->port[slot], sizeof ret_names->port[slot], "%s", face->name);
    }
    const struct policy *policy = policing_policy(s->u->policing);
    uint32_t count = policy != NULL ? policy_rules(policy)->rule_count : 0;
    ret_names->rule = count > 0 ? rpc_alloc(c, count * sizeof *ret_names->rule) : NULL;
    ret_names->rule_count = count;
    for (uint32_t i = 0; i < count; i++)
        (void)snprintf(ret_names->rule[i], sizeof ret_names->rule[i], "%s", policy_rule_name(policy, i));
}

/* Our packet ports' own socket is what their queues wait on; other kinds wait on something that has no cookie, and send
 * where the kernel's hooks do not see it. A tap's other end is the kernel: what it would show is shown already. */
static void watch_fill(const struct service *s, const struct job_params *p, struct job_watch *w) {
    w->in = (p->capture.points >> TAP_RX & 1) != 0;
    w->out = (p->capture.points >> TAP_TX & 1) != 0;
    for (uint32_t slot = 0; slot < PORT_SLOT_MAX; slot++) {
        const struct interface *face = interfaces_slot(s->u->interfaces, slot);
        const struct port *port = face != NULL ? runtime_port(s->u->rt, slot) : NULL;
        bool wanted = p->capture.ports == 0 || (p->capture.ports >> slot & 1) != 0;
        for (uint32_t q = 0; port != NULL && q < port->queue_count; q++) {
            socklen_t size = sizeof w->own[0];
            if (getsockopt(port->queue[q]->event_fd, SOL_SOCKET, SO_COOKIE, &w->own[w->own_count], &size) == 0)
                w->own_count++;
        }
        if (port != NULL && wanted && (w->in || w->out) && strcmp(port->ops->kind, "tap") != 0)
            w->ifindex[slot] = face->ifindex;
    }
}

static enum rpc_code start_open(struct rpc_call *c, void *arg, const void *request, void *state) {
    const PB(StartCaptureRequest) *q = request;
    const struct service *s = arg;
    struct capturing *k = state;
    struct job_names names = {.rule_count = 0};
    struct job_watch watch = {.own_count = 0};
    struct job_params p = {.host = s->captures,
                           .owners = s->u->owners,
                           .capture = {.snaplen = q->snaplen, .sample = q->sample, .ring_bytes = q->buffer_bytes},
                           .expression = q->filter,
                           .packets = q->packets,
                           .duration_ns = (uint64_t)q->duration_ms * 1000000u,
                           .names = &names,
                           .watch = &watch,
                           .sharded = runtime_shard_count(s->u->rt) > 1};
    rpc_audit(c, q->filter[0] != '\0' ? q->filter : "every packet", NULL, NULL);
    enum rpc_code code = sizes_check(c, q);
    if (code == RPC_OK)
        code = interfaces_choose(c, s, q, &p.capture.ports);
    if (code == RPC_OK)
        code = points_choose(c, q, &p.capture.points);
    if (code != RPC_OK)
        return code;
    names_fill(c, s, &names);
    if (!q->without_kernel)
        watch_fill(s, &p, &watch);
    k->call = c;
    int error = job_create(&p, &k->job);
    if (error == 0)
        error = sd_event_add_io(s->u->event, &k->news, job_fd(k->job), EPOLLIN, on_news, k);
    if (error >= 0)
        return RPC_OK;
    job_destroy(k->job);
    return rpc_fail(c, RPC_RESOURCE_EXHAUSTED, "NO_MEMORY", NULL, "the capture cannot begin: %s", strerror(-error));
}

/* ---- the stream ---- */

static enum rpc_next begin(struct rpc_call *c, struct capturing *k) {
    int error = job_begin(k->job);
    if (error == 0)
        return RPC_NEXT_WAIT;
    if (error == -EMFILE)
        (void)rpc_fail(c, RPC_RESOURCE_EXHAUSTED, "TOO_MANY_CAPTURES", NULL,
                       "%u captures are under way, and there cannot be more; end one of them", CAPTURE_MAX);
    else
        (void)rpc_fail(c, RPC_INTERNAL, "CAPTURE_FAILED", NULL, "the capture cannot begin: %s", strerror(-error));
    return RPC_NEXT_END;
}

static enum rpc_next start_next(struct rpc_call *c, void *arg, void *state) {
    struct capturing *k = state;
    struct job_part part;
    (void)arg;
    enum job_state at = job_look(k->job); /* before the part: none comes after the last state */
    if (at == JOB_COMPILED)
        return begin(c, k);
    if (at == JOB_FAILED) {
        (void)rpc_fail(c, RPC_INVALID_ARGUMENT, "BAD_FILTER", "filter", "%s", job_error(k->job));
        return RPC_NEXT_END;
    }
    if (!job_part(k->job, &part))
        return at == JOB_ENDED ? RPC_NEXT_END : RPC_NEXT_WAIT;
    PB(CapturePart) m = USHER__CONTROL__V1__CAPTURE_PART__INIT;
    m.pcapng = (ProtobufCBinaryData){part.size, (uint8_t *)(uintptr_t)part.bytes};
    m.packets = part.packets;
    m.lost = part.lost;
    m.seen = part.seen;
    m.notice = PB_TEXT(job_notice(k->job));
    rpc_answer(c, &m.base);
    job_part_done(k->job);
    return RPC_NEXT_SENT;
}

static void start_close(void *arg, void *state) {
    struct capturing *k = state;
    (void)arg;
    (void)sd_event_source_disable_unref(k->news);
    job_destroy(k->job);
}

const struct rpc_method capture_methods[] = {
    {.name = "Start",
     PB_REQUEST(start_capture_request),
     .role = RPC_ROLE_OPERATOR,
     .change = true,
     .open = start_open,
     .next = start_next,
     .close = start_close,
     .state_size = sizeof(struct capturing)},
};
const size_t capture_method_count = ARRAY_LEN(capture_methods);
