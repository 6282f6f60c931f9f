/* SPDX-License-Identifier: Apache-2.0
 *
 * The conformance test that every kind of port passes. A rig is two joined ports; the cases send from one to the other,
 * both ways, and look at order, content, counters, sleeping, moving and leaks.
 */
#ifndef USHER_DATAPLANE_PORT_CONFORMANCE_H
#define USHER_DATAPLANE_PORT_CONFORMANCE_H

#include "dataplane/port/port.h"

struct rig {
    struct pktmem mem[2];
    struct port *port[2];
    const char *ifname[2]; /* kernel interface under each end, NULL when there is none */
};

struct rig_kind {
    const char *name;
    uint32_t frame_size, frame_count; /* of each end's pool */
    uint32_t mtu;
    /* Makes both ends over rig->mem. 0, or -errno with the reason in err: the kind is then skipped when the reason is a
     * missing privilege or kernel feature (-EPERM, -EOPNOTSUPP), else the test fails. */
    int (*open)(struct rig *rig, struct port_error *err);
    bool no_overrun; /* the wire keeps everything there is room for in memory */
};

/* Runs every case; each with a rig of its own. */
void conformance_run(const struct rig_kind *kind);

#endif
