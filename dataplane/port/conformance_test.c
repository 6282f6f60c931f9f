/* SPDX-License-Identifier: Apache-2.0
 *
 * Conformance of the kinds that need no privilege: the pair, and decorators around it.
 */
#include <criterion/criterion.h>

#include "dataplane/port/conformance.h"

static int pair_open(struct rig *rig, struct port_error *err) {
    struct port_params params[2] = {{.ifname = "a", .queue_count = 1, .mem = {&rig->mem[0]}},
                                    {.ifname = "b", .queue_count = 1, .mem = {&rig->mem[1]}}};
    return port_pair_create(params, false, rig->port, err);
}

Test(conformance_pair, small_frames) {
    conformance_run(
        &(struct rig_kind){"pair", .frame_size = 2048, .frame_count = 1024, .mtu = 1500, .open = pair_open});
}

Test(conformance_pair, large_frames) {
    conformance_run(
        &(struct rig_kind){"pair, 64 KB", .frame_size = 69632, .frame_count = 256, .mtu = 1500, .open = pair_open});
}

/* Decorators around both ends, faults off. */
static int decorated_open(struct rig *rig, struct port_error *err,
                          int (*decorate)(struct port *inner, struct port **ret_port)) {
    int error = pair_open(rig, err);
    for (int i = 0; i < 2 && error == 0; i++)
        error = decorate(rig->port[i], &rig->port[i]);
    return error;
}

static int faulty(struct port *inner, struct port **ret_port) {
    struct port_faults none = {.seed = 1, .on_rx = true, .on_tx = true};
    return port_faulty_create(inner, &none, ret_port);
}

static int faulty_off(struct port *inner, struct port **ret_port) {
    return port_faulty_create(inner, &(struct port_faults){.seed = 1}, ret_port);
}

static void line_ignore(void *arg, const char *line) {
    (void)arg;
    (void)line;
}

static int trace(struct port *inner, struct port **ret_port) {
    return port_trace_create(inner, line_ignore, NULL, ret_port);
}

static int pcap(struct port *inner, struct port **ret_port) {
    return port_pcap_create(inner, "/dev/null", ret_port);
}

static int faulty_open(struct rig *rig, struct port_error *err) {
    return decorated_open(rig, err, faulty);
}
static int faulty_off_open(struct rig *rig, struct port_error *err) {
    return decorated_open(rig, err, faulty_off);
}
static int trace_open(struct rig *rig, struct port_error *err) {
    return decorated_open(rig, err, trace);
}
static int pcap_open(struct rig *rig, struct port_error *err) {
    return decorated_open(rig, err, pcap);
}

Test(conformance_faulty, on) {
    conformance_run(
        &(struct rig_kind){"faulty", .frame_size = 2048, .frame_count = 1024, .mtu = 1500, .open = faulty_open});
}

Test(conformance_faulty, off) {
    conformance_run(&(struct rig_kind){"faulty, off", .frame_size = 2048, .frame_count = 1024, .mtu = 1500,
                                       .open = faulty_off_open});
}

Test(conformance_trace, pair) {
    conformance_run(
        &(struct rig_kind){"trace", .frame_size = 2048, .frame_count = 1024, .mtu = 1500, .open = trace_open});
}

Test(conformance_pcap, pair) {
    conformance_run(
        &(struct rig_kind){"pcap", .frame_size = 69632, .frame_count = 256, .mtu = 1500, .open = pcap_open});
}
