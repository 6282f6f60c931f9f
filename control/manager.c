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

#include "control/log.h"
#include "control/policing.h"
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

/* Those that can change under traffic: copied over before what is left is compared. */
static void settings_apply(struct usherd *u, struct config *wanted, char *ret_changed, size_t size) {
    ret_changed[0] = '\0';
    /* Folders from the command line hold whatever the file says. */
    memcpy(wanted->run_dir, u->cfg.run_dir, sizeof wanted->run_dir);
    memcpy(wanted->state_dir, u->cfg.state_dir, sizeof wanted->state_dir);
    if (wanted->log.level != u->cfg.log.level) {
        log_open((enum log_level)wanted->log.level);
        u->cfg.log.level = wanted->log.level;
        (void)snprintf(ret_changed, size, " log.level");
    }
    if (wanted->runtime.mode != u->cfg.runtime.mode &&
        runtime_mode_set(u->rt, (enum sched_mode)wanted->runtime.mode) == 0) {
        u->cfg.runtime.mode = wanted->runtime.mode;
        (void)snprintf(ret_changed + strlen(ret_changed), size - strlen(ret_changed), " runtime.mode");
    }
}

void manager_reload(struct usherd *u) {
    static struct problems problems;
    static struct config wanted;
    char changed[64], rest[512];
    reloading_notify();
    memset(&problems, 0, sizeof problems);
    if (settings_read(u, &wanted, &problems) != 0) {
        problems_log(&problems);
        (void)sd_notify(0, "READY=1\nSTATUS=serving; the settings on disk are wrong");
        return;
    }
    settings_apply(u, &wanted, changed, sizeof changed);
    policing_reload(u);
    uint32_t left = config_compare(&u->cfg, &wanted, rest, sizeof rest);
    log_info("reload", "the settings were read again; changed:%s", changed[0] != '\0' ? changed : " nothing");
    if (left > 0)
        log_warning("reload", "takes effect at a restart of usherd: %s", rest);
    (void)sd_notifyf(0, "READY=1\nSTATUS=serving%s%s", left > 0 ? "; a restart is needed for: " : "", rest);
}
