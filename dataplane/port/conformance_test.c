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
