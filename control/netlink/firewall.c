/* SPDX-License-Identifier: Apache-2.0
 *
 * nftables is asked over nfnetlink: any rule, or any base chain whose policy is to drop. The older iptables interface
 * is asked with its own getsockopt: more entries than the built-in chains have, or a policy of theirs that drops.
 */
#include "control/netlink/firewall.h"

#include <netinet/in.h> /* before the kernel's headers, which else define the same names */

#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <netlink/attr.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>

struct finding {
    char *what;
    size_t size;
    bool found;
};

static const char *family_name(uint8_t family) {
    switch (family) {
    case NFPROTO_INET:
        return "inet";
    case NFPROTO_IPV4:
        return "ip";
    case NFPROTO_IPV6:
        return "ip6";
    case NFPROTO_NETDEV:
        return "netdev";
    case NFPROTO_BRIDGE:
        return "bridge";
    default:
        return "arp";
    }
}

static void note(struct finding *f, const struct nfgenmsg *g, struct nlattr *table, struct nlattr *chain,
                 const char *why) {
    if (f->found)
        return;
    f->found = true;
    (void)snprintf(f->what, f->size, "nftables chain %s %.32s %.32s %s", family_name(g->nfgen_family),
                   table != NULL ? nla_get_string(table) : "?", chain != NULL ? nla_get_string(chain) : "?", why);
}

/* Rules of bridges and ARP judge no packet that Usher takes. */
static bool judges_ip(const struct nfgenmsg *g) {
    return g->nfgen_family != NFPROTO_BRIDGE && g->nfgen_family != NFPROTO_ARP;
}

static int on_rule(struct nl_msg *msg, void *arg) {
    const struct nfgenmsg *g = nlmsg_data(nlmsg_hdr(msg));
    struct nlattr *tb[NFTA_RULE_MAX + 1];
    if (nlmsg_parse(nlmsg_hdr(msg), sizeof *g, tb, NFTA_RULE_MAX, NULL) >= 0 && judges_ip(g))
        note(arg, g, tb[NFTA_RULE_TABLE], tb[NFTA_RULE_CHAIN], "has rules");
    return NL_OK;
}

static int on_chain(struct nl_msg *msg, void *arg) {
    const struct nfgenmsg *g = nlmsg_data(nlmsg_hdr(msg));
    struct nlattr *tb[NFTA_CHAIN_MAX + 1];
    if (nlmsg_parse(nlmsg_hdr(msg), sizeof *g, tb, NFTA_CHAIN_MAX, NULL) >= 0 && judges_ip(g) &&
        tb[NFTA_CHAIN_POLICY] != NULL && nla_get_u32(tb[NFTA_CHAIN_POLICY]) == htonl(NF_DROP))
        note(arg, g, tb[NFTA_CHAIN_TABLE], tb[NFTA_CHAIN_NAME], "drops by default");
    return NL_OK;
}

static void nft_dump(struct finding *f, int type, nl_recvmsg_msg_cb_t on_object) {
    struct nl_sock *s = nl_socket_alloc();
    struct nfgenmsg g = {.nfgen_family = NFPROTO_UNSPEC, .version = NFNETLINK_V0};
    if (s == NULL)
        return;
    if (nl_connect(s, NETLINK_NETFILTER) >= 0) {
        (void)nl_socket_modify_cb(s, NL_CB_VALID, NL_CB_CUSTOM, on_object, f);
        if (nl_send_simple(s, NFNL_SUBSYS_NFTABLES << 8 | type, NLM_F_DUMP, &g, sizeof g) >= 0)
            (void)nl_recvmsgs_default(s);
    }
    nl_socket_free(s);
}

/* The two versions of the interface differ in the layout of an entry only. */
struct xt_version {
    int family, level, info_option, entries_option;
    const char *name, *tables;
    size_t target_at; /* of target_offset in an entry */
};

static const struct xt_version versions[] = {
    {AF_INET, IPPROTO_IP, IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES, "iptables", "/proc/net/ip_tables_names",
     offsetof(struct ipt_entry, target_offset)},
    {AF_INET6, IPPROTO_IPV6, IP6T_SO_GET_INFO, IP6T_SO_GET_ENTRIES, "ip6tables", "/proc/net/ip6_tables_names",
     offsetof(struct ip6t_entry, target_offset)},
};

/* Does the built-in chain whose last entry stands at `at` drop? Verdicts are stored as -NF_x - 1. */
static bool policy_drops(const struct xt_version *v, const uint8_t *table, uint32_t size, uint32_t at) {
    uint16_t target_offset;
    struct xt_standard_target t;
    if (at > size || size - at < v->target_at + sizeof target_offset)
        return false;
    memcpy(&target_offset, table + at + v->target_at, sizeof target_offset);
    if (size - at < target_offset || size - at - target_offset < sizeof t)
        return false;
    memcpy(&t, table + at + target_offset, sizeof t);
    return t.verdict == -NF_DROP - 1;
}

static bool xt_policies_drop(int fd, const struct xt_version *v, const struct ipt_getinfo *info) {
    socklen_t len = (socklen_t)(sizeof(struct ipt_get_entries) + info->size);
    struct ipt_get_entries *e = calloc(1, len);
    bool drops = false;
    if (e == NULL)
        return false;
    memcpy(e->name, info->name, sizeof e->name);
    e->size = info->size;
    if (getsockopt(fd, v->level, v->entries_option, e, &len) == 0) {
        for (int h = 0; h < NF_INET_NUMHOOKS; h++)
            drops |= (info->valid_hooks >> h & 1) &&
                     policy_drops(v, (const uint8_t *)e->entrytable, info->size, info->underflow[h]);
    }
    free(e);
    return drops;
}

static void xt_table_check(int fd, const struct xt_version *v, const char *table, struct finding *f) {
    struct ipt_getinfo info = {0};
    socklen_t len = sizeof info;
    (void)snprintf(info.name, sizeof info.name, "%.31s", table);
    if (getsockopt(fd, v->level, v->info_option, &info, &len) != 0)
        return;
    /* Each built-in chain has one entry, its policy; one more ends the table. */
    bool rules = info.num_entries > (uint32_t)__builtin_popcount(info.valid_hooks) + 1;
    if (!rules && !xt_policies_drop(fd, v, &info))
        return;
    f->found = true;
    (void)snprintf(f->what, f->size, "%s table %.32s %s", v->name, table, rules ? "has rules" : "drops by default");
}

static void xt_check(const struct xt_version *v, struct finding *f) {
    char table[XT_TABLE_MAXNAMELEN + 1];
    FILE *names = fopen(v->tables, "re");
    if (names == NULL)
        return;
    int fd = socket(v->family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    while (fd >= 0 && !f->found && fscanf(names, "%32s", table) == 1)
        xt_table_check(fd, v, table, f);
    if (fd >= 0)
        (void)close(fd);
    (void)fclose(names);
}

bool firewall_has_rules(char *ret_what, size_t size) {
    struct finding f = {.what = ret_what, .size = size};
    nft_dump(&f, NFT_MSG_GETRULE, on_rule);
    if (!f.found)
        nft_dump(&f, NFT_MSG_GETCHAIN, on_chain);
    for (size_t i = 0; i < 2 && !f.found; i++)
        xt_check(&versions[i], &f);
    return f.found;
}
