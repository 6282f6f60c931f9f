/* SPDX-License-Identifier: Apache-2.0
 *
 * The daemon as one struct, and its beginning and end. main.c reads the command line and runs the loop; start.c holds
 * the table of steps.
 *
 * Thread: control.
 */
#ifndef USHER_CONTROL_USHERD_H
#define USHER_CONTROL_USHERD_H

#include <systemd/sd-event.h>

#include "control/config/config.h"
#include "control/keeper/store.h"
#include "dataplane/core/runtime.h"

#define KEPT_MAX 512 /* fds held for us by the store */
#define OWNERS_PER_SESSION 4u /* of sessions.max, in the owner table */

struct broker;
struct claim_table;
struct coverage;
struct echo_service;
struct interfaces;
struct manager_watchdog;
struct metrics_server;
struct nb_claims;
struct nic;
struct owner_table;
struct policing;
struct service;
struct state_file;
struct view;

struct usherd {
    struct config cfg;
    char config_path[256];
    bool config_default; /* no file was asked for: a missing one means the defaults */
    char self[256];   /* path of this program */
    char socket[CONFIG_PATH_MAX];
    char keeper_socket[CONFIG_PATH_MAX];
    char control_socket[CONFIG_PATH_MAX];
    uint64_t netns_cookie;
    sd_event *event;
    struct state_file *state;
    struct store *store;
    sd_event_source *store_io; /* wakes when the keeper died */
    struct store_fd inherited[KEPT_MAX]; /* a predecessor's, until claims are adopted */
    size_t inherited_count;
    struct store_fd kept[KEPT_MAX]; /* what the store holds now */
    size_t kept_count;
    char **arguments; /* of this program */
    char successor[256]; /* what it becomes when the loop has ended; "" = it ends */
    char succession[160]; /* how it followed another, for people; "" = it did not */
    bool recovers; /* a predecessor's clients may be on their way back */
    sd_event_source *recovery_timer;
    struct runtime *rt;
    uint32_t ip_engine, udp_engine, echo_engine;
    struct nb_claims *nb;
    struct claim_table *claims;
    struct owner_table *owners;
    struct nic *nic;
    struct policing *policing;
    struct coverage *coverage;
    struct interfaces *interfaces;
    struct view *view;
    struct echo_service *echo;
    struct broker *broker;
    struct metrics_server *metrics;
    struct manager_watchdog *watchdog;
    struct service *service;
};

/* Runs all steps in order. 0, or -errno with everything undone again and logged. */
int usherd_begin(struct usherd *u);
/* For a successor: answers have left, workers stand, sessions are left alone, the store holds on. */
void usherd_leave(struct usherd *u);
/* systemd's store, which gives nothing to whoever this process becomes. */
bool usherd_keeps_by_systemd(const struct usherd *u);
/* Loads the engines of the settings, and lets them go again. */
int usherd_engines_try(struct usherd *u, struct runtime_error *err);
/* The store learns of new fds. */
void usherd_keep(struct usherd *u);
/* Undoes all steps in reverse. */
void usherd_end(struct usherd *u);
/* Makes the store hold exactly the fds that outlive usherd: after they have changed. */
void usherd_store_sync(struct usherd *u);
/* Undoes what a dead usherd of this network namespace left; 0 or -errno, logged. */
int usherd_cleanup(struct usherd *u);

#endif
