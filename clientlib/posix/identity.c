/* SPDX-License-Identifier: Apache-2.0
 *
 * The process becomes somebody else's: usherd is told, so that what it opens and connects from now on is judged as his.
 * Sockets that it has stay their maker's, as with the kernel.
 */
#include <errno.h>
#include <grp.h>
#include <unistd.h>

#include "clientlib/posix/posix.h"

static int told(int result) {
    int saved = errno;
    if (result == 0 && posix.ctx && posix_is_owner()) {
        posix_lock();
        if (posix.ctx)
            (void)usher_owner_refresh(posix.ctx);
        posix_unlock();
    }
    errno = saved;
    return result;
}

int POSIX_CALL setuid(uid_t uid) {
    return told(posix_real.setuid(uid));
}

int POSIX_CALL setgid(gid_t gid) {
    return told(posix_real.setgid(gid));
}

int POSIX_CALL seteuid(uid_t uid) {
    return told(posix_real.seteuid(uid));
}

int POSIX_CALL setegid(gid_t gid) {
    return told(posix_real.setegid(gid));
}

int POSIX_CALL setreuid(uid_t real, uid_t effective) {
    return told(posix_real.setreuid(real, effective));
}

int POSIX_CALL setregid(gid_t real, gid_t effective) {
    return told(posix_real.setregid(real, effective));
}

int POSIX_CALL setresuid(uid_t real, uid_t effective, uid_t saved) {
    return told(posix_real.setresuid(real, effective, saved));
}

int POSIX_CALL setresgid(gid_t real, gid_t effective, gid_t saved) {
    return told(posix_real.setresgid(real, effective, saved));
}

int POSIX_CALL setgroups(size_t n, const gid_t *groups) {
    return told(posix_real.setgroups(n, groups));
}
