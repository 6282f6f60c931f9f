/* SPDX-License-Identifier: Apache-2.0
 *
 * See coverage.h.
 */
#include "control/coverage.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/interfaces.h"
#include "control/log.h"
#include "control/metrics/exposition.h"
#include "control/netlink/cgroup_bpf.h"
#include "control/policing.h"
#include "control/policy/policy.h"
#include "control/usherd.h"
#include "dataplane/port/port.h"
#include "nicbackend/cover.h"

#define PREFIX    "cover."
#define STAMPS    "cover.stamps"
#define HOOK_MAX  16
#define GAPS_TOLD 8

struct coverage {
    struct nb_cover *hooks;                    /* NULL: none */
    int stamps_fd;                             /* a predecessor's, until it is used; -1 = none */
    char inherited[HOOK_MAX][KEEPER_NAME_MAX]; /* names that the store holds for a predecessor */
    uint32_t inherited_count;
    uint32_t managed[PORT_SLOT_MAX], managed_count;
    bool all_managed, begun;
    struct nb_error why; /* there are no hooks, though there is a policy */
};

/* ---- a predecessor's ---- */

/* Takes the fd. The store has a copy of its own, which keeps the hook attached until its name is dropped. */
static void inherit_one(struct coverage *c, const struct store_fd *f) {
    if (c->inherited_count < HOOK_MAX)
        memcpy(c->inherited[c->inherited_count++], f->name, KEEPER_NAME_MAX);
    if (strcmp(f->name, STAMPS) == 0 && c->stamps_fd < 0)
        c->stamps_fd = f->fd;
    else
        (void)close(f->fd);
}

void coverage_inherit(struct usherd *u) {
    struct coverage *c = u->coverage = calloc(1, sizeof *c);
    size_t left = 0;
    if (c == NULL)
        return;
    c->stamps_fd = -1;
    for (size_t i = 0; i < u->inherited_count; i++) {
        if (strncmp(u->inherited[i].name, PREFIX, strlen(PREFIX)) == 0)
            inherit_one(c, &u->inherited[i]);
        else
            u->inherited[left++] = u->inherited[i];
    }
    u->inherited_count = left;
}

/* Ours are attached, or there are to be none. */
static void inherited_drop(struct usherd *u) {
    struct coverage *c = u->coverage;
    while (c->inherited_count > 0 && u->store != NULL)
        (void)store_drop(u->store, c->inherited[--c->inherited_count]);
}

/* ---- interfaces ---- */

static bool link_up(int fd, const char *name) {
    struct ifreq r = {0};
    (void)snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
    return ioctl(fd, SIOCGIFFLAGS, &r) == 0 && (r.ifr_flags & IFF_UP) != 0 && (r.ifr_flags & IFF_LOOPBACK) == 0;
}

/* False when there is one that usherd does not run; `ret_other` names it. */
static bool all_managed(const struct usherd *u, char ret_other[IF_NAMESIZE]) {
    struct if_nameindex *list = if_nameindex();
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool all = list != NULL && fd >= 0;
    for (size_t i = 0; all && list[i].if_index != 0; i++) {
        all = interfaces_find(u->interfaces, list[i].if_index) != NULL || !link_up(fd, list[i].if_name);
        if (!all)
            (void)snprintf(ret_other, IF_NAMESIZE, "%s", list[i].if_name);
    }
    if (list != NULL)
        if_freenameindex(list);
    if (fd >= 0)
        (void)close(fd);
    return all;
}

static bool is_managed(const struct usherd *u, uint32_t ifindex) {
    return interfaces_find(u->interfaces, ifindex) != NULL;
}

static void managed_sync(struct usherd *u) {
    struct coverage *c = u->coverage;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < c->managed_count; i++) {
        if (is_managed(u, c->managed[i]))
            c->managed[kept++] = c->managed[i];
        else
            (void)nb_cover_interface(c->hooks, c->managed[i], false);
    }
    c->managed_count = kept;
    for (uint32_t slot = 0; slot < PORT_SLOT_MAX && c->managed_count < PORT_SLOT_MAX; slot++) {
        const struct interface *i = interfaces_slot(u->interfaces, slot);
        bool known = i == NULL;
        for (uint32_t k = 0; k < c->managed_count && !known; k++)
            known = c->managed[k] == i->ifindex;
        if (!known && nb_cover_interface(c->hooks, i->ifindex, true) == 0)
            c->managed[c->managed_count++] = i->ifindex;
    }
}

void coverage_links(struct usherd *u) {
    char other[IF_NAMESIZE] = "";
    struct coverage *c = u->coverage;
    if (c == NULL || c->hooks == NULL)
        return;
    managed_sync(u);
    bool all = all_managed(u, other);
    if (all != c->all_managed)
        (void)nb_cover_all_managed(c->hooks, all);
    c->all_managed = all;
}

/* ---- life ---- */

static int hooks_create(struct usherd *u, struct nb_error *err) {
    struct coverage *c = u->coverage;
    uint32_t ids[HOOK_MAX];
    struct nb_cover_params p = {.netns = u->netns_cookie, .cgroup_fd = cgroup_bpf_root(), .stamps_fd = c->stamps_fd};
    c->stamps_fd = -1;
    int error = -ENOENT;
    if (p.cgroup_fd >= 0)
        error = nb_cover_create(&p, &c->hooks, err);
    else
        (void)snprintf(err->text, sizeof err->text, "no cgroup2 tree is mounted");
    if (p.cgroup_fd >= 0)
        (void)close(p.cgroup_fd);
    if (error == 0)
        cgroup_bpf_own(ids, nb_cover_programs(c->hooks, ids, HOOK_MAX));
    return error;
}

/* ---- policies ---- */

struct gaps {
    const struct policy *policy;
    uint32_t told;
};

static void gap_log(void *arg, uint32_t rule, const char *why) {
    struct gaps *g = arg;
    const char *name = policy_rule_name(g->policy, rule);
    if (g->told++ < GAPS_TOLD)
        log_warning("coverage.gap", "rule %s is open for kernel sockets: %s", name != NULL ? name : "?", why);
}

static int rules_install(struct usherd *u, const struct policy *policy, struct nb_error *err) {
    struct gaps g = {.policy = policy};
    const struct nb_policy *rules = policy_rules(policy);
    int error = nb_cover_install(u->coverage->hooks, rules, err);
    if (error != 0)
        return error;
    uint32_t gaps = nb_cover_gaps(rules, gap_log, &g);
    log_info("coverage", "kernel sockets are judged on %u interface%s; of %u rules the hooks leave %u open",
             u->coverage->managed_count, u->coverage->managed_count == 1 ? "" : "s", rules->rule_count, gaps);
    return 0;
}

/* Better no judge than one of another policy. */
static void hooks_drop(struct usherd *u, const struct nb_error *err) {
    log_warning("coverage", "the policy does not judge kernel sockets: %s", err->text);
    u->coverage->why = *err;
    cgroup_bpf_own(NULL, 0);
    nb_cover_destroy(u->coverage->hooks);
    u->coverage->hooks = NULL;
    u->coverage->managed_count = 0;
    u->coverage->all_managed = false;
}

static void whole_gap(void *arg, uint32_t rule, const char *why) {
    const char **none = arg;
    if (rule == NB_NONE)
        *none = why;
}

void coverage_policy(struct usherd *u, const struct policy *policy) {
    struct nb_error err = {""};
    struct coverage *c = u->coverage;
    if (c == NULL || !c->begun)
        return; /* coverage_begin() will look */
    bool fresh = c->hooks == NULL;
    if (fresh && policy_rules(policy)->rule_count == 0)
        return;
    const char *none = NULL;
    (void)nb_cover_gaps(policy_rules(policy), whole_gap, &none);
    int error = none != NULL ? -E2BIG : 0;
    if (error != 0) /* known before anything is loaded, which would take most of a second */
        (void)snprintf(err.text, sizeof err.text, "%s", none);
    else if (fresh)
        error = hooks_create(u, &err);
    if (error == 0 && fresh)
        coverage_links(u);
    if (error == 0)
        error = rules_install(u, policy, &err);
    if (error != 0)
        hooks_drop(u, &err);
    usherd_store_sync(u);
}

const char *coverage_why(const struct usherd *u) {
    const struct coverage *c = u->coverage;
    if (c != NULL && c->hooks != NULL)
        return "";
    return c == NULL ? "no memory was left for the hooks" : c->why.text;
}

void coverage_begin(struct usherd *u) {
    char other[IF_NAMESIZE] = "";
    const struct policy *policy = policing_policy(u->policing);
    if (u->coverage == NULL)
        return;
    u->coverage->begun = true;
    if (policy != NULL)
        coverage_policy(u, policy);
    inherited_drop(u);
    if (u->coverage->hooks != NULL && !all_managed(u, other))
        log_info("coverage", "not covered: what kernel sockets do on %s and other interfaces that usherd does not run",
                 other);
}

void coverage_end(struct usherd *u) {
    if (u->coverage == NULL)
        return;
    cgroup_bpf_own(NULL, 0);
    nb_cover_destroy(u->coverage->hooks);
    if (u->coverage->stamps_fd >= 0)
        (void)close(u->coverage->stamps_fd);
    free(u->coverage);
    u->coverage = NULL;
}

size_t coverage_fds(const struct usherd *u, struct nb_fd *fds, size_t max) {
    return u->coverage != NULL && u->coverage->hooks != NULL ? nb_cover_fds(u->coverage->hooks, fds, max) : 0;
}

void coverage_metrics_write(const struct usherd *u, FILE *out) {
    struct nb_cover_counts n;
    if (u->coverage == NULL || u->coverage->hooks == NULL || nb_cover_counts(u->coverage->hooks, &n) != 0)
        return;
    const struct {
        const char *what;
        uint64_t count;
    } rows[] = {{"in", n.in}, {"out", n.out}, {"bind", n.bind}, {"connect", n.connect}};
    exposition_family(out, "usher_kernel_sockets_refused_total", METRIC_COUNTER,
                      "Packets and calls of kernel sockets that the policy refused.");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct label labels[] = {{"what", rows[i].what}, {NULL, NULL}};
        exposition_count(out, "usher_kernel_sockets_refused_total", labels, rows[i].count);
    }
}
