/* SPDX-License-Identifier: Apache-2.0
 *
 * See ntuple.h. A set bit in a rule's mask must match (ethtool's command line inverts that).
 */
#include "nicbackend/ntuple.h"

#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/ethtool.h>
#include <linux/sockios.h>

#define LOCATION_MAX 65536u /* of a table; a driver that says more is not believed */

struct ntuple {
    struct nb_ntuple_params p;
    int fd;
    uint32_t first, count; /* our locations */
};

static int kernel_call(void *arg, struct ethtool_rxnfc *request) {
    const struct ntuple *n = arg;
    struct ifreq r;
    memset(&r, 0, sizeof r);
    memcpy(r.ifr_name, n->p.ifname, sizeof r.ifr_name - 1);
    r.ifr_data = (void *)request;
    return ioctl(n->fd, SIOCETHTOOL, &r) < 0 ? -errno : 0;
}

static int call(struct ntuple *n, struct ethtool_rxnfc *request) {
    return n->p.call != NULL ? n->p.call(n->p.arg, request) : kernel_call(n, request);
}

/* The kernel's errors, in the words of backend.h. */
static int error_of(int error) {
    switch (error) {
    case 0:
    case -ENOENT:
    case -ENOSPC:
    case -ENODEV:
    case -EOPNOTSUPP:
        return error;
    case -EINVAL:
    case -ERANGE:
    case -EEXIST: /* the driver takes one rule of a kind, or the device another mask at a time */
        return -EOPNOTSUPP;
    case -EAGAIN:
    case -EBUSY:
    case -EINTR:
        return -EAGAIN;
    default:
        return -EIO;
    }
}

/* --- a flow as the kernel writes it ---------------------------------------------------------------------------- */

static void put_v4_ports(struct ethtool_rx_flow_spec *fs, const struct nb_cube *flow) {
    static const struct {
        uint8_t proto;
        uint32_t type;
    } types[] = {{IPPROTO_TCP, TCP_V4_FLOW}, {IPPROTO_UDP, UDP_V4_FLOW}, {IPPROTO_SCTP, SCTP_V4_FLOW}};
    struct ethtool_tcpip4_spec *h = &fs->h_u.tcp_ip4_spec, *m = &fs->m_u.tcp_ip4_spec;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (types[i].proto == flow->value.proto)
            fs->flow_type = types[i].type;
    memcpy(&h->psrc, flow->value.sport, 2);
    memcpy(&m->psrc, flow->mask.sport, 2);
    memcpy(&h->pdst, flow->value.dport, 2);
    memcpy(&m->pdst, flow->mask.dport, 2);
    h->tos = (uint8_t)(flow->value.dscp << 2);
    m->tos = (uint8_t)(flow->mask.dscp << 2);
}

static void put_v4_other(struct ethtool_rx_flow_spec *fs, const struct nb_cube *flow) {
    struct ethtool_usrip4_spec *h = &fs->h_u.usr_ip4_spec, *m = &fs->m_u.usr_ip4_spec;
    fs->flow_type = IPV4_USER_FLOW;
    h->ip_ver = ETH_RX_NFC_IP4;
    h->proto = flow->value.proto;
    m->proto = flow->mask.proto;
    h->tos = (uint8_t)(flow->value.dscp << 2);
    m->tos = (uint8_t)(flow->mask.dscp << 2);
}

/* Addresses are at the same place in all specifications of a version. */
static void put_v4(struct ethtool_rx_flow_spec *fs, const struct nb_cube *flow) {
    struct ethtool_tcpip4_spec *h = &fs->h_u.tcp_ip4_spec, *m = &fs->m_u.tcp_ip4_spec;
    if (flow->mask.proto != 0 && nb_flow_has_ports(flow->value.proto))
        put_v4_ports(fs, flow);
    else
        put_v4_other(fs, flow);
    memcpy(&h->ip4src, flow->value.src + 12, 4);
    memcpy(&m->ip4src, flow->mask.src + 12, 4);
    memcpy(&h->ip4dst, flow->value.dst + 12, 4);
    memcpy(&m->ip4dst, flow->mask.dst + 12, 4);
}

/* Of IPv6 a drop asks for addresses and DSCP only: see flow.h. */
static void put_v6(struct ethtool_rx_flow_spec *fs, const struct nb_cube *flow) {
    struct ethtool_usrip6_spec *h = &fs->h_u.usr_ip6_spec, *m = &fs->m_u.usr_ip6_spec;
    fs->flow_type = IPV6_USER_FLOW;
    memcpy(h->ip6src, flow->value.src, 16);
    memcpy(m->ip6src, flow->mask.src, 16);
    memcpy(h->ip6dst, flow->value.dst, 16);
    memcpy(m->ip6dst, flow->mask.dst, 16);
    h->tclass = (uint8_t)(flow->value.dscp << 2);
    m->tclass = (uint8_t)(flow->mask.dscp << 2);
}

static struct ethtool_rxnfc request_of(uint32_t command, uint32_t location) {
    struct ethtool_rxnfc r;
    memset(&r, 0, sizeof r);
    r.cmd = command;
    r.fs.location = location;
    return r;
}

static struct ethtool_rx_flow_spec spec_of(uint32_t location, const struct nb_cube *flow) {
    struct ethtool_rx_flow_spec fs;
    memset(&fs, 0, sizeof fs);
    fs.location = location;
    fs.ring_cookie = RX_CLS_FLOW_DISC;
    if (flow->value.ip_version == 4)
        put_v4(&fs, flow);
    else
        put_v6(&fs, flow);
    return fs;
}

static bool same_spec(const struct ethtool_rx_flow_spec *want, const struct ethtool_rx_flow_spec *got) {
    uint8_t wanted[sizeof want->h_u], stored[sizeof want->h_u];
    const uint8_t *m = (const uint8_t *)&want->m_u, *w = (const uint8_t *)&want->h_u, *g = (const uint8_t *)&got->h_u;
    for (size_t i = 0; i < sizeof wanted; i++) {
        wanted[i] = w[i] & m[i];
        stored[i] = g[i] & m[i];
    }
    return got->flow_type == want->flow_type && got->ring_cookie == want->ring_cookie &&
           memcmp(&got->m_u, &want->m_u, sizeof want->m_u) == 0 && memcmp(stored, wanted, sizeof stored) == 0;
}

/* --- the driver of drops.h ------------------------------------------------------------------------------------- */

static int ntuple_remove(void *arg, uint32_t place, struct nb_count *ret_final, struct nb_error *err) {
    struct ntuple *n = arg;
    struct ethtool_rxnfc r = request_of(ETHTOOL_SRXCLSRLDEL, n->first + place);
    int error = error_of(call(n, &r));
    *ret_final = (struct nb_count){0, 0};
    if (error == 0 || error == -ENOENT)
        return error;
    /* Drivers say many things about a rule that is not there. */
    r = request_of(ETHTOOL_GRXCLSRULE, n->first + place);
    if (call(n, &r) != 0 || r.fs.ring_cookie != RX_CLS_FLOW_DISC)
        return -ENOENT;
    return nb_fail(err, error == -EOPNOTSUPP ? -EIO : error, "%s: cannot delete the rule at location %u: %s",
                   n->p.ifname, n->first + place, strerror(-error));
}

static int ntuple_check(void *arg, uint32_t place, const struct nb_cube *flow) {
    struct ntuple *n = arg;
    struct ethtool_rx_flow_spec want = spec_of(n->first + place, flow);
    struct ethtool_rxnfc r = request_of(ETHTOOL_GRXCLSRULE, n->first + place);
    int error = call(n, &r);
    if (error == -ENODEV)
        return error;
    return error == 0 && same_spec(&want, &r.fs) ? 0 : -ENOENT;
}

static int ntuple_insert(void *arg, uint32_t place, const struct nb_cube *flow, struct nb_error *err) {
    struct ntuple *n = arg;
    struct ethtool_rxnfc r = request_of(ETHTOOL_SRXCLSRLINS, 0);
    struct nb_count none;
    r.fs = spec_of(n->first + place, flow);
    int error = error_of(call(n, &r));
    if (error != 0)
        return nb_fail(err, error, "%s: the driver takes no such rule: %s", n->p.ifname, strerror(-error));
    error = ntuple_check(n, place, flow);
    if (error == 0)
        return 0;
    (void)ntuple_remove(n, place, &none, NULL);
    return nb_fail(err, error == -ENODEV ? error : -EOPNOTSUPP, "%s: the driver stored another rule than it was given",
                   n->p.ifname);
}

static int ntuple_read(void *arg, uint32_t place, struct nb_count *ret_count) {
    (void)arg;
    (void)place;
    *ret_count = (struct nb_count){0, 0};
    return 0;
}

static void ntuple_destroy(void *arg) {
    struct ntuple *n = arg;
    if (n->fd >= 0)
        close(n->fd);
    free(n);
}

static const struct nb_drops_driver driver = {.name = "ntuple",
                                              .insert = ntuple_insert,
                                              .remove = ntuple_remove,
                                              .read = ntuple_read,
                                              .check = ntuple_check,
                                              .destroy = ntuple_destroy};

/* --- all of it ------------------------------------------------------------------------------------------------- */

static int table_find(struct ntuple *n, struct nb_error *err) {
    struct ethtool_rxnfc r = request_of(ETHTOOL_GRXCLSRLCNT, 0);
    int error = call(n, &r);
    if (error != 0)
        return nb_fail(err, error == -ENODEV ? error : -EOPNOTSUPP, "%s: the driver has no n-tuple rules: %s",
                       n->p.ifname, strerror(-error));
    uint64_t size = r.data & ~(uint64_t)RX_CLS_LOC_SPECIAL;
    if (size < 2 || size > LOCATION_MAX)
        return nb_fail(err, -EOPNOTSUPP, "%s: the driver does not say how many n-tuple rules it has", n->p.ifname);
    n->count = (uint32_t)size / 2;
    n->first = (uint32_t)size - n->count;
    return 0;
}

/* Nobody knows what sockets and policy a predecessor's rules were for. One by one: they all drop. */
static int flush(struct ntuple *n, struct nb_error *err) {
    struct ethtool_rxnfc *all = calloc(1, sizeof *all + 2 * n->count * sizeof all->rule_locs[0]);
    struct nb_count none;
    int error = all == NULL ? -ENOMEM : 0;
    if (error != 0)
        return nb_fail(err, error, "%s: no memory for a list of its rules", n->p.ifname);
    all->cmd = ETHTOOL_GRXCLSRLALL;
    all->rule_cnt = 2 * n->count;
    error = call(n, all);
    if (error != 0)
        nb_fail(err, -EIO, "%s: cannot list its n-tuple rules: %s", n->p.ifname, strerror(-error));
    for (uint32_t i = 0; error == 0 && i < all->rule_cnt && i < 2 * n->count; i++) {
        uint32_t location = all->rule_locs[i];
        if (location >= n->first && location - n->first < n->count)
            error = ntuple_remove(n, location - n->first, &none, err);
        error = error == -ENOENT ? 0 : error;
    }
    free(all);
    return error;
}

int nb_ntuple_create(const struct nb_ntuple_params *p, struct nb_backend **ret, struct nb_error *err) {
    struct ntuple *n = calloc(1, sizeof *n);
    if (n == NULL)
        return nb_fail(err, -ENOMEM, "no memory for n-tuple rules");
    *n = (struct ntuple){.p = *p, .fd = -1};
    n->p.ifname[sizeof n->p.ifname - 1] = '\0';
    if (p->call == NULL && (n->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)) < 0) {
        int error = -errno;
        ntuple_destroy(n);
        return nb_fail(err, error, "%s: no socket to ask its driver with: %s", p->ifname, strerror(-error));
    }
    int error = table_find(n, err);
    if (error == 0)
        error = flush(n, err);
    if (error != 0) {
        ntuple_destroy(n);
        return error;
    }
    const struct nb_drops_params drops = {.driver = &driver,
                                          .arg = n,
                                          .place_max = n->count,
                                          .quirks = p->quirks,
                                          .addr_match = NB_MATCH_MASK,
                                          .port_match = NB_MATCH_MASK,
                                          .dscp = true};
    return nb_drops_create(&drops, ret, err);
}
