/* SPDX-License-Identifier: Apache-2.0
 *
 * Which kind of port serves an interface, and why. Native XDP pays where the driver hands raw frames to the program. On
 * veth, tap and bridges it makes the driver convert each packet and give up its peer's GSO: measured, kernel TCP that
 * merely passes such a program falls from 69 to 7-9 Gbit/s. There the packet port is right: it leaves the rest of the
 * host alone. Generic XDP is never chosen, only obeyed.
 */
#include <errno.h>
#include <net/if_arp.h>
#include <stdio.h>

#include "dataplane/port/netif.h"
#include "dataplane/port/port_internal.h"

/* Drivers known to run XDP on raw frames. virtio_net belongs here although it turns receive offloads off for it. */
static const char *const native_drivers[] = {
    "mlx5_core", "mlx4_en", "i40e",  "iavf", "ice",    "ixgbe",         "ixgbevf",   "igb",        "igc",    "bnxt_en",
    "ena",       "nfp",     "qede",  "sfc",  "gve",    "mana",          "vmxnet3",   "fec",        "mvneta", "mvpp2",
    "dpaa2-eth", "enetc",   "tsnep", "am65", "stmmac", "thunder-nicvf", "hv_netvsc", "virtio_net",
};

static bool runs_native(const char *driver) {
    for (size_t i = 0; i < ARRAY_LEN(native_drivers); i++) {
        if (strcmp(driver, native_drivers[i]) == 0)
            return true;
    }
    return false;
}

static void choose_packet(struct port_choice *c) {
    c->kind = "packet"; /* it takes large buffers for large frames only */
}

static void choose_xdp(struct port_choice *c, bool generic) {
    c->kind = "xdp";
    c->allow_zero_copy = c->allow_native = !generic;
    c->allow_generic = generic;
}

#define WHY(c, ...) snprintf((c)->why, sizeof(c)->why, __VA_ARGS__)

static void choose_auto(const struct netif *n, struct port_choice *c) {
    bool ethernet = n->link_type == ARPHRD_ETHER;
    if (ethernet && runs_native(n->driver)) {
        choose_xdp(c, false);
        WHY(c, "xdp, because driver %s runs XDP on raw frames", n->driver);
        return;
    }
    choose_packet(c);
    if (!ethernet)
        WHY(c, "packet, because link type %u is not an Ethernet NIC", n->link_type);
    else if (strcmp(n->driver, "veth") == 0 || strcmp(n->driver, "tun") == 0 || strcmp(n->driver, "bridge") == 0)
        WHY(c, "packet, because XDP on %s would convert every packet of the kernel's and cost it GSO", n->driver);
    else
        WHY(c, "packet, because driver %s is not known to run XDP on raw frames; ask for xdp to try it",
            n->driver[0] == 0 ? "(unknown)" : n->driver);
}

int port_choose(const char *ifname, const char *wish, struct port_choice *ret_choice, struct port_error *err) {
    struct port_choice c = {.kind = NULL};
    struct netif n = {0};
    bool automatic = wish == NULL || strcmp(wish, "auto") == 0;
    if (!automatic && strcmp(wish, "tap") == 0) { /* need not exist yet */
        c.kind = "tap";
        c.large_frames = true;
        WHY(&c, "tap, because the settings ask for it");
        *ret_choice = c;
        return 0;
    }
    int error = netif_read(ifname, &n);
    if (error < 0)
        return port_fail(err, error, "interface %s: not found in this network namespace (%s)",
                         ifname == NULL ? "(none)" : ifname, strerror(-error));
    if (automatic) {
        choose_auto(&n, &c);
    } else if (strcmp(wish, "packet") == 0) {
        choose_packet(&c);
        WHY(&c, "packet, because the settings ask for it");
    } else if (strcmp(wish, "xdp") == 0 || strcmp(wish, "xdp-generic") == 0) {
        choose_xdp(&c, strcmp(wish, "xdp-generic") == 0);
        WHY(&c, "%s, because the settings ask for it", wish);
    } else {
        return port_fail(err, -EINVAL,
                         "interface %s: \"%s\" is no kind of port; use auto, packet, xdp, xdp-generic or tap", n.name,
                         wish);
    }
    *ret_choice = c;
    return 0;
}
