/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel counts the programs in effect on a cgroup (BPF_PROG_QUERY); which they are is not asked.
 */
#include "control/netlink/cgroup_bpf.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <mntent.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct {
    uint32_t type;
    const char *name;
} hooks[] = {
    {BPF_CGROUP_INET_INGRESS, "ingress"},   {BPF_CGROUP_INET_EGRESS, "egress"},
    {BPF_CGROUP_INET4_BIND, "bind4"},       {BPF_CGROUP_INET6_BIND, "bind6"},
    {BPF_CGROUP_INET4_CONNECT, "connect4"}, {BPF_CGROUP_INET6_CONNECT, "connect6"},
    {BPF_CGROUP_UDP4_SENDMSG, "sendmsg4"},  {BPF_CGROUP_UDP6_SENDMSG, "sendmsg6"},
    {BPF_CGROUP_UDP4_RECVMSG, "recvmsg4"},  {BPF_CGROUP_UDP6_RECVMSG, "recvmsg6"},
};

static bool mount_find(char *ret_path, size_t size) {
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    bool found = false;
    if (mounts == NULL)
        return false;
    for (const struct mntent *m; !found && (m = getmntent(mounts)) != NULL;) {
        if (strcmp(m->mnt_type, "cgroup2") == 0)
            found = (size_t)snprintf(ret_path, size, "%s", m->mnt_dir) < size;
    }
    (void)endmntent(mounts);
    return found;
}

static int group_open(const char *cgroup) {
    char mount[256], path[600];
    if (!mount_find(mount, sizeof mount))
        return -1;
    (void)snprintf(path, sizeof path, "%s%s", mount, cgroup);
    /* A group outside of our root is shown as "/..": what we see of it is the root. */
    int fd = strstr(cgroup, "/..") == NULL ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    return fd >= 0 ? fd : open(mount, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

#define OWN_MAX 16
#define IDS_MAX 64

static uint32_t own[OWN_MAX], own_count; /* control thread only */

void cgroup_bpf_own(const uint32_t *ids, uint32_t count) {
    own_count = count < OWN_MAX ? count : OWN_MAX;
    if (own_count > 0)
        memcpy(own, ids, own_count * sizeof *ids);
}

int cgroup_bpf_root(void) {
    return group_open("");
}

static bool is_own(uint32_t id) {
    for (uint32_t i = 0; i < own_count; i++) {
        if (own[i] == id)
            return true;
    }
    return false;
}

/* With more of them than are asked for, the kernel says ENOSPC and how many there are. */
static uint32_t programs(int group, uint32_t type) {
    uint32_t ids[IDS_MAX] = {0}, others = 0;
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.query.target_fd = (uint32_t)group;
    attr.query.attach_type = type;
    attr.query.query_flags = BPF_F_QUERY_EFFECTIVE;
    attr.query.prog_ids = (uint64_t)(uintptr_t)ids;
    attr.query.prog_cnt = IDS_MAX;
    if (syscall(SYS_bpf, BPF_PROG_QUERY, &attr, sizeof attr) != 0 && errno != ENOSPC)
        return 0;
    for (uint32_t i = 0; i < attr.query.prog_cnt; i++)
        others += i >= IDS_MAX || !is_own(ids[i]);
    return others;
}

bool cgroup_bpf_judges(const char *cgroup, char *ret_what, size_t size) {
    int group = group_open(cgroup);
    bool found = false;
    for (size_t i = 0; group >= 0 && !found && i < sizeof hooks / sizeof hooks[0]; i++) {
        uint32_t n = programs(group, hooks[i].type);
        found = n > 0;
        if (found)
            (void)snprintf(ret_what, size, "%u BPF program%s at %s of cgroup %.80s", n, n > 1 ? "s" : "", hooks[i].name,
                           cgroup[0] != '\0' ? cgroup : "/");
    }
    if (group >= 0)
        (void)close(group);
    return found;
}
