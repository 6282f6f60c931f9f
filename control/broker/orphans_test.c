/* SPDX-License-Identifier: Apache-2.0
 *
 * Connections without a listener are held while they live, each once.
 */
#include "control/broker/orphans.h"

#include <criterion/criterion.h>
#include <errno.h>

#include "control/broker/claims.h"
#include "control/broker/fake_dataplane.h"

static sd_event *event;
static struct claim_table *claims;
static struct orphans *orphans;
static uint64_t ports[65536 / 64];

static void setup(void) {
    cr_assert(sd_event_new(&event) >= 0);
    cr_assert_eq(claim_table_create(NULL, 16, &claims), 0);
    cr_assert_eq(orphans_create(event, NULL, claims, &orphans), 0);
    ports[7000 / 64] |= 1ull << (7000 % 64);
    static const uint16_t local[] = {7000, 7001, 7000, 7000};
    for (uint32_t i = 0; i < 4; i++)
        fake.streams[i] = (struct session_port_flow){
            .flow = {.local_port = local[i], .remote_port = (uint16_t)(i + 1)}, .sock = i, .lives = true};
    fake.stream_count = 4;
}

static void teardown(void) {
    orphans_destroy(orphans);
    cr_assert_eq(fake.live_held, 0, "all are let go");
    claim_table_destroy(claims);
    sd_event_unref(event);
}

TestSuite(orphans, .init = setup, .fini = teardown, .timeout = 60);

Test(orphans, those_of_the_port_are_held_while_they_live) {
    orphans_hold(orphans, ports);
    cr_assert_eq(orphans_count(orphans), 3);
    cr_assert_str_eq(fake.trace, "hold hold hold");
    fake.streams[2].lives = false;
    for (int i = 0; i < 100 && fake.live_held == 3; i++)
        cr_assert(sd_event_run(event, 1000000) >= 0);
    cr_assert_eq(orphans_count(orphans), 2);
}

/* What cannot be held is lost, the rest is not. */
Test(orphans, a_full_table_loses_the_rest) {
    fake.fail_at = 2;
    fake.fail_with = -ENOSPC;
    orphans_hold(orphans, ports);
    cr_assert_eq(orphans_count(orphans), 2);
}

Test(orphans, one_that_is_held_already_is_held_once) {
    fake.fail_at = 1;
    fake.fail_with = -EEXIST;
    orphans_hold(orphans, ports);
    cr_assert_eq(orphans_count(orphans), 2);
}
