/* SPDX-License-Identifier: Apache-2.0
 *
 * Finds the C library's functions, and lends them to libusher: its sources are compiled into this library with
 * redirect.h, so that what they call `recv` is usher_real_recv here and never our own recv.
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

#include "clientlib/posix/posix.h"

/* Without the function nothing here can be right, and nothing of ours has happened yet. */
static void *find(const char *name) {
    void *at = dlsym(RTLD_NEXT, name);
    if (!at)
        abort();
    return at;
}

#define REAL(result, name, params, args)                                                                               \
    static result first_##name params {                                                                                \
        void *at = find(#name);                                                                                        \
        memcpy(&posix_real.name, &at, sizeof(at));                                                                     \
        return posix_real.name args;                                                                                   \
    }
#include "clientlib/posix/real.def"
#undef REAL

struct posix_real posix_real = {
#define REAL(result, name, params, args) .name = first_##name,
#include "clientlib/posix/real.def"
#undef REAL
};

#define LEND(result, name, params, args)                                                                               \
    result usher_real_##name params;                                                                                   \
    result usher_real_##name params {                                                                                  \
        return posix_real.name args;                                                                                   \
    }
#include "clientlib/posix/lend.def"
#undef LEND

/* Its third argument is an int or a pointer: a long carries both. */
int usher_real_fcntl(int fd, int command, long arg);
int usher_real_fcntl(int fd, int command, long arg) {
    return posix_real.fcntl64(fd, command, arg);
}
