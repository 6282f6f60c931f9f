/* SPDX-License-Identifier: Apache-2.0
 *
 * dlopen() of a name it knows returns the code it has, so each load copies the file to a memfd and opens that under its
 * /proc/self/fd name. The fd stays open as long as the module is loaded: its number cannot be used for another one.
 */
#include "test/sim/module.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

static int module_copy(const char *path, int *ret_memfd) {
    int from = open(path, O_RDONLY | O_CLOEXEC);
    if (from < 0)
        return -errno;
    struct stat st;
    int to = memfd_create("engine", MFD_CLOEXEC);
    int err = 0;
    if (to < 0 || fstat(from, &st) != 0)
        err = -errno;
    for (off_t at = 0; err == 0 && at < st.st_size;)
        if (sendfile(to, from, &at, (size_t)(st.st_size - at)) <= 0)
            err = -EIO;
    close(from);
    if (err != 0 && to >= 0)
        close(to);
    if (err == 0)
        *ret_memfd = to;
    return err;
}

static const char *module_refusal(const struct engine_ops *ops) {
    if (ops == NULL)
        return "has no symbol " ENGINE_SYMBOL;
    if (ops->abi != ENGINE_ABI || ops->size != sizeof *ops)
        return "was built for another engine ABI";
    if (!ops->state_size || !ops->init || !ops->recover || !ops->fini || !ops->run || !ops->next_deadline ||
        !ops->command || !ops->save || !ops->load)
        return "lacks a required call";
    if (((ops->caps & ENGINE_CAP_INPUT) && !ops->input) || ((ops->caps & ENGINE_CAP_OUTPUT) && !ops->output))
        return "claims a capability whose call it lacks";
    return NULL;
}

int module_open(const char *folder, const char *name, struct module *ret_module, char *err, size_t err_size) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s.so", folder, name);
    struct module m;
    int rc = module_copy(path, &m.memfd);
    if (rc != 0) {
        snprintf(err, err_size, "%s: %s; build it, or name its folder with --engines", path, strerror(-rc));
        return rc;
    }
    char fd_name[64];
    snprintf(fd_name, sizeof fd_name, "/proc/self/fd/%d", m.memfd);
    m.handle = dlopen(fd_name, RTLD_NOW | RTLD_LOCAL);
    if (m.handle == NULL) {
        snprintf(err, err_size, "%s: %s", path, dlerror());
        close(m.memfd);
        return -ENOEXEC;
    }
    m.ops = (const struct engine_ops *)dlsym(m.handle, ENGINE_SYMBOL);
    const char *refusal = module_refusal(m.ops);
    if (refusal != NULL) {
        snprintf(err, err_size, "%s: the module %s", path, refusal);
        module_close(&m);
        return -ENOEXEC;
    }
    *ret_module = m;
    return 0;
}

void module_close(struct module *m) {
    dlclose(m->handle);
    close(m->memfd);
    m->handle = NULL;
    m->ops = NULL;
}
