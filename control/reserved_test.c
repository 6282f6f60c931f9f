/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel's list of reserved ports, in a network namespace of the test's own.
 */
#include "control/reserved.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "control/state/state.h"

#define LIST "/proc/sys/net/ipv4/ip_local_reserved_ports"

static char dir[] = "/tmp/usher-reserved-XXXXXX";
static struct state_file *state;
static bool skipped;

static int no_qdisc(uint32_t ifindex) {
    (void)ifindex;
    return -1;
}

static const struct state_undo undos = {no_qdisc, reserved_undo};

static void setup(void) {
    uint32_t n;
    cr_assert_not_null(mkdtemp(dir));
    skipped = geteuid() != 0 || unshare(CLONE_NEWNET) != 0 || access(LIST, W_OK) != 0;
    if (skipped)
        fprintf(stderr, "SKIPPED: needs root, a network namespace and a writable /proc/sys\n");
    cr_assert_eq(state_open(dir, 7, &undos, &state, &n), 0);
}

static void teardown(void) {
    char command[64];
    state_close(state);
    snprintf(command, sizeof command, "rm -r %s", dir);
    cr_expect_eq(system(command), 0);
}

TestSuite(reserved, .init = setup, .fini = teardown);

static void list_is(const char *text) {
    char line[256] = "";
    FILE *f = fopen(LIST, "r");
    cr_assert_not_null(f);
    (void)!fgets(line, sizeof line, f);
    fclose(f);
    line[strcspn(line, "\n")] = '\0';
    cr_assert_str_eq(line, text);
}

static void list_set(const char *text) {
    FILE *f = fopen(LIST, "w");
    cr_assert_not_null(f);
    fprintf(f, "%s\n", text);
    cr_assert_eq(fclose(f), 0);
}

Test(reserved, joins_and_parts) {
    if (skipped)
        return;
    list_set("");
    cr_assert_eq(reserved_take(state, 61000, 65535), 0);
    list_is("61000-65535");
    reserved_give(state);
    list_is("");
    list_set("8080,61500-61600");
    cr_assert_eq(reserved_take(state, 61000, 65535), 0);
    list_is("8080,61000-65535");
    list_set("8080,9000,61000-65535"); /* the administrator, meanwhile */
    reserved_give(state);
    list_is("8080,9000,61500-61600");
    reserved_give(state);
    list_is("8080,9000,61500-61600");
}

Test(reserved, what_the_administrator_reserved_is_his) {
    const char *before, *after;
    if (skipped)
        return;
    list_set("60000-65535");
    cr_assert_eq(reserved_take(state, 61000, 65535), 0);
    cr_assert(!state_reserved(state, &before, &after));
    reserved_give(state);
    list_is("60000-65535");
}

Test(reserved, the_next_usherd_undoes_it) {
    uint32_t n;
    if (skipped)
        return;
    list_set("7");
    cr_assert_eq(reserved_take(state, 100, 100), 0);
    list_is("7,100");
    state_close(state); /* without having given it back */
    cr_assert_eq(state_open(dir, 7, &undos, &state, &n), 0);
    cr_assert_eq(n, 1);
    list_is("7");
}

Test(reserved, nonsense_changes_nothing) {
    if (skipped)
        return;
    list_set("7,9-11");
    cr_assert_lt(reserved_undo("x", "9-11"), 0);
    cr_assert_lt(reserved_undo("", "9-"), 0);
    cr_assert_lt(reserved_undo("", "99999999"), 0);
    list_is("7,9-11");
    cr_assert_eq(reserved_undo("7,9", "7-10"), 0);
    list_is("7,9,11");
    cr_assert_eq(reserved_undo("", "0-65535"), 0);
    list_is("");
}
