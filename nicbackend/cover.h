/* SPDX-License-Identifier: Apache-2.0
 *
 * Cover: the policy's judges of kernel sockets. BPF programs at the root of the cgroup tree see every packet of every
 * socket of the network namespace on the interfaces that are managed, in and out, with the socket's owner (user, group,
 * process, executable and cgroup, stamped when it was made); bind and connect are judged at the call where no packet
 * could pass. All of it is fds, so that a keeper can hold them while the daemon is away.
 *
 * What a hook cannot express, a rule that asks for it leaves open: its tier lets pass what the rest of it matches. Such
 * rules are *gaps* and are told. A rejected packet is dropped inwards; outwards the call fails with EPERM.
 *
 * Thread: control only. Every call returns 0 or -errno and, where there is one, fills `err` with a sentence.
 */
#ifndef USHER_NICBACKEND_COVER_H
#define USHER_NICBACKEND_COVER_H

#include "nicbackend/claims.h"
#include "nicbackend/ir/rule.h"

struct nb_cover;

struct nb_cover_params {
    uint64_t netns; /* cookie of the network namespace whose sockets are judged */
    int cgroup_fd;  /* root of the cgroup v2 tree; borrowed */
    int stamps_fd;  /* a predecessor's stamps, named "cover.stamps"; -1 = none. Taken, whatever comes of it */
};

/* Nothing is judged until a policy is installed. Costs a walk over the open files of all processes. */
int nb_cover_create(const struct nb_cover_params *params, struct nb_cover **ret_cover, struct nb_error *err);
void nb_cover_destroy(struct nb_cover *c);

int nb_cover_interface(struct nb_cover *c, uint32_t ifindex, bool managed);
/* Every interface but the loopback is managed: bind and connect are judged too, which know no interface. */
int nb_cover_all_managed(struct nb_cover *c, bool all);

/* A rule that the hooks cannot express, and why; NB_NONE: they hold none of the policy. Constant text. */
typedef void nb_cover_gap_fn(void *arg, uint32_t rule, const char *why);

/* Tells the gaps; their number. Installs nothing. */
uint32_t nb_cover_gaps(const struct nb_policy *policy, nb_cover_gap_fn *gap, void *arg);

struct nb_cover_answer {
    bool denied;
    uint32_t open; /* the first rule that would have had a say, could the hooks express it; NB_NONE */
};
/* What the hooks would do with such a packet of a kernel socket's, on a managed interface. -E2BIG: they do not hold the
 * policy. Costs as much as making their rules. */
int nb_cover_judge(const struct nb_policy *policy, const struct nb_view *view, const struct nb_owner *owner,
                   struct nb_cover_answer *ret_answer);

/* In force on return, whole. -E2BIG: more rules than the hooks hold; then the old ones stay. */
int nb_cover_install(struct nb_cover *c, const struct nb_policy *policy, struct nb_error *err);

struct nb_cover_counts {
    uint64_t in, out, bind, connect; /* refused */
};
int nb_cover_counts(const struct nb_cover *c, struct nb_cover_counts *ret_counts);

/* As nb_claims_fds(); names begin with "cover.". */
size_t nb_cover_fds(const struct nb_cover *c, struct nb_fd *fds, size_t max);
/* The kernel's numbers of the programs, for who counts those of others. */
uint32_t nb_cover_programs(const struct nb_cover *c, uint32_t *ids, uint32_t max);

#endif
