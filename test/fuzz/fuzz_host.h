/* SPDX-License-Identifier: Apache-2.0
 *
 * One host of the simulator, with the engines linked in, as the fuzzers' subject: everything the simulator checks about
 * an engine's manners is checked here too. Remade for each input.
 */
#ifndef USHER_TEST_FUZZ_FUZZ_HOST_H
#define USHER_TEST_FUZZ_FUZZ_HOST_H

#include "engines/ip/ip_cmd.h"
#include "engines/udp/udp_cmd.h"
#include "test/sim/host.h"

extern const struct engine_ops usher_engine_ip, usher_engine_udp, usher_engine_echo;

struct fuzz_host {
    struct world world;
    struct host *host;
    uint64_t delivered, frames;
};

/* Two addresses (10.0.0.1, fd00::1), their prefixes, a default route, a neighbour, and three sockets. */
void fuzz_host_open(struct fuzz_host *f, bool dedicated, bool tx_csum);
void fuzz_host_close(struct fuzz_host *f); /* ends the engines; packets that are missing then abort */
/* Aborts with a sentence when the world has failed. */
void fuzz_host_judge(const struct fuzz_host *f);
void fuzz_host_command(struct fuzz_host *f, const char *engine, const void *cmd);

#endif
