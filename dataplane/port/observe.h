/* SPDX-License-Identifier: Apache-2.0
 *
 * A decorator that shows every packet to a function and changes nothing. trace and pcap are made of it.
 */
#ifndef USHER_DATAPLANE_PORT_OBSERVE_H
#define USHER_DATAPLANE_PORT_OBSERVE_H

#include "dataplane/port/port.h"

enum observe_way { OBSERVE_RX, OBSERVE_TX };

struct observer {
    const char *kind;
    /* On the worker of the packet's queue; queues may call it at once. */
    void (*see)(void *arg, enum observe_way way, const struct pkt *p, ns_t now);
    void (*end)(void *arg); /* the port is being destroyed */
};

int observe_create(struct port *inner, const struct observer *observer, void *arg, struct port **ret_port);

#endif
