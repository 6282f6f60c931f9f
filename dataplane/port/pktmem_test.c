/* SPDX-License-Identifier: Apache-2.0
 *
 * Packet memory: geometry, the free stack, seals and refusals.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dataplane/port/port.h"

Test(pktmem, frames_do_not_overlap_and_come_in_order) {
    struct pktmem m;
    cr_assert_eq(pktmem_create(&m, 100, 2048, 3), 0);
    cr_assert_eq(m.pool.free_count, 100);
    cr_assert_eq(m.pool.shard, 3);
    for (uint32_t i = 0; i < 100; i++) {
        struct pkt *p = pkt_alloc(&m.pool);
        cr_assert_eq(p->index, i);
        cr_assert_eq(p->buf, m.base + i * 2048u);
        cr_assert_eq((uintptr_t)p % CACHE_LINE, 0);
        cr_assert_eq(p->data, p->buf + PKT_HEADROOM);
        memset(p->buf, (int)i, p->buf_size);
    }
    cr_assert_null(pkt_alloc(&m.pool));
    for (uint32_t i = 0; i < 100; i++)
        cr_assert(m.pool.pkts[i].buf[0] == i && m.pool.pkts[i].buf[2047] == i);
    pktmem_destroy(&m);
}

Test(pktmem, file_cannot_shrink_or_grow) {
    struct pktmem m;
    cr_assert_eq(pktmem_create(&m, 3, 69632, 0), 0);
    cr_assert_eq(m.size, 3 * 69632u);
    cr_assert_eq(ftruncate(m.memfd, 4096), -1);
    cr_assert_eq(ftruncate(m.memfd, 1 << 20), -1);
    cr_assert_eq(fcntl(m.memfd, F_GETFD), FD_CLOEXEC);
    pktmem_destroy(&m);
}

Test(pktmem, impossible_sizes_are_refused) {
    struct pktmem m;
    cr_assert_eq(pktmem_create(&m, 0, 2048, 0), -EINVAL);
    cr_assert_eq(pktmem_create(&m, 1, 100, 0), -EINVAL);
    cr_assert_eq(pktmem_create(&m, 1, 2049, 0), -EINVAL);
    cr_assert_eq(pktmem_create(&m, 1, 1 << 20, 0), -EINVAL);
    cr_assert_eq(pktmem_create(&m, 1, 2048, 0), 0);
    cr_assert_eq(m.size % 4096, 0);
    pktmem_destroy(&m);
    cr_assert_eq(m.memfd, -1);
    pktmem_destroy(&m); /* twice does no harm */
}
