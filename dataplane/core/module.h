/* SPDX-License-Identifier: Apache-2.0
 *
 * Engine modules: from a file to a checked ops table, and the arenas their states live in. Control thread only.
 *
 * A module is copied into a sealed memfd before it is opened, so that nobody can change its code under us, and opened
 * under a path that this process has never used: dlopen() of a known path returns the old code.
 */
#ifndef USHER_DATAPLANE_CORE_MODULE_H
#define USHER_DATAPLANE_CORE_MODULE_H

#include "dataplane/core/runtime.h"

struct module {
    struct engine_ops ops; /* a copy with defaults laid over what is optional: no call site tests for NULL */
    void *handle;          /* of dlopen(), NULL for ops that are linked in */
    int memfd;             /* the code, -1 for linked ops */
};

int module_load(struct module *m, const char *dir, const char *name, struct runtime_error *err);
int module_load_file(struct module *m, const char *file, struct runtime_error *err); /* whatever name it bears */
/* Code that a predecessor had; borrows the fd. */
int module_load_fd(struct module *m, int memfd, struct runtime_error *err);
int module_link(struct module *m, const struct engine_ops *ops, struct runtime_error *err);
/* No worker may still run its code. What is left is an engine without a name that does nothing, so that whoever goes
 * over the engines, or names this one by number, need not ask whether there is one. */
void module_unload(struct module *m);
extern const struct engine_ops module_nobody;
static inline bool module_empty(const struct module *m) {
    return m->ops.name == NULL || m->ops.name[0] == '\0';
}

/* A sealed, lazily touched block that survives this process when somebody else holds its fd. */
struct arena_memory {
    void *base;
    size_t size;
    int memfd;
};
int arena_memory_create(struct arena_memory *a, const char *name, size_t size);
/* Maps a predecessor's arena; takes the fd on success. -EINVAL when it is not sealed against shrinking. */
int arena_memory_adopt(struct arena_memory *a, int memfd);
void arena_memory_destroy(struct arena_memory *a);

/* memfd_create() that forbids execution where the kernel can say so. */
int sealed_memfd_create(const char *name, size_t size);

int runtime_fail(struct runtime_error *err, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
