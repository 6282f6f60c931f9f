/* SPDX-License-Identifier: Apache-2.0
 *
 * What a port wants to know of a kernel interface. Control thread; a few system calls each.
 */
#ifndef USHER_DATAPLANE_PORT_NETIF_H
#define USHER_DATAPLANE_PORT_NETIF_H

#include "dataplane/port/port.h"

struct netif {
    uint32_t ifindex;
    uint32_t mtu;
    uint16_t link_type; /* ARPHRD_ */
    bool up;            /* administratively up and with carrier */
    uint8_t mac[6];
    char name[PORT_NAME_MAX];
    char driver[32]; /* ethtool's name of it, empty when unknown */
    uint32_t rx_queues, tx_queues;
};

/* 0, -ENODEV, or another -errno. */
int netif_read(const char *name, struct netif *ret_netif);
/* The same for an interface that may have been renamed since. */
int netif_read_index(uint32_t ifindex, struct netif *ret_netif);
/* Copies MTU, MAC and state to `info`. */
void netif_to_info(const struct netif *n, struct port_info *info);
/* Brings `info` of a port up to date by its ifindex; a vanished interface is down. */
int netif_refresh(struct port_info *info);

#endif
