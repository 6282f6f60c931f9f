/* SPDX-License-Identifier: Apache-2.0
 *
 * The maps that the rule programs and their loader share. Compiled for the host and for BPF. A successor process reads
 * them too, so a change of layout needs a new RULES_ABI.
 *
 * A rule is found by tuple-space search: rules with the same mask are a tuple, and one hash of tuple and masked key has
 * them all. Two small tables say for a packet's destination port and source address which tuples can have anything for
 * it at all; a bit too many costs a lookup, so bits are set before a rule comes and may be left behind when it goes.
 */
#ifndef USHER_NICBACKEND_RULES_ABI_H
#define USHER_NICBACKEND_RULES_ABI_H

#include <linux/types.h>

#define RULES_ABI    1
#define RULES_MAX    16384
#define RULES_TUPLES 64 /* bits of the tables below */
#define RULES_WORDS  6  /* of struct nb_key */

/* Map `rules`. The key of the packet under the tuple's mask. */
struct rule_key {
    __u64 words[RULES_WORDS];
    __u32 tuple;
    __u32 zero;
};

struct rule_value {
    __u32 prec;
    __u32 slot;   /* of its counter */
    __u32 action; /* enum nb_hw_action */
    __u32 zero;
    __u64 credit;
};

/* Map `tuples`, RULES_TUPLES of them. */
struct rule_tuple {
    __u64 mask[RULES_WORDS];
};

/* Map `rule_ports`: by destination port, 0 of packets without. Map `rule_sources`: by source prefix; the longest one
 * that has the address counts, so a prefix has the bits of all that contain it. */
struct rule_source {
    __u32 bits;
    __u8 addr[16];
};
#define RULES_SOURCES 65536

/* Map `rule_counts`, by slot, per CPU. */
struct rule_count {
    __u64 packets, bytes;
};

/* Map `rule_config`, one entry. */
struct rule_config {
    __u32 abi;
    __u32 zero;
    __u64 any_port;   /* tuples that do not look at all of the destination port */
    __u64 any_source; /* tuples that do not look at a source prefix */
};

#endif
