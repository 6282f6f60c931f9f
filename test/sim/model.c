/* SPDX-License-Identifier: Apache-2.0
 *
 * One run: hosts on a switch, traffic with faults, then everything is healed and must work, then everything ends and
 * every packet must be back.
 */
#include "test/sim/model.h"

#include <stdlib.h>
#include <string.h>

#include "engines/wire.h"
#include "test/sim/store.h"

#define STREAM_MODEL 100
/* Longer than any timer of an engine: reassembly, neighbours. */
#define SETTLE          (120 * NS_PER_SEC)
#define KILL_STORES_MAX 300

/* The switch: unicast to the host with that address, everything else to all others. */
static void wire_forward(void *arg, const uint8_t *frame, uint32_t len) {
    struct host *from = (struct host *)arg;
    struct model *m = (struct model *)from->app.arg;
    if (len < ETH_LEN)
        return;
    for (uint32_t i = 0; i < MODEL_HOST_MAX && m->host[i] != NULL; i++) {
        struct host *to = m->host[i];
        if (to != from && ((frame[0] & 1) || memcmp(frame, to->params.mac, 6) == 0))
            host_receive(to, frame, len);
    }
}

static void wire_duplicated(void *arg, const uint8_t *frame, uint32_t len) {
    const struct host *from = (const struct host *)arg;
    model_duplicated((struct model *)from->app.arg, frame, len);
}

static void build_host(struct model *m, uint32_t id) {
    const uint64_t *v = m->options.v;
    const struct link_faults faults = {
        .loss_ppm = (uint32_t)v[SIM_loss_ppm],
        .duplicate_ppm = (uint32_t)v[SIM_duplicate_ppm],
        .corrupt_ppm = (uint32_t)v[SIM_corrupt_ppm],
        .reorder_ppm = (uint32_t)v[SIM_reorder_ppm],
        .outage_ppm = (uint32_t)v[SIM_outage_ppm],
        .outage = v[SIM_outage_us] * NS_PER_US,
        .delay = v[SIM_delay_us] * NS_PER_US,
        .jitter = v[SIM_jitter_us] * NS_PER_US,
        .bottleneck_bps = v[SIM_bottleneck_kbps] * 1000,
        .queue_bytes = (uint32_t)v[SIM_queue_bytes],
    };
    const struct host_params params = {
        .engines = m->options.engines,
        .id = id,
        .packets = (uint32_t)v[SIM_packets],
        .packets_large = 16,
        .mtu = (uint32_t)v[SIM_mtu],
        .caps = (uint16_t)((v[SIM_tx_csum] ? PORT_CAP_TX_CSUM : 0) | (v[SIM_tx_frags] ? PORT_CAP_TX_FRAGS : 0)),
        .dedicated = v[SIM_dedicated] != 0,
        .poll_delay = v[SIM_poll_delay_us] * NS_PER_US,
        .restart_delay = v[SIM_restart_ms] * NS_PER_MS,
        .mac = {0x02, 0, 0, 0, 0, (uint8_t)(id + 1)},
    };
    const struct host_app app = {m, model_deliver, model_notice, model_event, model_restarted};
    struct host *h;
    host_create(&m->world, &params, &app, &faults, &h);
    m->host[id] = h;
    h->wire.deliver = wire_forward;
    h->wire.duplicated = wire_duplicated;
    h->wire.arg = h;
    if (host_engine_add(h, "ip", &m->ip_config) != 0 || host_engine_add(h, "udp", &m->udp_config) != 0)
        return;
    model_configure(m, h);
    if (!m->world.failed)
        model_open_sockets(m, h);
}

static ns_t draw_after(struct prng *p, uint64_t per_second) {
    return prng_between(p, 1, 2 * (NS_PER_SEC / per_second));
}

static void model_upgrade(void *arg, uint64_t value) {
    struct model *m = (struct model *)arg;
    (void)value;
    if (m->quiet)
        return;
    struct host *h = m->host[prng_below(&m->upgrade, m->options.v[SIM_hosts])];
    enum host_upgrade how = (enum host_upgrade)prng_below(&m->upgrade, HOST_UPGRADE_COUNT);
    if (host_upgrade(h, how))
        model_audit(m, h);
    world_post(&m->world, m->world.now + draw_after(&m->upgrade, m->options.v[SIM_upgrades]), model_upgrade, m, 0);
}

static void model_kill(void *arg, uint64_t value) {
    struct model *m = (struct model *)arg;
    (void)value;
    if (m->quiet)
        return;
    struct host *h = m->host[prng_below(&m->kill, m->options.v[SIM_hosts])];
    uint64_t stores = prng_between(&m->kill, 1, KILL_STORES_MAX);
    host_kill_at(h, stores, prng_below(&m->kill, 2));
    world_post(&m->world, m->world.now + draw_after(&m->kill, m->options.v[SIM_kills]), model_kill, m, 0);
}

static void start(struct model *m) {
    uint64_t *v = m->options.v;
    struct prng *streams[] = {&m->traffic, &m->churn, &m->upgrade, &m->kill, &m->flap};
    for (uint32_t i = 0; i < ARRAY_LEN(streams); i++)
        *streams[i] = prng_stream(m->options.seed, STREAM_MODEL + i);
    v[SIM_hosts] = v[SIM_hosts] < 2 ? 2 : v[SIM_hosts] > MODEL_HOST_MAX ? MODEL_HOST_MAX : v[SIM_hosts];
    m->next_port = 10000;
    m->udp_config = (struct udp_config){.socket_max = 64, .member_max = 16};
    m->ip_config = (struct ip_config){
        .addr_max = 16, .route_max = 32, .neigh_max = 32, .pmtu_max = 16, .reassembly_max = 16, .neigh_queue_max = 16};
    for (uint32_t i = 0; i < v[SIM_hosts] && !m->world.failed; i++)
        build_host(m, i);
    if (m->world.failed)
        return;
    static const struct {
        enum sim_option rate;
        world_fn *fn;
    } sources[] = {
        {SIM_churn, model_churn}, {SIM_neigh_flap, model_flap}, {SIM_upgrades, model_upgrade}, {SIM_kills, model_kill}};
    for (uint32_t i = 0; i < ARRAY_LEN(sources); i++)
        if (v[sources[i].rate] > 0)
            world_post(&m->world, m->world.now + NS_PER_MS, sources[i].fn, m, 0);
    for (uint32_t i = 0; i < v[SIM_hosts]; i++)
        world_post(&m->world, m->world.now + NS_PER_MS, model_tick, m, i);
}

static void probe(struct model *m) {
    for (uint32_t i = 0; i < m->options.v[SIM_hosts]; i++) {
        link_heal(&m->host[i]->wire);
        host_kill_at(m->host[i], 0, false);
    }
    m->quiet = true;
    world_run(&m->world, m->world.now + SETTLE);
    if (m->world.failed)
        return;
    model_probe(m);
    if (m->stats.probes_answered < m->stats.probes)
        world_fail(&m->world, "after everything was healed, %llu of %llu clients got an answer",
                   (unsigned long long)m->stats.probes_answered, (unsigned long long)m->stats.probes);
    world_run(&m->world, m->world.now + SETTLE);
}

static void collect(struct model *m, struct model_result *r) {
    *r = (struct model_result){
        .failed = m->world.failed, .app_hash = m->world.app.hash, .wire_hash = m->world.wire.hash, .stats = m->stats};
    memcpy(r->failure, m->world.failure, sizeof r->failure);
    for (uint32_t i = 0; i < MODEL_HOST_MAX && m->host[i] != NULL; i++) {
        const struct host_stats *s = &m->host[i]->stats;
        r->frames += s->tx;
        r->deaths += s->deaths;
        r->upgrades += s->upgrades;
        for (uint32_t k = 0; k < DROP_COUNT; k++)
            r->drops += s->drops[k], r->drop[k] += s->drops[k];
    }
}

void model_run(const struct sim_options *options, struct model_result *ret_result) {
    struct model *m = (struct model *)calloc(1, sizeof *m);
    CHECK(m != NULL);
    m->options = *options;
    world_init(&m->world, options->seed);
    m->world.verbose = options->verbose;
    start(m);
    world_run(&m->world, WORLD_EPOCH + options->time_ms * NS_PER_MS);
    if (!m->world.failed)
        probe(m);
    for (uint32_t i = 0; i < MODEL_HOST_MAX && m->host[i] != NULL && !m->world.failed; i++) {
        model_audit(m, m->host[i]);
        host_finish(m->host[i]);
    }
    collect(m, ret_result);
    world_each(&m->world, link_event_drop, NULL);
    for (uint32_t i = 0; i < MODEL_HOST_MAX && m->host[i] != NULL; i++)
        host_destroy(m->host[i]);
    world_fini(&m->world);
    store_watch_none();
    free(m->datagram);
    free(m);
}
