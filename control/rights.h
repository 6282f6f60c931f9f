/* SPDX-License-Identifier: Apache-2.0
 *
 * What usherd may do in the kernel: it says at once which capability it misses, and gives up all that it does not need.
 *
 * Thread: control, before any other exists; those that come later inherit it.
 */
#ifndef USHER_CONTROL_RIGHTS_H
#define USHER_CONTROL_RIGHTS_H

#include <stddef.h>

/* Checks the capabilities, raises the limits of files and locked memory, and drops every capability that is not in the
 * table of rights.c, for good. 0 or -errno with a sentence. */
int rights_take(char *err, size_t err_size);

#endif
