/* SPDX-License-Identifier: Apache-2.0
 *
 * What the examples share: reading "address:port" and numbers from the command line. No Usher in here.
 */
#ifndef USHER_EXAMPLES_ARGS_H
#define USHER_EXAMPLES_ARGS_H

#include <stdint.h>
#include <sys/socket.h>

/* "192.0.2.1:7", "[2001:db8::1]:7"; ":7" is any IPv4 address. Prints what is wrong and exits 2. */
socklen_t args_address(const char *text, struct sockaddr_storage *ret_addr);
long args_number(const char *option, const char *text, long min, long max);
/* Ends the program with the library's own sentence when rc is an error; else returns rc. */
int args_check(int rc, const char *what);

#endif
