/* SPDX-License-Identifier: Apache-2.0
 *
 * The rule programs on their hooks. Each is loaded alone over the table's maps: a program array belongs to programs of
 * one type. Thread: control only. See rules.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/if_link.h>

#include "nicbackend/xdp/claims_internal.h"
#include "nicbackend/xdp/rules_internal.h"

/* The compiled BPF object, embedded by objects.S. */
extern const char nb_rules_object[];
extern const char nb_rules_object_end[];

/* --- loading --------------------------------------------------------------------------------------------------- */

static int maps_reuse(struct bpf_object *obj, const struct nb_rules *r) {
    for (int i = 0; i < RULES_MAP_COUNT; i++) {
        struct bpf_map *map = bpf_object__find_map_by_name(obj, rules_map_names[i]);
        if (map == NULL || bpf_map__reuse_fd(map, r->map[i]) < 0)
            return -EINVAL;
    }
    return 0;
}

static int fd_of(int fd, int *ret_fd) {
    *ret_fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return *ret_fd < 0 ? -errno : 0;
}

/* `ret_next` NULL: nobody needs the program array. */
static int program_load(struct nb_rules *r, const char *name, int *ret_prog, int *ret_next, struct nb_error *err) {
    LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = "usher_rules");
    size_t size = (size_t)(nb_rules_object_end - nb_rules_object);
    struct bpf_object *obj = bpf_object__open_mem(nb_rules_object, size, &opts);
    if (obj == NULL)
        return nb_fail(err, -errno, "the built-in rule programs cannot be read: %s", strerror(errno));
    struct bpf_program *prog;
    bpf_object__for_each_program(prog, obj) bpf_program__set_autoload(prog, strcmp(bpf_program__name(prog), name) == 0);
    int error = maps_reuse(obj, r);
    if (error == 0)
        error = bpf_object__load(obj);
    if (error == 0)
        error = fd_of(bpf_program__fd(bpf_object__find_program_by_name(obj, name)), ret_prog);
    if (error == 0 && ret_next != NULL)
        error = fd_of(bpf_object__find_map_fd_by_name(obj, "rule_next"), ret_next);
    bpf_object__close(obj);
    if (error != 0)
        return nb_fail(err, error,
                       "the kernel refused the rule program (%s); it needs CAP_BPF, CAP_NET_ADMIN and "
                       "Linux 6.1 or later",
                       strerror(-error));
    return 0;
}

int nb_rules_program(struct nb_rules *r, const char *name, int *ret_prog_fd, struct nb_error *err) {
    return program_load(r, name, ret_prog_fd, NULL, err);
}

int nb_rules_filter(struct nb_rules *r, int next_fd, int *ret_prog_fd, struct nb_error *err) {
    uint32_t zero = 0;
    int error = r->filter >= 0 ? 0 : program_load(r, "rules_filter", &r->filter, &r->next, err);
    if (error == 0 && bpf_map_update_elem(r->next, &zero, &next_fd, BPF_ANY) < 0)
        error = nb_fail(err, -errno, "cannot put the rules in front of a socket filter: %s", strerror(errno));
    if (error == 0 && (error = fd_of(r->filter, ret_prog_fd)) != 0)
        nb_fail(err, error, "cannot hold the filter of the rules: %s", strerror(-error));
    return error;
}

int nb_rules_before_claims(struct nb_rules *r, struct nb_claims *claims, uint32_t ifindex) {
    struct claims_front *free_one = NULL;
    for (uint32_t i = 0; i < CLAIMS_FRONT_MAX; i++) {
        struct claims_front *f = &claims->fronts[i];
        if (f->ifindex == ifindex)
            *f = (struct claims_front){.ifindex = 0};
        if (f->ifindex == 0 && free_one == NULL)
            free_one = f;
    }
    if (r == NULL)
        return 0;
    if (free_one == NULL)
        return -ENOSPC;
    *free_one = (struct claims_front){.ifindex = ifindex, .rules = r};
    return 0;
}

/* --- hooks ----------------------------------------------------------------------------------------------------- */

static int xdp_attach(struct rules_hook *h, bool native, struct nb_error *err) {
    LIBBPF_OPTS(bpf_link_create_opts, opts, .flags = native ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE);
    h->link = bpf_link_create(h->prog, (int)h->ifindex, BPF_XDP, &opts);
    if (h->link >= 0)
        return 0;
    int error = -errno;
    if (error == -EBUSY || error == -EEXIST)
        return nb_fail(err, -EBUSY, "interface %u already runs a program on its XDP hook", h->ifindex);
    if (native && (error == -EOPNOTSUPP || error == -EINVAL || error == -ERANGE))
        return nb_fail(err, -EOPNOTSUPP, "the driver of interface %u refuses native XDP (%s)", h->ifindex,
                       strerror(-error));
    return nb_fail(err, error, "cannot attach XDP to interface %u: %s", h->ifindex, strerror(-error));
}

static int tc_attach(struct rules_hook *h, struct nb_error *err) {
    int error = nb_tc_attach(h->ifindex, h->prog, NB_CLSACT_RULES, &h->link, &h->made_qdisc);
    h->clsact = error == 0 && h->link < 0;
    if (error != 0)
        return nb_fail(err, error, "cannot attach the rules to the ingress hook of interface %u: %s", h->ifindex,
                       strerror(-error));
    return 0;
}

int nb_rules_attach(struct nb_rules *r, uint32_t ifindex, enum nb_rules_hook hook, struct nb_error *err) {
    struct rules_hook *h = &r->hooks[hook];
    if (h->ifindex != 0)
        return nb_fail(err, -EEXIST, "the rules are attached to interface %u already", h->ifindex);
    int error = program_load(r, hook == NB_RULES_TC ? "rules_tc" : "rules_xdp", &h->prog, NULL, err);
    if (error != 0)
        return error;
    h->ifindex = ifindex;
    error = hook == NB_RULES_TC ? tc_attach(h, err) : xdp_attach(h, hook == NB_RULES_XDP_NATIVE, err);
    if (error != 0)
        nb_rules_detach(r, hook);
    return error;
}

void nb_rules_detach(struct nb_rules *r, enum nb_rules_hook hook) {
    struct rules_hook *h = &r->hooks[hook];
    if (h->clsact)
        (void)nb_clsact_detach(h->ifindex, NB_CLSACT_RULES, h->made_qdisc);
    if (h->link >= 0)
        close(h->link);
    if (h->prog >= 0)
        close(h->prog);
    *h = (struct rules_hook){.prog = -1, .link = -1};
}

const char *nb_rules_mode(const struct nb_rules *r, enum nb_rules_hook hook) {
    static const char *const modes[] = {"native XDP link", "generic XDP link", "tcx link"};
    const struct rules_hook *h = &r->hooks[hook];
    if (h->ifindex == 0)
        return NULL;
    return h->clsact ? "clsact filter" : modes[hook];
}
