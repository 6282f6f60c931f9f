/* SPDX-License-Identifier: Apache-2.0
 *
 * NICs as nic.c (policies, interfaces) and nic_cells.c (sockets) see them.
 */
#ifndef USHER_CONTROL_NIC_INTERNAL_H
#define USHER_CONTROL_NIC_INTERNAL_H

#include "control/nic.h"
#include "nicbackend/partition/plan.h"
#include "nicbackend/rules.h"
#include "nicbackend/store/store.h"

#define NIC_MAX 64

struct nic_port {
    uint32_t ifindex; /* 0 = free */
    uint32_t wish;    /* enum config_nic */
    uint32_t rule_max;
    char name[16];
    struct nb_rules *rules; /* the store's */
    struct nb_store *store; /* NULL: there is no NIC, see `error` */
    struct nb_error error;
    const char *hook;
    struct nb_plan plan; /* of the policy in force */
    bool crowded;        /* the table is too small for the plan */
    bool behind;         /* a change failed half way: it drops less than it could */
    uint32_t refused;
    uint64_t change_ns;
};

struct nic {
    sd_event_source *timer;
    struct nb_claims *claims;
    const struct policy *policy; /* in force; NULL: none */
    struct nic_sockets *sockets;
    nic_packets_fn *packets;
    void *packets_arg;
    uint64_t *seen; /* by place: packets, when last asked */
    uint32_t *heat; /* by place: packets a second; of the policy in force, NULL: not known yet */
    uint64_t socket_ns; /* that the last socket took which NICs had to learn of */
    struct nic_port ports[NIC_MAX];
};

uint64_t nic_now_ns(void);
/* Software is as it should be; the NIC follows, with all of it. 0, or -errno: nobody knows what it drops. */
int nic_port_follow(struct nic *nic, struct nic_port *p);
/* What a plan of the policy is made of; the caller frees `resident`. 0 or -ENOMEM. */
int nic_port_params(const struct nic_port *p, const struct nb_policy *policy, const struct nb_world *world,
                    struct nb_program *resident, struct nb_partition_params *ret_params);

#endif
