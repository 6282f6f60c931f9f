/* SPDX-License-Identifier: Apache-2.0
 *
 * The C library's own functions behind ours. Each pointer begins at a stub that finds the function on first use, so a
 * program pays for what it calls and a call made before our constructor works as well. Any thread: two that race write
 * the same address.
 */
#ifndef USHER_POSIX_REAL_H
#define USHER_POSIX_REAL_H

#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

struct posix_real {
#define REAL(result, name, params, args) result(*name) params;
#include "clientlib/posix/real.def"
#undef REAL
};

extern struct posix_real posix_real;

#endif
