/* SPDX-License-Identifier: Apache-2.0
 *
 * The hooks' life: loading, attaching, the walk over sockets there were before, and policies, in two banks of which one
 * is in force. Thread: control only.
 */
#include "nicbackend/cover.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "nicbackend/cover/compile.h"

/* The compiled BPF object, embedded by cover_object.S. */
extern const char nb_cover_object[];
extern const char nb_cover_object_end[];

enum hook { HOOK_STAMP, HOOK_IN, HOOK_OUT, HOOK_BIND4, HOOK_BIND6, HOOK_CONNECT4, HOOK_CONNECT6, HOOK_COUNT };
static const char *const hook_names[HOOK_COUNT] = {"usher_stamp", "usher_in",       "usher_out",     "usher_bind4",
                                                   "usher_bind6", "usher_connect4", "usher_connect6"};

enum map { MAP_STAMPS, MAP_RULES, MAP_BANKS, MAP_CONFIG, MAP_MANAGED, MAP_DENIED, MAP_COUNT };
static const char *const map_names[MAP_COUNT] = {"stamps", "rules", "banks", "config", "managed", "denied"};

struct nb_cover {
    struct bpf_object *obj;
    struct bpf_link *link[HOOK_COUNT];
    uint32_t program[HOOK_COUNT]; /* the kernel's numbers */
    int map[MAP_COUNT];           /* the object's */
    struct cover_config config;   /* the truth is the map; this is our copy */
    struct cover_rule *rules;     /* COVER_RULES: under construction */
};

static int fail(struct nb_error *err, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));

static int fail(struct nb_error *err, int error, const char *format, ...) {
    va_list args;
    va_start(args, format);
    (void)vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    return error;
}

/* ---- loading ---- */

static int object_load(struct nb_cover *c, int stamps_fd, struct nb_error *err) {
    LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = "usher_cover");
    libbpf_set_print(NULL); /* libraries do not log; the sentences in err say what libbpf's lines would */
    c->obj = bpf_object__open_mem(nb_cover_object, (size_t)(nb_cover_object_end - nb_cover_object), &opts);
    if (c->obj == NULL)
        return fail(err, -errno, "the built-in hooks cannot be read: %s", strerror(errno));
    struct bpf_map *stamps = bpf_object__find_map_by_name(c->obj, map_names[MAP_STAMPS]);
    if (stamps_fd >= 0)
        (void)bpf_map__reuse_fd(stamps, stamps_fd); /* else the walk makes new ones */
    int error = bpf_object__load(c->obj);
    if (error < 0)
        return fail(
            err, error,
            "the kernel refused the hooks (%s); they need CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and a kernel with "
            "BTF, Linux 6.1 or later",
            strerror(-error));
    for (uint32_t i = 0; i < MAP_COUNT; i++)
        c->map[i] = bpf_object__find_map_fd_by_name(c->obj, map_names[i]);
    return 0;
}

static uint32_t program_id(const struct bpf_program *p) {
    struct bpf_prog_info info = {0};
    uint32_t length = sizeof info;
    return bpf_obj_get_info_by_fd(bpf_program__fd(p), &info, &length) == 0 ? info.id : 0;
}

static int hook_attach(struct nb_cover *c, enum hook hook, int cgroup_fd, struct nb_error *err) {
    const struct bpf_program *p = bpf_object__find_program_by_name(c->obj, hook_names[hook]);
    c->program[hook] = program_id(p);
    c->link[hook] = bpf_program__attach_cgroup(p, cgroup_fd);
    if (c->link[hook] != NULL)
        return 0;
    return fail(err, -errno, "hook %s cannot be attached to the root of the cgroup tree: %s", hook_names[hook],
                strerror(errno));
}

/* The program writes nothing: reading it to its end runs it for every open file. */
static int walk(struct nb_cover *c, struct nb_error *err) {
    struct bpf_link *link = bpf_program__attach_iter(bpf_object__find_program_by_name(c->obj, "usher_walk"), NULL);
    int fd = link != NULL ? bpf_iter_create(bpf_link__fd(link)) : -1;
    int error = fd < 0 ? -errno : 0;
    char none[64];
    ssize_t n = 0;
    while (error == 0 && ((n = read(fd, none, sizeof none)) > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR))))
        continue;
    if (error == 0 && n < 0)
        error = -errno;
    if (fd >= 0)
        (void)close(fd);
    (void)bpf_link__destroy(link);
    return error == 0 ? 0 : fail(err, error, "the sockets there are cannot be walked over: %s", strerror(-error));
}

/* Stamps first, so that no socket is made unseen between the walk and the judges. */
static int hooks_attach(struct nb_cover *c, int cgroup_fd, struct nb_error *err) {
    int error = hook_attach(c, HOOK_STAMP, cgroup_fd, err);
    if (error == 0)
        error = walk(c, err);
    for (uint32_t h = HOOK_STAMP + 1; h < HOOK_COUNT && error == 0; h++)
        error = hook_attach(c, (enum hook)h, cgroup_fd, err);
    return error;
}

static int config_write(struct nb_cover *c) {
    uint32_t zero = 0;
    return bpf_map_update_elem(c->map[MAP_CONFIG], &zero, &c->config, BPF_ANY) < 0 ? -errno : 0;
}

int nb_cover_create(const struct nb_cover_params *params, struct nb_cover **ret_cover, struct nb_error *err) {
    struct nb_cover *c = calloc(1, sizeof *c);
    struct cover_rule *rules = calloc(COVER_RULES, sizeof *rules);
    int error = c == NULL || rules == NULL ? fail(err, -ENOMEM, "no memory for the hooks on kernel sockets") : 0;
    if (error == 0) {
        c->rules = rules;
        c->config = (struct cover_config){.abi = COVER_ABI, .netns = params->netns};
        error = object_load(c, params->stamps_fd, err);
    }
    if (params->stamps_fd >= 0)
        (void)close(params->stamps_fd);
    if (error == 0 && config_write(c) < 0)
        error = fail(err, -EIO, "the hooks' settings cannot be written");
    if (error == 0)
        error = hooks_attach(c, params->cgroup_fd, err);
    if (error == 0) {
        *ret_cover = c;
        return 0;
    }
    if (c == NULL)
        free(rules);
    nb_cover_destroy(c);
    return error;
}

void nb_cover_destroy(struct nb_cover *c) {
    if (c == NULL)
        return;
    for (uint32_t h = HOOK_COUNT; h-- > 0;)
        (void)bpf_link__destroy(c->link[h]);
    bpf_object__close(c->obj);
    free(c->rules);
    free(c);
}

/* ---- interfaces ---- */

int nb_cover_interface(struct nb_cover *c, uint32_t ifindex, bool managed) {
    uint32_t one = 1;
    int error = managed ? bpf_map_update_elem(c->map[MAP_MANAGED], &ifindex, &one, BPF_ANY)
                        : bpf_map_delete_elem(c->map[MAP_MANAGED], &ifindex);
    return error < 0 && !(errno == ENOENT && !managed) ? -errno : 0;
}

int nb_cover_all_managed(struct nb_cover *c, bool all) {
    c->config.all_managed = all;
    return config_write(c);
}

/* ---- policies ---- */

_Static_assert(COVER_RULES == 1024, "the text says so");
#define TOO_MANY "the hooks on kernel sockets hold 1,024 rules, each range of a set counts as one"

struct gaps {
    nb_cover_gap_fn *gap;
    void *arg;
    uint32_t count;
};

static void gap_count(void *arg, uint32_t rule, const char *why) {
    struct gaps *g = arg;
    g->count++;
    if (g->gap != NULL)
        g->gap(g->arg, rule, why);
}

uint32_t nb_cover_gaps(const struct nb_policy *policy, nb_cover_gap_fn *gap, void *arg) {
    struct gaps g = {.gap = gap, .arg = arg};
    struct cover_rule *rules = calloc(COVER_RULES, sizeof *rules);
    struct cover_bank bank;
    if (rules == NULL)
        gap_count(&g, NB_NONE, "no memory is left to look");
    else if (cover_compile(policy, rules, &bank, gap_count, &g) == -E2BIG)
        gap_count(&g, NB_NONE, TOO_MANY);
    free(rules);
    return g.count;
}

/* The bank that is not in force is written, then the one word that names it. A packet reads that word once. */
int nb_cover_install(struct nb_cover *c, const struct nb_policy *policy, struct nb_error *err) {
    uint32_t bank = !c->config.bank;
    struct cover_bank head;
    memset(c->rules, 0, COVER_RULES * sizeof *c->rules);
    int n = cover_compile(policy, c->rules, &head, NULL, NULL);
    if (n < 0)
        return fail(err, n, TOO_MANY);
    int error = bpf_map_update_elem(c->map[MAP_BANKS], &bank, &head, BPF_ANY) < 0 ? -errno : 0;
    for (uint32_t i = 0; i < (uint32_t)n && error == 0; i++) {
        uint32_t key = bank * COVER_RULES + i;
        error = bpf_map_update_elem(c->map[MAP_RULES], &key, &c->rules[i], BPF_ANY) < 0 ? -errno : 0;
    }
    if (error == 0) {
        c->config.bank = bank;
        c->config.on = 1;
        error = config_write(c);
    }
    return error == 0 ? 0 : fail(err, error, "the hooks' rules cannot be written: %s", strerror(-error));
}

int nb_cover_counts(const struct nb_cover *c, struct nb_cover_counts *ret_counts) {
    int cpus = libbpf_num_possible_cpus();
    uint64_t *each = cpus > 0 ? calloc((size_t)cpus, sizeof *each) : NULL;
    uint64_t sum[COVER_COUNT_MAX] = {0};
    int error = each == NULL ? -ENOMEM : 0;
    for (uint32_t k = 0; k < COVER_COUNT_MAX && error == 0; k++) {
        error = bpf_map_lookup_elem(c->map[MAP_DENIED], &k, each) < 0 ? -errno : 0;
        for (int cpu = 0; cpu < cpus && error == 0; cpu++)
            sum[k] += each[cpu];
    }
    free(each);
    if (error == 0)
        *ret_counts = (struct nb_cover_counts){.in = sum[COVER_COUNT_IN],
                                               .out = sum[COVER_COUNT_OUT],
                                               .bind = sum[COVER_COUNT_BIND],
                                               .connect = sum[COVER_COUNT_CONNECT]};
    return error;
}

/* ---- fds and numbers ---- */

static void fd_name(struct nb_fd *fd, int number, const char *name) {
    fd->fd = number;
    (void)snprintf(fd->name, sizeof fd->name, "cover.%s", name);
}

size_t nb_cover_fds(const struct nb_cover *c, struct nb_fd *fds, size_t max) {
    size_t n = 0;
    if (n < max)
        fd_name(&fds[n], c->map[MAP_STAMPS], map_names[MAP_STAMPS]);
    n++;
    for (uint32_t h = 0; h < HOOK_COUNT; h++, n++) {
        if (n < max)
            fd_name(&fds[n], bpf_link__fd(c->link[h]), hook_names[h]);
    }
    return n;
}

uint32_t nb_cover_programs(const struct nb_cover *c, uint32_t *ids, uint32_t max) {
    uint32_t n = 0;
    for (uint32_t h = 0; h < HOOK_COUNT && n < max; h++)
        ids[n++] = c->program[h];
    return n;
}
