/* SPDX-License-Identifier: Apache-2.0
 *
 * See qos_rig.h. Packets enter where the link engine's come out (HOP_EGRESS); their first bytes say whose they are.
 */
#include "test/bench/qos_rig.h"

#include <stdlib.h>
#include <string.h>

#include "dataplane/core/shard.h"
#include "engines/qos/qos_cmd.h"
#include "test/bench/tick.h"

#define PACKETS_A_SECOND 10000000ull
#define SIZE_MIN         64u
#define SIZE_MAX_BYTES   320u
#define LINE             (PACKETS_A_SECOND * (SIZE_MIN + SIZE_MAX_BYTES) / 2)
#define BURST_BYTES      32768u
#define FAR_PACKETS      512u
#define WARM_NS          (100 * NS_PER_MS)

extern const struct engine_ops usher_engine_qos;

struct rig {
    struct runtime *rt;
    struct port *far;
    struct pktmem far_mem;
    uint32_t slot, engine, owners;
    uint32_t each; /* packets of an owner that wait */
    uint64_t *got; /* bytes that came out */
    uint64_t seed;
    ns_t now, until;
};

double qos_error(const uint64_t *got, uint32_t owners, uint32_t packet) {
    double all = 0, worst = 0;
    for (uint32_t i = 0; i < owners; i++)
        all += (double)got[i];
    for (uint32_t i = 0; i < owners && all > 0; i++) {
        double want = all * qos_weight(i) / qos_weights(owners), off = (double)got[i] - want;
        off = off < 0 ? -off : off;
        worst = off > packet && off / want > worst ? off / want : worst;
    }
    return all > 0 ? worst * 100 : 100;
}

/* ---- making it ---- */

static int add_port(struct rig *r) {
    struct port *end[2];
    struct port_error port_err;
    struct runtime_error err;
    struct port_params params[2] = {
        {.ifname = "near", .queue_count = 1, .mem = {runtime_port_mem(r->rt, 0, false)}},
        {.ifname = "far", .queue_count = 1, .mem = {&r->far_mem}},
    };
    int rc = pktmem_create(&r->far_mem, FAR_PACKETS, 2048, 0);
    if (rc == 0)
        rc = port_pair_create(params, false, end, &port_err);
    if (rc != 0)
        return rc;
    r->far = end[1];
    return runtime_port_add(r->rt, end[0], &r->slot, &err);
}

static int command(const struct rig *r, const struct engine_cmd *cmd) {
    struct engine_reply reply;
    int rc = runtime_command(r->rt, 0, r->engine, cmd, &reply);
    return rc != 0 ? rc : reply.error;
}

static int add_node(const struct rig *r, uint32_t id, uint32_t weight, uint64_t ceiling) {
    struct qos_cmd_node node = {.cmd = {QOS_CMD_NODE, sizeof node},
                                .id = id,
                                .parent = id == 0 ? QOS_NONE : 0,
                                .weight = weight,
                                .max_rate = ceiling,
                                .burst = BURST_BYTES};
    return command(r, &node.cmd);
}

static int grow(struct rig *r, const uint64_t *ceilings) {
    struct qos_cmd_begin begin = {.cmd = {QOS_CMD_BEGIN, sizeof begin}, .fallback = 1};
    struct qos_cmd_commit commit = {.cmd = {QOS_CMD_COMMIT, sizeof commit}};
    int rc = command(r, &begin.cmd);
    if (rc == 0)
        rc = add_node(r, 0, 1, LINE);
    for (uint32_t i = 0; i < r->owners && rc == 0; i++)
        rc = add_node(r, 1 + i, qos_weight(i), ceilings != NULL ? ceilings[i] : 0);
    if (rc == 0)
        rc = command(r, &commit.cmd);
    for (uint32_t i = 0; i < r->owners && rc == 0; i++) {
        struct qos_cmd_owner owner = {.cmd = {QOS_CMD_OWNER, sizeof owner}, .owner = i, .is = {.leaf = 1 + i}};
        rc = command(r, &owner.cmd);
    }
    return rc;
}

static void rig_close(struct rig *r) {
    if (r->rt != NULL)
        runtime_destroy(r->rt);
    if (r->far != NULL)
        port_destroy(r->far);
    if (r->far_mem.base != NULL)
        pktmem_destroy(&r->far_mem);
    free(r->got);
}

static int rig_open(struct rig *r, uint32_t owners, const uint64_t *ceilings) {
    *r = (struct rig){.owners = owners, .each = 16 + 2048 / owners, .seed = 1};
    uint32_t packets = owners * r->each;
    struct runtime_config cfg = {.shard_count = 1,
                                 .mode = SCHED_SPREADING,
                                 .small_packets = packets + 1024,
                                 .large_packets = 16,
                                 .session_max = 1,
                                 .seed = 1};
    struct qos_config qos = {
        .node_max = owners + 1, .packet_max = packets + 1024, .owner_max = owners, .small_max = 2 * packets + 4096};
    struct runtime_error err;
    r->got = calloc(owners, sizeof *r->got);
    int rc = r->got == NULL ? -1 : runtime_create(&cfg, &r->rt, &err);
    if (rc == 0)
        rc = runtime_engine_add(r->rt, &usher_engine_qos, &qos, &r->engine, &err);
    if (rc == 0)
        rc = add_port(r);
    if (rc == 0)
        rc = grow(r, ceilings);
    r->now = tick_ns() + NS_PER_SEC; /* commands went by the host's clock; from here on it is the bench's */
    return rc;
}

/* ---- running it ---- */

static void send_one(struct rig *r, struct shard *sh, uint32_t owner) {
    struct pkt *p = pkt_alloc(&sh->small.pool);
    if (p == NULL)
        return;
    r->seed = r->seed * 6364136223846793005ull + 1442695040888963407ull;
    p->len = SIZE_MIN + (uint32_t)(r->seed >> 33) % (SIZE_MAX_BYTES - SIZE_MIN + 1);
    p->port = (uint16_t)r->slot;
    p->owner = owner;
    p->flow = (struct flow){.proto = 17, .local_port = (uint16_t)owner};
    memcpy(p->data, &owner, sizeof owner);
    (void)hop_push(sh, HOP_EGRESS, p);
}

/* What came out is made up for by as many packets of the same owner. */
static void far_take(struct rig *r, struct shard *sh) {
    struct port_queue *q = r->far->queue[0];
    struct pkt *pkts[PKT_BURST];
    uint32_t n, owner;
    while ((n = q->ops->rx(q, pkts, PKT_BURST)) > 0) {
        for (uint32_t i = 0; i < n; i++) {
            memcpy(&owner, pkts[i]->data, sizeof owner);
            r->got[owner] += pkts[i]->len;
            pkt_free(&r->far_mem.pool, pkts[i]);
            send_one(r, sh, owner);
        }
        hops_run(sh);
    }
}

/* The root's burst leaves at once; the port takes no more than its ring holds. */
static void fill(struct shard *sh, void *arg) {
    struct rig *r = arg;
    for (uint32_t i = 0; i < r->owners * r->each; i++) {
        send_one(r, sh, i % r->owners);
        if (i % PKT_BURST != PKT_BURST - 1)
            continue;
        (void)shard_poll(sh, r->now);
        hops_run(sh);
        far_take(r, sh);
    }
}

static void turns(struct shard *sh, void *arg) {
    struct rig *r = arg;
    while (r->now < r->until) {
        sh->deadline = 0;
        (void)shard_poll(sh, r->now);
        far_take(r, sh);
        ns_t at = shard_deadline(sh);
        r->now = at > r->now && at != NS_NEVER ? at : r->now + NS_PER_SEC / PACKETS_A_SECOND;
    }
}

static void run_for(struct rig *r, ns_t ns) {
    r->until = r->now + ns;
    (void)runtime_call(r->rt, 0, turns, r);
}

double qos_rig_share_error(uint32_t owners, double seconds) {
    struct rig r;
    double error = -1;
    if (rig_open(&r, owners, NULL) == 0) {
        (void)runtime_call(r.rt, 0, fill, &r);
        run_for(&r, WARM_NS);
        memset(r.got, 0, owners * sizeof r.got[0]);
        run_for(&r, (ns_t)(seconds * NS_PER_SEC));
        error = qos_error(r.got, owners, SIZE_MAX_BYTES);
    }
    rig_close(&r);
    return error;
}

double qos_rig_ceiling_excess(double seconds) {
    static const uint64_t ceilings[4] = {1000000, 20000000, 100000000, 500000000};
    struct rig r;
    double worst = -1;
    if (rig_open(&r, 4, ceilings) == 0) {
        worst = 0;
        (void)runtime_call(r.rt, 0, fill, &r);
        run_for(&r, (ns_t)(seconds * NS_PER_SEC));
        for (uint32_t i = 0; i < 4; i++) {
            double over = ((double)r.got[i] - BURST_BYTES - SIZE_MAX_BYTES) / ((double)ceilings[i] * seconds) - 1;
            worst = over > worst ? over : worst;
        }
    }
    rig_close(&r);
    return worst < 0 ? worst : worst * 100;
}
