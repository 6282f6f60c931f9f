/* SPDX-License-Identifier: Apache-2.0
 *
 * What a port wants to know of a kernel interface, by ioctl and sysfs-free: it works in any network namespace.
 */
#include "dataplane/port/netif.h"

#include <errno.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/ethtool.h>
#include <linux/sockios.h>

static int ask(int fd, unsigned long request, struct ifreq *r) {
    return ioctl(fd, request, r) < 0 ? -errno : 0;
}

static int read_basics(int fd, struct ifreq *r, struct netif *n) {
    int error = ask(fd, SIOCGIFINDEX, r);
    if (error < 0)
        return error;
    n->ifindex = (uint32_t)r->ifr_ifindex;
    if ((error = ask(fd, SIOCGIFFLAGS, r)) < 0)
        return error;
    n->up = (r->ifr_flags & IFF_UP) && (r->ifr_flags & IFF_RUNNING);
    if ((error = ask(fd, SIOCGIFMTU, r)) < 0)
        return error;
    n->mtu = (uint32_t)r->ifr_mtu;
    if ((error = ask(fd, SIOCGIFHWADDR, r)) < 0)
        return error;
    n->link_type = r->ifr_hwaddr.sa_family;
    memcpy(n->mac, r->ifr_hwaddr.sa_data, sizeof n->mac);
    return 0;
}

/* Not every driver answers; unknown stays empty, and one queue. */
static void read_driver(int fd, struct ifreq *r, struct netif *n) {
    struct ethtool_drvinfo driver = {.cmd = ETHTOOL_GDRVINFO};
    r->ifr_data = (char *)&driver;
    if (ask(fd, SIOCETHTOOL, r) == 0)
        snprintf(n->driver, sizeof n->driver, "%.31s", driver.driver);
    struct ethtool_channels channels = {.cmd = ETHTOOL_GCHANNELS};
    n->rx_queues = n->tx_queues = 1;
    r->ifr_data = (char *)&channels;
    if (ask(fd, SIOCETHTOOL, r) != 0)
        return;
    uint32_t rx = channels.rx_count + channels.combined_count, tx = channels.tx_count + channels.combined_count;
    n->rx_queues = rx == 0 ? 1 : rx;
    n->tx_queues = tx == 0 ? 1 : tx;
}

int netif_read(const char *name, struct netif *ret_netif) {
    if (name == NULL || strlen(name) >= IFNAMSIZ)
        return -ENODEV;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    struct ifreq r = {0};
    struct netif n = {0};
    snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
    snprintf(n.name, sizeof n.name, "%s", name);
    int error = read_basics(fd, &r, &n);
    if (error == 0)
        read_driver(fd, &r, &n);
    close(fd);
    if (error == 0)
        *ret_netif = n;
    return error;
}

int netif_read_index(uint32_t ifindex, struct netif *ret_netif) {
    char name[IFNAMSIZ];
    if (if_indextoname(ifindex, name) == NULL)
        return errno == ENXIO ? -ENODEV : -errno;
    return netif_read(name, ret_netif);
}

void netif_to_info(const struct netif *n, struct port_info *info) {
    info->ifindex = n->ifindex;
    info->mtu = (uint16_t)(n->mtu > UINT16_MAX ? UINT16_MAX : n->mtu);
    info->up = n->up;
    if (!info->dedicated)
        memcpy(info->mac, n->mac, sizeof info->mac);
}

int netif_refresh(struct port_info *info) {
    struct netif n;
    int error = netif_read_index(info->ifindex, &n);
    if (error < 0) {
        info->up = false;
        return error;
    }
    netif_to_info(&n, info);
    return 0;
}
