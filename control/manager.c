/* SPDX-License-Identifier: Apache-2.0
 *
 * See manager.h.
 */
#include "control/manager.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include "control/broker/broker.h"
#include "control/log.h"
#include "control/policing.h"
#include "control/services/service.h"
#include "control/usherd.h"

/* ---- watchdog ---- */

struct manager_watchdog {
    struct runtime *rt;
    sd_event_source *timer;
    uint64_t period_us;
    uint32_t stuck; /* as last logged */
};

static void stuck_log(struct manager_watchdog *w, uint32_t stuck) {
    struct worker_stats stats[WORKER_MAX];
    uint32_t n = runtime_worker_stats(w->rt, stats, WORKER_MAX);
    for (uint32_t i = 0; i < n; i++) {
        if ((stuck & ~w->stuck) >> i & 1)
            log_error("watchdog",
                      "worker %u (core %d) has not turned for %llu ms; the service manager is no longer told that all "
                      "is well",
                      i, stats[i].cpu, (unsigned long long)(w->period_us / 1000));
    }
    w->stuck = stuck;
}

static int on_watchdog(sd_event_source *source, uint64_t when, void *arg) {
    struct manager_watchdog *w = arg;
    uint32_t stuck = runtime_stuck_workers(w->rt);
    (void)when;
    stuck_log(w, stuck);
    if (stuck == 0)
        (void)sd_notify(0, "WATCHDOG=1");
    (void)sd_event_source_set_time_relative(source, w->period_us);
    return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

int manager_watchdog_create(sd_event *event, struct runtime *rt, struct manager_watchdog **ret_watchdog) {
    uint64_t limit_us;
    *ret_watchdog = NULL;
    if (sd_watchdog_enabled(0, &limit_us) <= 0)
        return 0;
    struct manager_watchdog *w = calloc(1, sizeof *w);
    if (w == NULL)
        return -ENOMEM;
    w->rt = rt;
    w->period_us = limit_us / 2;
    int error = sd_event_add_time_relative(event, &w->timer, CLOCK_MONOTONIC, 0, 0, on_watchdog, w);
    if (error < 0) {
        free(w);
        return error;
    }
    *ret_watchdog = w;
    return 0;
}

void manager_watchdog_destroy(struct manager_watchdog *w) {
    if (w == NULL)
        return;
    (void)sd_event_source_disable_unref(w->timer);
    free(w);
}

/* ---- reload ---- */

static void reloading_notify(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    (void)sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu\nSTATUS=reading the settings again",
                     (unsigned long long)now.tv_sec * 1000000u + (unsigned long long)now.tv_nsec / 1000u);
}

static void problems_log(const struct problems *p) {
    for (uint32_t i = 0; i < p->count && i < PROBLEM_MAX; i++)
        log_error("reload", "%s", p->text[i]);
    log_error("reload", "the settings are wrong; nothing was changed");
}

static int settings_read(const struct usherd *u, struct config *ret_cfg, struct problems *problems) {
    /* Begun without a file, as main.c does: then the file may have been made since, or there is still none. */
    if (u->config_default && access(u->config_path, F_OK) != 0)
        return config_parse(u->config_path, "", 0, ret_cfg, problems);
    return config_load(u->config_path, ret_cfg, problems);
}

static void control_apply(struct usherd *u, const struct config *wanted, const struct config *before) {
    struct config *now = &u->cfg;
    memcpy(now->control.roles, wanted->control.roles, sizeof now->control.roles);
    now->control.role_count = wanted->control.role_count;
    now->control.connections = wanted->control.connections;
    now->control.caller_connections = wanted->control.caller_connections;
    now->control.caller_calls = wanted->control.caller_calls;
    now->control.caller_rate = wanted->control.caller_rate;
    now->control.idle_stop_ns = wanted->control.idle_stop_ns;
    if (service_settings(u->service) != 0)
        now->control = before->control;
}

struct broker_limits manager_session_limits(const struct config *cfg) {
    return (struct broker_limits){.sessions = cfg->sessions.max,
                                  .sessions_per_uid = cfg->sessions.max_per_uid,
                                  .sockets = cfg->sessions.sockets,
                                  .sockets_per_uid = cfg->sessions.sockets_per_uid,
                                  .streams = cfg->sessions.streams,
                                  .streams_per_uid = cfg->sessions.streams_per_uid,
                                  .tx_bytes = cfg->sessions.tx_bytes,
                                  .rx_bytes = cfg->sessions.rx_bytes};
}

static void sessions_apply(struct usherd *u, const struct config *wanted) {
    struct config *now = &u->cfg;
    now->sessions.max_per_uid = wanted->sessions.max_per_uid;
    now->sessions.sockets = wanted->sessions.sockets;
    now->sessions.sockets_per_uid = wanted->sessions.sockets_per_uid;
    now->sessions.streams = wanted->sessions.streams;
    now->sessions.streams_per_uid = wanted->sessions.streams_per_uid;
    now->sessions.tx_bytes = wanted->sessions.tx_bytes;
    now->sessions.rx_bytes = wanted->sessions.rx_bytes;
    const struct broker_limits limits = manager_session_limits(now);
    broker_limits_set(u->broker, &limits);
}

/* Those that can change under traffic. */
static void settings_apply(struct usherd *u, const struct config *wanted, const struct config *before) {
    if (wanted->log.level != u->cfg.log.level) {
        log_open((enum log_level)wanted->log.level);
        u->cfg.log.level = wanted->log.level;
    }
    if (wanted->runtime.mode != u->cfg.runtime.mode &&
        runtime_mode_set(u->rt, (enum sched_mode)wanted->runtime.mode) == 0)
        u->cfg.runtime.mode = wanted->runtime.mode;
    control_apply(u, wanted, before);
    sessions_apply(u, wanted);
}

static void report_log(const struct manager_report *r) {
    log_info("reload", "the settings were read again; changed: %s", r->changed[0] != '\0' ? r->changed : "nothing");
    if (r->restart_count > 0)
        log_warning("reload", "takes effect at a restart of usherd: %s", r->restart);
    (void)sd_notifyf(0, "READY=1\nSTATUS=serving%s%s", r->restart_count > 0 ? "; a restart is needed for: " : "",
                     r->restart);
}

void manager_reload(struct usherd *u, struct manager_report *ret_report) {
    static struct config wanted, before;
    struct manager_report *r = ret_report;
    reloading_notify();
    memset(r, 0, sizeof *r);
    if (settings_read(u, &wanted, &r->problems) != 0) {
        problems_log(&r->problems);
        (void)sd_notify(0, "READY=1\nSTATUS=serving; the settings on disk are wrong");
        return;
    }
    /* Folders from the command line hold whatever the file says. */
    memcpy(wanted.run_dir, u->cfg.run_dir, sizeof wanted.run_dir);
    memcpy(wanted.state_dir, u->cfg.state_dir, sizeof wanted.state_dir);
    before = u->cfg;
    settings_apply(u, &wanted, &before);
    policing_reload(u);
    (void)config_compare(&before, &u->cfg, r->changed, sizeof r->changed);
    r->restart_count = config_compare(&u->cfg, &wanted, r->restart, sizeof r->restart);
    report_log(r);
}
