/* SPDX-License-Identifier: Apache-2.0
 *
 * nic-drop: what it costs the machine to refuse a packet by a deny list of 1,000 prefixes and a port, on veth. A
 * generator in the other namespace sends as fast as it can; everything up to the drop runs on its core, so the time for
 * each packet, less that of the same generator whose packets die at its own egress, is the price of the drop.
 *
 * Column usher is always the rules of the xdp backend. Column kernel is nft with a rule for each prefix (vs_nftables),
 * nft with one set (vs_nftables_sets), or usherd's filter engine, whose own CPU time counts as well (vs_software).
 * goodput_under_flood is about two programs that talk beside a flood of 100,000 packets a second.
 */
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "nicbackend/rules.h"
#include "nicbackend/store/store.h"
#include "test/bench/benches.h"
#include "test/bench/nic_flood.h"
#include "test/bench/proc.h"
#include "test/bench/sandbox.h"
#include "test/bench/tick.h"
#include "test/bench/usherd.h"

#define PREFIXES 1000u
#define FRAME    NIC_FLOOD_FRAME
#define BATCH    64u
#define NFT_FILE "/run/nic-drop.nft"
#define POLICY   "/run/nic-drop.yaml"

enum { VS_NFTABLES, VS_NFTABLES_SETS, VS_SOFTWARE, PROG_NS, GOODPUT };

static const struct bench_metric metrics[] = {
    [VS_NFTABLES] = {.name = "vs_nftables", .unit = "ns/packet", .target_kind = TARGET_RATIO, .target = 3},
    [VS_NFTABLES_SETS] = {.name = "vs_nftables_sets", .unit = "ns/packet", .target_kind = TARGET_RATIO, .target = 0.9},
    [VS_SOFTWARE] = {.name = "vs_software", .unit = "ns/packet", .target_kind = TARGET_RATIO, .target = 2},
    [PROG_NS] = {.name = "prog_ns", .unit = "ns", .target_kind = TARGET_USHER, .target = 150},
    [GOODPUT] = {.name = "goodput_under_flood",
                 .unit = "1/s",
                 .better = BETTER_HIGHER,
                 .target_kind = TARGET_RATIO,
                 .target = 0.9},
};

/* --- the list -------------------------------------------------------------------------------------------------- */

struct prefix {
    uint8_t addr[4];
    uint32_t bits;
};

static struct prefix prefix_of(uint32_t i) {
    static const uint32_t lengths[] = {20, 24, 28};
    return (struct prefix){{(uint8_t)(20 + i / 250), (uint8_t)(i % 250), 16, 0}, lengths[i % 3]};
}

static void frame_make(uint8_t *f, const uint8_t *mac, uint32_t i) {
    struct prefix p = prefix_of(i);
    memset(f, 0, FRAME);
    memcpy(f, mac, 6);
    memcpy(f + 6, "\2\0\0\0\0\7", 6);
    f[12] = 0x08;
    f[14] = 0x45;
    f[17] = FRAME - 14;
    f[22] = 64;
    f[23] = IPPROTO_UDP;
    memcpy(f + 26, p.addr, 4);
    f[29] = 5;
    memcpy(f + 30, "\x0a\x4d\0\1", 4);
    uint32_t sum = 0;
    for (int k = 14; k < 34; k += 2)
        sum += (uint32_t)f[k] << 8 | f[k + 1];
    sum = (sum & 0xffff) + (sum >> 16);
    f[24] = (uint8_t)(~sum >> 8);
    f[25] = (uint8_t)~sum;
    f[34] = 9;
    f[36] = USHERD_ECHO_PORT >> 8;
    f[37] = USHERD_ECHO_PORT & 0xff;
    f[39] = FRAME - 34;
}

/* --- the generator --------------------------------------------------------------------------------------------- */

static uint8_t frames[PREFIXES][FRAME];

static void frames_make(void) {
    struct ifreq ifr = {.ifr_name = SANDBOX_IFNAME};
    int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    uint8_t mac[6] = {255, 255, 255, 255, 255, 255};
    (void)ioctl(control, SIOCGIFHWADDR, &ifr);
    memcpy(mac, ifr.ifr_hwaddr.sa_data, 6);
    (void)close(control);
    for (uint32_t i = 0; i < PREFIXES; i++)
        frame_make(frames[i], mac, i);
}

static int send_for(int fd, double seconds, uint64_t *ret_packets) {
    struct mmsghdr msgs[BATCH];
    struct iovec iov[BATCH];
    frames_make();
    memset(msgs, 0, sizeof(msgs));
    uint64_t start = tick_ns(), end = start + (uint64_t)(seconds * 1e9), n = 0;
    while (tick_ns() < end) {
        for (uint32_t k = 0; k < BATCH; k++) {
            iov[k] = (struct iovec){frames[(n + k) * 7 % PREFIXES], FRAME};
            msgs[k].msg_hdr = (struct msghdr){.msg_iov = &iov[k], .msg_iovlen = 1};
        }
        int sent = sendmmsg(fd, msgs, BATCH, 0);
        n += sent > 0 ? (uint64_t)sent : BATCH; /* what its own egress drops is an error to the sender */
    }
    *ret_packets = n;
    return 0;
}

static int generator(struct proc_shared *s, void *arg) {
    const struct bench_env *env = arg;
    struct sockaddr_ll to = {.sll_family = AF_PACKET};
    uint64_t warm;
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (setns(env->peer, CLONE_NEWNET) != 0)
        return 1;
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    to.sll_ifindex = (int)if_nametoindex("vb1");
    if (fd < 0 || to.sll_ifindex == 0 || bind(fd, (struct sockaddr *)&to, sizeof(to)) != 0 ||
        setns(home, CLONE_NEWNET) != 0)
        return 1;
    (void)send_for(fd, 0.1, &warm);
    uint64_t start = tick_ns();
    (void)send_for(fd, env->seconds, &s->operations);
    s->seconds = (double)(tick_ns() - start) / 1e9;
    return 0;
}

/* Nanoseconds of the generator's core for each packet, and of usherd's threads when there is one. */
static int measure(struct bench_env *env, pid_t usherd, double *ret_ns) {
    struct proc_shared *s = proc_shared_create();
    if (s == NULL)
        return -1;
    double cpu = usherd != 0 ? proc_cpu_seconds(&usherd, 1) : 0;
    pid_t pid = proc_spawn(env->core[1], generator, s, env);
    int rc = proc_join(pid, env->seconds + 5);
    cpu = usherd != 0 ? proc_cpu_seconds(&usherd, 1) - cpu : 0;
    if (rc == 0 && s->operations > 0)
        *ret_ns = (s->seconds + cpu) * 1e9 / (double)s->operations;
    else
        rc = -1;
    proc_shared_destroy(s);
    return rc;
}

/* The generator alone. */
static int measure_alone(struct bench_env *env, double *ret_ns) {
    const struct bpf_insn shot[] = {{.code = 0xb7, .dst_reg = 0, .imm = TC_ACT_SHOT}, {.code = 0x95}};
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    int prog = bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "shot", "GPL", shot, 2, NULL);
    int rc = prog >= 0 && setns(env->peer, CLONE_NEWNET) == 0 ? 0 : -1;
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)if_nametoindex("vb1"), .attach_point = BPF_TC_EGRESS);
    LIBBPF_OPTS(bpf_tc_opts, opts, .prog_fd = prog, .priority = 1, .handle = 1, .flags = BPF_TC_F_REPLACE);
    (void)bpf_tc_hook_create(&hook);
    if (rc == 0)
        rc = bpf_tc_attach(&hook, &opts);
    (void)setns(home, CLONE_NEWNET);
    if (rc == 0)
        rc = measure(env, 0, ret_ns);
    (void)setns(env->peer, CLONE_NEWNET);
    hook.attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS;
    (void)bpf_tc_hook_destroy(&hook);
    (void)setns(home, CLONE_NEWNET);
    (void)close(home);
    (void)close(prog);
    return rc;
}

/* What is added by whatever is in place now. */
static int price(struct bench_env *env, enum bench_side side, uint32_t metric, pid_t usherd) {
    double alone, all;
    if (measure_alone(env, &alone) != 0 || measure(env, usherd, &all) != 0)
        return bench_fail(env, side, "the generator did not run");
    bench_sample(env, side, metric, all - alone > 1 ? all - alone : 1);
    return 0;
}

/* --- the kernel's side ----------------------------------------------------------------------------------------- */

static int nft_write(bool set) {
    FILE *f = fopen(NFT_FILE, "w");
    if (f == NULL)
        return -1;
    (void)fprintf(f, "table netdev t {\n");
    if (set)
        (void)fprintf(f, "set s { type ipv4_addr . inet_service; flags interval; elements = {");
    else
        (void)fprintf(f, "chain c { type filter hook ingress device " SANDBOX_IFNAME " priority 0; policy accept;");
    for (uint32_t i = 0; i < PREFIXES; i++) {
        struct prefix p = prefix_of(i);
        (void)fprintf(f, set ? "%s %u.%u.%u.0/%u . %u" : "%s ip saddr %u.%u.%u.0/%u udp dport %u drop\n",
                      set && i > 0 ? "," : "", p.addr[0], p.addr[1], p.addr[2], p.bits, USHERD_ECHO_PORT);
    }
    if (set)
        (void)fprintf(f, "} }\nchain c { type filter hook ingress device " SANDBOX_IFNAME
                         " priority 0; policy accept; ip saddr . udp dport @s drop; ");
    (void)fprintf(f, "}\n}\n");
    return fclose(f);
}

static int nft_price(struct bench_env *env, bool set) {
    if (nft_write(set) != 0 || sandbox_exec(-1, "nft -f " NFT_FILE) != 0)
        return bench_fail(env, SIDE_KERNEL, "nft did not take the list; install nftables");
    int rc = price(env, SIDE_KERNEL, set ? VS_NFTABLES_SETS : VS_NFTABLES, 0);
    (void)sandbox_exec(-1, "nft flush ruleset");
    return rc;
}

static int software_price(struct bench_env *env) {
    struct usherd_params params = {.core = env->core[0], .mode = "auto", .policy = POLICY};
    char err[512];
    pid_t usherd;
    FILE *f = fopen(POLICY, "w");
    if (f == NULL)
        return bench_fail(env, SIDE_KERNEL, "the policy could not be written");
    (void)fprintf(f, "rules:\n");
    for (uint32_t i = 0; i < PREFIXES; i++) {
        struct prefix p = prefix_of(i);
        (void)fprintf(f,
                      "  - {name: r%u, direction: in, protocol: udp, from: %u.%u.%u.0/%u, to_port: %u, action: drop}\n",
                      i, p.addr[0], p.addr[1], p.addr[2], p.bits, USHERD_ECHO_PORT);
    }
    if (fclose(f) != 0 || usherd_start(&params, &usherd, err, sizeof(err)) != 0)
        return bench_fail(env, SIDE_KERNEL, "%s", err);
    int rc = price(env, SIDE_KERNEL, VS_SOFTWARE, usherd);
    usherd_stop(usherd);
    return rc;
}

static int kernel_side(struct bench_env *env) {
    int rc = nft_price(env, false);
    if (rc == 0)
        rc = nft_price(env, true);
    return rc == 0 ? software_price(env) : rc;
}

/* --- Usher's side ---------------------------------------------------------------------------------------------- */

static void rule_make(struct nb_rule *r, uint32_t i) {
    struct prefix p = prefix_of(i);
    *r = (struct nb_rule){.id = i + 1, .tier = NB_TIER_HOST, .limit = NB_NONE};
    r->action = (struct nb_action){.verdict = NB_DROP, .counter = NB_NONE};
    r->match = (struct nb_match){.fields = NB_F_DIR | NB_F_SRC | NB_F_PROTO | NB_F_DPORT,
                                 .dir = NB_IN,
                                 .proto = IPPROTO_UDP,
                                 .dport = {USHERD_ECHO_PORT, USHERD_ECHO_PORT},
                                 .owner = NB_NONE};
    for (uint32_t bit = 0; bit < 96 + p.bits; bit++)
        r->match.src_mask.b[bit / 8] |= (uint8_t)(0x80 >> bit % 8);
    r->match.src = nb_addr_from_v4(p.addr);
    for (int k = 0; k < 16; k++)
        r->match.src.b[k] &= r->match.src_mask.b[k];
}

static int rules_fill(struct nb_store *store) {
    struct nb_rule *rules = calloc(PREFIXES, sizeof(*rules));
    struct nb_policy policy = {.rules = rules, .rule_count = PREFIXES};
    struct nb_world world = NB_WORLD_UNKNOWN;
    struct nb_program program = {.rules = NULL};
    struct nb_place *places = NULL;
    struct nb_update u = {.commit = NULL};
    for (uint32_t i = 0; rules != NULL && i < PREFIXES; i++)
        rule_make(&rules[i], i);
    for (uint32_t i = 0; i < NB_TIER_COUNT; i++)
        policy.defaults[i] = (struct nb_action){.verdict = NB_ALLOW, .counter = NB_NONE};
    const struct nb_partition_params p = {.policy = &policy, .world = &world, .caps = nb_store_caps(store)};
    int rc = rules == NULL ? -1 : nb_partition(&p, &program, &places);
    if (rc == 0)
        rc = nb_store_update(store, &program, &u);
    if (rc == 0 && (u.refused != 0 || program.count != PREFIXES))
        rc = -1;
    nb_program_free(&program);
    free(places);
    free(rules);
    return rc;
}

static int prog_time(struct bench_env *env, struct nb_rules *rules, struct nb_error *err) {
    uint8_t frame[FRAME];
    int prog;
    if (nb_rules_program(rules, "rules_xdp", &prog, err) != 0)
        return -1;
    frame_make(frame, (const uint8_t *)"\2\0\0\0\0\1", 500);
    LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = frame, .data_size_in = FRAME, .repeat = 1000000);
    int rc = bpf_prog_test_run_opts(prog, &o);
    (void)close(prog);
    if (rc == 0 && o.retval == 1)
        bench_sample(env, SIDE_USHER, PROG_NS, o.duration);
    return rc;
}

/* The same rules in both columns; in the kernel's the flood dies at its sender. */
static int goodput(struct bench_env *env) {
    frames_make();
    for (int at_sender = 0; at_sender < 2; at_sender++) {
        const struct nic_flood flood = {.frames = frames, .count = PREFIXES, .at_sender = at_sender != 0};
        double rate;
        if (nic_flood_goodput(env, &flood, &rate) != 0)
            return bench_fail(env, SIDE_USHER, "nobody could talk beside the flood");
        bench_sample(env, at_sender ? SIDE_KERNEL : SIDE_USHER, GOODPUT, rate);
    }
    return 0;
}

static int usher_side(struct bench_env *env) {
    struct nb_rules *rules;
    struct nb_store *store;
    struct nb_error err = {""};
    if (nb_rules_create(&rules, &err) != 0)
        return bench_fail(env, SIDE_USHER, "%s", err.text);
    if (nb_store_create(nb_rules_backend(rules), &store, &err) != 0) {
        nb_rules_destroy(rules);
        return bench_fail(env, SIDE_USHER, "%s", err.text);
    }
    int rc = rules_fill(store);
    if (rc == 0)
        rc = prog_time(env, rules, &err);
    if (rc == 0)
        rc = nb_rules_attach(rules, if_nametoindex(SANDBOX_IFNAME), NB_RULES_XDP_NATIVE, &err);
    if (rc != 0)
        (void)bench_fail(env, SIDE_USHER, "the rules are not in place: %s", err.text);
    for (uint32_t metric = VS_NFTABLES; metric <= VS_SOFTWARE && rc == 0; metric++)
        rc = price(env, SIDE_USHER, metric, 0);
    if (rc == 0)
        rc = goodput(env);
    nb_store_destroy(store);
    return rc;
}

const struct bench bench_nic_drop = {
    .name = "nic-drop",
    .what = "a packet refused by a list of 1,000 prefixes and a port, on veth",
    .metrics = metrics,
    .metric_count = sizeof(metrics) / sizeof(metrics[0]),
    .rounds = 3,
    .seconds = 0.5,
    .slack_seconds = 25,
    .setup = bench_setup_peer,
    .side = {[SIDE_KERNEL] = kernel_side, [SIDE_USHER] = usher_side},
};
