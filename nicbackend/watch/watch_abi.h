/* SPDX-License-Identifier: Apache-2.0
 *
 * What the watch programs and watch.c agree on. Included by both, so it stands on nothing but <linux/types.h>.
 */
#ifndef USHER_NICBACKEND_WATCH_ABI_H
#define USHER_NICBACKEND_WATCH_ABI_H

#include <linux/types.h>

#define WATCH_OWN_MAX    256         /* our own packet sockets */
#define WATCH_RING_BYTES (8u << 20)
/* A record has room for one of three sizes of packet: the ring takes only sizes known beforehand. */
#define WATCH_SMALL 256u
#define WATCH_FRAME 2048u
#define WATCH_LARGE 65536u

struct watch_record {
    __u64 time_ns;
    __u64 cookie;
    __u32 uid;
    __u32 ifindex;
    __u32 length;
    __u32 captured;
    __u16 gso_size;
    __u16 vlan;
    __u8 out;
    __u8 has_vlan;
    __u8 pad[2];
    __u8 bytes[];
};

#endif
