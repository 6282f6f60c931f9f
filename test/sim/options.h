/* SPDX-License-Identifier: Apache-2.0
 *
 * What a seed decides, and how the command line overrules it. Every option has a stream of its own: overruling one
 * leaves the others as they were, so a failing run can be narrowed down option by option.
 */
#ifndef USHER_TEST_SIM_OPTIONS_H
#define USHER_TEST_SIM_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* OPT(name, is it a fault, without faults, mild from, to, wild from, to, "what it is"). Faults are absent in half of
 * the seeds; the value without faults is also what `--faults none` gives. */
#define SIM_OPTIONS(OPT)                                                                                               \
    OPT(hosts, 0, 2, 2, 2, 2, 4, "hosts on one switch")                                                                \
    OPT(mtu, 0, 1500, 1280, 1500, 1280, 9000, "bytes of IP in a frame")                                                \
    OPT(tx_csum, 0, 0, 0, 1, 0, 1, "1 = the interface completes checksums")                                            \
    OPT(tx_frags, 0, 1, 1, 1, 1, 1, "1 = the interface takes payload in pieces")                                       \
    OPT(dedicated, 0, 0, 0, 1, 0, 1, "1 = the engine answers ARP and NDP itself")                                      \
    OPT(packets, 0, 512, 256, 512, 48, 512, "packet buffers of a host")                                                \
    OPT(poll_delay_us, 0, 10, 0, 50, 0, 200, "longest wait of a frame before a turn takes it")                         \
    OPT(sockets, 0, 4, 2, 6, 2, 12, "sockets of a host")                                                               \
    OPT(rate, 0, 200, 50, 400, 50, 2000, "requests a second of each host")                                             \
    OPT(size_max, 0, 1200, 64, 3000, 64, 9000, "largest payload")                                                      \
    OPT(lend_ppm, 0, 500000, 0, 1000000, 0, 1000000, "sends that stay in application memory")                          \
    OPT(local_ppm, 0, 100000, 0, 200000, 0, 500000, "requests to the sender's own host")                               \
    OPT(gso_ppm, 0, 50000, 0, 100000, 0, 300000, "sends of several datagrams in one buffer")                           \
    OPT(neigh_us, 0, 100, 10, 2000, 10, 50000, "the kernel's time to resolve a neighbour")                             \
    OPT(delay_us, 0, 50, 10, 1000, 1, 20000, "of the wire")                                                            \
    OPT(jitter_us, 1, 0, 0, 100, 0, 20000, "of the wire")                                                              \
    OPT(loss_ppm, 1, 0, 100, 20000, 1000, 200000, "frames lost")                                                       \
    OPT(duplicate_ppm, 1, 0, 100, 10000, 1000, 100000, "frames that arrive twice")                                     \
    OPT(corrupt_ppm, 1, 0, 100, 10000, 1000, 100000, "frames damaged")                                                 \
    OPT(reorder_ppm, 1, 0, 100, 50000, 1000, 300000, "frames overtaken by others")                                     \
    OPT(outage_ppm, 1, 0, 1, 100, 10, 2000, "frames that begin an outage")                                             \
    OPT(outage_us, 1, 0, 1000, 50000, 1000, 500000, "longest outage")                                                  \
    OPT(bottleneck_kbps, 1, 0, 10000, 100000, 1000, 100000, "rate of the wire, 0 = no limit")                          \
    OPT(queue_bytes, 0, 65536, 16384, 131072, 4096, 65536, "in front of the bottleneck")                               \
    OPT(churn, 1, 0, 1, 5, 1, 50, "sockets closed and opened a second, in all")                                        \
    OPT(neigh_flap, 1, 0, 1, 3, 1, 20, "neighbours a second that the kernel forgets")                                  \
    OPT(upgrades, 1, 0, 1, 10, 1, 50, "engine upgrades a second, in all")                                              \
    OPT(kills, 1, 0, 1, 3, 1, 20, "deaths of a host a second, in all")                                                 \
    OPT(restart_ms, 0, 20, 1, 50, 1, 300, "until a dead host is back")

enum sim_option {
#define OPT(name, ...) SIM_##name,
    SIM_OPTIONS(OPT)
#undef OPT
    SIM_OPTION_COUNT
};

enum sim_level { SIM_NONE, SIM_MILD, SIM_WILD };

struct sim_options {
    uint64_t seed;
    uint64_t time_ms;
    enum sim_level level;
    const char *engines;
    bool verbose;
    bool given[SIM_OPTION_COUNT]; /* by the command line, not by the seed */
    uint64_t v[SIM_OPTION_COUNT];
};

/* Draws what is not given. */
void sim_options_draw(struct sim_options *o);
/* "name=value". False when there is no such option or the value is no number. */
bool sim_options_set(struct sim_options *o, const char *assignment);
int sim_level_parse(const char *text, enum sim_level *ret_level);
/* The one command that runs this again. */
void sim_options_print_command(const struct sim_options *o, FILE *to);
void sim_options_print(const struct sim_options *o, FILE *to);
void sim_options_help(FILE *to);

#endif
