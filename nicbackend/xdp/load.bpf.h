/* SPDX-License-Identifier: Apache-2.0
 *
 * How BPF programs of three hooks read a packet. Offsets count from the MAC header for XDP and tc, and from the network
 * header for the socket filter. `hook` is a constant wherever it is used, so each program keeps only its own branch.
 */
#ifndef USHER_NICBACKEND_XDP_LOAD_BPF_H
#define USHER_NICBACKEND_XDP_LOAD_BPF_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#define INLINE static __always_inline

enum hook { HOOK_XDP, HOOK_TC, HOOK_FILTER };

#define OFFSET_MAX 1024u

INLINE int load(void *ctx, const enum hook hook, __u32 off, void *to, const __u32 len) {
    if (off > OFFSET_MAX)
        return -1;
    if (hook == HOOK_XDP) {
        struct xdp_md *x = ctx;
        void *at = (void *)(long)x->data + off;
        if (at + len > (void *)(long)x->data_end)
            return -1;
        __builtin_memcpy(to, at, len);
        return 0;
    }
    if (hook == HOOK_TC) {
        struct __sk_buff *s = ctx;
        void *at = (void *)(long)s->data + off;
        if (at + len > (void *)(long)s->data_end) /* not in the linear part: the helper finds it, at 15 ns a call */
            return bpf_skb_load_bytes(ctx, off, to, len) == 0 ? 0 : -1;
        __builtin_memcpy(to, at, len);
        return 0;
    }
    return bpf_skb_load_bytes_relative(ctx, off, to, len, BPF_HDR_START_NET) == 0 ? 0 : -1;
}

#endif
