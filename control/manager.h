/* SPDX-License-Identifier: Apache-2.0
 *
 * What usherd tells a service manager (systemd's sd_notify protocol) while it runs: that its workers are alive, and how
 * a reload went. Without a manager all of it is silent but for the log.
 *
 * Thread: control.
 */
#ifndef USHER_CONTROL_MANAGER_H
#define USHER_CONTROL_MANAGER_H

#include <systemd/sd-event.h>

#include "control/broker/broker.h"
#include "control/config/config.h"

struct manager_watchdog;
struct runtime;
struct usherd;

/* Feeds the manager's watchdog twice in its time, each time only if every worker has turned since the last look. NULL
 * when nobody watches: then nothing is woken. */
int manager_watchdog_create(sd_event *event, struct runtime *rt, struct manager_watchdog **ret_watchdog);
void manager_watchdog_destroy(struct manager_watchdog *w);

struct manager_report {
    struct problems problems; /* of the settings; count 0: they are in force */
    char changed[512];        /* names of the settings that took effect, separated by blanks */
    char restart[512];        /* of those that want a restart */
    uint32_t restart_count;
};

/* Reads the settings again; takes over what can change under traffic (log.level, runtime.mode, the roles and limits of
 * `control`, the limits of `sessions` but their number), says what cannot. Wrong ones change nothing. */
void manager_reload(struct usherd *u, struct manager_report *ret_report);

/* What the settings let programs have. */
struct broker_limits manager_session_limits(const struct config *cfg);

#endif
