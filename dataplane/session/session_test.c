/* SPDX-License-Identifier: Apache-2.0
 *
 * Sessions against a client that writes the shared memory by hand. The shards are turned by hand, in virtual time.
 */
#include <criterion/criterion.h>

#include "dataplane/core/test_kit.h"

static void fill(uint8_t *p, uint32_t len, uint32_t seed) {
    for (uint32_t i = 0; i < len; i++)
        p[i] = (uint8_t)(seed * 31 + i * 7 + (i >> 8));
}

static bool intact(const uint8_t *p, uint32_t len, uint32_t seed) {
    for (uint32_t i = 0; i < len; i++) {
        if (p[i] != (uint8_t)(seed * 31 + i * 7 + (i >> 8)))
            return false;
    }
    return true;
}

Test(session, datagram_goes_to_echo_and_back) {
    struct kit k;
    struct kit_client a;
    kit_open(&k, NULL);
    kit_echo(&k, 0, 7);
    kit_attach(&k, &a, 5000);
    fill(fake_client_tx(&a.c, 0), 64, 1);
    fake_client_send(&a.c, a.sock.handle, 0, 64, kit_addr(1).b, 7);
    kit_settle(&k);
    struct ush_cqe e;
    cr_assert(fake_client_take(&a.c, &e));
    cr_assert_eq(e.type, USH_CQ_RECV);
    cr_assert_eq(e.recv.len, 64);
    cr_assert_eq(e.recv.peer_port, 7);
    cr_assert_eq(e.recv.handle, a.sock.handle);
    cr_assert(intact(fake_client_rx(&a.c, e.recv.cell), 64, 1));
    cr_assert_not(fake_client_take(&a.c, &e));
    struct ush_socket *shm = (struct ush_socket *)(a.c.base + a.c.h.socket_off);
    cr_assert_eq(shm[a.sock.handle].tx_done, 64);
    kit_detach(&k, &a);
    kit_close(&k);
}
