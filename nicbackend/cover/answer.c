/* SPDX-License-Identifier: Apache-2.0
 *
 * What the hooks would say, asked on the host: the same rules, judged by the same functions.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "nicbackend/cover/compile.h"
#include "nicbackend/cover/cover_judge.h"

#define OF_SOCKET                                                                                                      \
    (COVER_DIR | COVER_IFINDEX | COVER_SRC | COVER_DST | COVER_PROTO | COVER_IP_VERSION | COVER_DSCP | COVER_LENGTH |  \
     COVER_FRAGMENT | COVER_UID | COVER_GID | COVER_PID | COVER_EXE | COVER_COMM_IS | COVER_CGROUP)
#define OF_PORTS (COVER_SPORT | COVER_DPORT)
#define OF_ICMP  (COVER_ICMP_TYPE | COVER_ICMP_CODE)

/* As the hook's parser sees the packet. */
static struct cover_view view_of(const struct nb_view *v) {
    bool tcp = v->proto == IPPROTO_TCP, ports = (v->parsed & NB_PARSED_PORTS) != 0;
    struct cover_view c = {.ifindex = v->ifindex,
                           .length = v->length,
                           .sport = v->sport,
                           .dport = v->dport,
                           .dir = v->dir,
                           .state = v->state,
                           .proto = v->proto,
                           .ip_version = v->ip_version,
                           .tcp_flags = v->tcp_flags,
                           .icmp_type = v->icmp_type,
                           .icmp_code = v->icmp_code,
                           .dscp = v->dscp,
                           .fragment = (v->parsed & NB_PARSED_FRAGMENT) != 0};
    memcpy(c.src, v->src.b, 16);
    memcpy(c.dst, v->dst.b, 16);
    c.known = OF_SOCKET | OF_PORTS | OF_ICMP | COVER_TCP_FLAGS | (tcp ? COVER_STATE : 0);
    c.there = OF_SOCKET | COVER_STATE | (ports ? OF_PORTS : 0) | (ports && tcp ? COVER_TCP_FLAGS : 0);
    c.there |= (v->parsed & NB_PARSED_ICMP) != 0 ? OF_ICMP : 0;
    return c;
}

static struct cover_owner stamp_of(const struct nb_owner *o) {
    struct cover_owner c = {.exe_inode = o->exe_inode,
                            .exe_dev = major(o->exe_dev) << 20 | minor(o->exe_dev),
                            .uid = o->uid,
                            .gid = o->gid,
                            .pid = o->pid};
    memcpy(c.comm, o->comm, sizeof c.comm);
    for (uint32_t i = 0; i < COVER_DEPTH; i++)
        c.cgroup[i] = o->cgroup[i];
    return c;
}

void cover_answer(const struct cover_rule *rules, const struct cover_bank *bank, const struct nb_view *view,
                  const struct nb_owner *owner, struct nb_cover_answer *ret) {
    const struct cover_view v = view_of(view);
    const struct cover_owner o = stamp_of(owner);
    struct cover_walk w = {.v = &v, .o = &o, .defaults = bank->defaults};
    *ret = (struct nb_cover_answer){.open = NB_NONE};
    for (uint32_t i = 0; i < bank->rules; i++) {
        bool asked = cover_ask(&w, &rules[i]) != 0;
        if (asked && w.decided == COVER_OPEN && ret->open == NB_NONE)
            ret->open = rules[i].number;
    }
    ret->denied = cover_end(&w) == COVER_DENY;
}

int nb_cover_judge(const struct nb_policy *policy, const struct nb_view *view, const struct nb_owner *owner,
                   struct nb_cover_answer *ret_answer) {
    struct cover_bank bank;
    struct cover_rule *rules = calloc(COVER_RULES, sizeof *rules);
    int n = rules != NULL ? cover_compile(policy, rules, &bank, NULL, NULL) : -ENOMEM;
    if (n >= 0)
        cover_answer(rules, &bank, view, owner, ret_answer);
    free(rules);
    return n < 0 ? n : 0;
}
