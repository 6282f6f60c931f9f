/* SPDX-License-Identifier: Apache-2.0
 *
 * Programs that give up file descriptors (RLIMIT_NOFILE) and system calls (seccomp), as sshd does before it knows who
 * speaks. What usherd has to be asked for is asked for before; from then on the library reads, writes and polls, one fd
 * at a time, and takes and passes no descriptors.
 */
#include <linux/seccomp.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clientlib/posix/posix.h"

#define FEW_FDS 32 /* with a lower limit no descriptor of usherd's may find a number */

static bool has_streams(void) {
    return posix.objects && posix_is_owner() && !posix.confined;
}

static void confine(void) {
    posix_lock();
    posix_share_take_all();
    posix.confined = true;
    if (posix.ctx)
        posix.ctx->confined = true;
    posix_unlock();
}

int POSIX_CALL prctl(int option, ...) {
    va_list args;
    unsigned long a[4];
    va_start(args, option);
    for (int i = 0; i < 4; i++)
        a[i] = va_arg(args, unsigned long);
    va_end(args);
    bool ends = option == PR_SET_NO_NEW_PRIVS || option == PR_SET_SECCOMP;
    if (UNLIKELY(ends) && has_streams())
        confine();
    return posix_real.prctl(option, a[0], a[1], a[2], a[3]);
}

static void before_few_fds(const struct rlimit *limit) {
    struct rlimit l;
    if (!posix.parked || !has_streams() || !posix_copy(&l, limit, sizeof(l)) || l.rlim_cur >= FEW_FDS)
        return;
    posix_lock();
    posix_share_take_all();
    posix_unlock();
}

/* As the C library does it. The address sanitizer calls it before it is ready for code that it has to watch. */
__attribute__((no_sanitize_address)) int POSIX_CALL setrlimit(__rlimit_resource_t resource,
                                                              const struct rlimit *limit) {
    if (resource == RLIMIT_NOFILE)
        before_few_fds(limit);
    return (int)syscall(SYS_prlimit64, 0, resource, limit, NULL);
}

__attribute__((no_sanitize_address)) int POSIX_CALL setrlimit64(__rlimit_resource_t resource,
                                                                const struct rlimit64 *limit) {
    return setrlimit(resource, (const struct rlimit *)(const void *)limit); /* the same on 64-bit machines */
}
