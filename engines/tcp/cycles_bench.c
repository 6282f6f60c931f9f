/* SPDX-License-Identifier: Apache-2.0
 *
 * Prints what the tcp engine costs: requests and bulk; then what 100,000 established connections take, and whether
 * requests on a random thousand of them cost more than when there are only these (cycles.h). A table; not a test.
 */
#include <stdio.h>
#include <stdlib.h>

#include "engines/tcp/cycles.h"
#include "engines/tcp/testlink.h"

static void print_requests(struct link *l, uint32_t socks) {
    struct cycles_request r = cycles_requests(l, socks);
    printf("64 B, %2u connections a burst: client %lu + %lu, server %lu + %lu (send + receive), sum %lu\n", socks,
           r.client_send, r.client_receive, r.server_send, r.server_receive,
           r.client_send + r.client_receive + r.server_send + r.server_receive);
}

static void print_many(uint32_t count) {
    struct cycles_many m = cycles_many(count);
    printf("%6u established: %lu bytes resident each, %lu cycles a 64 B segment over a random %u\n", count,
           m.bytes_each, m.segment, CYCLES_ACTIVE);
}

int main(void) {
    struct link *l = cycles_open();
    print_requests(l, 1);
    print_requests(l, CYCLES_CONNS);
    struct cycles_bulk b = cycles_bulk(l);
    printf("64 KiB by super-segments: sender %lu send + %lu for ACKs, receiver %lu\n", b.send, b.acks, b.receive);
    link_destroy(l);
    print_many(CYCLES_ACTIVE);
    print_many(CYCLES_MANY);
    return EXIT_SUCCESS;
}
