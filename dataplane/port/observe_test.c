/* SPDX-License-Identifier: Apache-2.0
 *
 * The decorators that watch: lines of trace and bytes of pcap files.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "dataplane/port/port.h"
#include "engines/wire.h"

struct seen {
    char lines[8][256];
    uint32_t count;
};

static void line_seen(void *arg, const char *line) {
    struct seen *s = arg;
    snprintf(s->lines[s->count++ % 8], 256, "%s", line);
}

struct ends {
    struct pktmem mem[2];
    struct port *port[2];
};

static void ends_open(struct ends *e) {
    struct port_params params[2] = {{.ifname = "a", .queue_count = 1}, {.ifname = "b", .queue_count = 1}};
    struct port_error err;
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(pktmem_create(&e->mem[i], 16, 2048, 0), 0);
        params[i].mem[0] = &e->mem[i];
    }
    cr_assert_eq(port_pair_create(params, false, e->port, &err), 0);
}

static void ends_close(struct ends *e) {
    for (int i = 0; i < 2; i++)
        port_destroy(e->port[i]);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(e->mem[i].pool.free_count, 16);
        pktmem_destroy(&e->mem[i]);
    }
}

/* Sends `len` bytes from end 0 to end 1 and puts all packets back. */
static void pass(struct ends *e, const uint8_t *bytes, uint32_t len, ns_t now) {
    static struct pkt_vec done, drop;
    struct port_queue *a = e->port[0]->queue[0], *b = e->port[1]->queue[0];
    struct pkt *p = pkt_alloc(&e->mem[0].pool), *got;
    memcpy(p->data, bytes, len);
    p->len = len;
    a->now = b->now = now;
    a->ops->tx(a, &p, 1, &done, &drop);
    cr_assert_eq(b->ops->rx(b, &got, 1), 1);
    cr_assert_eq(memcmp(got->data, bytes, len), 0);
    pkt_free(got->pool, got);
    a->ops->reap(a, &done);
    cr_assert_eq(done.count, 1);
    pkt_free(done.v[0]->pool, done.v[0]);
    done.count = 0;
}

static const uint8_t syn[] = {
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2,    0,    0,  0, 0, 7, 8,  0,       /* Ethernet */
    0x45, 0,    0,    40,   0,    1,    0,    0,    64, 6, 0, 0, 10, 0, 0, 1, /* IPv4 */
    10,   0,    0,    2,    0x03, 0xe8, 0x07, 0xd0, 0,  0, 0, 1, 0,  0, 0, 0, /* 1000 > 2000, seq 1 */
    0x50, 2,    0x40, 0,    0,    0,    0,    0,
};

Test(trace, one_line_says_it_all) {
    struct ends e;
    struct seen seen = {.count = 0};
    ends_open(&e);
    cr_assert_eq(port_trace_create(e.port[1], line_seen, &seen, &e.port[1]), 0);
    pass(&e, syn, sizeof syn, 1500000000);
    cr_assert_eq(seen.count, 1);
    cr_assert_str_eq(seen.lines[0], "1.500000000 rx 54 10.0.0.1.1000 > 10.0.0.2.2000 tcp seq 1 ack 0 win 16384 syn");
    cr_assert_str_eq(e.port[1]->ops->kind, "trace");
    ends_close(&e);
}

Test(trace, any_bytes_make_a_line) {
    struct ends e;
    struct seen seen = {.count = 0};
    ends_open(&e);
    cr_assert_eq(port_trace_create(e.port[0], line_seen, &seen, &e.port[0]), 0);
    srandom(3);
    for (uint32_t i = 0; i < 20000; i++) {
        uint8_t bytes[128];
        memset(bytes, 0, sizeof bytes);
        memcpy(bytes, syn, sizeof syn);
        for (int k = 0; k < 4; k++)
            bytes[12 + random() % 60] = (uint8_t)random();
        if (i % 3 == 0)
            be16_store(bytes + 12, i % 2 ? ETHERTYPE_IP6 : ETHERTYPE_VLAN);
        pass(&e, bytes, (uint32_t)random() % 128, i);
    }
    cr_assert_eq(seen.count, 20000);
    ends_close(&e);
}

Test(pcap, file_holds_the_frames) {
    struct ends e;
    char path[] = "/tmp/usher-pcap-XXXXXX";
    close(mkstemp(path));
    ends_open(&e);
    cr_assert_eq(port_pcap_create(e.port[0], path, &e.port[0]), 0);
    pass(&e, syn, sizeof syn, 7);
    pass(&e, syn, sizeof syn, 1000000007);
    ends_close(&e);
    uint8_t file[512];
    FILE *f = fopen(path, "r");
    size_t bytes = fread(file, 1, sizeof file, f);
    fclose(f);
    unlink(path);
    cr_assert_eq(bytes, 24 + 2 * (16 + sizeof syn));
    uint32_t magic, first, second, length;
    memcpy(&magic, file, 4);
    memcpy(&first, file + 24, 4);
    memcpy(&length, file + 24 + 8, 4);
    memcpy(&second, file + 24 + 16 + sizeof syn, 4);
    cr_assert_eq(magic, 0xa1b23c4d);
    cr_assert_eq(length, sizeof syn);
    cr_assert_eq(second, first + 1);
    cr_assert_eq(memcmp(file + 40, syn, sizeof syn), 0);
}

Test(pcap, impossible_path_is_refused) {
    struct ends e;
    struct port *out = NULL;
    ends_open(&e);
    cr_assert_eq(port_pcap_create(e.port[0], "/nonexistent/x.pcap", &out), -ENOENT);
    ends_close(&e);
}
