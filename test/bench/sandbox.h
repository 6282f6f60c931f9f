/* SPDX-License-Identifier: Apache-2.0
 *
 * A place where a bench may do as it likes: fresh PID, mount and network namespaces, /proc of its own, an empty /run,
 * lo up. All of it, processes included, is the kernel's to clear away when the first process in it ends, and that one
 * dies with its parent: so nothing stays behind after any exit, Ctrl-C and kill -9 included. Needs root.
 */
#ifndef USHER_TEST_BENCH_SANDBOX_H
#define USHER_TEST_BENCH_SANDBOX_H

#include <stddef.h>

/* Runs fn in there and waits at most `seconds`. Returns what fn returned (0..127), -ETIMEDOUT, or -errno when the
 * sandbox could not be made; the sentence is then in err. */
int sandbox_run(int (*fn)(void *arg), void *arg, double seconds, char *err, size_t err_size);

/* A second network namespace inside the sandbox, joined by a veth pair: vb0 (10.77.0.1/24) here, vb1
 * (10.77.0.2/24) there, both up. Returns an fd of the peer's namespace, or -1. It lives as long as the sandbox. */
#define SANDBOX_ADDR        "10.77.0.1"
#define SANDBOX_PEER_ADDR   "10.77.0.2"
#define SANDBOX_IFNAME      "vb0"
#define SANDBOX_PEER_IFNAME "vb1"
int sandbox_peer(void);

/* Runs a command ("ip link set lo up": words split at blanks), in the namespace of netns_fd when it is not -1. 0 when
 * it ended well. */
int sandbox_exec(int netns_fd, const char *command);

/* The receive work of an interface (in the namespace of netns_fd when it is not -1) is done on `core`, whoever sends:
 * receive packet steering, which the kernel may have been built without. 0 when it is set. */
int sandbox_steer(int netns_fd, const char *ifname, int core);

#endif
