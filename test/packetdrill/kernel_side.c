/* SPDX-License-Identifier: Apache-2.0
 *
 * See kernel_side.h.
 */
#include "test/packetdrill/kernel_side.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static void setting(const char *path, const char *value) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return; /* an older kernel has no such setting */
    if (write(fd, value, strlen(value)) < 0)
        perror(path);
    close(fd);
}

void kernel_side_setting(const char *name, const char *value) {
    char path[128];
    snprintf(path, sizeof path, "/proc/sys/net/ipv4/%s", name);
    setting(path, value);
}

static int set_address(int s, unsigned long request, const char *text) {
    struct ifreq ifr = {.ifr_name = "tun0"};
    struct sockaddr_in in = {.sin_family = AF_INET};
    inet_pton(AF_INET, text, &in.sin_addr);
    memcpy(&ifr.ifr_addr, &in, sizeof in);
    return ioctl(s, request, &ifr);
}

static int device_open(void) {
    struct ifreq ifr = {.ifr_name = "tun0", .ifr_flags = IFF_TUN | IFF_NO_PI};
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    int rc = tun < 0 || ioctl(tun, TUNSETIFF, &ifr) < 0 || set_address(s, SIOCSIFADDR, "192.168.0.1") < 0 ||
             set_address(s, SIOCSIFDSTADDR, "192.0.2.1") < 0;
    ifr.ifr_flags = IFF_UP | IFF_RUNNING | IFF_POINTOPOINT;
    rc = rc || ioctl(s, SIOCSIFFLAGS, &ifr) < 0;
    close(s);
    if (rc && tun >= 0)
        close(tun);
    return rc ? -1 : tun;
}

static int listener_open(void) {
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(8080), .sin_addr.s_addr = INADDR_ANY};
    int one = 1, s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    return bind(s, (struct sockaddr *)&in, sizeof in) == 0 && listen(s, 64) == 0 ? s : -1;
}

int kernel_side_open(struct kernel_side *k, const char **ret_why) {
    *ret_why = "no network namespace of its own (it needs root)";
    if (unshare(CLONE_NEWNET) < 0)
        return -1;
    setting("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"); /* its solicitations share the device with our answers */
    *ret_why = "no tun device";
    k->tun = device_open();
    if (k->tun < 0)
        return -1;
    *ret_why = "the kernel does not listen on the tun device";
    k->listener = listener_open();
    return k->listener < 0 ? -1 : 0;
}
