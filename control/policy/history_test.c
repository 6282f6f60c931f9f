/* SPDX-License-Identifier: Apache-2.0
 *
 * Revisions on disk: what was written is found again, what is not whole is not, and numbers are never used again.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/policy/history.h"

static char folder[64];

static void setup(void) {
    (void)snprintf(folder, sizeof folder, "/tmp/usher-history-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

static void teardown(void) {
    char command[96];
    (void)snprintf(command, sizeof command, "rm -r %s", folder);
    cr_assert_eq(system(command), 0);
}

TestSuite(history, .init = setup, .fini = teardown);

static uint64_t add(struct history *h, const char *text) {
    const struct revision what = {.rules = 3, .by = "alice", .note = "two\nlines"};
    uint64_t number = 0;
    cr_assert_eq(history_add(h, &what, text, strlen(text), &number), 0);
    return number;
}

static struct history *opened(void) {
    struct history *h = NULL;
    cr_assert_eq(history_open(folder, &h), 0);
    return h;
}

static void holds(const struct history *h, uint64_t number, const char *wanted) {
    char *text = NULL;
    size_t size = 0;
    cr_assert_eq(history_text(h, number, &text, &size), 0);
    cr_assert_eq(size, strlen(wanted));
    cr_assert_eq(memcmp(text, wanted, size), 0);
    free(text);
}

Test(history, is_found_again) {
    struct history *h = opened();
    cr_assert_eq(history_in_force(h), 0);
    cr_assert_eq(add(h, "rules: []\n"), 1);
    cr_assert_eq(add(h, ""), 2);
    cr_assert_eq(history_force(h, 1), 0);
    cr_assert_eq(history_force(h, 7), -ENOENT);
    history_close(h);
    h = opened();
    cr_assert_eq(history_in_force(h), 1);
    holds(h, 1, "rules: []\n");
    holds(h, 2, "");
    const struct revision *r = history_find(h, 1);
    cr_assert_eq(r->rules, 3);
    cr_assert_str_eq(r->by, "alice");
    cr_assert_str_eq(r->note, "two lines");
    cr_assert_null(history_find(h, 3));
    cr_assert_eq(history_at(h, 1)->number, 2);
    cr_assert_null(history_at(h, 2));
    history_close(h);
}

Test(history, what_is_not_whole_is_not_there) {
    struct history *h = opened();
    (void)add(h, "rules: []\n");
    (void)add(h, "rules: []\n");
    history_close(h);
    char path[96];
    (void)snprintf(path, sizeof path, "%s/2.yaml", folder);
    cr_assert_eq(truncate(path, 40), 0);
    (void)snprintf(path, sizeof path, "%s/x.yaml", folder);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    cr_assert(fd >= 0 && write(fd, "rules", 5) == 5);
    (void)close(fd);
    h = opened();
    cr_assert_not_null(history_find(h, 1));
    cr_assert_null(history_find(h, 2));
    history_close(h);
}

Test(history, the_oldest_are_forgotten_but_not_the_one_in_force) {
    struct history *h = opened();
    (void)add(h, "a");
    cr_assert_eq(history_force(h, 1), 0);
    for (uint32_t i = 0; i < HISTORY_KEPT + 4; i++)
        cr_assert_eq(add(h, "b"), i + 2);
    holds(h, 1, "a");
    cr_assert_null(history_find(h, 2));
    history_drop(h, HISTORY_KEPT + 5);
    cr_assert_null(history_find(h, HISTORY_KEPT + 5));
    cr_assert_eq(add(h, "c"), HISTORY_KEPT + 6, "numbers are never used again");
    history_close(h);
}
