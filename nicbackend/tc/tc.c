/* SPDX-License-Identifier: Apache-2.0
 *
 * See tc.h. A rule becomes at most one filter for each version of IP; punts of the same packets share theirs. Three
 * guards stand above all: they punt the IPv6 packets that flower and the canonical parse see differently.
 */
#include "nicbackend/tc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/membarrier.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>

#include "nicbackend/partition/cube.h"
#include "nicbackend/tc/flower.h"
#include "nicbackend/tc/talk.h"

#define OWN_CHAIN  0x5534852u /* "USHR", as much of it as a chain number holds */
#define ROOT_PRIO  0xc000u    /* in chain 0; behind it our own, on devices without chains */
#define LEVELS     64u        /* precedences that get priorities of their own: a step each for the kernel */
#define HW_LEVELS  2u         /* on devices, which have few */
#define RULE_MAX   8192u
#define FIRST_RULE 16u /* kernel handles below are those of guards and root */
#define GUARDS     3u
#define VERSIONS   2
#define STRANGER   (UINT64_C(1) << 63) /* a handle that says where the filter is: see stranger_handle() */
#define NOT_OURS   UINT32_MAX          /* precedence that no rule of a program has */

struct filter {
    struct nb_cube flow;
    uint64_t credit;
    uint32_t refs; /* 0 = free */
    uint16_t prio;
    bool drop, seen;
};

struct entry {
    struct nb_hw_rule rule;
    uint32_t filter[VERSIONS]; /* index + 1 */
    bool used;
};

struct nb_tc {
    struct nb_backend base;
    struct nb_talk *talk;
    uint32_t ifindex, chain, flags, levels;
    uint16_t first_prio;
    struct entry *entries; /* by handle - 1 */
    struct filter *filters;
    uint32_t *free_entries, *free_filters;
    uint32_t rule_max, slots, used; /* `slots` of each table: all filters of a predecessor find room */
    uint32_t free_entry_count, free_filter_count;
    bool guarded[GUARDS]; /* seen in the listing that is on */
    bool v6;              /* the guards are there */
    bool ordered;
    struct nb_quirks quirks;
    bool stale; /* something was taken away since the last sync() */
};

static struct nb_tc *of(struct nb_backend *b) {
    return (struct nb_tc *)(void *)b;
}

/* --- where things are ------------------------------------------------------------------------------------------ */

/* Behind the guards: the higher the precedence the lower; punts before drops, so that the same packets can have both
 * during a change; one for each version, because a priority has one ethertype. */
static uint16_t prio_of(const struct nb_tc *t, const struct nb_hw_rule *r, uint8_t version) {
    uint32_t level = (t->levels - 1 - r->prec) * 2 + (r->action == NB_HW_DROP);
    return (uint16_t)(t->first_prio + 1 + level * 2 + (version == 6));
}

static uint16_t ethertype_of(uint8_t version) {
    return version == 4 ? 0x0800 : 0x86dd;
}

static struct flower flower_of(const struct nb_tc *t, const struct filter *f) {
    return (struct flower){.at = {.ifindex = t->ifindex,
                                  .chain = t->chain,
                                  .prio = f->prio,
                                  .ethertype = ethertype_of(f->flow.value.ip_version),
                                  .handle = (uint32_t)(f - t->filters) + FIRST_RULE},
                           .flow = f->flow,
                           .verdict = f->drop ? FLOWER_DROP : FLOWER_PASS,
                           .flags = t->flags,
                           .credit = f->credit};
}

/* The kernel does not ask for the ethertype of what is to be deleted. */
static uint64_t stranger_handle(const struct flower_at *at) {
    return STRANGER | (uint64_t)at->prio << 32 | at->handle;
}

static struct flower stranger_of(const struct nb_tc *t, uint64_t handle) {
    return (struct flower){
        .at = {.ifindex = t->ifindex, .chain = t->chain, .prio = (uint16_t)(handle >> 32), .handle = (uint32_t)handle}};
}

/* --- single filters -------------------------------------------------------------------------------------------- */

struct answer {
    struct flower got;
    int error; /* -ENOENT: there was none */
};

static void on_answer(void *arg, const struct nlmsghdr *h) {
    struct answer *a = arg;
    if (a->error == -ENOENT)
        a->error = flower_read(h, &a->got);
}

/* The kernel's errors, in the words of backend.h. */
static int error_of(int error) {
    switch (error) {
    case 0:
    case -EEXIST:
    case -ENOENT:
    case -ENOSPC:
    case -ENODEV:
    case -ENOMEM:
    case -EOPNOTSUPP:
        return error;
    case -EINVAL:
    case -ERANGE:
        return -EOPNOTSUPP;
    case -EAGAIN:
    case -EBUSY:
    case -ENOBUFS:
    case -EINTR:
        return -EAGAIN;
    default:
        return -EIO;
    }
}

static int filter_delete(struct nb_tc *t, const struct flower *f, struct nb_count *ret_final, struct nb_error *err) {
    struct answer a = {.error = -ENOENT};
    int error = nb_talk(t->talk, flower_request(RTM_DELTFILTER, NLM_F_ECHO, f), "cannot delete a flower filter",
                        on_answer, &a, err);
    t->stale = true;
    if (error == 0 && a.error == 0)
        *ret_final = a.got.count;
    if (error == -EINVAL) /* what the kernel says when the priority or the chain has gone with its last filter */
        error = -ENOENT;
    return error_of(error);
}

/* Is it what we asked for, and where? */
static int filter_judge(const struct nb_tc *t, const struct flower *want, const struct answer *a,
                        struct nb_error *err) {
    if (a->error != 0)
        return nb_fail(err, -EIO, "the kernel took a flower filter and does not say which");
    if (a->got.verdict != want->verdict || !nb_cube_equal(&a->got.flow, &want->flow))
        return nb_fail(err, -EOPNOTSUPP, "the kernel stored another flower filter than it was given");
    if ((t->flags & TCA_CLS_FLAGS_SKIP_SW) != 0 && (a->got.flags & TCA_CLS_FLAGS_IN_HW) == 0)
        return nb_fail(err, -EOPNOTSUPP, "the driver took a flower filter and did not bring it to the device");
    return 0;
}

static int filter_insert(struct nb_tc *t, const struct flower *f, struct nb_error *err) {
    struct answer a = {.error = -ENOENT};
    struct nb_count none;
    int error = nb_talk(t->talk, flower_request(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO, f),
                        f->flags & TCA_CLS_FLAGS_SKIP_SW ? "the device takes no such filter"
                                                         : "the kernel takes no such filter",
                        on_answer, &a, err);
    if (error == -ENOENT) /* flower itself is missing */
        error = -EOPNOTSUPP;
    if (error != 0)
        return error_of(error);
    error = filter_judge(t, f, &a, err);
    if (error != 0)
        (void)filter_delete(t, f, &none, NULL);
    return error;
}

/* --- filters of rules ------------------------------------------------------------------------------------------ */

static struct filter *filter_same(struct nb_tc *t, const struct filter *like) {
    for (uint32_t i = 0; i < t->slots; i++) {
        struct filter *f = &t->filters[i];
        if (f->refs != 0 && f->prio == like->prio && nb_cube_equal(&f->flow, &like->flow))
            return f;
    }
    return NULL;
}

/* Another rule has filled this place: punts may share it, since they count for nobody. */
static int filter_share(struct nb_tc *t, const struct filter *like, uint32_t *ret_filter, struct nb_error *err) {
    struct filter *f = like->drop ? NULL : filter_same(t, like);
    if (f == NULL)
        return nb_fail(err, -EOPNOTSUPP, "another filter has the same packets at the same priority");
    f->refs++;
    *ret_filter = (uint32_t)(f - t->filters) + 1;
    return 0;
}

static int filter_take(struct nb_tc *t, const struct filter *like, uint32_t *ret_filter, struct nb_error *err) {
    if (t->free_filter_count == 0)
        return nb_fail(err, -ENOSPC, "all %u flower filters are in use", t->slots);
    uint32_t i = t->free_filters[t->free_filter_count - 1];
    t->filters[i] = *like;
    struct flower flower = flower_of(t, &t->filters[i]);
    int error = filter_insert(t, &flower, err);
    if (error == 0) {
        t->free_filter_count--;
        *ret_filter = i + 1;
        return 0;
    }
    t->filters[i].refs = 0;
    return error == -EEXIST ? filter_share(t, like, ret_filter, err) : error;
}

/* Adds to `final`. -ENOENT: it had gone already. */
static int filter_give(struct nb_tc *t, uint32_t *filter, struct nb_count *final, struct nb_error *err) {
    struct filter *f = &t->filters[*filter - 1];
    struct nb_count last = {0, 0};
    int error = 0;
    if (f->refs == 1) {
        struct flower flower = flower_of(t, f);
        error = filter_delete(t, &flower, &last, err);
        if (error != 0 && error != -ENOENT)
            return error;
        t->free_filters[t->free_filter_count++] = *filter - 1;
    }
    f->refs--;
    *filter = 0;
    final->packets += last.packets;
    final->bytes += last.bytes;
    return error;
}

/* --- operations ------------------------------------------------------------------------------------------------ */

static const struct nb_flow_traits traits = {.fragments = true};

static int tc_caps(struct nb_backend *b, struct nb_caps *ret, struct nb_error *err) {
    const struct nb_tc *t = of(b);
    (void)err;
    *ret = (struct nb_caps){.order = t->ordered ? NB_ORDER_PRIO : NB_ORDER_NONE,
                            .counters = true,
                            .survives = true,
                            .inner_match = t->quirks.inner_match,
                            .rule_max = t->rule_max,
                            .mask_max = UINT32_MAX,
                            .levels = t->levels};
    memset(ret->match, NB_MATCH_MASK, sizeof ret->match);
    return 0;
}

/* How many filters it takes. */
static uint32_t flows_of(const struct nb_tc *t, const struct nb_hw_rule *rule, struct nb_cube flows[VERSIONS]) {
    uint32_t n = nb_flow_of(rule, 4, &traits, &flows[0]) == NB_FLOW_EXISTS;
    return n + (t->v6 && nb_flow_of(rule, 6, &traits, &flows[n]) == NB_FLOW_EXISTS);
}

static int tc_validate(struct nb_backend *b, const struct nb_hw_rule *rule, struct nb_error *err) {
    const struct nb_tc *t = of(b);
    struct nb_cube flows[VERSIONS];
    if (rule->action == NB_HW_PUNT && !t->ordered)
        return nb_fail(err, -EOPNOTSUPP, "the device does not keep to the order of rules");
    if (rule->prec >= t->levels)
        return nb_fail(err, -EOPNOTSUPP, "there are %u levels of flower filters", t->levels);
    if (rule->action == NB_HW_DROP && flows_of(t, rule, flows) == 0)
        return nb_fail(err, -EOPNOTSUPP, "flower cannot tell these packets from others as software does");
    return 0;
}

static int tc_del(struct nb_backend *b, uint64_t handle, struct nb_count *ret_final, struct nb_error *err);

static int tc_add(struct nb_backend *b, const struct nb_hw_rule *rule, uint64_t *ret_handle, struct nb_error *err) {
    struct nb_tc *t = of(b);
    struct nb_cube flows[VERSIONS];
    int error = tc_validate(b, rule, err);
    if (error == 0 && t->used >= t->rule_max)
        error = nb_fail(err, -ENOSPC, "all %u flower rules are in use", t->rule_max);
    if (error != 0)
        return error;
    struct entry *e = &t->entries[t->free_entries[--t->free_entry_count]];
    *e = (struct entry){.rule = *rule, .used = true};
    t->used++;
    uint64_t handle = (uint64_t)(e - t->entries) + 1;
    uint32_t n = flows_of(t, rule, flows);
    for (uint32_t i = 0; i < n && error == 0; i++) {
        struct filter like = {.flow = flows[i],
                              .credit = rule->credit,
                              .refs = 1,
                              .prio = prio_of(t, rule, flows[i].value.ip_version),
                              .drop = rule->action == NB_HW_DROP};
        error = filter_take(t, &like, &e->filter[i], err);
    }
    struct nb_count none;
    if (error != 0)
        (void)tc_del(b, handle, &none, NULL);
    else
        *ret_handle = handle;
    return error;
}

static int tc_swap(struct nb_backend *b, uint64_t handle, const struct nb_hw_rule *rule, struct nb_count *ret_final,
                   struct nb_error *err) {
    (void)b;
    (void)handle;
    (void)rule;
    (void)ret_final;
    return nb_fail(err, -EOPNOTSUPP, "flower filters are not exchanged, but added and deleted");
}

static struct entry *entry_of(struct nb_tc *t, uint64_t handle) {
    return handle == 0 || handle > t->slots || !t->entries[handle - 1].used ? NULL : &t->entries[handle - 1];
}

static int tc_del(struct nb_backend *b, uint64_t handle, struct nb_count *ret_final, struct nb_error *err) {
    struct nb_tc *t = of(b);
    struct nb_count final = {0, 0};
    struct entry *e = entry_of(t, handle);
    int error = 0;
    if ((handle & STRANGER) != 0) {
        struct flower f = stranger_of(t, handle);
        error = filter_delete(t, &f, &final, err);
    } else if (e == NULL)
        error = nb_fail(err, -ENOENT, "there is no such flower rule");
    for (int i = 0; e != NULL && i < VERSIONS; i++) {
        int one = e->filter[i] == 0 ? 0 : filter_give(t, &e->filter[i], &final, err);
        error = one != 0 && (error == 0 || error == -ENOENT) ? one : error;
    }
    *ret_final = final;
    if (e == NULL || (error != 0 && error != -ENOENT))
        return error;
    e->used = false;
    t->used--;
    t->free_entries[t->free_entry_count++] = (uint32_t)(e - t->entries);
    return 0;
}

static int tc_read(struct nb_backend *b, uint64_t handle, struct nb_count *ret_count) {
    struct nb_tc *t = of(b);
    const struct entry *e = entry_of(t, handle);
    struct nb_count sum = {0, 0};
    if (e == NULL)
        return -ENOENT;
    for (int i = 0; i < VERSIONS; i++) {
        if (e->filter[i] == 0 || !t->filters[e->filter[i] - 1].drop)
            continue;
        struct answer a = {.error = -ENOENT};
        struct flower f = flower_of(t, &t->filters[e->filter[i] - 1]);
        int error =
            nb_talk(t->talk, flower_request(RTM_GETTFILTER, 0, &f), "cannot read a filter", on_answer, &a, NULL);
        if (error != 0 || a.error != 0)
            return error != 0 ? error_of(error) : a.error;
        sum.packets += a.got.count.packets;
        sum.bytes += a.got.count.bytes;
    }
    *ret_count = sum;
    return 0;
}

/* The kernel's change is seen by every packet that comes after it; waits for those that a CPU is just judging. A device
 * has confirmed its part when the driver returned. */
static int tc_sync(struct nb_backend *b) {
    struct nb_tc *t = of(b);
    if (t->stale && syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) < 0)
        return -errno;
    t->stale = false;
    return 0;
}

/* --- guards and root ------------------------------------------------------------------------------------------- */

static struct flower guard_of(const struct nb_tc *t, uint32_t which) {
    struct flower f = {.at = {.ifindex = t->ifindex,
                              .chain = t->chain,
                              .prio = t->first_prio,
                              .ethertype = ethertype_of(6),
                              .handle = which + 1},
                       .verdict = FLOWER_PASS,
                       .flags = t->flags};
    struct nb_key *v = &f.flow.value, *m = &f.flow.mask;
    v->ip_version = 6;
    m->ip_version = 0xff;
    if (which == 0)
        v->parsed = m->parsed = NB_PARSED_FRAGMENT;
    else {
        memset(which == 1 ? m->src : m->dst, 0xff, 12);
        memset((which == 1 ? v->src : v->dst) + 10, 0xff, 2);
    }
    return f;
}

static int insert_unless_there(struct nb_tc *t, const struct flower *f, struct nb_error *err) {
    int error = filter_insert(t, f, err);
    return error == -EEXIST ? 0 : error;
}

/* Without the guards no flow of IPv6 may stand. */
static void guards_put(struct nb_tc *t) {
    t->v6 = t->ordered; /* else they guard nothing */
    for (uint32_t i = 0; i < GUARDS && t->v6; i++) {
        struct flower f = guard_of(t, i);
        t->v6 = insert_unless_there(t, &f, NULL) == 0;
    }
}

static struct flower root_of(const struct nb_tc *t) {
    return (struct flower){.at = {.ifindex = t->ifindex, .prio = ROOT_PRIO, .ethertype = 0x0003, .handle = 1},
                           .verdict = FLOWER_GOTO,
                           .goto_chain = OWN_CHAIN,
                           .flags = t->flags};
}

/* --- what is there --------------------------------------------------------------------------------------------- */

struct listing {
    struct nb_tc *t;
    nb_dump_fn fn;
    void *arg;
};

static bool is_guard(struct nb_tc *t, const struct flower *f) {
    for (uint32_t i = 0; i < GUARDS; i++) {
        struct flower g = guard_of(t, i);
        if (f->at.prio == g.at.prio && f->at.handle == g.at.handle && f->verdict == g.verdict &&
            nb_cube_equal(&f->flow, &g.flow)) {
            t->guarded[i] = true;
            return true;
        }
    }
    return false;
}

static bool is_known(struct nb_tc *t, const struct flower *f) {
    uint32_t i = f->at.handle - FIRST_RULE;
    if (f->at.handle < FIRST_RULE || i >= t->slots || t->filters[i].refs == 0)
        return false;
    struct filter *known = &t->filters[i];
    struct flower want = flower_of(t, known);
    known->seen = f->at.prio == want.at.prio && f->at.ethertype == want.at.ethertype && f->verdict == want.verdict &&
                  f->credit == want.credit && nb_cube_equal(&f->flow, &want.flow);
    return f->at.prio == want.at.prio && f->at.ethertype == want.at.ethertype;
}

/* One of ours that was changed is ours still: its rule is told as damaged. In our own chain everything else is to go;
 * in chain 0 only what bears our cookie. */
static void on_listed(void *arg, const struct nlmsghdr *h) {
    const struct listing *l = arg;
    struct flower f;
    int error = flower_read(h, &f);
    if (error == -ENOENT || f.at.chain != l->t->chain || f.at.ifindex != l->t->ifindex)
        return;
    if (f.at.prio < l->t->first_prio || (l->t->chain == 0 && !f.ours) || is_guard(l->t, &f) || is_known(l->t, &f))
        return;
    struct nb_hw_rule rule = {.prec = NOT_OURS,
                              .action = error == 0 && f.verdict == FLOWER_PASS ? NB_HW_PUNT : NB_HW_DROP,
                              .credit = f.credit};
    l->fn(l->arg, stranger_handle(&f.at), &rule);
}

static int qdisc_make(struct nb_tc *t, struct nb_error *err) {
    const struct tcmsg tc = {.tcm_family = AF_UNSPEC,
                             .tcm_ifindex = (int)t->ifindex,
                             .tcm_handle = TC_H_MAKE(TC_H_CLSACT, 0),
                             .tcm_parent = TC_H_CLSACT};
    struct nl_msg *m = nlmsg_alloc_simple(RTM_NEWQDISC, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL);
    if (m != NULL && (nlmsg_append(m, (void *)(uintptr_t)&tc, sizeof tc, NLMSG_ALIGNTO) != 0 ||
                      nla_put_string(m, TCA_KIND, "clsact") != 0)) {
        nlmsg_free(m);
        m = NULL;
    }
    int error = nb_talk(t->talk, m, "cannot make a clsact qdisc", NULL, NULL, err);
    return error == -EEXIST ? 0 : error;
}

/* What leads to our rules: without it they are not asked, which is sound. */
static int way_make(struct nb_tc *t, struct nb_error *err) {
    int error = qdisc_make(t, err);
    struct flower root = root_of(t);
    return error != 0 || t->chain == 0 ? error : insert_unless_there(t, &root, err);
}

/* Whole: all its filters were listed as they should be, and nothing is missing above them. */
static bool is_whole(const struct nb_tc *t, const struct entry *e) {
    for (int i = 0; i < VERSIONS; i++) {
        const struct filter *f = e->filter[i] != 0 ? &t->filters[e->filter[i] - 1] : NULL;
        if (f != NULL && (!f->seen || (f->drop && f->flow.value.ip_version == 6 && !t->v6)))
            return false;
    }
    return true;
}

static int tc_dump(struct nb_backend *b, nb_dump_fn fn, void *arg) {
    struct nb_tc *t = of(b);
    struct listing l = {.t = t, .fn = fn, .arg = arg};
    memset(t->guarded, 0, sizeof t->guarded);
    (void)way_make(t, NULL);
    for (uint32_t i = 0; i < t->slots; i++)
        t->filters[i].seen = false;
    int error = nb_talk(t->talk, flower_list_request(t->ifindex, t->chain), "cannot list filters", on_listed, &l, NULL);
    if (error != 0 && error != -ENOENT && error != -EINVAL) /* the chain or the qdisc has gone, and all with it */
        return error_of(error);
    for (uint32_t i = 0; i < GUARDS; i++)
        t->v6 = t->v6 && t->guarded[i];
    for (uint32_t i = 0; i < t->slots; i++) {
        struct nb_hw_rule rule = t->entries[i].rule;
        if (!t->entries[i].used)
            continue;
        if (!is_whole(t, &t->entries[i]))
            rule.prec = NOT_OURS; /* so that it is deleted, and made again */
        fn(arg, i + 1u, &rule);
    }
    if (!t->v6)
        guards_put(t);
    return 0;
}

/* --- all of it ------------------------------------------------------------------------------------------------- */

static void tc_free(struct nb_tc *t) {
    nb_talk_close(t->talk);
    free(t->entries);
    free(t->filters);
    free(t->free_entries);
    free(t->free_filters);
    free(t);
}

static void tc_destroy(struct nb_backend *b) {
    struct nb_tc *t = of(b);
    struct nb_count none;
    if (t->used == 0) {
        struct flower root = root_of(t);
        if (t->chain != 0)
            (void)filter_delete(t, &root, &none, NULL);
        for (uint32_t i = 0; i < GUARDS; i++) {
            struct flower f = guard_of(t, i);
            (void)filter_delete(t, &f, &none, NULL);
        }
    }
    tc_free(t);
}

static const struct nb_backend_ops tc_ops = {
    .name = "tc",
    .caps = tc_caps,
    .validate = tc_validate,
    .add = tc_add,
    .swap = tc_swap,
    .del = tc_del,
    .read = tc_read,
    .sync = tc_sync,
    .dump = tc_dump,
    .destroy = tc_destroy,
};

/* A chain of our own, or none: either way there is one filter that says whether this can work at all. */
static int place_find(struct nb_tc *t, struct nb_error *err) {
    struct nb_count none;
    t->chain = OWN_CHAIN;
    t->first_prio = 1;
    if (way_make(t, err) == 0)
        return 0;
    t->chain = 0;
    t->first_prio = ROOT_PRIO;
    struct nb_hw_rule rule = {.action = NB_HW_DROP};
    struct filter probe = {.drop = true, .refs = 1, .prio = prio_of(t, &rule, 4)};
    (void)nb_flow_of(&rule, 4, &traits, &probe.flow);
    probe.flow.value.proto = probe.flow.mask.proto = 0xff; /* reserved: nobody's packets are lost meanwhile */
    t->filters[0] = probe;
    struct flower f = flower_of(t, &t->filters[0]);
    int error = qdisc_make(t, err);
    if (error == 0)
        error = insert_unless_there(t, &f, err);
    if (error == 0)
        (void)filter_delete(t, &f, &none, NULL);
    t->filters[0] = (struct filter){.refs = 0};
    return error;
}

static int tables_make(struct nb_tc *t) {
    t->slots = t->rule_max * VERSIONS;
    t->entries = calloc(t->slots, sizeof *t->entries);
    t->filters = calloc(t->slots, sizeof *t->filters);
    t->free_entries = calloc(t->slots, sizeof *t->free_entries);
    t->free_filters = calloc(t->slots, sizeof *t->free_filters);
    bool all = t->entries != NULL && t->filters != NULL && t->free_entries != NULL && t->free_filters != NULL;
    return all ? 0 : -ENOMEM;
}

/* A predecessor's filter keeps its place and is a rule by itself, of no program: the first update deletes it, or shares
 * it where it punts what a new rule does. */
static void on_adopted(void *arg, const struct nlmsghdr *h) {
    struct nb_tc *t = arg;
    struct flower f;
    if (flower_read(h, &f) != 0 || f.at.chain != t->chain || f.at.prio <= t->first_prio || !f.ours ||
        f.verdict == FLOWER_GOTO || f.at.handle < FIRST_RULE || f.at.handle - FIRST_RULE >= t->slots)
        return;
    uint32_t i = f.at.handle - FIRST_RULE;
    if (t->filters[i].refs != 0)
        return;
    bool drop = f.verdict == FLOWER_DROP;
    t->filters[i] = (struct filter){.flow = f.flow, .credit = f.credit, .refs = 1, .prio = f.at.prio, .drop = drop};
    t->entries[i] =
        (struct entry){.rule = {.prec = NOT_OURS, .action = drop ? NB_HW_DROP : NB_HW_PUNT, .credit = f.credit},
                       .filter = {i + 1},
                       .used = true};
    t->used++;
}

static void adopt(struct nb_tc *t) {
    (void)nb_talk(t->talk, flower_list_request(t->ifindex, t->chain), "cannot list filters", on_adopted, t, NULL);
    for (uint32_t i = t->slots; i-- > 0;) {
        if (!t->entries[i].used)
            t->free_entries[t->free_entry_count++] = i;
        if (t->filters[i].refs == 0)
            t->free_filters[t->free_filter_count++] = i;
    }
}

int nb_tc_create(const struct nb_tc_params *p, struct nb_tc **ret_tc, struct nb_error *err) {
    struct nb_tc *t = calloc(1, sizeof *t);
    if (t == NULL)
        return nb_fail(err, -ENOMEM, "no memory for flower rules");
    t->base.ops = &tc_ops;
    t->ifindex = p->ifindex;
    t->flags = p->place == NB_TC_HARDWARE ? TCA_CLS_FLAGS_SKIP_SW : TCA_CLS_FLAGS_SKIP_HW;
    t->levels = p->place == NB_TC_HARDWARE ? HW_LEVELS : LEVELS;
    t->ordered = p->place == NB_TC_SOFTWARE || p->ordered;
    if (p->place == NB_TC_HARDWARE)
        t->quirks = p->quirks;
    t->rule_max = p->rule_max != 0 ? p->rule_max : RULE_MAX;
    int error = tables_make(t);
    if (error != 0)
        nb_fail(err, error, "no memory for %u flower rules", t->rule_max);
    if (error == 0)
        error = nb_talk_open(&t->talk, err);
    if (error == 0)
        error = place_find(t, err);
    if (error != 0) {
        tc_free(t);
        return error;
    }
    guards_put(t);
    adopt(t);
    *ret_tc = t;
    return 0;
}

struct nb_backend *nb_tc_backend(struct nb_tc *t) {
    return &t->base;
}
