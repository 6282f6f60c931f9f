/* SPDX-License-Identifier: Apache-2.0
 *
 * See ../watch.h. Everything it makes is an fd of this process and ends with it; no keeper holds any.
 */
#include "nicbackend/watch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "nicbackend/error.h"
#include "nicbackend/watch/watch_abi.h"

/* The compiled BPF object, embedded by watch_object.S. */
extern const char nb_watch_object[];
extern const char nb_watch_object_end[];

/* Not in the headers of Debian 12's kernel 6.1; a kernel that has tcx knows them by these numbers. */
#define ATTACH_TCX_INGRESS ((enum bpf_attach_type)46)
#define ATTACH_TCX_EGRESS  ((enum bpf_attach_type)47)
#define LINK_MAX           64

struct nb_watch {
    struct bpf_object *object;
    struct ring_buffer *ring;
    int prog_in, prog_out, lost_map;
    int link[LINK_MAX];
    uint32_t link_count;
    nb_watch_fn *fn; /* while reading */
    void *fn_arg;
};

static int on_record(void *arg, void *data, size_t size) {
    struct nb_watch *w = arg;
    const struct watch_record *r = data;
    if (size < sizeof *r || r->captured > size - sizeof *r)
        return 0;
    const struct nb_watch_packet p = {
        .time_ns = r->time_ns,
        .cookie = r->cookie,
        .uid = r->uid,
        .ifindex = r->ifindex,
        .length = r->length,
        .captured = r->captured,
        .gso_size = r->gso_size,
        .vlan = r->vlan,
        .out = r->out != 0,
        .has_vlan = r->has_vlan != 0,
        .bytes = r->bytes,
    };
    return w->fn(w->fn_arg, &p) ? 0 : -ECANCELED;
}

static int snaplen_set(struct bpf_object *object, uint32_t snaplen) {
    struct bpf_map *map = bpf_object__find_map_by_name(object, ".rodata");
    uint32_t value = snaplen < WATCH_LARGE ? snaplen : WATCH_LARGE;
    return map == NULL ? -ENOENT : bpf_map__set_initial_value(map, &value, sizeof value);
}

static int own_set(struct bpf_object *object, const uint64_t *own, size_t count) {
    int fd = bpf_object__find_map_fd_by_name(object, "own");
    const uint8_t one = 1;
    int error = fd < 0 ? -ENOENT : 0;
    for (size_t i = 0; i < count && i < WATCH_OWN_MAX && error == 0; i++)
        error = bpf_map_update_elem(fd, &own[i], &one, BPF_ANY);
    return error;
}

static int fds_find(struct nb_watch *w) {
    w->prog_in = bpf_program__fd(bpf_object__find_program_by_name(w->object, "watch_in"));
    w->prog_out = bpf_program__fd(bpf_object__find_program_by_name(w->object, "watch_out"));
    w->lost_map = bpf_object__find_map_fd_by_name(w->object, "lost");
    int ring = bpf_object__find_map_fd_by_name(w->object, "ring");
    w->ring = ring < 0 ? NULL : ring_buffer__new(ring, on_record, w, NULL);
    return w->prog_in < 0 || w->prog_out < 0 || w->lost_map < 0 || w->ring == NULL ? -EINVAL : 0;
}

int nb_watch_create(uint32_t snaplen, const uint64_t *own, size_t own_count, struct nb_watch **ret_watch,
                    struct nb_error *err) {
    LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = "usher_watch");
    struct nb_watch *w = calloc(1, sizeof *w);
    if (w == NULL)
        return nb_fail(err, -ENOMEM, "no memory for a watch");
    w->object = bpf_object__open_mem(nb_watch_object, (size_t)(nb_watch_object_end - nb_watch_object), &opts);
    int error = w->object == NULL ? -errno : snaplen_set(w->object, snaplen);
    if (error == 0)
        error = bpf_object__load(w->object);
    if (error == 0)
        error = own_set(w->object, own, own_count);
    if (error == 0)
        error = fds_find(w);
    if (error < 0) {
        nb_watch_destroy(w);
        return nb_fail(err, error, "the kernel refused the programs that watch its packets: %s", strerror(-error));
    }
    *ret_watch = w;
    return 0;
}

static int link_add(struct nb_watch *w, uint32_t ifindex, int prog, enum bpf_attach_type hook, struct nb_error *err) {
    if (w->link_count == LINK_MAX)
        return nb_fail(err, -ENOSPC, "a watch has no room for interface %u", ifindex);
    LIBBPF_OPTS(bpf_link_create_opts, opts);
    int fd = bpf_link_create(prog, (int)ifindex, hook, &opts);
    if (fd < 0 && errno == EINVAL)
        return nb_fail(err, -EOPNOTSUPP, "this kernel has no tcx hooks; Linux 6.6 has them");
    if (fd < 0)
        return nb_fail(err, -errno, "interface %u cannot be watched: %s", ifindex, strerror(errno));
    w->link[w->link_count++] = fd;
    return 0;
}

int nb_watch_add(struct nb_watch *w, uint32_t ifindex, bool in, bool out, struct nb_error *err) {
    int error = in ? link_add(w, ifindex, w->prog_in, ATTACH_TCX_INGRESS, err) : 0;
    if (error == 0 && out)
        error = link_add(w, ifindex, w->prog_out, ATTACH_TCX_EGRESS, err);
    return error;
}

void nb_watch_destroy(struct nb_watch *w) {
    if (w == NULL)
        return;
    for (uint32_t i = 0; i < w->link_count; i++)
        close(w->link[i]);
    ring_buffer__free(w->ring);
    bpf_object__close(w->object);
    free(w);
}

int nb_watch_fd(const struct nb_watch *w) {
    return ring_buffer__epoll_fd(w->ring);
}

void nb_watch_read(struct nb_watch *w, nb_watch_fn *fn, void *arg) {
    w->fn = fn;
    w->fn_arg = arg;
    (void)ring_buffer__consume(w->ring);
}

uint64_t nb_watch_lost(const struct nb_watch *w) {
    int cpus = libbpf_num_possible_cpus();
    uint64_t *values = cpus > 0 ? calloc((size_t)cpus, sizeof *values) : NULL;
    uint32_t zero = 0;
    uint64_t sum = 0;
    if (values != NULL && bpf_map_lookup_elem(w->lost_map, &zero, values) == 0) {
        for (int i = 0; i < cpus; i++)
            sum += values[i];
    }
    free(values);
    return sum;
}
