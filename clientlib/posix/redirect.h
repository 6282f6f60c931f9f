/* SPDX-License-Identifier: Apache-2.0
 *
 * Included before everything else when libusher's sources are compiled into libusher-posix.so: its calls of functions
 * that the library stands before go to the C library (real.c), under other symbols. The sources stay as they are.
 */
#ifndef USHER_POSIX_REDIRECT_H
#define USHER_POSIX_REDIRECT_H

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define LEND(result, name, params, args) extern __typeof__(name) name __asm__("usher_real_" #name);
#include "clientlib/posix/lend.def"
#undef LEND
extern __typeof__(fcntl) fcntl __asm__("usher_real_fcntl");

#endif
