/* SPDX-License-Identifier: Apache-2.0
 *
 * The QoS part of a policy file: classes in a tree, who belongs to which, and what each may send. Values; the tree that
 * engines/qos schedules by is made of them (install.h). Control thread.
 *
 *     qos:
 *       rate: 950M             # bits a second, a little below what the link carries: a share is a share of something
 *       overhead: 24           # bytes a frame costs on the wire beside its own
 *       interfaces: [eth0]     # none: all that usherd runs
 *       default: rest          # the class of what nobody claims; none: one of weight 1 is added
 *       classes:
 *         - {name: games, weight: 2, ceiling: 20M, cgroup: /games.slice}
 *         - name: people
 *           weight: 6
 *           classes:
 *             - {name: bob, guarantee: 50M, user: bob}
 *             - {name: rest, queue: 256K, each: user}
 *
 * A class has classes of its own, or packets. A packet is of the class that a rule's `class` names, else of the first
 * one, in the order of the file, that fits its owner: `user` (as in rules, "@name" of a set too) and `cgroup` (that one
 * and all below it) must fit, those of the classes above it as well; one that asks nothing of its own takes whatever
 * its parent fits. The owner is that of the socket, stamped when it was made: who moves to another cgroup has the old
 * class for the sockets that he has, the new one for those that he makes.
 *
 * Within a class everybody gets as much as the next one: each flow, or each user, cgroup or program (`each`), however
 * many flows they have.
 */
#ifndef USHER_CONTROL_POLICY_CLASSES_H
#define USHER_CONTROL_POLICY_CLASSES_H

#include <stdbool.h>
#include <stdint.h>

#define CLASS_MAX           8192u /* of one policy */
#define CLASS_NAME_SIZE     64
#define CLASS_CGROUP_SIZE   256
#define CLASS_INTERFACE_MAX 16
#define CLASS_NONE          UINT32_MAX

extern const char *const class_eachs[]; /* by enum qos_each; NULL at the end */

struct owner;
struct policy;

struct class_spec {
    char name[CLASS_NAME_SIZE];
    char cgroup[CLASS_CGROUP_SIZE]; /* "": any */
    char user[CLASS_NAME_SIZE];     /* as it stands in the file, for people */
    uint32_t users;                 /* a set of the policy; NB_NONE: any */
    uint32_t parent;                /* comes before it; CLASS_NONE: the root */
    uint32_t children;
    uint32_t depth; /* 1: the root */
    uint32_t weight;
    uint32_t each;               /* enum qos_each */
    uint64_t guarantee, ceiling; /* bytes a second, 0: none */
    uint64_t burst, queue;       /* bytes; burst 0: the engine's, queue 0: what the sender's socket may send ahead */
    uint64_t key;                /* the same in every revision that has a class of this name */
    bool picky;                  /* it, or one above it, says whom it takes */
};

struct class_interface {
    char name[16];
};

/* All zero: the policy has no such part, and packets are sent as they come. */
struct classes {
    struct class_spec *v; /* 0: the root, then in the order of the file */
    uint32_t count;
    uint32_t fallback;
    uint32_t overhead;
    uint32_t interface_count; /* 0: all */
    struct class_interface interface[CLASS_INTERFACE_MAX];
};

const struct classes *policy_classes(const struct policy *p);
/* A class that has packets, by name; CLASS_NONE: there is none, or it has classes of its own. */
uint32_t classes_find(const struct classes *c, const char *name);
/* Where an owner's packets belong; CLASS_NONE: to nobody's, so the fallback's. */
uint32_t policy_class_of(const struct policy *p, const struct owner *owner);

#endif
