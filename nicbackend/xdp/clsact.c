/* SPDX-License-Identifier: Apache-2.0
 *
 * The claim program as a clsact filter, for kernels without tcx. A qdisc and its filters outlive the process that made
 * them, so taking them away must be possible later, by somebody else, without harming filters of others: the qdisc goes
 * only when nothing is left in it. Thread: control only.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bpf/libbpf.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>

#include "nicbackend/xdp/claims_internal.h"

/* Our filters are the first. */
#define CLSACT_HANDLE 0x55u

int nb_clsact_attach(uint32_t ifindex, int prog_fd, enum nb_clsact_place place, bool *ret_made_qdisc) {
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = BPF_TC_INGRESS);
    LIBBPF_OPTS(bpf_tc_opts, opts, .prog_fd = prog_fd, .priority = place, .handle = CLSACT_HANDLE,
                .flags = BPF_TC_F_REPLACE);
    int error = bpf_tc_hook_create(&hook);
    if (error < 0 && error != -EEXIST)
        return error;
    *ret_made_qdisc = error == 0;
    return bpf_tc_attach(&hook, &opts);
}

/* Reads one answer to a dump. 1 = a filter is there, 0 = end of the dump, -EAGAIN = more to come, or another -errno. */
static int dump_read(int fd) {
    uint8_t buffer[16384] __attribute__((aligned(8)));
    ssize_t bytes = recv(fd, buffer, sizeof buffer, 0);
    if (bytes < 0)
        return -errno;
    uint32_t left = (uint32_t)bytes;
    for (struct nlmsghdr *m = (struct nlmsghdr *)(void *)buffer; NLMSG_OK(m, left); m = NLMSG_NEXT(m, left)) {
        if (m->nlmsg_type == RTM_NEWTFILTER)
            return 1;
        if (m->nlmsg_type == NLMSG_DONE)
            return 0;
        if (m->nlmsg_type == NLMSG_ERROR)
            return ((struct nlmsgerr *)NLMSG_DATA(m))->error;
    }
    return -EAGAIN;
}

/* 1 when the ingress or egress side holds a filter, 0 when not, or -errno. */
static int has_filters(uint32_t ifindex, uint32_t side) {
    struct {
        struct nlmsghdr head;
        struct tcmsg tc;
    } ask = {.head = {.nlmsg_len = sizeof ask, .nlmsg_type = RTM_GETTFILTER, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
             .tc = {.tcm_ifindex = (int)ifindex, .tcm_parent = TC_H_MAKE(TC_H_CLSACT, side)}};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0)
        return -errno;
    int result = send(fd, &ask, sizeof ask, 0) < 0 ? -errno : -EAGAIN;
    while (result == -EAGAIN)
        result = dump_read(fd);
    close(fd);
    return result;
}

int nb_clsact_detach(uint32_t ifindex, enum nb_clsact_place place, bool qdisc_too) {
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = BPF_TC_INGRESS);
    LIBBPF_OPTS(bpf_tc_opts, opts, .priority = place, .handle = CLSACT_HANDLE);
    int error = bpf_tc_detach(&hook, &opts);
    if (!qdisc_too || has_filters(ifindex, TC_H_MIN_INGRESS) != 0 || has_filters(ifindex, TC_H_MIN_EGRESS) != 0)
        return error;
    hook.attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS; /* both: the qdisc itself */
    return bpf_tc_hook_destroy(&hook);
}
