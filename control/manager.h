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

struct manager_watchdog;
struct runtime;
struct usherd;

/* Feeds the manager's watchdog twice in its time, each time only if every worker has turned since the last look. NULL
 * when nobody watches: then nothing is woken. */
int manager_watchdog_create(sd_event *event, struct runtime *rt, struct manager_watchdog **ret_watchdog);
void manager_watchdog_destroy(struct manager_watchdog *w);

/* Reads the settings again; takes over what can change under traffic, says what cannot. Wrong ones change nothing. */
void manager_reload(struct usherd *u);

#endif
