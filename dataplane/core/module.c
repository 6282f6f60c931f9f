/* SPDX-License-Identifier: Apache-2.0
 *
 * Loading and checking engine modules, see module.h. Nothing here runs on a worker.
 */
#include "dataplane/core/module.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MODULE_SIZE_MAX (64u << 20)
#define PATH_BITS       24 /* fresh paths: one bit a component */

int runtime_fail(struct runtime_error *err, int error, const char *format, ...) {
    if (err != NULL) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
    }
    return error;
}

/* ---- what a table must hold ---- */

static int check_default(const void *st) {
    (void)st;
    return 0;
}

/* The first required call that is missing, or NULL. */
static const char *missing_call(const struct engine_ops *ops) {
    const struct {
        const char *name;
        bool there;
    } calls[] = {
        {"state_size", ops->state_size != NULL},
        {"init", ops->init != NULL},
        {"recover", ops->recover != NULL},
        {"fini", ops->fini != NULL},
        {"input", ops->input != NULL || !(ops->caps & ENGINE_CAP_INPUT)},
        {"output", ops->output != NULL || !(ops->caps & ENGINE_CAP_OUTPUT)},
        {"run", ops->run != NULL},
        {"next_deadline", ops->next_deadline != NULL},
        {"command", ops->command != NULL},
        {"save", ops->save != NULL},
        {"load", ops->load != NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(calls); i++) {
        if (!calls[i].there)
            return calls[i].name;
    }
    return NULL;
}

static int ops_check(const struct engine_ops *ops, const char *what, struct runtime_error *err) {
    if (ops->abi != ENGINE_ABI)
        return runtime_fail(err, -EPROTO, "engine %s speaks ABI %u, this usherd speaks %u: install matching versions",
                            what, ops->abi, ENGINE_ABI);
    if (ops->size != sizeof *ops)
        return runtime_fail(err, -EPROTO,
                            "engine %s has an ops table of %u bytes, not %zu: rebuild it with this usherd", what,
                            ops->size, sizeof *ops);
    if (ops->name == NULL || ops->name[0] == '\0' || strnlen(ops->name, ENGINE_NAME_MAX) == ENGINE_NAME_MAX)
        return runtime_fail(err, -EINVAL, "engine %s names itself with nothing or with more than %d letters", what,
                            ENGINE_NAME_MAX - 1);
    if (ops->stage >= STAGE_COUNT || (ops->stage == STAGE_TRANSPORT) != (ops->proto != 0))
        return runtime_fail(err, -EINVAL, "engine %s wants stage %u with protocol %u, which is no place in the graph",
                            what, ops->stage, ops->proto);
    if (ops->counter_count > 0 && ops->counters == NULL)
        return runtime_fail(err, -EINVAL, "engine %s declares %u counters and does not name them", what,
                            ops->counter_count);
    const char *missing = missing_call(ops);
    if (missing != NULL)
        return runtime_fail(err, -EINVAL, "engine %s lacks the required call %s()", what, missing);
    return 0;
}

int module_link(struct module *m, const struct engine_ops *ops, struct runtime_error *err) {
    int error = ops_check(ops, ops->name != NULL ? ops->name : "(unnamed)", err);
    if (error < 0)
        return error;
    *m = (struct module){.ops = *ops, .memfd = -1};
    if (m->ops.check == NULL)
        m->ops.check = check_default;
    return 0;
}

/* ---- from file to code ---- */

static int file_copy(int to, int from, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t n = copy_file_range(from, NULL, to, NULL, size - done, 0);
        if (n <= 0) {
            char block[16384];
            n = read(from, block, sizeof block);
            if (n > 0 && write(to, block, (size_t)n) != n)
                return -EIO;
        }
        if (n < 0)
            return -errno;
        if (n == 0)
            return -EIO;
        done += (size_t)n;
    }
    return 0;
}

static int code_copy(const char *path, int *ret_memfd) {
    int from = open(path, O_RDONLY | O_CLOEXEC);
    if (from < 0)
        return -errno;
    struct stat st;
    int error = fstat(from, &st) < 0 ? -errno : 0;
    if (error == 0 && ((st.st_uid != 0 && st.st_uid != geteuid()) || (st.st_mode & (S_IWGRP | S_IWOTH)) != 0))
        error = -EPERM; /* somebody else could have written it */
    if (error == 0 && (st.st_size <= 0 || st.st_size > MODULE_SIZE_MAX))
        error = -EFBIG;
    int to = error == 0 ? memfd_create("usher-engine", MFD_CLOEXEC | MFD_ALLOW_SEALING) : -1;
    if (error == 0 && to < 0)
        error = -errno;
    if (error == 0)
        error = file_copy(to, from, (size_t)st.st_size);
    if (error == 0 && fcntl(to, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
        error = -errno;
    close(from);
    if (error < 0) {
        if (to >= 0)
            close(to);
        return error;
    }
    *ret_memfd = to;
    return 0;
}

/* The dynamic linker compares paths as strings, the kernel resolves them: "/." and "//" before the number mean nothing
 * to the kernel, so they can spell a serial number and no path is ever used twice, whatever number the fd has. */
static void path_fresh(char *path, size_t size, int fd) {
    static uint32_t serial; /* control thread only */
    uint32_t bits = serial++;
    size_t at = (size_t)snprintf(path, size, "/proc/self/fd");
    for (uint32_t i = 0; i < PATH_BITS; i++)
        at += (size_t)snprintf(path + at, size - at, "%s", (bits >> i) & 1 ? "/." : "//");
    snprintf(path + at, size - at, "/%d", fd);
}

static bool inside(uint64_t at, uint64_t count, uint64_t each, uint64_t size) {
    return each != 0 && at <= size && count <= (size - at) / each;
}

/* The dynamic linker maps what the headers say and dies of what is not there: a module that was cut short (a copy that
 * has not ended, a full disk) is found here. */
static bool elf_whole(const uint8_t *file, uint64_t size) {
    const ElfW(Ehdr) *e = (const ElfW(Ehdr) *)file;
    if (size < sizeof *e || memcmp(e->e_ident, ELFMAG, SELFMAG) != 0 || e->e_type != ET_DYN ||
        e->e_phentsize != sizeof(ElfW(Phdr)) || e->e_phoff % _Alignof(ElfW(Phdr)) != 0 ||
        !inside(e->e_phoff, e->e_phnum, e->e_phentsize, size) ||
        (e->e_shnum > 0 && !inside(e->e_shoff, e->e_shnum, e->e_shentsize, size)))
        return false;
    const ElfW(Phdr) *p = (const ElfW(Phdr) *)(file + e->e_phoff);
    for (uint32_t i = 0; i < e->e_phnum; i++) {
        if (p[i].p_type == PT_LOAD && !inside(p[i].p_offset, p[i].p_filesz, 1, size))
            return false;
    }
    return e->e_phnum > 0;
}

static bool code_whole(int memfd) {
    struct stat st;
    if (fstat(memfd, &st) < 0)
        return false;
    void *file = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, memfd, 0);
    if (file == MAP_FAILED)
        return false;
    bool whole = elf_whole(file, (uint64_t)st.st_size);
    munmap(file, (size_t)st.st_size);
    return whole;
}

static int code_open(struct module *m, const char *file, struct runtime_error *err) {
    char path[128];
    if (!code_whole(m->memfd))
        return runtime_fail(err, -ENOEXEC, "cannot open engine %s: it is no shared object, or not all of it", file);
    path_fresh(path, sizeof path, m->memfd);
    m->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (m->handle == NULL)
        return runtime_fail(err, -ENOEXEC, "cannot open engine %s: %s", file, dlerror());
    const struct engine_ops *ops = dlsym(m->handle, ENGINE_SYMBOL);
    if (ops == NULL)
        return runtime_fail(err, -ENOEXEC, "%s is no engine: it has no symbol %s", file, ENGINE_SYMBOL);
    int error = ops_check(ops, file, err);
    if (error < 0)
        return error;
    m->ops = *ops;
    if (m->ops.check == NULL)
        m->ops.check = check_default;
    return 0;
}

int module_load_file(struct module *m, const char *file, struct runtime_error *err) {
    *m = (struct module){.memfd = -1};
    int error = code_copy(file, &m->memfd);
    if (error < 0) {
        m->memfd = -1;
        return runtime_fail(err, error, "cannot read engine %s: %s; %s", file, strerror(-error),
                            error == -EPERM ? "only root and usherd's user may be able to write it"
                                            : "check engine_dir");
    }
    error = code_open(m, file, err);
    if (error < 0)
        module_unload(m);
    return error;
}

int module_load_fd(struct module *m, int memfd, struct runtime_error *err) {
    *m = (struct module){.memfd = fcntl(memfd, F_DUPFD_CLOEXEC, 0)};
    if (m->memfd < 0)
        return runtime_fail(err, -errno, "a predecessor's engine cannot be opened: %s", strerror(errno));
    int error = code_open(m, "of a predecessor", err);
    if (error < 0)
        module_unload(m);
    return error;
}

int module_load(struct module *m, const char *dir, const char *name, struct runtime_error *err) {
    char file[512];
    *m = (struct module){.memfd = -1};
    if (strchr(name, '/') != NULL || strnlen(name, ENGINE_NAME_MAX) == ENGINE_NAME_MAX)
        return runtime_fail(err, -EINVAL, "\"%s\" is no engine's name", name);
    if (snprintf(file, sizeof file, "%s/%s.so", dir, name) >= (int)sizeof file)
        return runtime_fail(err, -ENAMETOOLONG, "the engine folder's path is too long: %s", dir);
    int error = module_load_file(m, file, err);
    if (error < 0 || strcmp(m->ops.name, name) == 0)
        return error;
    error =
        runtime_fail(err, -EINVAL, "%s calls itself \"%s\": the file must bear the engine's name", file, m->ops.name);
    module_unload(m);
    return error;
}

/* ---- an empty place ---- */

static void nobody_fini(void *st, struct engine_io *io) {
    (void)st;
    (void)io;
}

static uint32_t nobody_run(void *st, struct engine_io *io, uint32_t budget) {
    (void)st;
    (void)io;
    (void)budget;
    return 0;
}

static ns_t nobody_next_deadline(const void *st) {
    (void)st;
    return NS_NEVER;
}

static void nobody_command(void *st, struct engine_io *io, const struct engine_cmd *cmd,
                           struct engine_reply *ret_reply) {
    (void)st;
    (void)io;
    (void)cmd;
    *ret_reply = (struct engine_reply){.error = -ENODEV};
}

/* An app without ENGINE_CAP_INPUT is given no packets, one without a deadline no time. */
const struct engine_ops module_nobody = {.name = "",
                                         .stage = STAGE_APP,
                                         .fini = nobody_fini,
                                         .run = nobody_run,
                                         .next_deadline = nobody_next_deadline,
                                         .command = nobody_command,
                                         .check = check_default};

void module_unload(struct module *m) {
    if (m->handle != NULL)
        dlclose(m->handle);
    if (m->memfd >= 0)
        close(m->memfd);
    *m = (struct module){.ops = module_nobody, .memfd = -1};
}

/* ---- arenas ---- */

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3; absent from Debian 12's headers */
#endif
#define ARENA_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

int sealed_memfd_create(const char *name, size_t size) {
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)size) == 0 && fcntl(fd, F_ADD_SEALS, ARENA_SEALS) == 0)
        return fd;
    int error = -errno;
    close(fd);
    return error;
}

static int arena_map(struct arena_memory *a, int fd, size_t size) {
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    *a = (struct arena_memory){.base = base, .size = size, .memfd = fd};
    return 0;
}

int arena_memory_create(struct arena_memory *a, const char *name, size_t size) {
    char label[64];
    snprintf(label, sizeof label, "usher-arena-%s", name);
    *a = (struct arena_memory){.memfd = -1};
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size = (size + page - 1) & ~(page - 1);
    int fd = sealed_memfd_create(label, size);
    if (fd < 0)
        return fd;
    int error = arena_map(a, fd, size);
    if (error < 0)
        close(fd);
    return error;
}

int arena_memory_adopt(struct arena_memory *a, int memfd) {
    struct stat st;
    int seals = fcntl(memfd, F_GET_SEALS);
    if (seals < 0 || fstat(memfd, &st) < 0)
        return -errno;
    if ((seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW) || st.st_size <= 0)
        return -EINVAL;
    return arena_map(a, memfd, (size_t)st.st_size);
}

void arena_memory_destroy(struct arena_memory *a) {
    if (a->base != NULL)
        munmap(a->base, a->size);
    if (a->memfd >= 0)
        close(a->memfd);
    *a = (struct arena_memory){.memfd = -1};
}
