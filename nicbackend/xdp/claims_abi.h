/* SPDX-License-Identifier: Apache-2.0
 *
 * The maps that the claim programs and their loader share: keys, values, names. Compiled for the host and for BPF.
 * A successor process reads these maps too, so a change of layout needs a new CLAIMS_ABI.
 */
#ifndef USHER_NICBACKEND_CLAIMS_ABI_H
#define USHER_NICBACKEND_CLAIMS_ABI_H

#include <linux/types.h>

#define CLAIMS_ABI 4

/* Map `claims`, the truth: exactly what nb_claims_add() was given. The value is kept for rules to come; of a range it
 * is the last port, in host order. The programs look up single ports only: a range is in `ports`. */
struct claim_key {
    __u8 addr[16]; /* v4-mapped for IPv4; zero = any local address; see struct nb_claim for any of one IP version */
    __u16 port;    /* network order; of a range the first */
    __u8 proto;
    __u8 range; /* 1 = a range of ports */
};

/* Map `ports`, derived from `claims`: two bits for each protocol and port, so that a packet whose port nobody claims
 * costs one array load and no hash. 32 KiB in all. */
#define CLAIM_PORT_WORDS                   4096
#define CLAIM_PORT_ANY                     1u /* claimed at any local address */
#define CLAIM_PORT_EXACT                   2u /* claimed at some addresses: ask `claims` */
#define CLAIM_PORT_WORD(is_tcp, host_port) (((is_tcp) ? 2048u : 0u) + ((host_port) >> 5))
#define CLAIM_PORT_SHIFT(host_port)        (((host_port)&31u) * 2u)
/* Behind the bits: bit 0 once a flow was kept; from bit 16 on the TCP port that settles, if one does. */
#define CLAIM_KEPT_WORD         CLAIM_PORT_WORDS
#define CLAIM_KEPT_SOME         1ull
#define CLAIM_SETTLES(port)     ((unsigned long long)(port) << 16 | CLAIM_KEPT_SOME)
#define CLAIM_SETTLING_OF(word) ((__u32)((word) >> 16))

/* Map `kept`: TCP connections that the kernel had before their port was claimed; they stay with it. Least recently used
 * ones go first. Ports in network order. */
struct claim_kept_key {
    __u8 local[16], remote[16];
    __u16 local_port, remote_port;
};
#define CLAIM_KEPT_MAX 16384

/* Map `held`, truth: connections that are ours although their port is not claimed (any more); the same key. Such a port
 * has CLAIM_PORT_EXACT. */
#define CLAIM_HELD_MAX 65536

/* Map `addrs`: 16 bytes of address; presence is the message. */

/* Map `frags`: claimed first fragments, least recently used go first. The value is the time of the first one. */
struct claim_frag_key {
    __u8 src[16], dst[16];
    __u32 id;
    __u32 proto; /* 0 for IPv6 */
};
#define CLAIM_FRAG_MAX 4096
#define CLAIM_FRAG_NS  (30ull * 1000 * 1000 * 1000)

/* Map `config` of one attachment, one entry. */
struct claim_config {
    __u32 abi;
    __u32 ifindex;
    __u32 hook;      /* enum nb_hook */
    __u32 queue_max; /* XDP */
    __u64 served;    /* bit = a socket was given for this queue: a claimed packet never passes there, even when the
                        socket is gone (its owner died and a keeper waits for the successor) */
    __u8 mac[6];
    __u8 dedicated;
    __u8 all;        /* every packet is ours */
    __u16 vlan;      /* VLAN whose frames these are, 0 = untagged and priority-tagged */
    __u8 made_qdisc; /* the clsact qdisc is ours to remove */
    __u8 clsact;     /* attached as a clsact filter, not by a link */
    __u8 zero[4];
};

/* Map `counts` of one attachment, per CPU. */
enum claim_count { CLAIM_COUNT_CLAIMED, CLAIM_COUNT_PASSED, CLAIM_COUNT_NO_QUEUE, CLAIM_COUNT_COUNT };

#define CLAIM_QUEUE_MAX 64 /* bits of `served` */

#endif
