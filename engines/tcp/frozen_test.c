/* SPDX-License-Identifier: Apache-2.0
 *
 * Connections that stand still until their owner comes back, under another sink, and those whose owner does not.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "engines/tcp/tcp.h"
#include "engines/tcp/testlink.h"

#define UP   400000u
#define DOWN 300000u

static const struct link_faults slow = {.delay = NS_PER_MS};

static bool half_way(struct link *l) {
    return l->host[1].socks[0].adopted && l->host[1].socks[0].rx_bytes > UP / 2;
}

static uint32_t freeze(struct link *l, uint32_t host, bool on) {
    const struct tcp_cmd_freeze cmd = {.cmd = {TCP_CMD_FREEZE, sizeof cmd}, .on = on};
    struct engine_reply r = link_command(l, host, &cmd);
    cr_assert_eq(r.error, 0);
    return r.value;
}

static struct tcp_cmd_resume resume_of(struct link *l, uint32_t host, uint32_t i, struct tcp_resumed *result) {
    const struct link_sock *s = &l->host[host].socks[i];
    struct tcp_conn_info info = link_info(l, host, i);
    return (struct tcp_cmd_resume){.cmd = {TCP_CMD_RESUME, sizeof(struct tcp_cmd_resume)},
                                   .flow = info.flow,
                                   .old_sink = s->sink,
                                   .sink = s->sink,
                                   .owner = 77,
                                   .held = (uint32_t)(s->rx_bytes - s->rx_credited),
                                   .rx_bytes = s->rx_bytes,
                                   .result = result};
}

static struct link *stand_still(uint32_t host) {
    struct link *l = link_stream(5, NULL, &slow, UP, DOWN);
    cr_assert(link_run(l, l->now + 60 * NS_PER_SEC, half_way));
    freeze(l, host, true);
    return l;
}

Test(frozen, a_stream_goes_on_where_it_stood) {
    for (uint32_t host = 0; host < 2; host++) {
        struct link *l = stand_still(host);
        struct tcp_resumed result;
        uint64_t before = l->host[1 - host].socks[0].rx_bytes;
        (void)link_run(l, l->now + 50 * NS_PER_MS, NULL); /* what is on its way arrives */
        uint64_t after = l->host[1 - host].socks[0].rx_bytes;
        (void)link_run(l, l->now + 2 * NS_PER_SEC, NULL);
        cr_assert_eq(l->host[1 - host].socks[0].rx_bytes, after, "a frozen connection sends (%lu)", before);
        cr_assert_eq(l->host[1 - host].socks[0].error, 0, "its peer was reset");
        struct tcp_cmd_resume again = resume_of(l, host, 0, &result), wrong = again;
        wrong.old_sink++;
        cr_assert_eq(link_command(l, host, &wrong).error, -ENOENT, "somebody else's");
        wrong = again;
        wrong.flow.remote_port++;
        cr_assert_eq(link_command(l, host, &wrong).error, -ENOENT, "no such connection");
        l->host[host].socks[0].hung_up = false; /* both are said again */
        l->host[host].socks[0].connected = host == 1;
        cr_assert_eq(link_command(l, host, &again).error, 0);
        cr_assert_eq(result.taken, (uint32_t)l->host[host].socks[0].tx_queued);
        l->host[host].socks[0].tx_done = result.acked;
        cr_assert_eq(link_command(l, host, &again).error, -ENOENT, "once");
        cr_assert_eq(freeze(l, host, false), 0, "nothing is left to reset");
        cr_assert_eq(link_info(l, host, 0).owner, 77);
        cr_assert(link_run(l, l->now + 600 * NS_PER_SEC, link_all_closed), "the stream ends");
        const char *why = link_stream_wrong(l, UP, DOWN);
        cr_assert_null(why, "%s", why);
        link_destroy(l);
    }
}

static void come_back(struct link *l, uint32_t host) {
    struct tcp_resumed result;
    struct tcp_cmd_resume cmd = resume_of(l, host, 0, &result);
    l->host[host].socks[0].hung_up = false;
    l->host[host].socks[0].connected = host == 1;
    cr_assert_eq(link_command(l, host, &cmd).error, 0);
    l->host[host].socks[0].tx_done = result.acked;
}

/* Both ends were carried by what went away: whoever is back first finds nobody, and must not wait for a timeout. */
Test(frozen, ends_that_come_back_one_after_the_other_meet_at_once) {
    for (uint32_t i = 0; i < 8; i++) {
        struct link *l = stand_still(0);
        freeze(l, 1, true);
        (void)link_run(l, l->now + 50 * NS_PER_MS + i * NS_PER_MS / 3, NULL);
        uint64_t before = l->host[0].socks[0].rx_bytes + l->host[1].socks[0].rx_bytes;
        come_back(l, i % 2);
        (void)link_run(l, l->now + 5 * NS_PER_MS, NULL);
        come_back(l, 1 - i % 2);
        (void)link_run(l, l->now + 40 * NS_PER_MS, NULL);
        cr_assert_gt(l->host[0].socks[0].rx_bytes + l->host[1].socks[0].rx_bytes, before, "turn %u", i);
        cr_assert(link_run(l, l->now + 600 * NS_PER_SEC, link_all_closed), "the stream ends");
        const char *why = link_stream_wrong(l, UP, DOWN);
        cr_assert_null(why, "%s", why);
        link_destroy(l);
    }
}

/* It goes from one program to another, is moved to another state while nobody has it, and the heir resumes it by what
 * he himself has got and sent. */
Test(frozen, who_was_given_it_counts_from_there) {
    struct link *l = link_create(11, NULL, NULL);
    struct link_sock *up, *down = &l->host[1].socks[0];
    struct tcp_resumed result;
    l->host[1].accept_as = (struct link_sock){.tx_total = 5000, .chunk = 1000};
    (void)link_listen(l, 1, 80, NULL);
    up = &l->host[0].socks[link_connect(l, 0, 80, 7000, NULL)];
    (void)link_run(l, l->now + 5 * NS_PER_SEC, NULL);
    cr_assert(down->rx_bytes == 7000 && up->rx_bytes == 5000);
    const struct tcp_cmd_give give = {.cmd = {TCP_CMD_GIVE, sizeof give}, .sock = down->sock, .sink = down->sink};
    cr_assert_eq(link_command(l, 1, &give).error, 0);
    link_upgrade(l, 1);
    const struct tcp_cmd_adopt adopt = {.cmd = {TCP_CMD_ADOPT, sizeof adopt}, .sock = down->sock, .sink = down->sink};
    cr_assert_eq(link_command(l, 1, &adopt).error, 0);
    up->tx_total += 3000;
    (void)link_run(l, l->now + 5 * NS_PER_SEC, NULL);
    cr_assert_eq(down->rx_bytes, 10000);
    cr_assert_eq(link_info(l, 1, 0).rx_bytes, 3000);
    cr_assert_eq(link_info(l, 1, 0).tx_bytes, 0);
    freeze(l, 1, true);
    struct tcp_cmd_resume again = resume_of(l, 1, 0, &result);
    again.rx_bytes = 3000;
    cr_assert_eq(link_command(l, 1, &again).error, 0);
    cr_assert_eq(result.taken + result.acked, 0);
    up->tx_total += 1000;
    down->tx_total += 2000;
    (void)link_run(l, l->now + 5 * NS_PER_SEC, NULL);
    cr_assert(down->rx_bytes == 11000 && up->rx_bytes == 7000);
    cr_assert_eq(down->rx_corrupt + up->rx_corrupt, 0);
    cr_assert_eq(link_info(l, 1, 0).tx_bytes, 2000);
    link_close(l, 0, 0, true);
    link_close(l, 1, 0, true);
    link_destroy(l);
}

/* Who gave it away has it back when usherd dies before anybody has taken it; so has an heir who comes later. */
Test(frozen, what_was_given_to_nobody_is_not_lost) {
    for (uint32_t heir = 0; heir < 2; heir++) {
        struct link *l = link_create(12, NULL, NULL);
        struct link_sock *up, *down = &l->host[1].socks[0];
        struct tcp_resumed result;
        (void)link_listen(l, 1, 80, NULL);
        up = &l->host[0].socks[link_connect(l, 0, 80, 7000, NULL)];
        (void)link_run(l, l->now + 5 * NS_PER_SEC, NULL);
        const struct tcp_cmd_give give = {.cmd = {TCP_CMD_GIVE, sizeof give}, .sock = down->sock, .sink = down->sink};
        const struct tcp_cmd_adopt adopt = {
            .cmd = {TCP_CMD_ADOPT, sizeof adopt}, .sock = down->sock, .sink = down->sink};
        struct tcp_cmd_resume again = resume_of(l, 1, 0, &result);
        cr_assert_eq(link_command(l, 1, &give).error, 0);
        cr_assert_eq(link_ops->recover(l->host[1].st, l->host[1].size, &(uint32_t){0}), 0);
        freeze(l, 1, true);
        cr_assert_eq((heir ? link_command(l, 1, &adopt) : link_command(l, 1, &again)).error, 0);
        cr_assert_eq(freeze(l, 1, false), 0);
        up->tx_total += 3000;
        (void)link_run(l, l->now + 5 * NS_PER_SEC, NULL);
        cr_assert_eq(down->rx_bytes, 10000);
        cr_assert_eq(link_info(l, 1, 0).rx_bytes, heir ? 3000 : 10000);
        link_close(l, 0, 0, true);
        link_close(l, 1, 0, true);
        link_destroy(l);
    }
}

/* Host 1 dies and another takes its state over; time passes. */
static void die(struct link *l, const struct link_sock *up) {
    uint32_t lost;
    cr_assert_eq(link_ops->recover(l->host[1].st, l->host[1].size, &lost), 0);
    cr_assert_eq(lost, 0);
    freeze(l, 1, true);
    (void)link_run(l, l->now + 100 * NS_PER_MS, NULL);
    cr_assert(up->connected && up->error == 0);
}

/* Its program listens again: what its peer has sent arrives at socket `i`. */
static void serve_again(struct link *l, const struct link_sock *up, uint32_t i, uint64_t bytes) {
    (void)link_listen(l, 1, 80, NULL);
    (void)link_run(l, l->now + 10 * NS_PER_SEC, NULL);
    cr_assert_eq(l->host[1].socks[i].rx_bytes, bytes);
    cr_assert_eq(up->error, 0);
    link_close(l, 0, 0, true);
    link_close(l, 1, i, true);
    link_destroy(l);
}

/* Its SYN was answered before the death; it goes on when the listener is there again. */
Test(frozen, what_was_half_open_waits_for_its_listener) {
    struct link *l = link_create(13, NULL, &(struct tcp_config){.conn_max = 16});
    l->faults[0].delay = l->faults[1].delay = 50 * NS_PER_MS;
    (void)link_listen(l, 1, 80, NULL);
    struct link_sock *up = &l->host[0].socks[link_connect(l, 0, 80, 7000, NULL)];
    (void)link_run(l, l->now + 75 * NS_PER_MS, NULL);
    for (uint32_t death = 0; death < 2; death++) {
        die(l, up);
        link_upgrade(l, 1);
    }
    serve_again(l, up, 0, 7000);
}

/* Its peer is connected and has spoken, and nobody here had been told when usherd died, twice. */
Test(frozen, what_nobody_was_told_of_waits_for_its_listener) {
    struct link *l = link_create(14, NULL, &(struct tcp_config){.conn_max = 16});
    (void)link_listen(l, 1, 80, NULL);
    l->host[1].refuse_adopt = true;
    struct link_sock *up = &l->host[0].socks[link_connect(l, 0, 80, 7000, NULL)];
    (void)link_run(l, l->now + 50 * NS_PER_MS, NULL);
    cr_assert(up->connected && !l->host[1].socks[0].adopted);
    for (uint32_t death = 0; death < 2; death++)
        die(l, up);
    l->host[1].refuse_adopt = false;
    serve_again(l, up, 0, 7000);
}

/* It was given to a client that died before it read so, or whose usherd did. Who listens again gets it once more. */
Test(frozen, what_a_client_was_not_told_of_is_offered_again) {
    struct link *l = link_create(15, NULL, &(struct tcp_config){.conn_max = 16});
    (void)link_listen(l, 1, 80, NULL);
    struct link_sock *up = &l->host[0].socks[link_connect(l, 0, 80, 0, NULL)];
    (void)link_run(l, l->now + 50 * NS_PER_MS, NULL);
    cr_assert(up->connected && l->host[1].socks[0].adopted);
    up->tx_total += 3000;
    die(l, up);
    (void)link_listen(l, 1, 80, NULL);
    (void)link_run(l, l->now + 10 * NS_PER_SEC, NULL);
    cr_assert_eq(freeze(l, 1, false), 0, "nothing is left to reset");
    cr_assert(l->host[1].socks[1].adopted);
    cr_assert_eq(l->host[1].socks[1].rx_bytes, 3000);
    cr_assert_eq(up->error, 0);
    link_close(l, 0, 0, true);
    link_close(l, 1, 1, true);
    link_destroy(l);
}

Test(frozen, what_nobody_comes_for_is_reset) {
    struct link *l = stand_still(0);
    (void)link_run(l, l->now + NS_PER_SEC, NULL);
    cr_assert_eq(l->host[1].socks[0].error, 0);
    cr_assert_eq(freeze(l, 0, false), 1);
    cr_assert_eq(freeze(l, 0, false), 0);
    (void)link_run(l, l->now + NS_PER_SEC, NULL);
    cr_assert_eq(l->host[1].socks[0].error, ECONNRESET, "%d", l->host[1].socks[0].error);
    cr_assert_eq(link_stats(l, 0).connections, 0);
    l->host[0].socks[0].closed = true;
    link_destroy(l);
}

Test(frozen, numbers_that_cannot_be_end_it) {
    struct link *l = stand_still(1);
    struct tcp_resumed result;
    struct tcp_cmd_resume bad = resume_of(l, 1, 0, &result);
    bad.rx_bytes += 1000000; /* more than ever came */
    cr_assert_eq(link_command(l, 1, &bad).error, -EINVAL);
    cr_assert_eq(link_stats(l, 1).connections, 0);
    (void)link_run(l, l->now + NS_PER_SEC, NULL);
    cr_assert_eq(l->host[0].socks[0].error, ECONNRESET);
    link_destroy(l);
}

Test(frozen, listeners_go_and_nobody_is_refused_meanwhile) {
    struct link *l = link_create(9, NULL, NULL);
    (void)link_listen(l, 1, 80, NULL);
    cr_assert_eq(link_stats(l, 1).listeners, 1);
    freeze(l, 1, true);
    cr_assert_eq(link_stats(l, 1).listeners, 0);
    uint32_t c = link_connect(l, 0, 80, 1000, NULL);
    (void)link_run(l, l->now + 500 * NS_PER_MS, NULL);
    cr_assert_eq(l->host[0].socks[c].error, 0, "its SYN is not answered");
    freeze(l, 1, false);
    (void)link_run(l, l->now + 10 * NS_PER_SEC, NULL);
    cr_assert_eq(l->host[0].socks[c].error, ECONNREFUSED, "from now on it is");
    link_destroy(l);
}
