/* SPDX-License-Identifier: Apache-2.0
 *
 * Claims: which packets of an interface are Usher's and which stay with the kernel. One claim table serves all hooks of
 * a daemon: the XDP program (to an AF_XDP queue), the clsact/tcx ingress program (drops what the packet socket has
 * taken), and the packet socket's own filter.
 *
 * A packet is claimed when it is for a local address (or a joined group) of the table and its protocol and destination
 * port (or the exact address and port) are claimed; when it is an ICMP error that quotes such a flow as its sender;
 * when it is a later fragment of a claimed first one; and, on an interface attached as `dedicated`, when it is for the
 * dedicated MAC or an ARP/NDP question for a dedicated address. Everything else passes.
 *
 * Thread: control only. Every call returns 0 or -errno and, where there is one, fills `err` with a sentence for people.
 * All kernel objects are fds: nb_claims_fds() lists them so that a keeper can hold them.
 */
#ifndef USHER_NICBACKEND_CLAIMS_H
#define USHER_NICBACKEND_CLAIMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nicbackend/addr.h"
#include "nicbackend/error.h"

struct nb_claims;
struct nb_attach;

enum nb_hook {
    NB_HOOK_XDP_NATIVE,
    NB_HOOK_XDP_GENERIC,
    NB_HOOK_TC, /* tcx link where the kernel has it, else clsact + filter (named in the state file) */
    NB_HOOK_COUNT
};

/* Keys are exact; `addr` all zero = any local address; ::ffff:0.0.0.0 = any local IPv4 address; all ones = any local
 * IPv6 address (a socket bound to one version's wildcard leaves the port of the other to whoever has it there).
 * `ifindex` is not part of a claim. */
struct nb_claim {
    struct nb_addr addr;
    uint16_t port; /* host order */
    uint16_t port_last; /* 0 = `port` alone; else all from `port` to this one, at any local address, as one claim */
    uint8_t proto; /* IPPROTO_UDP, IPPROTO_TCP */
};

int nb_claims_create(uint32_t claim_max, struct nb_claims **ret_claims, struct nb_error *err);
void nb_claims_destroy(struct nb_claims *c); /* detaches what is still attached */

/* -EEXIST when it is there already, -ENOENT when it is not, -ENOSPC when the table is full. */
int nb_claims_add(struct nb_claims *c, const struct nb_claim *claim);
int nb_claims_del(struct nb_claims *c, const struct nb_claim *claim);
/* All of them, at most `max` written; returns how many there are. For a successor that drops what nobody owns. */
size_t nb_claims_list(const struct nb_claims *c, struct nb_claim *claims, size_t max);
/* Addresses that are ours. Groups (multicast) are added the same way. */
int nb_claims_addr_add(struct nb_claims *c, const struct nb_addr *addr);
int nb_claims_addr_del(struct nb_claims *c, const struct nb_addr *addr);

/* A TCP connection that the kernel has already: it stays with the kernel, whatever is claimed. The oldest unused ones
 * are forgotten when there are too many. Ports in host order. */
struct nb_flow {
    struct nb_addr local, remote;
    uint16_t local_port, remote_port;
};
int nb_claims_keep(struct nb_claims *c, const struct nb_flow *flow);
/* The other way round: a TCP connection that is Usher's, whoever has its port, until it is let go. -EEXIST, -ENOENT;
 * -ENOSPC when CLAIM_HELD_MAX are held. */
int nb_claims_hold(struct nb_claims *c, const struct nb_flow *flow);
int nb_claims_let_go(struct nb_claims *c, const struct nb_flow *flow);
/* Until nb_claims_settle(0) every TCP packet to a claim of this port is the kernel's, and its flow is kept: called
 * before the port's first claim, so that no handshake falls between the kernel and the claim. -EBUSY: it has claims. */
int nb_claims_settle(struct nb_claims *c, uint16_t port);

struct nb_attach_params {
    uint32_t ifindex;
    enum nb_hook hook;
    uint32_t queue_max;    /* XDP: size of the XSK map */
    bool dedicated;        /* claim by MAC as well */
    uint8_t dedicated_mac[6];
    uint16_t vlan;         /* VLAN whose frames these are; 0 = untagged and priority-tagged ones */
    bool all;              /* every packet is ours (tests) */
    bool no_tcx;           /* NB_HOOK_TC: clsact even where the kernel has tcx */
};

/* -EBUSY with the owner's name in err when another program is there; -EOPNOTSUPP when the driver cannot. */
int nb_attach_create(struct nb_claims *c, const struct nb_attach_params *params, struct nb_attach **ret_attach,
                     struct nb_error *err);
void nb_attach_destroy(struct nb_attach *a);
/* What is attached already, also by an adopted predecessor; NULL when nothing is. */
struct nb_attach *nb_attach_find(const struct nb_claims *c, uint32_t ifindex, enum nb_hook hook);
/* fd -1 removes: packets then pass. A socket that just dies does not let them pass: they are dropped until a successor
 * sets its own (or removes). */
int nb_attach_xsk_set(struct nb_attach *a, uint32_t queue, int xsk_fd);
/* A socket filter (eBPF) that accepts exactly the claimed packets of this attachment, less what rules drop (see
 * nb_rules_before_claims()). The caller's to close. */
int nb_attach_socket_filter(struct nb_attach *a, int *ret_prog_fd);
/* "tcx link", "clsact filter" ... for reports; static text. */
const char *nb_attach_mode(const struct nb_attach *a);
/* True when something stays after the fds are closed (a clsact qdisc): it must be named in the state file. */
bool nb_attach_leaves_qdisc(const struct nb_attach *a);
/* Undoes what nb_attach_leaves_qdisc() speaks of, for an interface of a dead predecessor. */
int nb_cleanup_qdisc(uint32_t ifindex);

struct nb_counts {
    uint64_t claimed, passed, no_queue;
};
int nb_attach_counts(const struct nb_attach *a, struct nb_counts *ret_counts);

/* Every fd that keeps the claims alive, with a stable name. Returns how many; fills at most `max`. */
struct nb_fd {
    int fd;
    char name[48];
};
size_t nb_claims_fds(const struct nb_claims *c, struct nb_fd *fds, size_t max);
/* Takes the objects of a predecessor over by those fds (and takes the fds). */
int nb_claims_adopt(const struct nb_fd *fds, size_t count, struct nb_claims **ret_claims, struct nb_error *err);

#endif
