/* SPDX-License-Identifier: Apache-2.0
 *
 * A link engine for tests that is nothing but a label: each frame is its struct flow, as the sender sees it, and then
 * the transport's packet. Frames to 10.0.0.0/8 turn round, all others leave by slot 0. Built into the tests and, twice,
 * as a module: LABEL_LAYOUT tells the two apart.
 */
#include <errno.h>

#include "engines/ip/ip_cmd.h"

#ifndef LABEL_LAYOUT
#define LABEL_LAYOUT 1
#endif
#ifdef LABEL_MODULE
#define LABEL_OPS usher_engine
#else
#define LABEL_OPS kit_link
#endif
extern const struct engine_ops LABEL_OPS;

static size_t link_state_size(const void *cfg, char *err, size_t err_size) {
    (void)cfg;
    (void)err;
    (void)err_size;
    return 4096;
}

static int link_init(void *st, size_t size, const void *cfg, uint64_t seed) {
    (void)st;
    (void)size;
    (void)cfg;
    (void)seed;
    return 0;
}

static int link_recover(void *st, size_t size, uint32_t *ret_lost) {
    (void)st;
    (void)size;
    *ret_lost = 0;
    return 0;
}

static void link_fini(void *st, struct engine_io *io) {
    (void)st;
    (void)io;
}

static void link_input(void *st, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    (void)st;
    for (uint32_t i = 0; i < n; i++) {
        struct pkt *p = pkts[i];
        struct flow f;
        if (p->len < sizeof f) {
            pkt_drop(io, p, DROP_ETH_TRUNCATED);
            continue;
        }
        memcpy(&f, p->data, sizeof f);
        pkt_pull(p, sizeof f);
        p->flow = (struct flow){f.remote, f.local, f.remote_port, f.local_port, f.proto, {0, 0, 0}};
        p->l4_off = (uint16_t)(p->data - p->buf);
        p->ip_version = 4;
        p->flags |= PKT_CSUM_OK;
        (void)pkt_vec_push(io->up, p);
    }
}

static void link_output(void *st, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    (void)st;
    for (uint32_t i = 0; i < n; i++) {
        struct pkt *p = pkts[i];
        if (ipaddr_is_any(&p->flow.local))
            p->flow.local = ipaddr_from_v4((const uint8_t[]){10, 0, 0, 1});
        memcpy(pkt_push(p, sizeof p->flow), &p->flow, sizeof p->flow);
        p->flags &= (uint16_t)~PKT_CSUM_PARTIAL;
        p->port = 0;
        if (p->flow.remote.b[12] == 10)
            p->flags |= PKT_LOCAL;
        (void)pkt_vec_push(io->down, p);
    }
}

static uint32_t link_run(void *st, struct engine_io *io, uint32_t budget) {
    (void)st;
    (void)io;
    (void)budget;
    return 0;
}

static ns_t link_deadline(const void *st) {
    (void)st;
    return NS_NEVER;
}

static void link_command(void *st, struct engine_io *io, const struct engine_cmd *cmd, struct engine_reply *ret_reply) {
    (void)st;
    (void)io;
    ret_reply->error = -ENOTSUP;
    if (cmd->id != IP_CMD_LOOKUP)
        return;
    const struct ip_cmd_lookup *l = (const struct ip_cmd_lookup *)cmd;
    bool local = l->dst.b[12] == 10;
    *l->result = (struct ip_route_result){.source = ipaddr_from_v4((const uint8_t[]){10, 0, 0, 1}),
                                          .port = local ? PORT_SLOT_LOCAL : 0,
                                          .mtu = local ? 65535 : 1500};
    ret_reply->error = 0;
}

static int64_t link_save(const void *st, uint64_t *cursor, uint8_t *buf, size_t size) {
    (void)st;
    (void)cursor;
    (void)buf;
    (void)size;
    return 0;
}

static int link_load(void *st, uint32_t from, const uint8_t *rec, size_t size) {
    (void)st;
    (void)from;
    (void)rec;
    (void)size;
    return -EINVAL;
}

__attribute__((visibility("default"))) const struct engine_ops LABEL_OPS = {
    .abi = ENGINE_ABI,
    .size = sizeof(struct engine_ops),
    .name = "label",
    .stage = STAGE_LINK,
    .caps = ENGINE_CAP_INPUT | ENGINE_CAP_OUTPUT,
    .layout_version = LABEL_LAYOUT,
    .state_size = link_state_size,
    .init = link_init,
    .recover = link_recover,
    .fini = link_fini,
    .input = link_input,
    .output = link_output,
    .run = link_run,
    .next_deadline = link_deadline,
    .command = link_command,
    .save = link_save,
    .load = link_load,
};
