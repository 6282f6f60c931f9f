/* SPDX-License-Identifier: Apache-2.0
 *
 * Conformance of the kinds that stand on kernel interfaces, in a network namespace of each test's own:
 *
 *     port A - v0 ===veth=== v1 - port B
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "dataplane/port/conformance.h"

/* A fresh namespace per rig, silent: no addresses, no IPv6 chatter. Dies with the process. */
static int namespace_enter(struct port_error *err) {
    if (geteuid() != 0 || unshare(CLONE_NEWNET) < 0) {
        snprintf(err->text, sizeof err->text, "needs root, for a network namespace and raw sockets");
        return -EPERM;
    }
    return system("ip link set lo up && echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6") == 0 ? 0 : -EIO;
}

static int veth_make(struct rig *rig, struct port_error *err) {
    int error = namespace_enter(err);
    if (error < 0)
        return error;
    rig->ifname[0] = "v0";
    rig->ifname[1] = "v1";
    return system("ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up") == 0 ? 0 : -EIO;
}

static int packet_open(struct rig *rig, struct port_error *err) {
    int error = veth_make(rig, err);
    for (int i = 0; i < 2 && error == 0; i++) {
        struct port_params params = {.ifname = rig->ifname[i], .queue_count = 1, .mem = {&rig->mem[i]}};
        error = port_packet_create(&params, &rig->port[i], err);
    }
    return error;
}

Test(conformance_packet, veth) {
    conformance_run(
        &(struct rig_kind){"packet", .frame_size = 69632, .frame_count = 512, .mtu = 1500, .open = packet_open});
}

static int xdp_open(struct rig *rig, struct port_error *err, bool native) {
    int error = veth_make(rig, err);
    for (int i = 0; i < 2 && error == 0; i++) {
        struct port_params params = {.ifname = rig->ifname[i],
                                     .queue_count = 1,
                                     .mem = {&rig->mem[i]},
                                     .allow_zero_copy = true,
                                     .allow_native = native,
                                     .allow_generic = !native};
        error = port_xdp_create(&params, &rig->port[i], err);
    }
    return error;
}

static int xdp_native_open(struct rig *rig, struct port_error *err) {
    return xdp_open(rig, err, true);
}
static int xdp_generic_open(struct rig *rig, struct port_error *err) {
    return xdp_open(rig, err, false);
}

Test(conformance_xdp, native_on_veth) {
    conformance_run(&(struct rig_kind){"xdp native", .frame_size = 2048, .frame_count = 2048, .mtu = 1500,
                                       .open = xdp_native_open});
}

Test(conformance_xdp, native_on_veth_4k) {
    conformance_run(&(struct rig_kind){"xdp native, 4 KB", .frame_size = 4096, .frame_count = 2048, .mtu = 1500,
                                       .open = xdp_native_open});
}

Test(conformance_xdp, generic_on_veth) {
    conformance_run(&(struct rig_kind){"xdp generic", .frame_size = 2048, .frame_count = 2048, .mtu = 1500,
                                       .open = xdp_generic_open});
}

/*     port A = the tap's own end;   port B - tap0, as the kernel sees it */
static int tap_open(struct rig *rig, struct port_error *err) {
    int error = namespace_enter(err);
    if (error < 0)
        return error;
    struct port_params tap = {.ifname = "tap0", .queue_count = 1, .mem = {&rig->mem[0]}};
    if ((error = port_tap_create(&tap, &rig->port[0], err)) < 0)
        return error;
    rig->ifname[0] = rig->ifname[1] = "tap0";
    if (system("ip link set tap0 up") != 0 || rig->port[0]->ops->refresh(rig->port[0]) < 0)
        return -EIO;
    struct port_params packet = {.ifname = "tap0", .queue_count = 1, .mem = {&rig->mem[1]}};
    return port_packet_create(&packet, &rig->port[1], err);
}

Test(conformance_tap, against_packet) {
    conformance_run(&(struct rig_kind){"tap", .frame_size = 69632, .frame_count = 512, .mtu = 1500, .open = tap_open});
}

Test(choose, packet_on_veth_and_tap) {
    struct port_error err = {""};
    struct port_choice c;
    if (namespace_enter(&err) < 0) {
        fprintf(stderr, "SKIPPED: %s\n", err.text);
        return;
    }
    cr_assert_eq(system("ip link add v0 type veth peer name v1; ip tuntap add t0 mode tap; ip link add b0 type bridge"),
                 0);
    static const char *const names[] = {"v0", "t0", "b0"};
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(port_choose(names[i], "auto", &c, &err), 0, "%s", err.text);
        cr_assert_str_eq(c.kind, "packet", "%s: %s", names[i], c.why);
        cr_assert(strstr(c.why, "XDP on") != NULL, "%s", c.why);
    }
}
