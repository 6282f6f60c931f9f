/* SPDX-License-Identifier: Apache-2.0
 *
 * Attaching the claim programs to interfaces: an XDP link, a tcx link, or a clsact filter where the kernel has no tcx.
 * Each attachment loads programs of its own over the shared claim maps and keeps plain fds of them; the libbpf object
 * is closed at once. Thread: control only.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/if_link.h>

#include "nicbackend/rules.h"
#include "nicbackend/xdp/claims_internal.h"

/* The compiled BPF object, embedded by objects.S. */
extern const char nb_claims_object[];
extern const char nb_claims_object_end[];

/* Not in the headers of Debian 12's kernel 6.1; a kernel that has tcx knows them by these numbers. */
#define ATTACH_TCX_INGRESS ((enum bpf_attach_type)46)
#define LINK_BEFORE_ALL    (1u << 3) /* BPF_F_BEFORE without a relative: first of all */

struct nb_attach *nb_attach_alloc(struct nb_claims *c) {
    struct nb_attach *a = calloc(1, sizeof *a);
    if (a == NULL)
        return NULL;
    for (uint32_t i = 0; i < ATTACH_FD_COUNT; i++)
        a->fd[i] = -1;
    a->claims = c;
    a->next = c->attaches;
    c->attaches = a;
    return a;
}

struct nb_attach *nb_attach_find(const struct nb_claims *c, uint32_t ifindex, enum nb_hook hook) {
    for (struct nb_attach *a = c->attaches; a != NULL; a = a->next) {
        if (a->config.ifindex == ifindex && a->config.hook == (uint32_t)hook)
            return a;
    }
    return NULL;
}

static bool is_xdp(const struct nb_attach *a) {
    return a->config.hook != NB_HOOK_TC;
}

/* --- loading --------------------------------------------------------------------------------------------------- */

static const char *program_name(const struct nb_attach *a) {
    return is_xdp(a) ? "claims_xdp" : "claims_tc";
}

/* Shared maps are the claim table's; of the programs only those of this hook are loaded. */
static int object_prepare(struct bpf_object *obj, const struct nb_attach *a) {
    for (uint32_t i = 0; i < CLAIMS_MAP_COUNT; i++) {
        struct bpf_map *map = bpf_object__find_map_by_name(obj, claims_map_names[i]);
        if (map == NULL || bpf_map__reuse_fd(map, a->claims->map[i]) < 0)
            return -EINVAL;
    }
    struct bpf_program *prog;
    bpf_object__for_each_program(prog, obj) {
        const char *name = bpf_program__name(prog);
        bool wanted = strcmp(name, program_name(a)) == 0 || (!is_xdp(a) && strcmp(name, "claims_filter") == 0);
        bpf_program__set_autoload(prog, wanted);
    }
    struct bpf_map *xsks = bpf_object__find_map_by_name(obj, "xsks");
    if (!is_xdp(a))
        return bpf_map__set_autocreate(xsks, false);
    return bpf_map__set_max_entries(xsks, a->config.queue_max);
}

static int fd_keep(struct nb_attach *a, enum attach_fd part, int fd) {
    if (fd < 0)
        return -ENOENT;
    a->fd[part] = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return a->fd[part] < 0 ? -errno : 0;
}

static int object_keep(struct bpf_object *obj, struct nb_attach *a) {
    int error = fd_keep(a, ATTACH_FD_PROG, bpf_program__fd(bpf_object__find_program_by_name(obj, program_name(a))));
    if (error == 0)
        error = fd_keep(a, ATTACH_FD_CONFIG, bpf_object__find_map_fd_by_name(obj, "config"));
    if (error == 0)
        error = fd_keep(a, ATTACH_FD_COUNTS, bpf_object__find_map_fd_by_name(obj, "counts"));
    if (error == 0 && is_xdp(a))
        error = fd_keep(a, ATTACH_FD_XSKS, bpf_object__find_map_fd_by_name(obj, "xsks"));
    if (error == 0 && !is_xdp(a))
        error = fd_keep(a, ATTACH_FD_FILTER, bpf_program__fd(bpf_object__find_program_by_name(obj, "claims_filter")));
    return error;
}

static int programs_load(struct nb_attach *a, struct nb_error *err) {
    LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = "usher_claims");
    size_t size = (size_t)(nb_claims_object_end - nb_claims_object);
    struct bpf_object *obj = bpf_object__open_mem(nb_claims_object, size, &opts);
    if (obj == NULL)
        return nb_fail(err, -errno, "the built-in claim programs cannot be read: %s", strerror(errno));
    int error = object_prepare(obj, a);
    if (error == 0)
        error = bpf_object__load(obj);
    if (error == 0)
        error = object_keep(obj, a);
    bpf_object__close(obj);
    if (error < 0)
        return nb_fail(err, error,
                       "the kernel refused the claim programs (%s); usherd needs CAP_BPF, CAP_NET_ADMIN "
                       "and Linux 6.1 or later",
                       strerror(-error));
    return 0;
}

static int config_write(struct nb_attach *a) {
    uint32_t zero = 0;
    return bpf_map_update_elem(a->fd[ATTACH_FD_CONFIG], &zero, &a->config, BPF_ANY) < 0 ? -errno : 0;
}

/* --- hooks ----------------------------------------------------------------------------------------------------- */

/* Who sits on the XDP hook: "name (id 12)", or "somebody". */
static void xdp_owner_name(uint32_t ifindex, char *text, size_t size) {
    LIBBPF_OPTS(bpf_xdp_query_opts, query);
    snprintf(text, size, "an unknown program");
    if (bpf_xdp_query((int)ifindex, 0, &query) < 0)
        return;
    uint32_t id = query.drv_prog_id ? query.drv_prog_id : query.skb_prog_id ? query.skb_prog_id : query.prog_id;
    int fd = id == 0 ? -1 : bpf_prog_get_fd_by_id(id);
    if (fd < 0)
        return;
    struct bpf_prog_info info = {0};
    uint32_t length = sizeof info;
    if (bpf_obj_get_info_by_fd(fd, &info, &length) == 0)
        snprintf(text, size, "program \"%s\" (id %u)", info.name, id);
    close(fd);
}

static int xdp_attach(struct nb_attach *a, struct nb_error *err) {
    bool native = a->config.hook == NB_HOOK_XDP_NATIVE;
    LIBBPF_OPTS(bpf_link_create_opts, opts, .flags = native ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE);
    int fd = bpf_link_create(a->fd[ATTACH_FD_PROG], (int)a->config.ifindex, BPF_XDP, &opts);
    if (fd >= 0) {
        a->fd[ATTACH_FD_LINK] = fd;
        return 0;
    }
    int error = -errno;
    if (error == -EBUSY || error == -EEXIST) {
        char owner[96];
        xdp_owner_name(a->config.ifindex, owner, sizeof owner);
        return nb_fail(err, -EBUSY, "interface %u already runs %s on its XDP hook: remove it, or use the packet port",
                       a->config.ifindex, owner);
    }
    if (native && (error == -EOPNOTSUPP || error == -EINVAL || error == -ERANGE))
        return nb_fail(err, -EOPNOTSUPP,
                       "the driver of interface %u refuses native XDP (%s): use the packet port, or "
                       "allow generic XDP",
                       a->config.ifindex, strerror(-error));
    return nb_fail(err, error, "cannot attach XDP to interface %u: %s", a->config.ifindex, strerror(-error));
}

int nb_tc_attach(uint32_t ifindex, int prog_fd, enum nb_clsact_place place, int *ret_link, bool *ret_made_qdisc) {
    LIBBPF_OPTS(bpf_link_create_opts, opts, .flags = LINK_BEFORE_ALL);
    *ret_link = bpf_link_create(prog_fd, (int)ifindex, ATTACH_TCX_INGRESS, &opts);
    return *ret_link >= 0 ? 0 : nb_clsact_attach(ifindex, prog_fd, place, ret_made_qdisc);
}

static int tc_attach(struct nb_attach *a, bool no_tcx, struct nb_error *err) {
    const uint32_t ifindex = a->config.ifindex;
    bool made_qdisc = false;
    int link = -1, prog = a->fd[ATTACH_FD_PROG];
    int error = no_tcx ? nb_clsact_attach(ifindex, prog, NB_CLSACT_CLAIMS, &made_qdisc)
                       : nb_tc_attach(ifindex, prog, NB_CLSACT_CLAIMS, &link, &made_qdisc);
    a->fd[ATTACH_FD_LINK] = link;
    a->config.made_qdisc = made_qdisc;
    a->config.clsact = error == 0 && link < 0;
    if (error < 0)
        return nb_fail(err, error, "cannot attach the claim program to the ingress hook of interface %u: %s", ifindex,
                       strerror(-error));
    return 0;
}

/* --- the public calls ------------------------------------------------------------------------------------------ */

static int params_check(const struct nb_claims *c, const struct nb_attach_params *p, struct nb_error *err) {
    if (p->ifindex == 0 || (unsigned)p->hook >= NB_HOOK_COUNT)
        return nb_fail(err, -EINVAL, "no such interface or hook (%u, %u)", p->ifindex, (unsigned)p->hook);
    if (p->hook != NB_HOOK_TC && (p->queue_max == 0 || p->queue_max > CLAIM_QUEUE_MAX))
        return nb_fail(err, -EINVAL, "interface %u: %u queues are not possible with XDP, 1 to %d", p->ifindex,
                       p->queue_max, CLAIM_QUEUE_MAX);
    if (nb_attach_find(c, p->ifindex, p->hook) != NULL)
        return nb_fail(err, -EEXIST, "interface %u is already attached to by Usher itself", p->ifindex);
    return 0;
}

int nb_attach_create(struct nb_claims *c, const struct nb_attach_params *params, struct nb_attach **ret_attach,
                     struct nb_error *err) {
    int error = params_check(c, params, err);
    if (error < 0)
        return error;
    struct nb_attach *a = nb_attach_alloc(c);
    if (a == NULL)
        return nb_fail(err, -ENOMEM, "no memory for an attachment");
    a->config = (struct claim_config){
        .abi = CLAIMS_ABI,
        .ifindex = params->ifindex,
        .hook = (uint32_t)params->hook,
        .queue_max = params->queue_max,
        .dedicated = params->dedicated,
        .all = params->all,
        .vlan = params->vlan,
    };
    memcpy(a->config.mac, params->dedicated_mac, 6);
    error = programs_load(a, err);
    if (error == 0 && (error = config_write(a)) < 0)
        nb_fail(err, error, "cannot configure the claim programs: %s", strerror(-error));
    if (error == 0)
        error = is_xdp(a) ? xdp_attach(a, err) : tc_attach(a, params->no_tcx, err);
    if (error == 0 && (error = config_write(a)) < 0) /* again: a successor must know of clsact and its qdisc */
        nb_fail(err, error, "cannot configure the claim programs: %s", strerror(-error));
    if (error < 0) {
        nb_attach_destroy(a);
        return error;
    }
    *ret_attach = a;
    return 0;
}

void nb_attach_destroy(struct nb_attach *a) {
    if (a == NULL)
        return;
    struct nb_attach **at = &a->claims->attaches;
    while (*at != a)
        at = &(*at)->next;
    *at = a->next;
    if (a->config.clsact || a->config.made_qdisc)
        (void)nb_clsact_detach(a->config.ifindex, NB_CLSACT_CLAIMS, a->config.made_qdisc);
    if (a->fd[ATTACH_FD_LINK] >= 0)
        (void)bpf_link_detach(a->fd[ATTACH_FD_LINK]); /* now, although a keeper may hold another fd of the link */
    for (uint32_t i = 0; i < ATTACH_FD_COUNT; i++) {
        if (a->fd[i] >= 0)
            close(a->fd[i]);
    }
    free(a);
}

int nb_attach_xsk_set(struct nb_attach *a, uint32_t queue, int xsk_fd) {
    if (!is_xdp(a) || queue >= a->config.queue_max)
        return -EINVAL;
    uint64_t bit = 1ull << queue;
    if (xsk_fd >= 0) {
        if (bpf_map_update_elem(a->fd[ATTACH_FD_XSKS], &queue, &xsk_fd, BPF_ANY) < 0)
            return -errno;
        a->config.served |= bit;
        return config_write(a);
    }
    a->config.served &= ~bit;
    int error = config_write(a);
    if (bpf_map_delete_elem(a->fd[ATTACH_FD_XSKS], &queue) < 0 && errno != ENOENT)
        return -errno;
    return error;
}

int nb_attach_socket_filter(struct nb_attach *a, int *ret_prog_fd) {
    const struct claims_front *f = a->claims->fronts, *end = f + CLAIMS_FRONT_MAX;
    if (a->fd[ATTACH_FD_FILTER] < 0)
        return -EOPNOTSUPP;
    while (f < end && f->ifindex != a->config.ifindex)
        f++;
    if (f < end)
        return nb_rules_filter(f->rules, a->fd[ATTACH_FD_FILTER], ret_prog_fd, NULL);
    *ret_prog_fd = fcntl(a->fd[ATTACH_FD_FILTER], F_DUPFD_CLOEXEC, 3);
    return *ret_prog_fd < 0 ? -errno : 0;
}

const char *nb_attach_mode(const struct nb_attach *a) {
    switch ((enum nb_hook)a->config.hook) {
    case NB_HOOK_XDP_NATIVE:
        return "native XDP link";
    case NB_HOOK_XDP_GENERIC:
        return "generic XDP link";
    default:
        return a->config.clsact ? "clsact filter" : "tcx link";
    }
}

bool nb_attach_leaves_qdisc(const struct nb_attach *a) {
    return a->config.clsact;
}

int nb_cleanup_qdisc(uint32_t ifindex) {
    (void)nb_clsact_detach(ifindex, NB_CLSACT_RULES, false);
    int error = nb_clsact_detach(ifindex, NB_CLSACT_CLAIMS, true);
    return error == -ENOENT || error == -EINVAL ? 0 : error; /* already gone */
}

int nb_attach_counts(const struct nb_attach *a, struct nb_counts *ret_counts) {
    int cpus = libbpf_num_possible_cpus();
    if (cpus < 0)
        return cpus;
    uint64_t *values = calloc((size_t)cpus, sizeof *values);
    if (values == NULL)
        return -ENOMEM;
    uint64_t sum[CLAIM_COUNT_COUNT] = {0};
    int error = 0;
    for (uint32_t k = 0; k < CLAIM_COUNT_COUNT && error == 0; k++) {
        if (bpf_map_lookup_elem(a->fd[ATTACH_FD_COUNTS], &k, values) < 0)
            error = -errno;
        for (int i = 0; i < cpus && error == 0; i++)
            sum[k] += values[i];
    }
    free(values);
    if (error == 0)
        *ret_counts = (struct nb_counts){.claimed = sum[CLAIM_COUNT_CLAIMED],
                                         .passed = sum[CLAIM_COUNT_PASSED],
                                         .no_queue = sum[CLAIM_COUNT_NO_QUEUE]};
    return error;
}
