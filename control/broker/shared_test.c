/* SPDX-License-Identifier: Apache-2.0
 *
 * Who has a stream that several processes have a copy of, and when it ends.
 */
#include "control/broker/shared.h"

#include <criterion/criterion.h>
#include <errno.h>

#include "control/broker/broker_internal.h"
#include "control/broker/fake_dataplane.h"

static sd_event *event;
static struct shared_table *table;
static struct connection parent, child;

static void setup(void) {
    cr_assert(sd_event_new(&event) >= 0);
    cr_assert_eq(shared_create(event, NULL, &table), 0);
}

static void teardown(void) {
    shared_destroy(table);
    sd_event_unref(event);
}

TestSuite(shared, .init = setup, .fini = teardown, .timeout = 30);

static const struct shared_put fork_put = {
    .stream = {.flow = {.local_port = 7000}}, .copies = 1, .keep = true, .unread_fd = -1};

static int put(struct connection *c, struct shared_put p) {
    return shared_put(table, 7, c, &p);
}

Test(shared, a_child_serves_and_ends_it) {
    struct shared_got got;
    uint32_t others;
    cr_assert_eq(put(&parent, fork_put), 0);
    cr_assert_eq(shared_hold(table, 7, &child, 0), 0);
    cr_assert_eq(shared_drop(table, 7, &parent, &others), 0);
    cr_assert_eq(shared_take(table, 7, &child, NULL, &got), 0);
    cr_assert_eq(got.others, 0);
    cr_assert_eq(got.local_port, 7000);
    cr_assert_eq(shared_drop(table, 7, &child, &others), 0);
    cr_assert_eq(others, 0, "it may close it itself");
    cr_assert_eq(shared_count(table), 0);
    cr_assert_str_eq(fake.trace, "adopt");
}

Test(shared, who_has_it_is_asked_for_it) {
    struct shared_got got;
    uint32_t others;
    cr_assert_eq(put(&parent, fork_put), 0);
    cr_assert_eq(shared_hold(table, 7, &child, 0), 0);
    cr_assert_eq(shared_take(table, 7, &parent, NULL, &got), 0);
    cr_assert_eq(shared_take(table, 7, &parent, NULL, &got), -EALREADY);
    cr_assert_eq(shared_take(table, 7, &child, NULL, &got), -EAGAIN);
    struct shared_put again = {.keep = true, .shut = true, .unread_fd = -1};
    cr_assert_eq(put(&parent, again), 0);
    cr_assert_eq(shared_take(table, 7, &child, NULL, &got), 0);
    cr_assert(got.shut && got.others == 1);
    cr_assert_eq(shared_drop(table, 7, &child, &others), 0);
    cr_assert_eq(others, 1, "it has to park it");
    again.keep = false;
    cr_assert_eq(put(&child, again), 0);
    fake_clear();
    shared_forget(table, &parent);
    cr_assert_str_eq(fake.trace, "drop", "the last copy is gone");
    cr_assert_eq(shared_count(table), 0);
}

Test(shared, a_session_names_what_it_has_by_its_handle) {
    struct shared_got got;
    uint64_t cookie = 0;
    cr_assert_eq(put(&parent, fork_put), 0);
    cr_assert(!shared_find_held(table, &parent, 100, &cookie), "it is parked");
    cr_assert_eq(shared_take(table, 7, &child, NULL, &got), 0);
    cr_assert(!shared_find_held(table, &parent, got.made.handle, &cookie), "it is another's");
    cr_assert(!shared_find_held(table, &child, got.made.handle + 1, &cookie));
    cr_assert(shared_find_held(table, &child, got.made.handle, &cookie));
    cr_assert_eq(cookie, 7);
}

Test(shared, a_parent_sees_that_its_child_has_a_copy) {
    struct connection other = {.pid = 5};
    cr_assert(!shared_is_held_by(table, 7, 5));
    cr_assert_eq(put(&parent, fork_put), 0);
    cr_assert(!shared_is_held_by(table, 7, 5));
    cr_assert_eq(shared_hold(table, 7, &other, 0), 0);
    cr_assert(shared_is_held_by(table, 7, 5));
    shared_forget(table, &other);
    cr_assert(!shared_is_held_by(table, 7, 5));
}

Test(shared, strangers_and_second_streams_are_refused) {
    struct shared_got got;
    uint32_t others;
    cr_assert_eq(shared_hold(table, 7, &child, 1), -ENOENT);
    cr_assert_eq(shared_take(table, 7, &child, NULL, &got), -ENOENT);
    cr_assert_eq(shared_drop(table, 7, &child, &others), -ENOENT);
    cr_assert_eq(put(&parent, fork_put), 0);
    fake_clear();
    cr_assert_eq(put(&child, fork_put), -EEXIST);
    cr_assert_str_eq(fake.trace, "drop unread", "it is nobody's");
}

Test(shared, a_holder_that_dies_leaves_it_to_the_others) {
    struct shared_got got;
    cr_assert_eq(put(&parent, fork_put), 0);
    cr_assert_eq(shared_hold(table, 7, &child, 0), 0);
    cr_assert_eq(shared_take(table, 7, &child, NULL, &got), 0);
    fake_clear();
    shared_forget(table, &child);
    cr_assert_str_eq(fake.trace, "stay");
    cr_assert_eq(shared_take(table, 7, &parent, NULL, &got), 0);
    fake_clear();
    shared_forget(table, &parent);
    cr_assert_str_eq(fake.trace, "", "the session of the last one ends it");
    cr_assert_eq(shared_count(table), 0);
}

Test(shared, one_that_has_ended_is_gone) {
    struct shared_got got;
    cr_assert_eq(put(&parent, fork_put), 0);
    fake.fail_at = 1;
    fake.fail_with = -ENOENT;
    cr_assert_eq(shared_take(table, 7, &parent, NULL, &got), -ENOENT);
    cr_assert_eq(shared_count(table), 0);
}
