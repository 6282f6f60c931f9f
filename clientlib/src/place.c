/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the library's own file descriptors lie: where the kernel puts them. In a file of its own, so that a program
 * whose numbers are not ours to take (the POSIX library) can bring another.
 */
#include "clientlib/src/internal.h"

int client_place_fd(int fd) {
    return fd;
}
