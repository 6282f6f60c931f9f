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

/* As usherd makes it: small buffers for ordinary frames, a few large ones for the others. */
static struct port *packet_create(const char *ifname, struct pktmem *mem, struct pktmem *large) {
    struct port_params params = {.ifname = ifname, .queue_count = 1, .mem = {mem}, .large_mem = {large}};
    struct port_error err = {""};
    struct port *port = NULL;
    cr_assert_eq(port_packet_create(&params, &port, &err), 0, "%s", err.text);
    return port;
}

static void frame_send(struct port *port, struct pktmem *mem, uint32_t len) {
    struct pkt_vec done = {.count = 0}, drop = {.count = 0};
    struct pkt *p = pkt_alloc(&mem->pool);
    memset(p->data, (int)(len & 0xff), len);
    memcpy(p->data, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x88\xb5", 14);
    p->len = len;
    port->queue[0]->ops->tx(port->queue[0], &p, 1, &done, &drop);
    cr_assert_eq(done.count, 1u);
    pkt_free(&mem->pool, p);
}

Test(packet, buffers_by_the_size_of_the_frame) {
    static const uint32_t sizes[] = {100, 1500, 1920, 1921, 8000, 60};
    struct port_error err = {""};
    struct pktmem sender, small, large;
    if (namespace_enter(&err) < 0) {
        fprintf(stderr, "SKIPPED: %s\n", err.text);
        return;
    }
    cr_assert_eq(system("ip link add v0 mtu 9000 type veth peer name v1 mtu 9000 && ip link set v0 up && "
                        "ip link set v1 up"),
                 0);
    cr_assert(pktmem_create(&sender, 8, 69632, 0) == 0 && pktmem_create(&small, 8, 2048, 0) == 0 &&
              pktmem_create(&large, 4, 69632, 0) == 0);
    struct port *a = packet_create("v0", &sender, NULL), *b = packet_create("v1", &small, &large);
    for (uint32_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct pkt *p = NULL;
        frame_send(a, &sender, sizes[i]);
        for (uint32_t tries = 0; p == NULL && tries < 10000000; tries++)
            (void)b->queue[0]->ops->rx(b->queue[0], &p, 1);
        cr_assert(p != NULL && p->len == sizes[i], "%u bytes did not come", sizes[i]);
        cr_assert_eq(p->data[p->len - 1], (uint8_t)sizes[i]);
        cr_assert_eq(p->pool, sizes[i] > 1920 ? &large.pool : &small.pool, "%u bytes", sizes[i]);
        pkt_free(p->pool, p);
    }
    port_destroy(a);
    port_destroy(b);
    pktmem_destroy(&sender);
    pktmem_destroy(&small);
    pktmem_destroy(&large);
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
