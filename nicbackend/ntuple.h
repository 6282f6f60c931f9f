/* SPDX-License-Identifier: Apache-2.0
 *
 * The `ntuple` backend: receive classification rules of a NIC (ethtool -N), by ioctl, because netlink has no message
 * for them. They can drop by addresses, ports, protocol and DSCP; drivers do not agree on their order, none lets a
 * packet pass by a rule that all understand, none counts by rule: so only drops, only where nothing overlaps.
 *
 * Name space: the upper half of the device's table of locations. What a predecessor left there is deleted at the start.
 * Each rule is read back after its insertion.
 *
 * Thread: control only. An operation is up to two ioctls, each as slow as the device.
 */
#ifndef USHER_NICBACKEND_NTUPLE_H
#define USHER_NICBACKEND_NTUPLE_H

#include "nicbackend/flow/drops.h"

struct ethtool_rxnfc;

struct nb_ntuple_params {
    char ifname[16];
    struct nb_quirks quirks;
    /* For tests: in place of the kernel. 0 or -errno. */
    int (*call)(void *arg, struct ethtool_rxnfc *request);
    void *arg;
};

/* -EOPNOTSUPP: the driver has no such rules, or does not say how many. */
int nb_ntuple_create(const struct nb_ntuple_params *params, struct nb_backend **ret_backend, struct nb_error *err);

#endif
