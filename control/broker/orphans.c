/* SPDX-License-Identifier: Apache-2.0
 *
 * A plain array: it is gone through as a whole, every LOOK_USEC while it is not empty.
 */
#include "control/broker/orphans.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/broker/claims.h"
#include "control/log.h"
#include "dataplane/session/session.h"

#define LOOK_USEC 1000000u
#define FIND_MAX  64u

struct orphans {
    struct runtime *rt;
    struct claim_table *claims;
    sd_event_source *timer;
    struct session_port_flow *flows;
    uint32_t count, room;
};

static void let_go(struct orphans *o, uint32_t i) {
    claim_let_go(o->claims, &o->flows[i].flow);
    session_port_flow_steer(o->rt, &o->flows[i], false);
    o->flows[i] = o->flows[--o->count];
}

static int timer_set(struct orphans *o) {
    int err = sd_event_source_set_time_relative(o->timer, LOOK_USEC);
    return err < 0 ? err : sd_event_source_set_enabled(o->timer, o->count > 0 ? SD_EVENT_ONESHOT : SD_EVENT_OFF);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *arg) {
    struct orphans *o = arg;
    (void)source;
    (void)usec;
    session_port_flows_look(o->rt, o->flows, o->count);
    for (uint32_t i = o->count; i-- > 0;) {
        if (!o->flows[i].lives)
            let_go(o, i);
    }
    return timer_set(o);
}

int orphans_create(sd_event *event, struct runtime *rt, struct claim_table *claims, struct orphans **ret_orphans) {
    struct orphans *o = calloc(1, sizeof *o);
    if (o == NULL)
        return -ENOMEM;
    *o = (struct orphans){.rt = rt, .claims = claims};
    int err = sd_event_add_time_relative(event, &o->timer, CLOCK_MONOTONIC, LOOK_USEC, 0, on_timer, o);
    if (err >= 0)
        err = timer_set(o);
    if (err < 0) {
        orphans_destroy(o);
        return err;
    }
    *ret_orphans = o;
    return 0;
}

void orphans_destroy(struct orphans *o) {
    if (o == NULL)
        return;
    while (o->count > 0)
        let_go(o, o->count - 1);
    sd_event_source_disable_unref(o->timer);
    free(o->flows);
    free(o);
}

static int hold_one(struct orphans *o, const struct session_port_flow *f) {
    if (o->count == o->room) {
        uint32_t room = o->room != 0 ? o->room * 2 : FIND_MAX;
        struct session_port_flow *more = realloc(o->flows, room * sizeof *more);
        if (more == NULL)
            return -ENOMEM;
        o->flows = more;
        o->room = room;
    }
    int err = claim_hold(o->claims, &f->flow);
    if (err != 0)
        return err == -EEXIST ? 0 : err; /* held since an earlier listener of its port */
    session_port_flow_steer(o->rt, f, true);
    o->flows[o->count++] = *f;
    return 0;
}

void orphans_hold(struct orphans *o, const uint64_t *ports) {
    struct session_port_flow found[FIND_MAX];
    struct session_port_cursor at = {0};
    uint32_t lost = 0;
    int err = 0;
    for (bool end = false; !end;) {
        uint32_t n = session_port_flows(o->rt, ports, &at, found, FIND_MAX, &end);
        for (uint32_t i = 0; i < n; i++) {
            int e = hold_one(o, &found[i]);
            lost += e != 0;
            err = e != 0 ? e : err;
        }
    }
    if (lost > 0)
        log_warning("session.orphans", "%u connections whose listener closed cannot be held and will be reset: %s",
                    lost, strerror(-err));
    (void)timer_set(o);
}

uint32_t orphans_count(const struct orphans *o) {
    return o->count;
}
