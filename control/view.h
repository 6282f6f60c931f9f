/* SPDX-License-Identifier: Apache-2.0
 *
 * What the dataplane believes about the network: it hears the kernel through netlink/follow.h and tells the ip engine
 * of every shard (IP_CMD_*) and the claim hooks (local addresses). It also judges whether a program's socket can be
 * accelerated, because that is a question about addresses and routes.
 *
 * Thread: control.
 */
#ifndef USHER_CONTROL_VIEW_H
#define USHER_CONTROL_VIEW_H

#include <systemd/sd-event.h>

#include "control/broker/kernel_socket.h"
#include "control/interfaces.h"

struct view;
struct claim_table;

struct view_params {
    sd_event *event;
    const struct config *cfg;
    struct runtime *rt;
    uint32_t ip_engine;
    struct nb_claims *nb;
    struct claim_table *claims;
    struct interfaces *interfaces;
    struct nic *nic;
    void (*links_changed)(void *arg); /* links came, went or changed, and ports perhaps with them */
    void *arg;
};

/* Subscribes and learns everything once: interfaces are run, addresses and routes told. */
int view_create(const struct view_params *params, struct view **ret_view, char *err, size_t err_size);
void view_destroy(struct view *v); /* releases the next hops it asked the kernel to keep */
/* EVENT_NEIGH_WANTED and _UNUSED of a shard. */
void view_neigh_event(struct view *v, uint32_t shard, const struct engine_event *ev);
/* A broker_how_fn; arg is the view. */
void view_how(void *arg, uint32_t ifindex, char *ret_how, size_t how_size, char *ret_why, size_t why_size);
/* A broker_judge_fn; arg is the view. */
bool view_judge(void *arg, const struct kernel_socket *s, const char *cgroup, char *ret_reason, size_t size);
/* One line a local address to the log, and what stays with the kernel. */
void view_report(const struct view *v);

#endif
