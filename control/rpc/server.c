/* SPDX-License-Identifier: Apache-2.0
 *
 * The server: its UNIX listener, the core while somebody is connected, and the way of completions from the core's queue
 * to the control thread.
 *
 * Threads: control; `carry` is the one other thread here. It only waits on the completion queue (the core does its I/O
 * in there) and puts what completed into a list, waking control by an eventfd when the list was empty.
 */
#include <errno.h>
#include <grpc/grpc_security.h>
#include <grpc/support/log.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "control/listener.h"
#include "control/log.h"
#include "control/rpc/rpc_internal.h"
#include "engines/check.h"

#define ACCEPT_PER_TURN 16
#define EVENTS_PER_TURN 32       /* then other sources of the loop get their turn */
#define SWEEP_US        5000000u /* how often connections are looked at while the core runs */
#define CORE_IDLE_MS    1800000  /* the core closes connections without calls */
#define STOP_GRACE_MS   1000
#define NICE_CARRY      5 /* the data path's threads and its clients go first */

uint64_t rpc_now_us(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

/* ---- completions ---- */

static void done_push(struct rpc_server *s, struct rpc_tag *tag) {
    tag->next = NULL;
    (void)pthread_mutex_lock(&s->lock);
    bool empty = s->done_head == NULL;
    *(empty ? &s->done_head : &s->done_tail->next) = tag;
    s->done_tail = tag;
    (void)pthread_mutex_unlock(&s->lock);
    if (empty)
        (void)eventfd_write(s->done_fd, 1);
}

static struct rpc_tag *done_pop(struct rpc_server *s) {
    (void)pthread_mutex_lock(&s->lock);
    struct rpc_tag *tag = s->done_head;
    if (tag != NULL)
        s->done_head = tag->next;
    (void)pthread_mutex_unlock(&s->lock);
    return tag;
}

static void *carry(void *arg) {
    struct rpc_server *s = arg;
    (void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE_CARRY);
    for (;;) {
        grpc_event e = grpc_completion_queue_next(s->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        if (e.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        struct rpc_tag *tag = e.tag;
        tag->ok = e.success != 0;
        done_push(s, tag);
    }
}

static void done_run(struct rpc_server *s, struct rpc_tag *tag) {
    if (tag->call != NULL)
        rpc_call_event(tag->call, (enum call_event)tag->event, tag->ok);
    else
        s->doors_open--;
}

static int on_done(sd_event_source *source, int fd, uint32_t events, void *arg) {
    struct rpc_server *s = arg;
    eventfd_t ignored;
    struct rpc_tag *tag = NULL;
    (void)source;
    (void)events;
    (void)eventfd_read(fd, &ignored);
    for (uint32_t i = 0; i < EVENTS_PER_TURN && (tag = done_pop(s)) != NULL; i++)
        done_run(s, tag);
    if (tag != NULL)
        (void)eventfd_write(fd, 1); /* perhaps there are more */
    return 0;
}

static int on_ready(sd_event_source *source, void *arg) {
    struct rpc_server *s = arg;
    (void)source;
    for (struct rpc_call *c = s->calls, *next; c != NULL; c = next) {
        next = c->next;
        if (c->ready && c->state == CALL_WAITING)
            rpc_call_event(c, CALL_READY, true);
    }
    return 0;
}

/* ---- the core ---- */

/* The core's own words go to nobody: what matters to an operator is said by us, in our words. */
static void core_log(gpr_log_func_args *args) {
    (void)args;
}

static grpc_server *door_make(struct rpc_server *s) {
    grpc_arg list[] = {
        {GRPC_ARG_INTEGER, (char *)(uintptr_t)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, .value.integer = RPC_MESSAGE_MAX},
        {GRPC_ARG_INTEGER, (char *)(uintptr_t)GRPC_ARG_MAX_CONCURRENT_STREAMS,
         .value.integer = RPC_CALLS_MAX + 8}, /* ours, which can change, answers before the core's queues */
        {GRPC_ARG_INTEGER, (char *)(uintptr_t)GRPC_ARG_MAX_METADATA_SIZE, .value.integer = 16384},
        {GRPC_ARG_INTEGER, (char *)(uintptr_t)GRPC_ARG_MAX_CONNECTION_IDLE_MS, .value.integer = CORE_IDLE_MS},
        {GRPC_ARG_INTEGER, (char *)(uintptr_t)GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, .value.integer = 5000},
        {GRPC_ARG_INTEGER, (char *)(uintptr_t)GRPC_ARG_ALLOW_REUSEPORT, .value.integer = 0},
    };
    grpc_channel_args args = {sizeof list / sizeof list[0], list};
    grpc_server *door = grpc_server_create(&args, NULL);
    grpc_server_register_completion_queue(door, s->queue, NULL);
    return door;
}

static int doors_open(struct rpc_server *s) {
    s->door[RPC_DOOR_UNIX] = door_make(s);
    s->doors_open = 1;
    if (s->tls != NULL) {
        s->door[RPC_DOOR_TLS] = door_make(s);
        s->doors_open = 2;
        int error = rpc_tls_door(s, s->door[RPC_DOOR_TLS]);
        if (error != 0)
            log_warning("control.tls", "TLS is not served until the next first connection: %s; check control.tls",
                        strerror(-error));
    }
    for (uint32_t d = 0; d < s->doors_open; d++) {
        grpc_server_start(s->door[d]);
        for (uint32_t i = 0; i < RPC_WAITING_CALLS; i++) {
            if (rpc_call_await(s, (enum rpc_door)d) != 0)
                return -ENOMEM;
        }
    }
    return 0;
}

static int core_end(struct rpc_server *s);

static int on_sweep(sd_event_source *source, uint64_t usec, void *arg) {
    struct rpc_server *s = arg;
    (void)usec;
    rpc_tls_refresh(s);
    uint32_t left = rpc_peers_sweep(s);
    uint64_t now = rpc_now_us();
    if (left > 0 || s->stats.calls_now > 0)
        s->empty_since_us = 0;
    else if (s->empty_since_us == 0)
        s->empty_since_us = now;
    else if (now - s->empty_since_us >= s->params.limits.idle_stop_us)
        return core_end(s);
    uint64_t pause = SWEEP_US < s->params.limits.idle_stop_us ? SWEEP_US : s->params.limits.idle_stop_us;
    (void)sd_event_source_set_time_relative(source, pause);
    return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

int rpc_core_start(struct rpc_server *s) {
    if (s->running)
        return 0;
    gpr_set_log_function(core_log);
    grpc_init();
    s->queue = grpc_completion_queue_create_for_next(NULL);
    s->insecure = grpc_insecure_server_credentials_create();
    s->running = true;
    s->stopping = false;
    s->empty_since_us = 0;
    int error = doors_open(s);
    if (pthread_create(&s->thread, NULL, carry, s) != 0)
        CHECK(false); /* without a thread nothing that was begun could be ended */
    s->stats.core_starts++;
    s->stats.core_running = true;
    if (error == 0)
        error = sd_event_source_set_time_relative(s->sweep, 0) < 0 ? -EIO : 0;
    (void)sd_event_source_set_enabled(s->sweep, SD_EVENT_ONESHOT);
    return error;
}

/* Runs completions until all doors are shut, or the time is over. */
static bool doors_wait(struct rpc_server *s, int wait_ms) {
    uint64_t end = rpc_now_us() + 1000u * (uint64_t)wait_ms;
    while (s->doors_open > 0) {
        struct rpc_tag *tag = done_pop(s);
        if (tag != NULL) {
            done_run(s, tag);
            continue;
        }
        uint64_t now = rpc_now_us();
        if (now >= end)
            return false;
        eventfd_t ignored;
        struct pollfd p = {.fd = s->done_fd, .events = POLLIN};
        (void)poll(&p, 1, (int)((end - now) / 1000 + 1));
        (void)eventfd_read(s->done_fd, &ignored);
    }
    return true;
}

static void calls_end(struct rpc_server *s) {
    for (struct rpc_call *c = s->calls; c != NULL; c = c->next)
        rpc_call_end_unavailable(c);
}

static int core_end(struct rpc_server *s) {
    if (!s->running)
        return 0;
    uint32_t doors = s->doors_open;
    s->stopping = true;
    rpc_tls_drop(s);
    for (uint32_t d = 0; d < doors; d++)
        grpc_server_shutdown_and_notify(s->door[d], s->queue, &s->stop_tag[d]);
    calls_end(s);
    if (!doors_wait(s, s->calls != NULL ? STOP_GRACE_MS : 0)) {
        for (uint32_t d = 0; d < doors; d++)
            grpc_server_cancel_all_calls(s->door[d]);
        while (!doors_wait(s, STOP_GRACE_MS))
            continue;
    }
    for (uint32_t d = 0; d < doors; d++) {
        grpc_server_destroy(s->door[d]);
        s->door[d] = NULL;
    }
    grpc_completion_queue_shutdown(s->queue);
    (void)pthread_join(s->thread, NULL);
    for (struct rpc_tag *tag; (tag = done_pop(s)) != NULL;)
        done_run(s, tag);
    grpc_completion_queue_destroy(s->queue);
    grpc_server_credentials_release(s->insecure);
    grpc_shutdown_blocking();
    rpc_peers_clear(s);
    s->running = s->stopping = s->stats.core_running = false;
    (void)sd_event_source_set_enabled(s->sweep, SD_EVENT_OFF);
    return 0;
}

/* ---- the listener ---- */

static int on_accept(sd_event_source *source, int fd, uint32_t events, void *arg) {
    (void)source;
    (void)events;
    for (int i = 0; i < ACCEPT_PER_TURN; i++) {
        int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (client < 0)
            return 0;
        rpc_peer_accept(arg, client);
    }
    return 0;
}

/* ---- life ---- */

static int services_join(struct rpc_server *s) {
    const struct rpc_service standard[] = {
        {"grpc.health.v1.Health", rpc_health_methods, rpc_health_method_count, NULL},
        {"grpc.reflection.v1.ServerReflection", rpc_reflection_methods, rpc_reflection_method_count, NULL},
        {"grpc.reflection.v1alpha.ServerReflection", rpc_reflection_methods, rpc_reflection_method_count, NULL},
    };
    size_t ours = s->params.service_count;
    s->services = calloc(ours + ARRAY_LEN(standard), sizeof *s->services);
    if (s->services == NULL)
        return -ENOMEM;
    if (ours > 0)
        memcpy(s->services, s->params.services, ours * sizeof *s->services);
    memcpy(s->services + ours, standard, sizeof standard);
    s->service_count = ours + ARRAY_LEN(standard);
    size_t methods = 1;
    for (size_t i = 0; i < s->service_count; i++)
        methods += s->services[i].method_count;
    s->counts = calloc(methods, sizeof *s->counts);
    return s->counts != NULL ? 0 : -ENOMEM;
}

static int sources_add(struct rpc_server *s) {
    sd_event *e = s->params.event;
    s->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->done_fd < 0)
        return -errno;
    int error = sd_event_add_io(e, &s->listen_io, s->listen_fd, EPOLLIN, on_accept, s);
    if (error >= 0)
        error = sd_event_add_io(e, &s->done_io, s->done_fd, EPOLLIN, on_done, s);
    if (error >= 0)
        error = sd_event_add_defer(e, &s->ready_source, on_ready, s);
    if (error >= 0)
        error = sd_event_source_set_enabled(s->ready_source, SD_EVENT_OFF);
    if (error >= 0)
        error = sd_event_add_time_relative(e, &s->sweep, CLOCK_MONOTONIC, 0, 500000, on_sweep, s);
    return error >= 0 ? sd_event_source_set_enabled(s->sweep, SD_EVENT_OFF) : error;
}

static int listener_take(struct rpc_server *s, char *err, size_t err_size) {
    const struct rpc_params *p = &s->params;
    const struct listener_params lp = {
        .path = p->path, .group = p->group, .mode = p->mode, .type = SOCK_STREAM, .group_setting = "control.group"};
    if (p->listen_fd >= 0) {
        s->listen_fd = p->listen_fd;
        return 0;
    }
    int error = listener_open_unix(&lp, &s->listen_fd, err, err_size);
    if (error == 0)
        (void)snprintf(s->path, sizeof s->path, "%s", p->path);
    return error;
}

static int parts_make(struct rpc_server *s, char *err, size_t err_size) {
    int error = rpc_scratch_init(&s->scratch);
    error = error == 0 ? rpc_grants_resolve(s) : error;
    error = error == 0 ? services_join(s) : error;
    error = error == 0 ? sources_add(s) : error;
    if (error < 0)
        (void)snprintf(err, err_size, "the control service cannot be made: %s", strerror(-error));
    return error;
}

int rpc_server_create(const struct rpc_params *params, struct rpc_server **ret_server, char *err, size_t err_size) {
    struct rpc_server *s = calloc(1, sizeof *s);
    if (s == NULL) {
        (void)snprintf(err, err_size, "no memory for the control service");
        return -ENOMEM;
    }
    s->params = *params;
    s->listen_fd = s->done_fd = -1;
    s->serving = true;
    (void)pthread_mutex_init(&s->lock, NULL);
    int error = listener_take(s, err, err_size);
    if (error == 0)
        error = parts_make(s, err, err_size);
    if (error >= 0 && params->tls != NULL)
        error = rpc_tls_create(s, err, err_size);
    if (error < 0) {
        rpc_server_destroy(s);
        return error;
    }
    *ret_server = s;
    return 0;
}

void rpc_server_replaced(struct rpc_server *s) {
    s->replaced = true;
}

void rpc_server_destroy(struct rpc_server *s) {
    if (s == NULL)
        return;
    sd_event_source_disable_unref(s->listen_io);
    if (s->path[0] != '\0')
        (void)unlink(s->path);
    if (s->listen_fd >= 0)
        (void)close(s->listen_fd);
    (void)core_end(s);
    rpc_tls_destroy(s);
    sd_event_source_disable_unref(s->sweep);
    sd_event_source_disable_unref(s->ready_source);
    sd_event_source_disable_unref(s->done_io);
    if (s->done_fd >= 0)
        (void)close(s->done_fd);
    while (s->uses != NULL) {
        struct rpc_use *u = s->uses;
        s->uses = u->next;
        free(u);
    }
    rpc_scratch_fini(&s->scratch);
    free(s->services);
    free(s->counts);
    free(s->grants);
    (void)pthread_mutex_destroy(&s->lock);
    free(s);
}

void rpc_server_serving(struct rpc_server *s, bool serving) {
    if (s->serving == serving)
        return;
    s->serving = serving;
    for (struct rpc_call *c = s->calls; c != NULL; c = c->next)
        c->ready = c->ready || c->stream != NULL;
    (void)sd_event_source_set_enabled(s->ready_source, SD_EVENT_ONESHOT);
}

int rpc_server_update(struct rpc_server *s, const struct rpc_grant *grants, size_t grant_count,
                      const struct rpc_limits *limits) {
    const struct rpc_params before = s->params;
    struct rpc_grant_ids *ids = s->grants;
    s->params.grants = grants;
    s->params.grant_count = grant_count;
    int error = rpc_grants_resolve(s);
    if (error != 0) {
        s->params = before;
        s->grants = ids;
        return error;
    }
    free(ids);
    s->params.limits = *limits;
    rpc_peers_judge(s);
    (void)sd_event_source_set_enabled(s->ready_source, SD_EVENT_ONESHOT);
    return 0;
}

bool rpc_server_method_stats(const struct rpc_server *s, uint32_t index, struct rpc_method_stats *ret_stats) {
    struct rpc_method_stats m = {.service = "", .method = ""};
    uint32_t left = index;
    size_t i = 0;
    for (; index > 0 && i < s->service_count && left > s->services[i].method_count; i++)
        left -= (uint32_t)s->services[i].method_count;
    if (i == s->service_count)
        return false;
    if (index > 0) {
        m.service = s->services[i].name;
        m.method = s->services[i].methods[left - 1].name;
        m.is_stream = s->services[i].methods[left - 1].open != NULL;
    }
    memcpy(m.ended, s->counts[index].ended, sizeof m.ended);
    m.streams = s->counts[index].streams;
    *ret_stats = m;
    return true;
}

void rpc_server_stats(const struct rpc_server *s, struct rpc_stats *ret_stats) {
    *ret_stats = s->stats;
}
