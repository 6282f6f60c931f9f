/* SPDX-License-Identifier: Apache-2.0
 *
 * Whose a packet or a socket is. An owner is what the kernel says of a process at one moment; sockets keep the owner
 * of the moment in which they were made, as the kernel does. Equal owners share one entry of a bounded table; its index
 * is what packets carry (pkt->owner), 0 = unknown.
 *
 * Thread: control, but for owner_copy().
 */
#ifndef USHER_CONTROL_IDENTITY_OWNER_H
#define USHER_CONTROL_IDENTITY_OWNER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define OWNER_GROUP_MAX 32

struct owner {
    uint64_t start_time; /* of the process, in clock ticks since boot */
    uint64_t exe_dev, exe_ino;
    uint32_t pid;
    uint32_t uid, gid; /* those the kernel would stamp on a file or socket now (fsuid, fsgid) */
    uint32_t group_count;
    uint32_t groups[OWNER_GROUP_MAX]; /* ascending; the first OWNER_GROUP_MAX when there are more */
    char comm[16];
    char exe[256];    /* path for people; identity is device and inode. Cut when longer */
    char cgroup[256]; /* of the v2 hierarchy, "" when there is none */
};

/* Reads /proc of the process that `pidfd` holds. -ESRCH when it ended, so the answer is never about another process
 * that got the number meanwhile. */
int owner_read(pid_t pid, int pidfd, struct owner *ret_owner);

/* Do rules see the same in both? What it calls itself may differ. */
bool owner_same_rights(const struct owner *a, const struct owner *b);

struct owner_table;

int owner_table_create(uint32_t max, struct owner_table **ret_table);
void owner_table_destroy(struct owner_table *t);
/* Finds or enters `o` and takes one reference. -ENOSPC when the table is full. */
int owner_intern(struct owner_table *t, const struct owner *o, uint32_t *ret_index);
void owner_hold(struct owner_table *t, uint32_t index);
/* Gives one reference back. A free entry is used again as late as possible: packets in flight still carry its index. */
void owner_release(struct owner_table *t, uint32_t index);
/* NULL for 0 and for indexes that are not in use. */
const struct owner *owner_get(const struct owner_table *t, uint32_t index);
/* For any thread: who has, or last had, that index. False: nobody yet. Packets are looked at a while after they passed,
 * when their owner may be gone; that is why a free entry keeps its owner. */
bool owner_copy(struct owner_table *t, uint32_t index, struct owner *ret_owner);
uint32_t owner_table_count(const struct owner_table *t);

#endif
