/* SPDX-License-Identifier: Apache-2.0
 *
 * What NICs may know of Usher's own sockets: at which local addresses and ports all packets are one owner's. Cells of
 * it make rules about owners concrete. Control thread.
 *
 * A port has cells when all sockets on it are one owner's, bound to no interface: for datagrams those of the local
 * addresses that they are bound to, for streams the same but only of packets that ask for a connection, since accepted
 * ones may be somebody else's. Nothing else is certain.
 */
#ifndef USHER_CONTROL_NIC_SOCKETS_H
#define USHER_CONTROL_NIC_SOCKETS_H

#include "engines/ipaddr.h"
#include "nicbackend/partition/flatten.h"

struct owner_table;
struct policy;

struct nic_socket {
    struct flow flow;
    uint32_t owner, ifindex;
    bool v6only, listens;
};

struct nic_sockets;

struct nic_sockets *nic_sockets_create(const struct owner_table *owners);
void nic_sockets_destroy(struct nic_sockets *s);

/* Rules that could drop because of an owner are looked up once; `policy` is borrowed. NULL: none. -ENOMEM. */
int nic_sockets_policy(struct nic_sockets *s, const struct policy *policy);

void nic_sockets_address(struct nic_sockets *s, const struct ipaddr *addr, bool gone);
/* -ENOMEM: the port has no cells from now on. */
int nic_sockets_add(struct nic_sockets *s, const struct nic_socket *socket);
void nic_sockets_remove(struct nic_sockets *s, const struct nic_socket *socket);

/* The cells of one port, and whose they are, in *ret_owner; 0: nothing is certain, or no rule asks. */
#define NIC_CELLS_OF_PORT 64u
uint32_t nic_sockets_cells(const struct nic_sockets *s, uint8_t proto, uint16_t port,
                           struct nb_cell ret_cells[NIC_CELLS_OF_PORT], struct nb_owner *ret_owner);
/* Where packets to this port may be dropped because of a cell, whoever it was of. Returns how many. */
uint32_t nic_sockets_area(const struct nic_sockets *s, uint8_t proto, uint16_t port, struct nb_cell *ret_cell);

/* All cells there are. Valid until the next call of any of these. */
const struct nb_world *nic_sockets_world(struct nic_sockets *s);

#endif
