/* SPDX-License-Identifier: Apache-2.0
 *
 * The `verbs` backend: flow steering of RDMA NICs (ibv_create_flow on a raw packet queue pair). Its flows outrank the
 * kernel's own tables and die with the process: the packets then go to the kernel again, to software. They can drop by
 * addresses, ports (TCP, UDP), protocol and DSCP; what else they can differs by device: only drops, only where nothing
 * overlaps.
 *
 * libibverbs is loaded when it is asked for: Usher runs without. Needs CAP_NET_RAW.
 *
 * Thread: control only. An operation is as slow as the device.
 */
#ifndef USHER_NICBACKEND_VERBS_H
#define USHER_NICBACKEND_VERBS_H

#include "nicbackend/flow/drops.h"

struct ibv_flow_attr;

/* What is asked of a device. 0 or -errno. */
struct nb_verbs_device {
    int (*create)(void *arg, const struct ibv_flow_attr *attr, void **ret_flow);
    int (*destroy)(void *arg, void *flow);
    /* All three NULL: it has none. The counter's place in `attr` is a spec of IBV_FLOW_SPEC_ACTION_COUNT. */
    int (*counter_create)(void *arg, void **ret_counter);
    void (*counter_destroy)(void *arg, void *counter);
    int (*counter_read)(void *arg, void *counter, struct nb_count *ret_count);
    void (*close)(void *arg);
};

struct nb_verbs_params {
    char ifname[16];
    struct nb_quirks quirks;
    uint32_t rule_max; /* 0 = 4,096 */
    /* For tests: in place of libibverbs. */
    const struct nb_verbs_device *device;
    void *arg;
};

/* -EOPNOTSUPP: there is no libibverbs, or the interface's device is no RDMA device or takes no raw packets. */
int nb_verbs_create(const struct nb_verbs_params *params, struct nb_backend **ret_backend, struct nb_error *err);

#endif
