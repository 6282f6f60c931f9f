/* SPDX-License-Identifier: Apache-2.0
 *
 * See library.h. A flow needs a queue pair, also when it drops; this one receives nothing.
 */
#include "nicbackend/verbs/library.h"

#include <dlfcn.h>
#include <errno.h>
#include <infiniband/verbs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ibv_create_cq() and its like are macros or inline for some of their uses: only the library's symbols are called. */
#define CALLS(X)                                                                                                       \
    X(get_device_list)                                                                                                 \
    X(free_device_list)                                                                                                \
    X(get_device_name)                                                                                                 \
    X(open_device)                                                                                                     \
    X(close_device)                                                                                                    \
    X(alloc_pd)                                                                                                        \
    X(dealloc_pd)                                                                                                      \
    X(create_cq)                                                                                                       \
    X(destroy_cq)                                                                                                      \
    X(create_qp)                                                                                                       \
    X(destroy_qp)                                                                                                      \
    X(modify_qp)

struct library {
    void *handle;
    struct ibv_device **(*get_device_list)(int *count);
    void (*free_device_list)(struct ibv_device **list);
    const char *(*get_device_name)(struct ibv_device *device);
    struct ibv_context *(*open_device)(struct ibv_device *device);
    int (*close_device)(struct ibv_context *context);
    struct ibv_pd *(*alloc_pd)(struct ibv_context *context);
    int (*dealloc_pd)(struct ibv_pd *pd);
    struct ibv_cq *(*create_cq)(struct ibv_context *context, int cqe, void *cq_context,
                                struct ibv_comp_channel *channel, int comp_vector);
    int (*destroy_cq)(struct ibv_cq *cq);
    struct ibv_qp *(*create_qp)(struct ibv_pd *pd, struct ibv_qp_init_attr *attr);
    int (*destroy_qp)(struct ibv_qp *qp);
    int (*modify_qp)(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask);
    struct ibv_context *context;
    struct ibv_pd *pd;
    struct ibv_cq *cq;
    struct ibv_qp *qp;
};

static int library_load(struct library *l, struct nb_error *err) {
    l->handle = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
    if (l->handle == NULL)
        return nb_fail(err, -EOPNOTSUPP, "libibverbs is not there (%s); it is in the package libibverbs1", dlerror());
#define LOAD(name)                                                                                                     \
    {                                                                                                                  \
        void *symbol = dlsym(l->handle, "ibv_" #name);                                                                 \
        if (symbol == NULL)                                                                                            \
            return nb_fail(err, -EOPNOTSUPP, "libibverbs has no ibv_" #name);                                          \
        memcpy(&l->name, &symbol, sizeof symbol);                                                                      \
    }
    CALLS(LOAD)
#undef LOAD
    return 0;
}

/* --- flows and counters ---------------------------------------------------------------------------------------- */

static int library_create(void *arg, const struct ibv_flow_attr *attr, void **ret_flow) {
    struct library *l = arg;
    errno = 0;
    *ret_flow = ibv_create_flow(l->qp, (struct ibv_flow_attr *)(uintptr_t)attr);
    return *ret_flow != NULL ? 0 : errno != 0 ? -errno : -EIO;
}

static int library_destroy(void *arg, void *flow) {
    (void)arg;
    return -ibv_destroy_flow(flow);
}

static int library_counter_create(void *arg, void **ret) {
    struct library *l = arg;
    struct ibv_counters_init_attr init = {.comp_mask = 0};
    struct ibv_counter_attach_attr packets = {.counter_desc = IBV_COUNTER_PACKETS, .index = 0};
    struct ibv_counter_attach_attr bytes = {.counter_desc = IBV_COUNTER_BYTES, .index = 1};
    errno = 0;
    struct ibv_counters *c = ibv_create_counters(l->context, &init);
    if (c == NULL)
        return errno != 0 ? -errno : -EIO;
    int error = ibv_attach_counters_point_flow(c, &packets, NULL);
    if (error == 0)
        error = ibv_attach_counters_point_flow(c, &bytes, NULL);
    if (error != 0)
        (void)ibv_destroy_counters(c);
    else
        *ret = c;
    return -error;
}

static void library_counter_destroy(void *arg, void *counter) {
    (void)arg;
    (void)ibv_destroy_counters(counter);
}

static int library_counter_read(void *arg, void *counter, struct nb_count *ret) {
    uint64_t values[2];
    (void)arg;
    int error = ibv_read_counters(counter, values, 2, 0);
    if (error == 0)
        *ret = (struct nb_count){.packets = values[0], .bytes = values[1]};
    return -error;
}

static void library_close(void *arg) {
    struct library *l = arg;
    if (l->qp != NULL)
        (void)l->destroy_qp(l->qp);
    if (l->cq != NULL)
        (void)l->destroy_cq(l->cq);
    if (l->pd != NULL)
        (void)l->dealloc_pd(l->pd);
    if (l->context != NULL)
        (void)l->close_device(l->context);
    if (l->handle != NULL)
        (void)dlclose(l->handle);
    free(l);
}

static const struct nb_verbs_device counting = {library_create,          library_destroy,      library_counter_create,
                                                library_counter_destroy, library_counter_read, library_close};
static const struct nb_verbs_device plain = {
    .create = library_create, .destroy = library_destroy, .close = library_close};

/* --- the device ------------------------------------------------------------------------------------------------ */

/* The RDMA device on the same function of the bus as the interface. */
static bool belongs(const struct library *l, struct ibv_device *device, const char *ifname) {
    char path[512];
    (void)snprintf(path, sizeof path, "/sys/class/infiniband/%s/device/net/%s", l->get_device_name(device), ifname);
    return access(path, F_OK) == 0;
}

static uint8_t port_of(const char *ifname) {
    char path[64];
    unsigned port = 0;
    (void)snprintf(path, sizeof path, "/sys/class/net/%s/dev_port", ifname);
    FILE *f = fopen(path, "re");
    if (f != NULL) {
        if (fscanf(f, "%3u", &port) != 1)
            port = 0;
        fclose(f);
    }
    return (uint8_t)(port + 1);
}

static int device_find(struct library *l, const char *ifname, struct nb_error *err) {
    int count = 0;
    struct ibv_device **list = l->get_device_list(&count);
    for (int i = 0; list != NULL && i < count && l->context == NULL; i++)
        if (belongs(l, list[i], ifname))
            l->context = l->open_device(list[i]);
    if (list != NULL)
        l->free_device_list(list);
    if (l->context == NULL)
        return nb_fail(err, -EOPNOTSUPP, "%s: there is no RDMA device behind it", ifname);
    return 0;
}

static int queue_make(struct library *l, const char *ifname, uint8_t port, struct nb_error *err) {
    struct ibv_qp_attr to_init = {.qp_state = IBV_QPS_INIT, .port_num = port};
    struct ibv_qp_init_attr init = {.qp_type = IBV_QPT_RAW_PACKET, .cap = {.max_recv_wr = 1, .max_recv_sge = 1}};
    errno = 0;
    l->pd = l->alloc_pd(l->context);
    l->cq = l->pd == NULL ? NULL : l->create_cq(l->context, 1, NULL, NULL, 0);
    init.send_cq = init.recv_cq = l->cq;
    l->qp = l->cq == NULL ? NULL : l->create_qp(l->pd, &init);
    if (l->qp == NULL)
        return nb_fail(err, errno == EPERM ? -EPERM : -EOPNOTSUPP,
                       "%s: the device gives no queue of raw packets (%s); it needs CAP_NET_RAW", ifname,
                       strerror(errno));
    int error = l->modify_qp(l->qp, &to_init, IBV_QP_STATE | IBV_QP_PORT);
    return error == 0 ? 0 : nb_fail(err, -EOPNOTSUPP, "%s: its raw queue does not start: %s", ifname, strerror(error));
}

int verbs_library_open(const char *ifname, const struct nb_verbs_device **ret_device, void **ret_arg, uint8_t *ret_port,
                       struct nb_error *err) {
    struct library *l = calloc(1, sizeof *l);
    void *counter;
    if (l == NULL)
        return nb_fail(err, -ENOMEM, "no memory for flows of %s", ifname);
    int error = library_load(l, err);
    if (error == 0)
        error = device_find(l, ifname, err);
    if (error == 0)
        error = queue_make(l, ifname, port_of(ifname), err);
    if (error != 0) {
        library_close(l);
        return error;
    }
    bool counts = library_counter_create(l, &counter) == 0;
    if (counts)
        library_counter_destroy(l, counter);
    *ret_device = counts ? &counting : &plain;
    *ret_arg = l;
    *ret_port = port_of(ifname);
    return 0;
}
