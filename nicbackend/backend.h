/* SPDX-License-Identifier: Apache-2.0
 *
 * What a NIC can be told, whoever makes it: rules over a packet's canonical key, and the calls of a backend.
 *
 * A hardware rule either drops (the only terminal) or punts: the packet goes on to software as if there were no rule.
 * Software always holds the whole policy, so a missing rule or one punt too many costs time and never a wrong verdict.
 * Within a device the matching rule of the highest precedence wins; which one does among equals is the device's secret.
 *
 * Thread: control only. Calls return 0 or one of the errors below with a sentence.
 */
#ifndef USHER_NICBACKEND_BACKEND_H
#define USHER_NICBACKEND_BACKEND_H

#include "nicbackend/error.h"
#include "nicbackend/ir/interpret.h"

/* --- keys and cubes -------------------------------------------------------------------------------------------- */

/* What of a view a NIC may look at, in network order. Length, state and owner are not in it: hardware cannot see them
 * as software does. */
struct nb_key {
    union {
        struct {
            uint8_t src[16], dst[16];
            uint8_t sport[2], dport[2];
            uint8_t proto, parsed, ip_version, dscp; /* parsed: enum nb_parsed */
            uint8_t tcp_flags, icmp_type, icmp_code, zero;
            uint8_t vlan[2], ethertype[2];
        };
        uint8_t bytes[48];
        uint64_t words[6];
    };
};

/* All keys that equal `value` under `mask`; value bits outside the mask are zero. */
struct nb_cube {
    struct nb_key value, mask;
};

enum nb_key_field {
    NB_KEY_SRC,
    NB_KEY_DST,
    NB_KEY_SPORT,
    NB_KEY_DPORT,
    NB_KEY_PROTO,
    NB_KEY_PARSED,
    NB_KEY_IP_VERSION,
    NB_KEY_DSCP,
    NB_KEY_TCP_FLAGS,
    NB_KEY_ICMP_TYPE,
    NB_KEY_ICMP_CODE,
    NB_KEY_VLAN,
    NB_KEY_ETHERTYPE,
    NB_KEY_COUNT
};

/* --- rules ----------------------------------------------------------------------------------------------------- */

enum nb_hw_action { NB_HW_PUNT, NB_HW_DROP };

struct nb_hw_rule {
    struct nb_cube cube;
    uint32_t prec;     /* higher wins; below nb_caps.levels */
    uint8_t action;    /* enum nb_hw_action */
    uint8_t zero[3];
    uint64_t credit;   /* id of the policy rule that drops, or NB_CREDIT_DEFAULT(tier); 0 of a punt */
};

#define NB_CREDIT_DEFAULT(tier) (UINT64_MAX - (tier))

/* --- what a device can do -------------------------------------------------------------------------------------- */

enum nb_match_kind { NB_MATCH_NONE, NB_MATCH_EXACT, NB_MATCH_PREFIX, NB_MATCH_MASK };

enum nb_order {
    NB_ORDER_NONE,  /* which of two overlapping rules wins is not known: terminals only where no punt is needed */
    NB_ORDER_PRIO,  /* by precedence (priority, location) */
    NB_ORDER_FIELDS /* by the number of fields that a rule matches, whatever is asked for */
};

struct nb_caps {
    uint8_t match[NB_KEY_COUNT]; /* enum nb_match_kind */
    uint8_t order;               /* enum nb_order */
    bool unique;                 /* at most one rule for a cube: `swap` exchanges it without a gap */
    bool counters;               /* each rule counts */
    bool survives;               /* rules outlive the process */
    bool inner_match;            /* looks into tunnels: those must be punted */
    bool frag_ports;             /* takes the first fragment's ports for the packet's; cannot match NB_KEY_PARSED */
    uint8_t byte_base;           /* bytes a packet that its counters see besides the IP packet's */
    uint32_t rule_max, mask_max, levels;
};

/* What a refusal teaches: -EOPNOTSUPP never ask for such a rule again, -ENOSPC the table is full, -EEXIST the store is
 * wrong about the device, -EAGAIN try again, -ENODEV ask the device what it still has. */
struct nb_backend;

typedef void (*nb_dump_fn)(void *arg, uint64_t handle, const struct nb_hw_rule *rule);

struct nb_backend_ops {
    const char *name;
    int (*caps)(struct nb_backend *b, struct nb_caps *ret_caps, struct nb_error *err);
    /* Would the device take it? Never changes anything. */
    int (*validate)(struct nb_backend *b, const struct nb_hw_rule *rule, struct nb_error *err);
    int (*add)(struct nb_backend *b, const struct nb_hw_rule *rule, uint64_t *ret_handle, struct nb_error *err);
    /* Of `unique` devices: the rule of `handle` becomes `rule`, of the same cube, and no packet sees neither. Both give
     * what the old rule has counted; -ENOENT: the device has it no more. */
    int (*swap)(struct nb_backend *b, uint64_t handle, const struct nb_hw_rule *rule, struct nb_count *ret_final,
                struct nb_error *err);
    int (*del)(struct nb_backend *b, uint64_t handle, struct nb_count *ret_final, struct nb_error *err);
    int (*read)(struct nb_backend *b, uint64_t handle, struct nb_count *ret_count);
    /* Returns when everything asked for before is in effect. */
    int (*sync)(struct nb_backend *b);
    /* Every rule of ours that the device has, also of a predecessor. `fn` may not call the backend. */
    int (*dump)(struct nb_backend *b, nb_dump_fn fn, void *arg);
    void (*destroy)(struct nb_backend *b);
};

/* Backends embed it as their first member. */
struct nb_backend {
    const struct nb_backend_ops *ops;
};

#endif
