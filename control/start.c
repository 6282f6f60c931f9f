/* SPDX-License-Identifier: Apache-2.0
 *
 * How usherd begins and ends: a table of steps, each with its undo. A step that fails is logged with what to do, and
 * those before it are undone in reverse; an orderly stop undoes all of them in reverse.
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "control/broker/broker.h"
#include "control/broker/claims.h"
#include "control/confine.h"
#include "control/coverage.h"
#include "control/engines.h"
#include "control/identity/owner.h"
#include "control/interfaces.h"
#include "control/listener.h"
#include "control/log.h"
#include "control/manager.h"
#include "control/metrics/server.h"
#include "control/netlink/follow.h"
#include "control/nic.h"
#include "control/nic_sockets.h"
#include "control/policing.h"
#include "control/recovery.h"
#include "control/reserved.h"
#include "control/rights.h"
#include "control/services/service.h"
#include "control/state/state.h"
#include "control/succession.h"
#include "control/usherd.h"
#include "control/view.h"
#include "nicbackend/claims.h"

#define ERR_SIZE   512
#define CLAIMS_MAX 262144u /* entries of the kernel's table, made as they are used */
#define LOCK_WAITS 50      /* of 100 ms each, for a predecessor that is just ending */

struct step {
    const char *what;
    int (*begin)(struct usherd *u, char *err);
    void (*end)(struct usherd *u);
};

static int fail(char *err, int error, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static int fail(char *err, int error, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(err, ERR_SIZE, fmt, args);
    va_end(args);
    return error;
}

/* ---- folders and files ---- */

static int rights_begin(struct usherd *u, char *err) {
    (void)u;
    return rights_take(err, ERR_SIZE);
}

static int places_begin(struct usherd *u, char *err) {
    int error = netns_cookie_read(&u->netns_cookie);
    if (error != 0)
        return fail(err, error, "the network namespace has no cookie (%s): Linux 5.14 or later is needed",
                    strerror(-error));
    if (mkdir(u->cfg.run_dir, 0755) != 0 && errno != EEXIST)
        return fail(err, -errno, "cannot make run_dir %s: %s; make it, or choose another with --run-dir",
                    u->cfg.run_dir, strerror(errno));
    int n = snprintf(u->keeper_socket, sizeof u->keeper_socket, "%s/keeper.sock", u->cfg.run_dir);
    if (n < (int)sizeof u->keeper_socket)
        n = u->cfg.sessions.socket[0] != '\0'
                ? snprintf(u->socket, sizeof u->socket, "%s", u->cfg.sessions.socket)
                : snprintf(u->socket, sizeof u->socket, "%s/session.sock", u->cfg.run_dir);
    if (n < (int)sizeof u->socket)
        n = u->cfg.control.socket[0] != '\0'
                ? snprintf(u->control_socket, sizeof u->control_socket, "%s", u->cfg.control.socket)
                : snprintf(u->control_socket, sizeof u->control_socket, "%s/control.sock", u->cfg.run_dir);
    if (n >= (int)sizeof u->socket)
        return fail(err, -ENAMETOOLONG, "run_dir %s is too long for a socket's path; choose a shorter one",
                    u->cfg.run_dir);
    return 0;
}

static const struct state_undo state_undos = {nb_cleanup_qdisc, reserved_undo};

/* A predecessor that was just killed may still be ending: its lock goes with its last thread. */
static int state_wait(struct usherd *u, uint32_t *ret_undone) {
    int error = -EBUSY;
    for (int i = 0; i < LOCK_WAITS && error == -EBUSY; i++) {
        if (i > 0)
            (void)nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        error = state_open(u->cfg.state_dir, u->netns_cookie, &state_undos, &u->state, ret_undone);
    }
    return error;
}

static int state_begin(struct usherd *u, char *err) {
    uint32_t undone = 0;
    int error = state_wait(u, &undone);
    if (error == -EBUSY)
        return fail(err, error, "an usherd already runs in this network namespace (%s is locked); stop it first",
                    u->cfg.state_dir);
    if (error != 0)
        return fail(err, error, "the state file in %s cannot be used: %s; choose another folder with --state-dir",
                    u->cfg.state_dir, strerror(-error));
    if (undone > 0)
        log_info("cleanup", "%u things of a dead usherd were removed", undone);
    return 0;
}

static void state_end(struct usherd *u) {
    state_close(u->state);
}

/* Neighbours of a dead one; ours are released one by one at the end. */
static int neighbours_begin(struct usherd *u, char *err) {
    (void)u;
    (void)err;
    int n = follow_neigh_cleanup();
    if (n > 0)
        log_info("cleanup", "%d next hops that a dead usherd had the kernel keep were released", n);
    return 0;
}

/* ---- the loop: signals are blocked before any thread is made, so that all of them come here ---- */

static int loop_begin(struct usherd *u, char *err) {
    sigset_t mask;
    (void)sigemptyset(&mask);
    (void)sigaddset(&mask, SIGTERM);
    (void)sigaddset(&mask, SIGINT);
    (void)sigaddset(&mask, SIGHUP);
    (void)sigprocmask(SIG_BLOCK, &mask, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    int error = sd_event_new(&u->event);
    if (error >= 0)
        error = sd_event_add_signal(u->event, NULL, SIGTERM, NULL, NULL);
    if (error >= 0)
        error = sd_event_add_signal(u->event, NULL, SIGINT, NULL, NULL);
    return error < 0 ? fail(err, error, "the event loop cannot be made: %s", strerror(-error)) : 0;
}

static void loop_end(struct usherd *u) {
    u->event = sd_event_unref(u->event);
}

/* ---- the store ---- */

static enum store_kind store_choose(const struct config *cfg) {
    bool systemd = getenv("NOTIFY_SOCKET") != NULL && getenv("INVOCATION_ID") != NULL;
    if (cfg->keeper.mode == KEEPER_OFF)
        return STORE_NONE;
    return cfg->keeper.mode == KEEPER_AUTO && systemd ? STORE_SYSTEMD : STORE_KEEPER;
}

static int keeper_open(struct usherd *u) {
    char program[sizeof u->self + 16];
    const char *slash = strrchr(u->self, '/');
    (void)snprintf(program, sizeof program, "%.*s/usher-keeper", (int)(slash - u->self), u->self);
    const char *cleanup[] = {u->self,     "--cleanup",    "--config", u->config_path, "--state-dir", u->cfg.state_dir,
                             "--run-dir", u->cfg.run_dir, NULL};
    struct store_params p = {
        .kind = store_choose(&u->cfg),
        .socket = u->keeper_socket,
        .program = program,
        .grace_ns = u->cfg.keeper.recovery_grace_ns,
        .cleanup = cleanup,
    };
    return store_open(&p, &u->store, u->inherited, KEPT_MAX, &u->inherited_count);
}

static int store_begin(struct usherd *u, char *err) {
    int error = keeper_open(u);
    if (error == -EBUSY)
        return fail(err, error, "usher-keeper at %s serves another usherd; give this one a run_dir of its own",
                    u->keeper_socket);
    if (error != 0)
        return fail(err, error, "usher-keeper cannot be started: %s; it lies beside usherd, or set keeper.mode to off",
                    strerror(-error));
    coverage_inherit(u);
    log_info("keeper", "kernel objects are kept by %s, for %llu ms after usherd's death", store_text(u->store),
             (unsigned long long)(u->cfg.keeper.recovery_grace_ns / 1000000));
    return 0;
}

static void store_end(struct usherd *u) {
    for (size_t i = 0; i < u->inherited_count; i++)
        (void)close(u->inherited[i].fd);
    store_close(u->store, true);
}

static bool kept_as(const struct store_fd *list, size_t count, const char *name, int fd) {
    for (size_t i = 0; i < count; i++) {
        if (strcmp(list[i].name, name) == 0)
            return fd < 0 || list[i].fd == fd;
    }
    return false;
}

/* The fds that keep the policy and the claims alive, and those that connections live in. */
static size_t store_list(const struct usherd *u, struct store_fd *ret) {
    struct nb_fd fds[KEPT_MAX];
    struct runtime_heirloom heirlooms[RUNTIME_HEIRLOOM_MAX];
    size_t n = coverage_fds(u, fds, KEPT_MAX), more = runtime_heirlooms(u->rt, heirlooms, ARRAY_LEN(heirlooms));
    n += nb_claims_fds(u->nb, fds + n, KEPT_MAX - n);
    n = n < KEPT_MAX - more ? n : KEPT_MAX - more;
    for (size_t i = 0; i < n; i++) {
        ret[i].fd = fds[i].fd;
        (void)snprintf(ret[i].name, sizeof ret[i].name, "%.47s", fds[i].name);
    }
    for (size_t i = 0; i < more; i++) {
        ret[n + i].fd = heirlooms[i].fd;
        (void)snprintf(ret[n + i].name, sizeof ret[n + i].name, "%.47s", heirlooms[i].name);
    }
    return n + more;
}

/* Makes the store hold exactly these. */
void usherd_store_sync(struct usherd *u) {
    struct store_fd now[KEPT_MAX];
    if (u->store == NULL)
        return;
    size_t n = store_list(u, now);
    int error = 0;
    for (size_t i = 0; i < u->kept_count; i++) {
        if (!kept_as(now, n, u->kept[i].name, -1))
            (void)store_drop(u->store, u->kept[i].name);
    }
    for (size_t i = 0; i < n && error == 0; i++) {
        if (!kept_as(u->kept, u->kept_count, now[i].name, now[i].fd))
            error = store_put(u->store, &now[i], 1);
    }
    if (error != 0)
        log_error("keeper", "%s does not take kernel objects (%s): a crash would let the kernel answer for clients",
                  store_text(u->store), strerror(-error));
    memcpy(u->kept, now, n * sizeof now[0]);
    u->kept_count = n;
}

/* ---- the dataplane ---- */

static void engine_dir_find(const struct usherd *u, char *ret_dir, size_t size) {
    static const char *const places[] = {"../lib/engines", "../lib/usher/engines"};
    const char *slash = strrchr(u->self, '/');
    (void)snprintf(ret_dir, size, "%s", u->cfg.runtime.engine_dir);
    for (size_t i = 0; i < ARRAY_LEN(places) && ret_dir[0] == '\0'; i++) {
        (void)snprintf(ret_dir, size, "%.*s/%s", (int)(slash - u->self), u->self, places[i]);
        if (access(ret_dir, F_OK) != 0)
            ret_dir[0] = '\0';
    }
}

static int runtime_begin(struct usherd *u, char *err) {
    char dir[400];
    struct runtime_error e = {""};
    engine_dir_find(u, dir, sizeof dir);
    struct runtime_config c = {
        .shard_count = u->cfg.runtime.shards,
        .cpu_mask = u->cfg.runtime.cpus,
        .mode = (enum sched_mode)u->cfg.runtime.mode,
        .target_delay_us = u->cfg.runtime.target_delay_us,
        .spin_max_us = u->cfg.runtime.spin_us,
        .small_packets = u->cfg.runtime.small_buffers,
        .large_packets = u->cfg.runtime.large_buffers,
        .session_max = u->cfg.sessions.max,
        .engine_dir = dir,
        .worker_begins = confine_worker,
    };
    int error = runtime_create(&c, &u->rt, &e);
    if (error != 0)
        return fail(err, error, "%s", e.text);
    recovery_inherit(u);
    return 0;
}

static void runtime_end(struct usherd *u) {
    runtime_destroy(u->rt);
}

static int modules_begin(struct usherd *u, char *err) {
    struct runtime_error e = {""};
    int error = engines_begin(u, &e);
    return error == 0 ? 0 : fail(err, error, "%s", e.text);
}

/* The kernel must not give such a port to a program of its own: packets to it would be usherd's. */
static int ports_begin(struct usherd *u, char *err) {
    uint32_t tcp, low = u->cfg.engines.tcp.port_low, high = u->cfg.engines.tcp.port_high;
    (void)err;
    if (runtime_engine_find(u->rt, "tcp", &tcp) != 0)
        return 0;
    int error = reserved_take(u->state, (uint16_t)low, (uint16_t)high);
    if (error != 0)
        log_warning("ports",
                    "ports %u to %u cannot be reserved for connections by usherd (%s): keep them out of "
                    "net.ipv4.ip_local_port_range, or the kernel gives them to programs that usherd then cuts off",
                    low, high, strerror(-error));
    return 0;
}

static void ports_end(struct usherd *u) {
    reserved_give(u->state);
}

/* ---- claims ---- */

static int claims_adopt(struct usherd *u) {
    struct nb_fd fds[KEPT_MAX];
    struct nb_error e = {""};
    for (size_t i = 0; i < u->inherited_count; i++) {
        fds[i].fd = u->inherited[i].fd;
        (void)snprintf(fds[i].name, sizeof fds[i].name, "%s", u->inherited[i].name);
    }
    int error = nb_claims_adopt(fds, u->inherited_count, &u->nb, &e);
    if (error != 0) {
        log_warning("adopt", "the predecessor's claims cannot be taken over: %s; starting afresh", e.text);
        return error;
    }
    log_info("adopt", "%zu kernel objects of the predecessor were taken over", u->inherited_count);
    u->inherited_count = 0; /* they belong to the claims now */
    u->recovers = true;
    return 0;
}

static int claims_begin(struct usherd *u, char *err) {
    struct nb_error e = {""};
    int error = u->inherited_count > 0 ? claims_adopt(u) : -ENOENT;
    if (error != 0) {
        /* The store may hold what could not be adopted: let go of it, or its hooks would go on dropping. */
        for (size_t i = 0; i < u->inherited_count; i++)
            (void)store_drop(u->store, u->inherited[i].name);
        error = nb_claims_create(CLAIMS_MAX, &u->nb, &e);
    }
    if (error != 0)
        return fail(err, error, "%s", e.text);
    error = claim_table_create(u->nb, CLAIMS_MAX, &u->claims);
    return error == 0 ? 0 : fail(err, error, "no memory for the claim table");
}

static void claims_end(struct usherd *u) {
    claim_table_destroy(u->claims);
    nb_claims_destroy(u->nb);
}

static int owners_begin(struct usherd *u, char *err) {
    int error = owner_table_create(OWNERS_PER_SESSION * u->cfg.sessions.max, &u->owners);
    return error == 0 ? 0 : fail(err, error, "no memory for the owner table");
}

static void owners_end(struct usherd *u) {
    owner_table_destroy(u->owners);
}

static int nic_begin(struct usherd *u, char *err) {
    int error = nic_create(u->event, u->nb, u->owners, &u->nic);
    return error == 0 ? 0 : fail(err, error, "no memory for the rules of NICs");
}

static void nic_end(struct usherd *u) {
    nic_destroy(u->nic);
}

static int policy_begin(struct usherd *u, char *err) {
    return policing_begin(u, err, ERR_SIZE);
}

/* ---- interfaces and the view of the network ---- */

static void on_links_changed(void *arg) {
    coverage_links(arg);
    usherd_store_sync(arg);
    policing_ports(arg);
}

static int view_begin(struct usherd *u, char *err) {
    struct interfaces_params ip = {.cfg = &u->cfg, .rt = u->rt, .claims = u->nb, .nic = u->nic, .state = u->state};
    int error = interfaces_create(&ip, &u->interfaces);
    if (error != 0)
        return fail(err, error, "no memory for the interfaces");
    struct view_params vp = {
        .event = u->event,
        .cfg = &u->cfg,
        .rt = u->rt,
        .ip_engine = u->ip_engine,
        .nb = u->nb,
        .claims = u->claims,
        .interfaces = u->interfaces,
        .nic = u->nic,
        .links_changed = on_links_changed,
        .arg = u,
    };
    error = interfaces_taps_create(u->interfaces, err, ERR_SIZE);
    if (error == 0)
        error = view_create(&vp, &u->view, err, ERR_SIZE);
    if (error != 0)
        interfaces_destroy(u->interfaces);
    return error;
}

/* Attachments of a predecessor to interfaces that are no longer run. */
static void strays_detach(struct usherd *u) {
    struct nb_fd fds[KEPT_MAX];
    size_t n = nb_claims_fds(u->nb, fds, KEPT_MAX);
    for (size_t i = 0; i < n && i < KEPT_MAX; i++) {
        unsigned ifindex;
        if (sscanf(fds[i].name, "%u.", &ifindex) != 1 || interfaces_find(u->interfaces, ifindex) != NULL)
            continue;
        for (uint32_t hook = 0; hook < NB_HOOK_COUNT; hook++) {
            struct nb_attach *a = nb_attach_find(u->nb, ifindex, (enum nb_hook)hook);
            if (a != NULL)
                nb_attach_destroy(a);
        }
    }
}

static int cover_begin(struct usherd *u, char *err) {
    (void)err;
    coverage_begin(u);
    return 0;
}

static int on_store_gone(sd_event_source *source, int fd, uint32_t events, void *arg);

static int store_watch(struct usherd *u) {
    int fd = store_watch_fd(u->store);
    return fd < 0 ? 0 : sd_event_add_io(u->event, &u->store_io, fd, EPOLLIN, on_store_gone, u);
}

/* The keeper says nothing unasked: when its end is readable, it is gone, and so is what it held. A new one is given
 * all of it again. */
static int on_store_gone(sd_event_source *source, int fd, uint32_t events, void *arg) {
    struct usherd *u = arg;
    (void)source;
    (void)fd;
    (void)events;
    u->store_io = sd_event_source_disable_unref(u->store_io);
    store_close(u->store, false);
    u->store = NULL;
    u->kept_count = 0;
    int error = keeper_open(u);
    if (error != 0) {
        log_error("keeper",
                  "usher-keeper ended and cannot be started again (%s): a crash of usherd would now let the "
                  "kernel answer for clients; restart usherd",
                  strerror(-error));
        return 0;
    }
    log_warning("keeper", "usher-keeper ended; %s takes its place", store_text(u->store));
    usherd_store_sync(u);
    return store_watch(u) < 0 ? -ENOMEM : 0;
}

static int keep_begin(struct usherd *u, char *err) {
    strays_detach(u);
    usherd_store_sync(u);
    int error = store_watch(u);
    return error < 0 ? fail(err, error, "usher-keeper cannot be watched: %s", strerror(-error)) : 0;
}

/* Before the store says goodbye, so that the keeper's end is not taken for a crash of it. */
static void keep_end(struct usherd *u) {
    u->store_io = sd_event_source_disable_unref(u->store_io);
}

static void view_end(struct usherd *u) {
    view_destroy(u->view);
    interfaces_destroy(u->interfaces);
}

/* ---- workers and who uses them ---- */

static void on_engine_event(void *arg, uint32_t shard, const struct engine_event *ev) {
    struct usherd *u = arg;
    if (ev->kind == EVENT_ADDR_CONFLICT)
        log_warning("address.conflict", "somebody else answers for a dedicated address of ours");
    else if (ev->kind == EVENT_POLICY_LOG)
        policing_record(u, ev);
    else
        view_neigh_event(u->view, shard, ev);
}

static int on_runtime(sd_event_source *source, int fd, uint32_t events, void *arg) {
    struct usherd *u = arg;
    (void)source;
    (void)fd;
    (void)events;
    runtime_events(u->rt, on_engine_event, u);
    if (u->broker != NULL)
        broker_reap(u->broker);
    return 0;
}

static int workers_begin(struct usherd *u, char *err) {
    struct runtime_error e = {""};
    int error = runtime_start(u->rt, &e);
    if (error != 0)
        return fail(err, error, "%s", e.text);
    error = sd_event_add_io(u->event, NULL, runtime_event_fd(u->rt), EPOLLIN, on_runtime, u);
    if (error >= 0)
        return 0;
    runtime_stop(u->rt);
    return fail(err, error, "the event loop does not take the runtime: %s", strerror(-error));
}

static void workers_end(struct usherd *u) {
    runtime_stop(u->rt);
}

static int echo_begin(struct usherd *u, char *err) {
    struct runtime_error e = {""};
    int error = engines_echo_begin(u, &e);
    return error == 0 ? 0 : fail(err, error, "%s", e.text);
}

static void echo_end(struct usherd *u) {
    engines_echo_end(u);
}

/* NICs drop for an owner only where its sockets are. */
static void sockets_tell(void *arg, const struct broker_socket *s, enum broker_socket_event event) {
    const struct nic_socket socket = {s->flow, s->owner, s->ifindex, s->v6only, s->listens};
    static void (*const calls[])(struct nic * nic, const struct nic_socket *socket) = {
        [BROKER_SOCKET_COMES] = nic_socket_comes,
        [BROKER_SOCKET_LIVES] = nic_socket_lives,
        [BROKER_SOCKET_GOES] = nic_socket_goes,
    };
    calls[event](arg, &socket);
}

static int broker_begin(struct usherd *u, char *err) {
    struct broker_params p = {
        .event = u->event,
        .rt = u->rt,
        .stream_port_low = (uint16_t)u->cfg.engines.tcp.port_low,
        .stream_port_high = (uint16_t)u->cfg.engines.tcp.port_high,
        .claims = u->claims,
        .owners = u->owners,
        .owner_seen = policing_owner,
        .owner_arg = u,
        .path = u->socket,
        .group = u->cfg.sessions.group,
        .mode = u->cfg.sessions.mode,
        .limits = manager_session_limits(&u->cfg),
        .comeback_ms = store_choose(&u->cfg) != STORE_NONE ? (uint32_t)(u->cfg.keeper.recovery_grace_ns / 1000000) : 0,
        .netns_cookie = u->netns_cookie,
        .socket_event = sockets_tell,
        .socket_arg = u->nic,
        .judge = view_judge,
        .how = view_how,
        .judge_arg = u->view,
    };
    return broker_create(&p, &u->broker, err, ERR_SIZE);
}

static void broker_end(struct usherd *u) {
    broker_destroy(u->broker);
    u->broker = NULL;
}

static const struct policy *policy_in_force(void *arg) {
    const struct usherd *u = arg;
    return u->policing != NULL ? policing_policy(u->policing) : NULL;
}

static void more_metrics(void *usherd, FILE *out) {
    const struct usherd *u = usherd;
    if (u->service != NULL)
        service_metrics_write(u->service, out);
    coverage_metrics_write(u, out);
}

static int metrics_begin(struct usherd *u, char *err) {
    const struct metrics_params p = {
        .event = u->event,
        .listen = u->cfg.metrics.listen,
        .group = u->cfg.metrics.group,
        .mode = u->cfg.metrics.mode,
        .fd = listener_passed("metrics", SOCK_STREAM, false),
        .source = {.rt = u->rt,
                   .broker = &u->broker,
                   .sessions_max = &u->cfg.sessions.max,
                   .policy = policy_in_force,
                   .policy_arg = u,
                   .more = more_metrics,
                   .arg = u},
    };
    if (p.listen[0] == '\0' && p.fd < 0)
        return 0;
    return metrics_server_create(&p, &u->metrics, err, ERR_SIZE);
}

static void metrics_end(struct usherd *u) {
    metrics_server_destroy(u->metrics);
}

/* A new program on disk takes over; else only what can be judged at any time changes at a reload. */
static int on_hangup(sd_event_source *source, const struct signalfd_siginfo *si, void *arg) {
    struct usherd *u = arg;
    static struct manager_report report;
    char err[ERR_SIZE];
    (void)source;
    (void)si;
    if (succession_wanted(u)) {
        if (succession_try(u, NULL, err, sizeof err) == 0)
            return sd_event_exit(u->event, 0);
        log_error("succession", "%s; this usherd goes on", err);
    }
    manager_reload(arg, &report);
    return 0;
}

static int manager_begin(struct usherd *u, char *err) {
    int error = sd_event_add_signal(u->event, NULL, SIGHUP, on_hangup, u);
    if (error >= 0)
        error = manager_watchdog_create(u->event, u->rt, &u->watchdog);
    return error < 0 ? fail(err, error, "the event loop does not take the watchdog: %s", strerror(-error)) : 0;
}

static void manager_end(struct usherd *u) {
    manager_watchdog_destroy(u->watchdog);
}

static int service_begin(struct usherd *u, char *err) {
    return service_create(u, &u->service, err, ERR_SIZE);
}

static void service_end(struct usherd *u) {
    service_destroy(u->service);
    u->service = NULL;
}

static int report_begin(struct usherd *u, char *err) {
    static const char *const modes[] = {"auto", "dedicated", "spreading", "compacting"};
    const char *why;
    (void)err;
    enum sched_mode mode = runtime_mode(u->rt, &why);
    uint32_t shards = runtime_shard_count(u->rt);
    log_info("runtime", "%u shard%s, mode %s: %s", shards, shards == 1 ? "" : "s", modes[mode], why);
    interfaces_report(u->interfaces);
    view_report(u->view);
    log_info("ready", "programs attach at %s", u->socket);
    return 0;
}

static const struct step steps[] = {
    {"rights", rights_begin, NULL},
    {"folders", places_begin, NULL},
    {"state file", state_begin, state_end},
    {"next hops", neighbours_begin, NULL},
    {"event loop", loop_begin, loop_end},
    {"keeper", store_begin, store_end},
    {"runtime", runtime_begin, runtime_end},
    {"engines", modules_begin, NULL},
    {"outgoing ports", ports_begin, ports_end},
    {"claims", claims_begin, claims_end},
    {"owners", owners_begin, owners_end},
    {"NIC rules", nic_begin, nic_end},
    {"policy", policy_begin, policing_end},
    {"interfaces", view_begin, view_end},
    {"kernel sockets", cover_begin, coverage_end},
    {"kept objects", keep_begin, keep_end},
    {"workers", workers_begin, workers_end},
    {"echo service", echo_begin, echo_end},
    {"session socket", broker_begin, broker_end},
    {"recovery", recovery_begin, recovery_end},
    {"metrics", metrics_begin, metrics_end},
    {"service manager", manager_begin, manager_end},
    {"control service", service_begin, service_end},
    {"report", report_begin, NULL},
};

static void undo(struct usherd *u, size_t count) {
    while (count-- > 0) {
        if (steps[count].end != NULL)
            steps[count].end(u);
    }
}

void usherd_keep(struct usherd *u) {
    u->kept_count = 0; /* a number may stand for another file by now */
    usherd_store_sync(u);
}

bool usherd_keeps_by_systemd(const struct usherd *u) {
    return store_choose(&u->cfg) == STORE_SYSTEMD;
}

void usherd_leave(struct usherd *u) {
    keep_end(u);
    service_end(u);
    workers_end(u);
    store_close(u->store, false);
    u->store = NULL;
}

int usherd_engines_try(struct usherd *u, struct runtime_error *err) {
    char why[ERR_SIZE] = "";
    int error = runtime_begin(u, why);
    if (error != 0)
        (void)snprintf(err->text, sizeof err->text, "%.250s", why);
    else
        error = engines_try(u, err);
    runtime_destroy(u->rt);
    return error;
}

int usherd_begin(struct usherd *u) {
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        char err[ERR_SIZE] = "";
        int error = steps[i].begin(u, err);
        if (error == 0)
            continue;
        log_error("start", "%s: %s", steps[i].what, err[0] != '\0' ? err : strerror(-error));
        succession_back(); /* before anything is undone: the old one carries on with it */
        undo(u, i);
        return error;
    }
    return 0;
}

void usherd_end(struct usherd *u) {
    undo(u, ARRAY_LEN(steps));
}

int usherd_cleanup(struct usherd *u) {
    char err[ERR_SIZE] = "";
    uint32_t undone = 0;
    int error = rights_begin(u, err);
    if (error == 0)
        error = places_begin(u, err);
    if (error == 0)
        error = state_open(u->cfg.state_dir, u->netns_cookie, &state_undos, &u->state, &undone);
    if (error == -EBUSY)
        (void)fail(err, error, "an usherd runs in this network namespace; stop it first");
    if (error != 0) {
        log_error("cleanup", "%s", err[0] != '\0' ? err : strerror(-error));
        return error;
    }
    int hops = follow_neigh_cleanup();
    store_finish(u->keeper_socket);
    (void)unlink(u->socket);
    state_close(u->state);
    log_info("cleanup", "%u qdiscs and port lists and %d next hops of a dead usherd were removed", undone,
             hops > 0 ? hops : 0);
    return 0;
}
