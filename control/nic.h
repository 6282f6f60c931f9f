/* SPDX-License-Identifier: Apache-2.0
 *
 * The part of the policy that each interface's NIC has: what the setting interfaces[].nic asks for, brought there and
 * kept right through every change of the policy. Control thread.
 */
#ifndef USHER_CONTROL_NIC_H
#define USHER_CONTROL_NIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

struct ipaddr;
struct nb_claims;
struct nic;
struct nic_socket;
struct owner_table;
struct policy;

/* Looks after its NICs every few seconds: what is not attached is tried again, what a device has lost or was given by
 * others is put right. 0 or -errno. */
int nic_create(sd_event *event, struct nb_claims *claims, const struct owner_table *owners, struct nic **ret_nic);
void nic_destroy(struct nic *nic);

/* Before the port is made: its socket must ask the rules from the beginning. `wish`: enum config_nic; `rule_max`: fewer
 * entries than the device has, 0 = all. What the NIC cannot do stays in software and is logged. */
void nic_interface_begin(struct nic *nic, uint32_t ifindex, const char *name, uint32_t wish,
                         uint32_t rule_max);
/* The port runs, or there is none. */
void nic_interface_run(struct nic *nic, uint32_t ifindex);
void nic_interface_end(struct nic *nic, uint32_t ifindex);

/* Another policy comes into force: every NIC lets go of what it forbids to drop, `commit` makes software judge by it,
 * every NIC takes what it may drop from then on. 0, or -errno with the old policy in force in software and NIC. Borrows
 * `policy` until the next change. */
int nic_change(struct nic *nic, const struct policy *policy, int (*commit)(void *arg), void *arg);

/* Packets that each rule has decided about, in software and NICs; `ret_packets` has one for each rule. Asked every few
 * seconds while a table is too small for its rules: the hottest get it. */
typedef int nic_packets_fn(void *arg, uint64_t *ret_packets, uint32_t count);
void nic_packets_from(struct nic *nic, nic_packets_fn *fn, void *arg);

/* Usher's own sockets, of whose owners rules may ask: before one can get packets, when it can, and before it cannot any
 * more. NICs drop for an owner only while all packets there are its own; when nic_socket_goes() and nic_socket_comes()
 * return, none drops what may be another's. */
void nic_socket_comes(struct nic *nic, const struct nic_socket *socket);
void nic_socket_lives(struct nic *nic, const struct nic_socket *socket);
void nic_socket_goes(struct nic *nic, const struct nic_socket *socket);
/* A local address of this host; before it goes. */
void nic_address(struct nic *nic, const struct ipaddr *addr, bool gone);

/* What NICs have dropped by a rule (its index in the policy in force), in pieces that add up. */
void nic_counts(const struct nic *nic, void (*fn)(void *arg, uint32_t rule, uint64_t packets, uint64_t bytes),
                void *arg);

/* For people: one interface with a NIC, by number from 0. False: there are no more. */
struct nic_report {
    uint32_t ifindex, rule_max, mask_max;
    uint32_t entries, punts;      /* in the NIC; of them such as only keep drops away */
    uint32_t refused;             /* at the last change */
    const char *name, *backend, *hook, *why; /* why: what went wrong, "" when nothing */
    uint64_t change_ns;           /* that the last change took, commit included */
    uint64_t socket_ns;           /* that the last socket took of which NICs had to learn, 0 = none had */
};
bool nic_report(const struct nic *nic, uint32_t index, struct nic_report *ret_report);
/* A rule's place there; behind the rules come the defaults of the tiers. */
struct nic_place {
    uint32_t entries, placed; /* that all of it takes; that are in the NIC */
    const char *why;          /* not more */
    const char *advice;       /* what to do about it */
    uint64_t packets, bytes;  /* dropped there by it */
};
bool nic_place(const struct nic *nic, uint32_t index, uint32_t place, struct nic_place *ret_place);

#endif
