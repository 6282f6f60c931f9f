/* SPDX-License-Identifier: Apache-2.0
 *
 * The filter engine with packets: which way they go, what is told to whom, conversations, and the transaction that
 * brings a policy. What rules mean is filter_differ_test.c's.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "engines/filter/filter_differ.h"
#include "engines/filter/filter_fixture.h"
#include "nicbackend/ir/interpret.h"

#define RULES 4

struct world {
    struct testkit *tk;
    struct testkit_engine e;
    struct nb_rule rules[RULES];
    struct nb_owner_match owners[1];
    struct nb_policy policy;
    struct nb_range uids[1];
    struct nb_set sets[1];
};

static struct world w;

static void setup(void) {
    w = (struct world){.tk = testkit_create(), .uids = {{1000, 1000}}};
    testkit_open(&w.e, &usher_engine_filter, &fixture_config, 5);
    w.sets[0] = (struct nb_set){.kind = NB_SET_ID, .count = 1, .ranges = w.uids};
    w.owners[0] = (struct nb_owner_match){.fields = NB_OWNER_UID};
    w.policy = (struct nb_policy){
        .revision = 7, .rules = w.rules, .sets = w.sets, .set_count = 1, .owners = w.owners, .owner_count = 1};
    for (uint32_t t = 0; t < NB_TIER_COUNT; t++)
        w.policy.defaults[t] = (struct nb_action){.verdict = NB_ALLOW, .counter = NB_NONE};
}

static void teardown(void) {
    testkit_clear(w.tk);
    cr_assert_eq(w.e.ops->check(w.e.st), 0);
    testkit_close(w.tk, &w.e);
    cr_assert_eq(testkit_missing(w.tk), 0);
    testkit_destroy(w.tk);
}

TestSuite(filter, .init = setup, .fini = teardown);

static struct nb_rule *rule(enum nb_verdict verdict, uint8_t dir) {
    struct nb_rule *r = &w.rules[w.policy.rule_count++];
    *r = (struct nb_rule){.tier = NB_TIER_HOST,
                          .limit = NB_NONE,
                          .match = {.fields = NB_F_DIR, .dir = dir, .owner = NB_NONE},
                          .action = {.verdict = (uint8_t)verdict, .counter = NB_NONE}};
    return r;
}

static void install(void) {
    cr_assert_eq(fixture_install(w.tk, &w.e, &w.policy, NULL, 0), 0);
}

/* As ip hands it up: data at the transport header. */
static struct pkt *received(const struct flow *f, uint8_t proto) {
    struct pkt *p = testkit_udp_packet(w.tk, f, NULL, 40);
    p->l3_off = (uint16_t)(p->data - p->buf);
    p->flow = *f;
    p->flow.proto = proto;
    p->ip_version = ipaddr_is_v4(&f->local) ? 4 : 6;
    p->tos = 0;
    p->sink = 0;
    p->owner = 0;
    pkt_pull(p, p->ip_version == 4 ? IP4_LEN : IP6_LEN);
    p->l4_off = (uint16_t)(p->data - p->buf);
    return p;
}

/* As it goes down to a port; its header is that of the packet that came from the same flow the other way. */
static struct pkt *sent(const struct flow *f, uint32_t owner) {
    const struct flow from = {
        .local = f->remote, .remote = f->local, .local_port = f->remote_port, .remote_port = f->local_port};
    struct pkt *p = received(&from, PROTO_UDP);
    p->flow = *f;
    p->flow.proto = PROTO_UDP;
    p->owner = owner;
    uint32_t back = (uint32_t)(p->data - pkt_l3(p));
    p->data -= back;
    p->len += back;
    return p;
}

static struct flow flow_of_port(uint16_t port) {
    return testkit_flow("10.0.0.1", port, "10.0.0.2", 4000);
}

static struct pkt *in(uint16_t port) {
    struct flow f = flow_of_port(port);
    struct pkt *p = received(&f, PROTO_UDP);
    testkit_input(w.tk, &w.e, &p, 1);
    return p;
}

static struct pkt *out(uint16_t port, uint32_t owner) {
    struct flow f = flow_of_port(port);
    struct pkt *p = sent(&f, owner);
    testkit_output(w.tk, &w.e, &p, 1);
    return p;
}

Test(filter, without_a_policy_everything_passes) {
    in(53);
    out(53, 0);
    cr_assert(w.tk->up.count == 1 && w.tk->down.count == 1);
}

Test(filter, a_drop_names_its_rule) {
    rule(NB_ALLOW, NB_OUT);
    struct nb_rule *r = rule(NB_DROP, NB_IN);
    r->match.fields |= NB_F_DPORT;
    r->match.dport = (struct nb_range){53, 53};
    install();
    in(54);
    cr_assert_eq(w.tk->up.count, 1);
    struct pkt *p = in(53);
    cr_assert(w.tk->drop.count == 1 && p->drop == DROP_POLICY && p->user == 1);
}

/* A class is for what is sent; a later rule's replaces it. */
Test(filter, a_class_is_stamped_on_the_way_out) {
    for (uint32_t i = 0; i < 2; i++) {
        struct nb_rule *r = rule(NB_CONTINUE, NB_OUT);
        r->action.flags = NB_ACT_CLASS;
        r->action.class_id = 7 * i;
    }
    install();
    cr_assert_eq(out(53, 0)->class_id, 7 + 1);
    cr_assert_eq(in(53)->class_id, 0);
    w.policy.rule_count = 1;
    install();
    cr_assert_eq(out(53, 0)->class_id, 0 + 1);
}

/* Besides the class, if there is one; it is the port's to say to whoever looks at frames. */
Test(filter, a_mark_is_stamped_on_the_way_out) {
    struct nb_rule *r = rule(NB_CONTINUE, NB_OUT);
    r->action.flags = NB_ACT_MARK;
    r->action.mark = 0x10;
    r->action.mark_mask = 0xf0;
    install();
    struct pkt *p = out(53, 0);
    cr_assert(p->class_id == PKT_MARKED && p->mark == 0x10);
    cr_assert_eq(in(53)->class_id, 0);
    r->action.flags |= NB_ACT_CLASS;
    r->action.class_id = 4;
    install();
    cr_assert_eq(out(53, 0)->class_id, (4 + 1) | PKT_MARKED);
}

/* Whatever becomes of it. */
Test(filter, what_a_rule_mirrors_is_shown) {
    rule(NB_CONTINUE, NB_IN)->action.flags = NB_ACT_MIRROR;
    struct nb_rule *no = rule(NB_DROP, NB_IN);
    no->match.fields |= NB_F_DPORT;
    no->match.dport = (struct nb_range){53, 53};
    install();
    struct pkt *p = in(54);
    cr_assert(w.tk->shown.count == 1 && w.tk->shown.v[0] == p && w.tk->up.count == 1);
    p = in(53);
    cr_assert(w.tk->shown.count == 2 && w.tk->shown.v[1] == p && w.tk->drop.count == 1);
    (void)out(53, 0);
    cr_assert_eq(w.tk->shown.count, 2);
    w.tk->io.shown = NULL;
    (void)in(54);
    cr_assert_eq(w.tk->up.count, 2);
}

Test(filter, a_rejected_datagram_goes_to_the_link_engine_whole) {
    rule(NB_REJECT, NB_IN)->action.reject = NB_REJECT_ADMIN;
    install();
    struct pkt *p = in(53);
    cr_assert_eq(w.tk->down.count, 1);
    cr_assert(p->flags & PKT_ICMP_ERROR);
    cr_assert(p->user == PKT_REFUSE_POLICY_ADMIN && p->drop == DROP_POLICY && p->data == pkt_l3(p));
    cr_assert_eq(p->user_data, 0, "the rule that did it");
}

Test(filter, a_rejected_segment_is_reset) {
    rule(NB_REJECT, NB_IN);
    install();
    struct flow f = flow_of_port(80);
    struct pkt *p = received(&f, PROTO_TCP);
    memset(p->data, 0, TCP_LEN);
    be16_store(p->data, 4000);
    be16_store(p->data + 2, 80);
    be32_store(p->data + 4, 1000);
    p->data[12] = 5 << 4;
    p->data[13] = 2; /* SYN */
    testkit_input(w.tk, &w.e, &p, 1);
    cr_assert(w.tk->drop.count == 1 && w.tk->down.count == 1);
    const struct pkt *r = w.tk->down.v[0];
    cr_assert(be16_load(r->data) == 80 && be16_load(r->data + 2) == 4000);
    cr_assert_eq(r->data[13], 0x14);
    cr_assert_eq(be32_load(r->data + 8), 1000 + 48 - 20 + 1);
    p = received(&f, PROTO_TCP);
    p->data[12] = 5 << 4;
    p->data[13] = 4; /* no RST is answered by one */
    testkit_input(w.tk, &w.e, &p, 1);
    cr_assert(w.tk->drop.count == 2 && w.tk->down.count == 1);
}

static void told(enum nb_verdict verdict, enum nb_reject how, uint32_t error) {
    w.policy.rule_count = 0;
    rule(verdict, NB_OUT)->action.reject = (uint8_t)how;
    install();
    const struct flow f = flow_of_port(53);
    struct pkt *p = out(53, 9);
    cr_assert(w.tk->drop.count == 1 && w.tk->up.count == 1 && p->drop == DROP_POLICY);
    const struct pkt *e = w.tk->up.v[0];
    cr_assert(e->flags & PKT_ICMP_ERROR);
    cr_assert_eq(e->user, error);
    cr_assert(ipaddr_equal(&e->flow.local, &f.local) && ipaddr_equal(&e->flow.remote, &f.remote));
    cr_assert(be16_load(e->data) == 53 && be16_load(e->data + 2) == 4000);
    testkit_clear(w.tk);
}

Test(filter, a_sender_here_learns_what_became_of_its_packet) {
    told(NB_DROP, NB_REJECT_AUTO, EPERM);
    told(NB_REJECT, NB_REJECT_AUTO, ECONNREFUSED);
    told(NB_REJECT, NB_REJECT_HOST, EHOSTUNREACH);
    told(NB_REJECT, NB_REJECT_ADMIN, EACCES);
}

Test(filter, answers_to_what_a_socket_has_sent_are_established) {
    struct nb_rule *r = rule(NB_ALLOW, NB_IN);
    r->match.fields |= NB_F_STATE;
    r->match.state = NB_STATE_ESTABLISHED;
    rule(NB_DROP, NB_IN);
    install();
    struct flow f = flow_of_port(53);
    struct pkt *p = received(&f, PROTO_UDP);
    p->owner = 9;
    testkit_input(w.tk, &w.e, &p, 1);
    cr_assert_eq(w.tk->drop.count, 1);
    out(53, 9);
    for (uint32_t owner = 8; owner <= 9; owner++) { /* another's socket on the port is not in the conversation */
        p = received(&f, PROTO_UDP);
        p->owner = owner;
        testkit_input(w.tk, &w.e, &p, 1);
    }
    cr_assert(w.tk->up.count == 1 && w.tk->drop.count == 2);
    w.tk->io.now += 200 * NS_PER_SEC;
    p = received(&f, PROTO_UDP);
    p->owner = 9;
    testkit_input(w.tk, &w.e, &p, 1);
    cr_assert_eq(w.tk->drop.count, 3);
    p = received(&f, PROTO_UDP);
    p->known = PKT_KNOWN_ESTABLISHED; /* its transport knows better */
    testkit_input(w.tk, &w.e, &p, 1);
    cr_assert_eq(w.tk->up.count, 2);
}

Test(filter, an_owner_is_judged_as_soon_as_its_bits_are_there) {
    rule(NB_ALLOW, NB_OUT)->match.owner = 0;
    rule(NB_DROP, NB_OUT);
    install();
    out(53, 3);
    cr_assert_eq(w.tk->drop.count, 1);
    const struct nb_owner bob = {.uid = 1000};
    uint64_t bits[1];
    filter_owner_bits(&w.policy, &bob, bits);
    struct filter_cmd_owner c = {.cmd = {FILTER_CMD_OWNER, sizeof c}, .owner = 3, .count = 1, .bits = bits};
    cr_assert_eq(testkit_command(w.tk, &w.e, &c).error, 0);
    out(53, 3);
    cr_assert_eq(w.tk->down.count, 1);
    out(53, FILTER_OWNER_MAX); /* beyond the table: nobody's friend */
    cr_assert_eq(w.tk->drop.count, 2);
    c.owner = FILTER_OWNER_MAX;
    cr_assert_eq(testkit_command(w.tk, &w.e, &c).error, -ERANGE);
}

Test(filter, errors_bounces_and_neighbour_discovery_pass) {
    rule(NB_DROP, NB_IN | NB_OUT);
    install();
    struct flow f = flow_of_port(53);
    struct pkt *p[2] = {received(&f, PROTO_UDP), received(&f, PROTO_UDP)};
    p[0]->flags |= PKT_ICMP_ERROR;
    p[1]->flags |= PKT_BOUNCED;
    testkit_input(w.tk, &w.e, p, 2);
    cr_assert_eq(w.tk->up.count, 2);
    p[0] = sent(&f, 0);
    p[0]->ip_version = 0; /* ARP */
    testkit_output(w.tk, &w.e, p, 1);
    cr_assert_eq(w.tk->down.count, 1);
}

/* ---- the transaction ---- */

Test(filter, only_a_whole_policy_comes_into_force) {
    struct filter_compiled c;
    rule(NB_DROP, NB_IN);
    install();
    w.policy.revision = 8;
    w.rules[0].action.verdict = NB_ALLOW;
    cr_assert_eq(filter_compile(&w.policy, NULL, 0, 1, &c), 0);
    struct filter_cmd_commit commit = {.cmd = {FILTER_CMD_COMMIT, sizeof commit}, .sum = c.sum};
    cr_assert_eq(testkit_command(w.tk, &w.e, &commit).error, -EBADMSG, "nothing was begun");
    cr_assert_eq(fixture_send(w.tk, &w.e, &c), 0);
    commit.sum ^= 1;
    cr_assert_eq(testkit_command(w.tk, &w.e, &commit).error, -EBADMSG);
    commit.sum ^= 1;
    cr_assert_eq(testkit_command(w.tk, &w.e, &commit).error, -EBADMSG, "it must begin anew");
    struct engine_cmd info = {FILTER_CMD_INFO, sizeof info};
    cr_assert_eq(testkit_command(w.tk, &w.e, &info).value64, 7);
    in(53);
    cr_assert_eq(w.tk->drop.count, 1, "the old policy is whole");
    struct filter_cmd_counts counts = {.cmd = {FILTER_CMD_COUNTS, sizeof counts}, .count = 8, .previous = true};
    cr_assert_eq(testkit_command(w.tk, &w.e, &counts).error, -ENOENT);
    cr_assert_eq(fixture_send(w.tk, &w.e, &c), 0);
    cr_assert_eq(testkit_command(w.tk, &w.e, &commit).error, 0);
    cr_assert_eq(testkit_command(w.tk, &w.e, &info).value64, 8);
    in(53);
    cr_assert_eq(w.tk->up.count, 1);
    struct filter_count had[8];
    counts.counts = had;
    cr_assert_eq(testkit_command(w.tk, &w.e, &counts).value, 1, "what the old one has counted is there still");
    cr_assert_eq(had[0].packets, 1);
    filter_compiled_free(&c);
}

/* ---- records ---- */

Test(filter, rules_leave_records_but_not_a_flood_of_them) {
    struct nb_rule *r = rule(NB_DROP, NB_IN);
    r->id = 77;
    r->action.flags = NB_ACT_LOG;
    install();
    in(53);
    cr_assert_eq(w.tk->io.event_count, 1);
    const struct engine_event *e = &w.tk->events[0];
    cr_assert(e->kind == EVENT_POLICY_LOG && e->id == 77 && e->value == (FILTER_DROP | FILTER_IN << 8));
    cr_assert(e->flow.local_port == 53 && e->flow.proto == PROTO_UDP);
    for (uint32_t i = 0; i < 2 * FILTER_LOG_MAX; i++)
        in(53);
    cr_assert_eq(w.tk->io.event_count, FILTER_LOG_MAX);
    cr_assert_eq(w.e.counters[FILTER_COUNT_UNLOGGED], FILTER_LOG_MAX + 1);
    w.tk->io.now += NS_PER_SEC;
    in(53);
    cr_assert_eq(w.tk->io.event_count, FILTER_LOG_MAX + 1);
}

/* ---- sets ---- */

static int set_send(const struct nb_set *set, uint32_t index, uint32_t part) {
    struct filter_range members[256];
    int err = 0;
    filter_set_members(set, members);
    for (uint32_t at = 0; err == 0 && (at < set->count || at == 0); at += part) {
        struct filter_cmd_set c = {.cmd = {FILTER_CMD_SET, sizeof c}, .members = members + at, .set = index};
        c.offset = at;
        c.count = set->count - at < part ? set->count - at : part;
        c.total = set->count;
        err = testkit_command(w.tk, &w.e, &c).error;
    }
    return err;
}

static bool passes(uint16_t port) {
    in(port);
    bool up = w.tk->up.count == 1;
    testkit_clear(w.tk);
    return up;
}

Test(filter, sets_change_under_their_rules) {
    struct nb_range ports[200] = {{53, 53}}, more[200];
    w.sets[0] = (struct nb_set){.kind = NB_SET_PORT, .count = 1, .ranges = ports};
    w.policy.owner_count = 0;
    struct nb_rule *r = rule(NB_DROP, NB_IN);
    r->match.fields |= NB_F_DPORT_SET;
    r->match.dport_set = 0;
    install();
    cr_assert(!passes(53) && passes(54));
    for (uint32_t i = 0; i < 200; i++)
        more[i] = (struct nb_range){54 + 2 * i, 54 + 2 * i};
    struct nb_set set = {.kind = NB_SET_PORT, .count = 15, .ranges = more};
    for (uint32_t round = 0; round < 3; round++) {
        set.count = 15 + round % 2;
        cr_assert_eq(set_send(&set, 0, 4), 0);
        cr_assert(passes(53) && !passes(54) && !passes(82) && passes(83));
        cr_assert_eq(passes(84), round % 2 == 0);
        cr_assert_eq(testkit_recover(&w.e), 0);
    }
    set.count = 0;
    cr_assert_eq(set_send(&set, 0, 4), 0);
    cr_assert(passes(54), "an empty one has nobody");
    struct filter_count seen;
    struct filter_cmd_counts counts = {.cmd = {FILTER_CMD_COUNTS, sizeof counts}, .count = 1, .counts = &seen};
    cr_assert_eq(testkit_command(w.tk, &w.e, &counts).value, 1);
    cr_assert_eq(seen.packets, 8, "the rule counts on: %u", (uint32_t)seen.packets);
    set.count = 200;
    cr_assert_eq(set_send(&set, 0, 100), -ENOSPC);
    cr_assert(passes(54), "and nothing changed");
    set.count = 1;
    cr_assert_eq(set_send(&set, 1, 1), -EINVAL);
}

Test(filter, parts_out_of_order_or_too_large_are_refused) {
    struct filter_cmd_begin begin = {.cmd = {FILTER_CMD_BEGIN, sizeof begin}, .size = fixture_config.image_bytes + 64u};
    struct filter_cmd_part part = {.cmd = {FILTER_CMD_PART, sizeof part}, .size = 8};
    cr_assert_eq(testkit_command(w.tk, &w.e, &part).error, -EBADMSG);
    cr_assert_eq(testkit_command(w.tk, &w.e, &begin).error, -EFBIG);
    begin.size = 4096;
    cr_assert_eq(testkit_command(w.tk, &w.e, &begin).error, 0);
    cr_assert_eq(testkit_command(w.tk, &w.e, &part).error, -EINVAL, "no head");
    part.offset = 8;
    cr_assert_eq(testkit_command(w.tk, &w.e, &part).error, -EBADMSG);
    struct engine_cmd unknown = {99, sizeof unknown}, abort = {FILTER_CMD_ABORT, sizeof abort};
    cr_assert_eq(testkit_command(w.tk, &w.e, &unknown).error, -ENOTSUP);
    cr_assert_eq(testkit_command(w.tk, &w.e, &abort).error, 0);
}

Test(filter, a_restart_keeps_the_policy_unless_it_is_damaged) {
    rule(NB_DROP, NB_IN);
    install();
    cr_assert_eq(testkit_recover(&w.e), 0);
    in(53);
    cr_assert_eq(w.tk->drop.count, 1);
    struct filter_state *st = (struct filter_state *)w.e.st;
    ((struct filter_rule *)filter_at(filter_active(st), FILTER_SEC_RULES))->mask.w[0] ^= 1;
    cr_assert_eq(w.e.ops->check(w.e.st), 2);
    cr_assert_eq(testkit_recover(&w.e), 1);
    in(53);
    cr_assert_eq(w.tk->up.count, 1);
}

/* ---- a packet is seen as the specification's parser sees its frame ---- */

Test(filter, packets_are_what_their_frames_are) {
    static struct differ d;
    uint32_t allowed = 0;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        differ_policy(&d, seed, 8);
        d.policy.defaults[NB_TIER_HOST].verdict = NB_ALLOW;
        for (uint32_t i = 0; i < d.policy.rule_count; i++) /* no state between packets: each is judged by itself */
            d.rules[i].limit = NB_NONE;
        cr_assert_eq(fixture_install(w.tk, &w.e, &d.policy, NULL, 0), 0);
        for (uint32_t i = 0; i < 100; i++) {
            struct nb_view v;
            struct nb_outcome want;
            struct flow f = {.local_port = (uint16_t)differ_roll(&d, 12), .remote_port = (uint16_t)differ_roll(&d, 12)};
            do
                differ_view(&d, &v);
            while ((v.parsed & NB_PARSED_IP) == 0);
            memcpy(&f.remote, &v.src, 16);
            f.local = f.remote;
            f.local.b[15] ^= 1;
            struct pkt *p = received(&f, PROTO_UDP);
            struct nb_frame frame = {.data = pkt_l3(p),
                                     .len = pkt_bytes(p) + (size_t)(p->data - pkt_l3(p)),
                                     .ifindex = 10,
                                     .ethertype = p->ip_version == 4 ? 0x0800 : 0x86dd,
                                     .dir = NB_IN,
                                     .state = NB_STATE_NEW,
                                     .l3 = true};
            nb_view_parse(&frame, &v);
            nb_interpret(&d.policy, NULL, &v, NULL, 0, &want);
            testkit_input(w.tk, &w.e, &p, 1);
            cr_assert_eq(w.tk->up.count == 1, want.verdict == NB_ALLOW, "seed %u packet %u", (uint32_t)seed, i);
            allowed += w.tk->up.count;
            testkit_clear(w.tk);
        }
    }
    cr_assert(allowed > 400 && allowed < 3600, "%u of 4000: both must happen", allowed);
}
