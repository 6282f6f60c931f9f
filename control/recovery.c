/* SPDX-License-Identifier: Apache-2.0
 *
 * See recovery.h.
 */
#include "control/recovery.h"

#include <string.h>

#include "control/broker/claims.h"
#include "control/log.h"
#include "control/usherd.h"

void recovery_inherit(struct usherd *u) {
    size_t kept = 0;
    for (size_t i = 0; i < u->inherited_count; i++) {
        struct store_fd *f = &u->inherited[i];
        if (strncmp(f->name, RUNTIME_HEIRLOOM, strlen(RUNTIME_HEIRLOOM)) == 0)
            runtime_inherit(u->rt, f->name, f->fd);
        else
            u->inherited[kept++] = *f;
    }
    u->inherited_count = kept;
}

int recovery_open(struct usherd *u) {
    struct runtime_estate e;
    int error = runtime_estate_open(u->rt, &e);
    if (e.refused > 0)
        log_warning("recovery",
                    "%u memories of connections were damaged or of another version; those connections are "
                    "lost and their peers will be told",
                    e.refused);
    if (e.lost > 0)
        log_warning("recovery", "%u connections did not pass the check and are lost", e.lost);
    return error;
}

static void streams_count(const struct usherd *u, uint64_t *ret_resumed, uint64_t *ret_lost) {
    struct shard_stats stats;
    *ret_resumed = *ret_lost = 0;
    for (uint32_t i = 0; runtime_shard_stats(u->rt, i, &stats) == 0; i++) {
        *ret_resumed += stats.streams_resumed;
        *ret_lost += stats.streams_lost;
    }
}

static int on_time(sd_event_source *source, uint64_t usec, void *arg) {
    struct usherd *u = arg;
    uint64_t resumed, lost;
    (void)source;
    (void)usec;
    u->recovers = false;
    uint32_t reset = runtime_estate_close(u->rt), dropped = claim_sweep(u->claims);
    streams_count(u, &resumed, &lost);
    log_info("recovery",
             "recovery is over: %llu connections go on, %llu could not, %u were reset because their program did not "
             "come back; %u claims went back to the kernel",
             (unsigned long long)resumed, (unsigned long long)lost, reset, dropped);
    return 0;
}

int recovery_begin(struct usherd *u, char *err) {
    (void)err;
    if (!u->recovers)
        return 0;
    int error = sd_event_add_time_relative(u->event, &u->recovery_timer, CLOCK_MONOTONIC,
                                           u->cfg.keeper.recovery_grace_ns / 1000, 0, on_time, u);
    return error < 0 ? error : 0;
}

void recovery_end(struct usherd *u) {
    u->recovery_timer = sd_event_source_disable_unref(u->recovery_timer);
}
