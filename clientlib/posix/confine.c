/* SPDX-License-Identifier: Apache-2.0
 *
 * Programs that give up system calls (seccomp) and file descriptors, as sshd does before it knows who speaks. What
 * usherd has to be asked for is asked for before; from then on the library reads, writes and polls, one fd at a time.
 */
#include <linux/seccomp.h>
#include <stdarg.h>
#include <sys/prctl.h>

#include "clientlib/posix/posix.h"

static void confine(void) {
    posix_lock();
    for (int fd = 0; fd < posix.fd_high && posix.parked; fd++) {
        struct posix_sock *s = (struct posix_sock *)posix_table[fd];
        if (s && s->o.kind == POSIX_SOCK && s->o.state == POSIX_PARKED)
            (void)posix_share_take(s, true);
    }
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
    if (UNLIKELY(ends) && posix.objects && posix_is_owner() && !posix.confined)
        confine();
    return posix_real.prctl(option, a[0], a[1], a[2], a[3]);
}
