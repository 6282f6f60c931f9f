/* SPDX-License-Identifier: Apache-2.0
 *
 * See flower.h. Fields are a table: which attribute, which bytes of the key, for which version and protocol.
 */
#include "nicbackend/tc/flower.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>

#include <linux/gen_stats.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_gact.h>
#include <netlink/attr.h>

/* Of the action: 16 bytes at most, given back with every listing. */
struct cookie {
    uint32_t magic, zero;
    uint64_t credit;
};

struct field {
    uint8_t attr, mask_attr;
    uint8_t at, size;
    uint8_t version, proto; /* 0 = whichever */
};

#define KEY_AT(member, skip) (offsetof(struct nb_key, member) + (skip))

static const struct field fields[] = {
    {TCA_FLOWER_KEY_IPV4_SRC, TCA_FLOWER_KEY_IPV4_SRC_MASK, KEY_AT(src, 12), 4, 4, 0},
    {TCA_FLOWER_KEY_IPV4_DST, TCA_FLOWER_KEY_IPV4_DST_MASK, KEY_AT(dst, 12), 4, 4, 0},
    {TCA_FLOWER_KEY_IPV6_SRC, TCA_FLOWER_KEY_IPV6_SRC_MASK, KEY_AT(src, 0), 16, 6, 0},
    {TCA_FLOWER_KEY_IPV6_DST, TCA_FLOWER_KEY_IPV6_DST_MASK, KEY_AT(dst, 0), 16, 6, 0},
    {TCA_FLOWER_KEY_TCP_SRC, TCA_FLOWER_KEY_TCP_SRC_MASK, KEY_AT(sport, 0), 2, 0, IPPROTO_TCP},
    {TCA_FLOWER_KEY_TCP_DST, TCA_FLOWER_KEY_TCP_DST_MASK, KEY_AT(dport, 0), 2, 0, IPPROTO_TCP},
    {TCA_FLOWER_KEY_UDP_SRC, TCA_FLOWER_KEY_UDP_SRC_MASK, KEY_AT(sport, 0), 2, 0, IPPROTO_UDP},
    {TCA_FLOWER_KEY_UDP_DST, TCA_FLOWER_KEY_UDP_DST_MASK, KEY_AT(dport, 0), 2, 0, IPPROTO_UDP},
    {TCA_FLOWER_KEY_SCTP_SRC, TCA_FLOWER_KEY_SCTP_SRC_MASK, KEY_AT(sport, 0), 2, 0, IPPROTO_SCTP},
    {TCA_FLOWER_KEY_SCTP_DST, TCA_FLOWER_KEY_SCTP_DST_MASK, KEY_AT(dport, 0), 2, 0, IPPROTO_SCTP},
    {TCA_FLOWER_KEY_ICMPV4_TYPE, TCA_FLOWER_KEY_ICMPV4_TYPE_MASK, KEY_AT(icmp_type, 0), 1, 4, IPPROTO_ICMP},
    {TCA_FLOWER_KEY_ICMPV4_CODE, TCA_FLOWER_KEY_ICMPV4_CODE_MASK, KEY_AT(icmp_code, 0), 1, 4, IPPROTO_ICMP},
    {TCA_FLOWER_KEY_ICMPV6_TYPE, TCA_FLOWER_KEY_ICMPV6_TYPE_MASK, KEY_AT(icmp_type, 0), 1, 6, IPPROTO_ICMPV6},
    {TCA_FLOWER_KEY_ICMPV6_CODE, TCA_FLOWER_KEY_ICMPV6_CODE_MASK, KEY_AT(icmp_code, 0), 1, 6, IPPROTO_ICMPV6},
};
#define FIELDS (sizeof fields / sizeof fields[0])

static bool applies(const struct field *f, const struct nb_cube *flow) {
    return (f->version == 0 || f->version == flow->value.ip_version) &&
           (f->proto == 0 || (flow->mask.proto != 0 && f->proto == flow->value.proto));
}

/* --- writing --------------------------------------------------------------------------------------------------- */

static int put_fields(struct nl_msg *m, const struct nb_cube *flow) {
    static const uint8_t none[16];
    int error = 0;
    for (size_t i = 0; i < FIELDS && error == 0; i++) {
        const struct field *f = &fields[i];
        const uint8_t *mask = flow->mask.bytes + f->at;
        if (!applies(f, flow) || memcmp(mask, none, f->size) == 0)
            continue;
        error = nla_put(m, f->attr, f->size, flow->value.bytes + f->at);
        error = error != 0 ? error : nla_put(m, f->mask_attr, f->size, mask);
    }
    return error;
}

static int put_flow(struct nl_msg *m, const struct nb_cube *flow, uint16_t ethertype) {
    int error = nla_put_u16(m, TCA_FLOWER_KEY_ETH_TYPE, htons(ethertype));
    if (error == 0 && flow->mask.proto != 0)
        error = nla_put_u8(m, TCA_FLOWER_KEY_IP_PROTO, flow->value.proto);
    if (error == 0)
        error = put_fields(m, flow);
    if (error == 0 && flow->mask.tcp_flags != 0) {
        error = nla_put_u16(m, TCA_FLOWER_KEY_TCP_FLAGS, htons(flow->value.tcp_flags));
        error = error != 0 ? error : nla_put_u16(m, TCA_FLOWER_KEY_TCP_FLAGS_MASK, htons(flow->mask.tcp_flags));
    }
    if (error == 0 && flow->mask.dscp != 0) {
        error = nla_put_u8(m, TCA_FLOWER_KEY_IP_TOS, (uint8_t)(flow->value.dscp << 2));
        error = error != 0 ? error : nla_put_u8(m, TCA_FLOWER_KEY_IP_TOS_MASK, (uint8_t)(flow->mask.dscp << 2));
    }
    if (error == 0 && (flow->mask.parsed & NB_PARSED_FRAGMENT) != 0) {
        bool yes = (flow->value.parsed & NB_PARSED_FRAGMENT) != 0;
        error = nla_put_u32(m, TCA_FLOWER_KEY_FLAGS, htonl(yes ? TCA_FLOWER_KEY_FLAGS_IS_FRAGMENT : 0));
        error = error != 0 ? error : nla_put_u32(m, TCA_FLOWER_KEY_FLAGS_MASK, htonl(TCA_FLOWER_KEY_FLAGS_IS_FRAGMENT));
    }
    return error;
}

static int action_of(const struct flower *f) {
    if (f->verdict == FLOWER_GOTO)
        return (int)(TC_ACT_GOTO_CHAIN | f->goto_chain);
    return f->verdict == FLOWER_DROP ? TC_ACT_SHOT : TC_ACT_OK;
}

static int put_action(struct nl_msg *m, const struct flower *f) {
    const struct tc_gact parms = {.action = action_of(f)};
    const struct cookie cookie = {.magic = FLOWER_COOKIE_MAGIC, .credit = f->credit};
    struct nlattr *all = nla_nest_start(m, TCA_FLOWER_ACT), *first = nla_nest_start(m, 1);
    int error = all == NULL || first == NULL ? -ENOMEM : nla_put_string(m, TCA_ACT_KIND, "gact");
    if (error == 0)
        error = nla_put(m, TCA_ACT_COOKIE, sizeof cookie, &cookie);
    struct nlattr *options = error == 0 ? nla_nest_start(m, TCA_ACT_OPTIONS) : NULL;
    if (options == NULL || nla_put(m, TCA_GACT_PARMS, sizeof parms, &parms) != 0)
        return -ENOMEM;
    nla_nest_end(m, options);
    nla_nest_end(m, first);
    nla_nest_end(m, all);
    return 0;
}

static int put_options(struct nl_msg *m, const struct flower *f) {
    struct nlattr *options = nla_nest_start(m, TCA_OPTIONS);
    int error = options == NULL ? -ENOMEM : nla_put_u32(m, TCA_FLOWER_FLAGS, f->flags);
    if (error == 0 && f->verdict != FLOWER_GOTO)
        error = put_flow(m, &f->flow, f->at.ethertype);
    if (error == 0)
        error = put_action(m, f);
    if (error == 0)
        nla_nest_end(m, options);
    return error;
}

static struct nl_msg *begin(int type, int flags, const struct flower_at *at) {
    const struct tcmsg tc = {.tcm_family = AF_UNSPEC,
                             .tcm_ifindex = (int)at->ifindex,
                             .tcm_handle = at->handle,
                             .tcm_parent = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS),
                             .tcm_info = TC_H_MAKE((uint32_t)at->prio << 16, htons(at->ethertype))};
    struct nl_msg *m = nlmsg_alloc_simple(type, NLM_F_REQUEST | flags);
    if (m == NULL || nlmsg_append(m, (void *)(uintptr_t)&tc, sizeof tc, NLMSG_ALIGNTO) != 0 ||
        nla_put_u32(m, TCA_CHAIN, at->chain) != 0) {
        nlmsg_free(m);
        return NULL;
    }
    return m;
}

struct nl_msg *flower_request(int type, int flags, const struct flower *f) {
    struct nl_msg *m = begin(type, flags, &f->at);
    int error = m == NULL ? -ENOMEM : nla_put_string(m, TCA_KIND, "flower");
    if (error == 0 && type == RTM_NEWTFILTER)
        error = put_options(m, f);
    if (error == 0)
        return m;
    nlmsg_free(m);
    return NULL;
}

struct nl_msg *flower_list_request(uint32_t ifindex, uint32_t chain) {
    return begin(RTM_GETTFILTER, NLM_F_DUMP, &(struct flower_at){.ifindex = ifindex, .chain = chain});
}

/* --- reading: the kernel is trusted not to lie about lengths, and is asked nevertheless -------------------------- */

static const struct nlattr *sized(struct nlattr *const *tb, int type, int size) {
    return tb[type] != NULL && nla_len(tb[type]) >= size ? tb[type] : NULL;
}

static uint32_t number(struct nlattr *const *tb, int type, int size, uint32_t absent) {
    const struct nlattr *a = sized(tb, type, size);
    if (a == NULL)
        return absent;
    return size == 1 ? nla_get_u8(a) : size == 2 ? ntohs(nla_get_u16(a)) : ntohl(nla_get_u32(a));
}

/* Under its mask, which is whole when it is not said. */
static void get_field(struct nlattr *const *tb, const struct field *f, struct nb_cube *flow) {
    const struct nlattr *value = sized(tb, f->attr, f->size), *mask = sized(tb, f->mask_attr, f->size);
    if (value == NULL)
        return;
    uint8_t *v = flow->value.bytes + f->at, *m = flow->mask.bytes + f->at;
    if (mask != NULL)
        memcpy(m, nla_data(mask), f->size);
    else
        memset(m, 0xff, f->size);
    for (uint32_t i = 0; i < f->size; i++)
        v[i] = ((const uint8_t *)nla_data(value))[i] & m[i];
}

/* Attributes that say what is matched are those from KEY_ETH_DST on: one that we never write is another's. */
static bool has_foreign_keys(struct nlattr *const *tb) {
    bool known[TCA_FLOWER_MAX + 1] = {false};
    static const uint8_t others[] = {TCA_FLOWER_KEY_ETH_TYPE,   TCA_FLOWER_KEY_IP_PROTO,
                                     TCA_FLOWER_KEY_TCP_FLAGS,  TCA_FLOWER_KEY_TCP_FLAGS_MASK,
                                     TCA_FLOWER_KEY_IP_TOS,     TCA_FLOWER_KEY_IP_TOS_MASK,
                                     TCA_FLOWER_KEY_FLAGS,      TCA_FLOWER_FLAGS,
                                     TCA_FLOWER_KEY_FLAGS_MASK, TCA_FLOWER_ACT,
                                     TCA_FLOWER_IN_HW_COUNT};
    for (size_t i = 0; i < sizeof others; i++)
        known[others[i]] = true;
    for (size_t i = 0; i < FIELDS; i++)
        known[fields[i].attr] = known[fields[i].mask_attr] = true;
    for (int i = 1; i <= TCA_FLOWER_MAX; i++)
        if (tb[i] != NULL && !known[i])
            return true;
    return false;
}

static int get_flow(struct nlattr *const *tb, uint16_t ethertype, struct nb_cube *flow) {
    memset(flow, 0, sizeof *flow);
    if (has_foreign_keys(tb) || (ethertype != 0x0800 && ethertype != 0x86dd))
        return -EINVAL;
    flow->value.ip_version = ethertype == 0x0800 ? 4 : 6;
    flow->mask.ip_version = 0xff;
    if (tb[TCA_FLOWER_KEY_IP_PROTO] != NULL) {
        flow->value.proto = (uint8_t)number(tb, TCA_FLOWER_KEY_IP_PROTO, 1, 0);
        flow->mask.proto = 0xff;
    }
    for (size_t i = 0; i < FIELDS; i++)
        if (applies(&fields[i], flow))
            get_field(tb, &fields[i], flow);
    flow->mask.tcp_flags = (uint8_t)number(tb, TCA_FLOWER_KEY_TCP_FLAGS_MASK, 2, 0);
    flow->value.tcp_flags = (uint8_t)number(tb, TCA_FLOWER_KEY_TCP_FLAGS, 2, 0) & flow->mask.tcp_flags;
    flow->mask.dscp = (uint8_t)(number(tb, TCA_FLOWER_KEY_IP_TOS_MASK, 1, 0) >> 2);
    flow->value.dscp = (uint8_t)(number(tb, TCA_FLOWER_KEY_IP_TOS, 1, 0) >> 2) & flow->mask.dscp;
    uint32_t mask = number(tb, TCA_FLOWER_KEY_FLAGS_MASK, 4, 0), flags = number(tb, TCA_FLOWER_KEY_FLAGS, 4, 0);
    if ((mask & ~(uint32_t)TCA_FLOWER_KEY_FLAGS_IS_FRAGMENT) != 0)
        return -EINVAL;
    if ((mask & TCA_FLOWER_KEY_FLAGS_IS_FRAGMENT) != 0) {
        flow->mask.parsed = NB_PARSED_FRAGMENT;
        flow->value.parsed = (flags & TCA_FLOWER_KEY_FLAGS_IS_FRAGMENT) != 0 ? NB_PARSED_FRAGMENT : 0;
    }
    return 0;
}

/* Software and hardware packets together; 64-bit where the kernel says so. */
static void get_count(const struct nlattr *act_stats, struct nb_count *ret) {
    struct nlattr *tb[TCA_STATS_MAX + 1];
    struct gnet_stats_basic b; /* longer on some machines by what fills it up */
    if (act_stats == NULL || nla_parse_nested(tb, TCA_STATS_MAX, (struct nlattr *)(uintptr_t)act_stats, NULL) != 0)
        return;
    const struct nlattr *basic = sized(tb, TCA_STATS_BASIC, (int)(sizeof b.bytes + sizeof b.packets));
    const struct nlattr *wide = sized(tb, TCA_STATS_PKT64, 8);
    if (basic == NULL)
        return;
    memcpy(&b, nla_data(basic), sizeof b.bytes + sizeof b.packets);
    *ret = (struct nb_count){.packets = wide != NULL ? nla_get_u64(wide) : b.packets, .bytes = b.bytes};
}

static int verdict_read(int action, struct flower *f) {
    if (action == TC_ACT_SHOT)
        f->verdict = FLOWER_DROP;
    else if (action == TC_ACT_OK)
        f->verdict = FLOWER_PASS;
    else if (((uint32_t)action & ~TC_ACT_EXT_VAL_MASK) == TC_ACT_GOTO_CHAIN) {
        f->verdict = FLOWER_GOTO;
        f->goto_chain = (uint32_t)action & TC_ACT_EXT_VAL_MASK;
    } else
        return -EINVAL;
    return 0;
}

/* Exactly one gact: what else is there is another's. */
static int get_action(const struct nlattr *acts, struct flower *f) {
    struct nlattr *list[3], *tb[TCA_ACT_MAX + 1], *gact[TCA_GACT_MAX + 1];
    if (acts == NULL || nla_parse_nested(list, 2, (struct nlattr *)(uintptr_t)acts, NULL) != 0 || list[1] == NULL ||
        list[2] != NULL || nla_parse_nested(tb, TCA_ACT_MAX, list[1], NULL) != 0)
        return -EINVAL;
    if (tb[TCA_ACT_KIND] == NULL || nla_strcmp(tb[TCA_ACT_KIND], "gact") != 0 || tb[TCA_ACT_OPTIONS] == NULL ||
        nla_parse_nested(gact, TCA_GACT_MAX, tb[TCA_ACT_OPTIONS], NULL) != 0)
        return -EINVAL;
    const struct nlattr *parms = sized(gact, TCA_GACT_PARMS, (int)sizeof(struct tc_gact));
    const struct nlattr *cookie = sized(tb, TCA_ACT_COOKIE, (int)sizeof(struct cookie));
    if (parms == NULL)
        return -EINVAL;
    struct tc_gact p;
    memcpy(&p, nla_data(parms), sizeof p);
    get_count(tb[TCA_ACT_STATS], &f->count);
    if (cookie != NULL) {
        struct cookie c;
        memcpy(&c, nla_data(cookie), sizeof c);
        f->ours = c.magic == FLOWER_COOKIE_MAGIC;
        f->credit = f->ours ? c.credit : 0;
    }
    return verdict_read(p.action, f);
}

static int at_read(const struct nlmsghdr *h, struct nlattr **tb, struct flower_at *at) {
    const struct tcmsg *tc = nlmsg_data(h);
    if ((h->nlmsg_type != RTM_NEWTFILTER && h->nlmsg_type != RTM_DELTFILTER) ||
        nlmsg_parse((struct nlmsghdr *)(uintptr_t)h, sizeof *tc, tb, TCA_MAX, NULL) != 0)
        return -ENOENT;
    if (tb[TCA_KIND] == NULL || nla_strcmp(tb[TCA_KIND], "flower") != 0 || tc->tcm_handle == 0)
        return -ENOENT; /* a whole priority comes with handle 0 */
    *at = (struct flower_at){.ifindex = (uint32_t)tc->tcm_ifindex,
                             .chain = sized(tb, TCA_CHAIN, 4) != NULL ? nla_get_u32(tb[TCA_CHAIN]) : 0,
                             .prio = (uint16_t)(TC_H_MAJ(tc->tcm_info) >> 16),
                             .ethertype = ntohs((uint16_t)TC_H_MIN(tc->tcm_info)),
                             .handle = tc->tcm_handle};
    return 0;
}

int flower_read(const struct nlmsghdr *answer, struct flower *ret) {
    struct nlattr *tb[TCA_MAX + 1], *options[TCA_FLOWER_MAX + 1];
    struct flower f;
    memset(&f, 0, sizeof f);
    int error = at_read(answer, tb, &f.at);
    if (error != 0)
        return error;
    if (tb[TCA_OPTIONS] == NULL || nla_parse_nested(options, TCA_FLOWER_MAX, tb[TCA_OPTIONS], NULL) != 0)
        error = -EINVAL;
    if (error == 0)
        error = get_action(options[TCA_FLOWER_ACT], &f);
    if (error == 0 && sized(options, TCA_FLOWER_FLAGS, 4) != NULL)
        f.flags = nla_get_u32(options[TCA_FLOWER_FLAGS]);
    if (error == 0 && f.verdict != FLOWER_GOTO)
        error = get_flow(options, f.at.ethertype, &f.flow);
    *ret = f;
    return error;
}
