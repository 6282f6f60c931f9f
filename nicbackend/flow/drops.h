/* SPDX-License-Identifier: Apache-2.0
 *
 * A backend for devices that can drop by fields and nothing else: no order among rules that one could rely on, no punt.
 * Such a device gets only drops that nothing overlaps which disagrees; the partition sees to it. A driver brings flows
 * to the device; this keeps what the device has been told.
 *
 * Thread: control only.
 */
#ifndef USHER_NICBACKEND_FLOW_DROPS_H
#define USHER_NICBACKEND_FLOW_DROPS_H

#include "nicbackend/flow/flow.h"

/* Parse quirks, which no interface tells: by the device's documents or by trying. When in doubt, true. */
struct nb_quirks {
    bool inner_match; /* matches what is inside a tunnel */
    bool frag_ports;  /* takes a first fragment's ports for the packet's */
};

/* Places are the driver's numbers of what it has inserted, below place_max. */
struct nb_drops_driver {
    const char *name;
    bool counters;
    /* -EOPNOTSUPP, -ENOSPC, ...: see backend.h. */
    int (*insert)(void *arg, uint32_t place, const struct nb_cube *flow, struct nb_error *err);
    /* -ENOENT: it was not there. */
    int (*remove)(void *arg, uint32_t place, struct nb_count *ret_final, struct nb_error *err);
    int (*read)(void *arg, uint32_t place, struct nb_count *ret_count);
    /* Is it there, as inserted? -ENODEV: cannot be asked. */
    int (*check)(void *arg, uint32_t place, const struct nb_cube *flow);
    void (*destroy)(void *arg);
};

struct nb_drops_params {
    const struct nb_drops_driver *driver;
    void *arg; /* taken: destroy() is called by the backend's, and when create fails */
    uint32_t place_max;
    struct nb_quirks quirks;
    uint8_t addr_match, port_match; /* enum nb_match_kind */
    bool dscp;
};

int nb_drops_create(const struct nb_drops_params *params, struct nb_backend **ret_backend, struct nb_error *err);

#endif
