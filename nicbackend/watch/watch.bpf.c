/* SPDX-License-Identifier: Apache-2.0
 *
 * The watch programs: copy each packet of a hook into a ring and let it go on.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

#include "watch_abi.h"

#define TCX_GOES_ON (-1)
#define INLINE      static __always_inline

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, WATCH_RING_BYTES);
} ring SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, WATCH_OWN_MAX);
    __type(key, __u64);
    __type(value, __u8);
} own SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} lost SEC(".maps");

const volatile __u32 snaplen = WATCH_LARGE;

INLINE void lose(void) {
    __u32 zero = 0;
    __u64 *n = bpf_map_lookup_elem(&lost, &zero);
    if (n)
        (*n)++;
}

/* `room` is a constant wherever it is used: what the record has for bytes. */
INLINE void copy(struct __sk_buff *skb, __u64 cookie, int out, __u32 want, const __u32 room) {
    struct watch_record *r = bpf_ringbuf_reserve(&ring, sizeof *r + room, 0);
    if (!r) {
        lose();
        return;
    }
    r->time_ns = bpf_ktime_get_ns();
    r->cookie = cookie;
    r->uid = cookie ? bpf_get_socket_uid(skb) : 0;
    r->ifindex = skb->ifindex;
    r->length = skb->len;
    r->gso_size = (__u16)skb->gso_size;
    r->has_vlan = skb->vlan_present != 0;
    r->vlan = (__u16)skb->vlan_tci;
    r->out = (__u8)out;
    if (want > room)
        want = room;
    r->captured = 0;
    __u32 last = want - 1; /* Linux 6.1 learns the least size from this comparison, and nothing from `want != 0` */
    asm volatile("" : "+r"(last));
    if (last < room && bpf_skb_load_bytes(skb, 0, r->bytes, last + 1) == 0)
        r->captured = want;
    bpf_ringbuf_submit(r, 0);
}

INLINE int watch(struct __sk_buff *skb, int out) {
    __u64 cookie = out ? bpf_get_socket_cookie(skb) : 0;
    __u32 want = skb->len < snaplen ? skb->len : snaplen;
    if (cookie && bpf_map_lookup_elem(&own, &cookie))
        return TCX_GOES_ON;
    if (want <= WATCH_SMALL)
        copy(skb, cookie, out, want, WATCH_SMALL);
    else if (want <= WATCH_FRAME)
        copy(skb, cookie, out, want, WATCH_FRAME);
    else
        copy(skb, cookie, out, want, WATCH_LARGE);
    return TCX_GOES_ON;
}

SEC("tc")
int watch_in(struct __sk_buff *skb) {
    return watch(skb, 0);
}

SEC("tc")
int watch_out(struct __sk_buff *skb) {
    return watch(skb, 1);
}

char LICENSE[] SEC("license") = "Apache-2.0";
