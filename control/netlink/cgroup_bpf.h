/* SPDX-License-Identifier: Apache-2.0
 *
 * Are there BPF programs on a cgroup that judge network traffic which accelerated flows would not pass? Programs on
 * sockets' packets, bind, connect and datagrams count, on the cgroup itself or any above it.
 *
 * Thread: control. A question costs a dozen system calls.
 */
#ifndef USHER_CONTROL_NETLINK_CGROUP_BPF_H
#define USHER_CONTROL_NETLINK_CGROUP_BPF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* `cgroup` as /proc/PID/cgroup names it in the v2 hierarchy; "" or one that cannot be opened here: the root that this
 * process sees. True when there are programs; `ret_what` names the first ("1 program at egress of cgroup /x"). What
 * cannot be asked (no cgroup2 mounted, say) has none. */
bool cgroup_bpf_judges(const char *cgroup, char *ret_what, size_t size);

/* Programs of usherd's own, by the kernel's numbers: they are not counted. At most 16; 0 forgets them. */
void cgroup_bpf_own(const uint32_t *ids, uint32_t count);

/* The root of the cgroup2 tree that this process sees, opened; -1 when none is mounted. The caller's to close. */
int cgroup_bpf_root(void);

#endif
