/* SPDX-License-Identifier: Apache-2.0
 *
 * What one usherd notes, the next one undoes; never another boot's or another interface's.
 */
#include "control/state/state.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "/tmp/usher-state-XXXXXX";
static uint32_t undone[8], undo_count, lo;

static int undo(uint32_t ifindex) {
    undone[undo_count++] = ifindex;
    return 0;
}

static char before[64], after[64];

static int undo_reserved(const char *b, const char *a) {
    snprintf(before, sizeof before, "%s", b);
    snprintf(after, sizeof after, "%s", a);
    undo_count++;
    return 0;
}

static const struct state_undo undos = {undo, undo_reserved};

static void setup(void) {
    cr_assert_not_null(mkdtemp(dir));
    lo = if_nametoindex("lo");
    cr_assert_neq(lo, 0);
}

static void teardown(void) {
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", dir);
    cr_expect_eq(system(command), 0);
}

TestSuite(state, .init = setup, .fini = teardown);

/* A child notes and dies without a word. */
static void crash(uint64_t cookie, uint32_t ifindex) {
    pid_t child = fork();
    if (child == 0) {
        struct state_file *s;
        uint32_t n;
        if (state_open(dir, cookie, &undos, &s, &n) != 0 || state_qdisc_note(s, ifindex) != 0)
            _exit(1);
        _exit(0);
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert_eq(status, 0);
}

static void edit(const char *sed) {
    char command[128];
    snprintf(command, sizeof command, "sed -i '%s' %s/netns-7.state", sed, dir);
    cr_assert_eq(system(command), 0);
}

Test(state, a_crash_is_undone_once) {
    struct state_file *s;
    uint32_t n;
    crash(7, lo);
    cr_assert_eq(state_open(dir, 8, &undos, &s, &n), 0);
    cr_assert_eq(n, 0, "another namespace");
    state_close(s);
    cr_assert_eq(state_open(dir, 7, &undos, &s, &n), 0);
    cr_assert(n == 1 && undo_count == 1 && undone[0] == lo);
    state_close(s);
    cr_assert_eq(state_open(dir, 7, &undos, &s, &n), 0);
    cr_assert_eq(n, 0);
    state_close(s);
}

Test(state, another_boot_or_interface_is_left_alone) {
    struct state_file *s;
    uint32_t n;
    crash(7, lo);
    edit("1s/ 1 ./ 1 x/");
    cr_assert_eq(state_open(dir, 7, &undos, &s, &n), 0);
    cr_assert_eq(n, 0);
    state_close(s);
    crash(7, lo);
    edit("2s/lo/other0/");
    cr_assert_eq(state_open(dir, 7, &undos, &s, &n), 0);
    cr_assert_eq(n, 0);
    state_close(s);
    crash(7, lo);
    edit("2i qdisc 99999999999999999999 lo\\nnonsense\\nqdisc lo");
    cr_assert_eq(state_open(dir, 7, &undos, &s, &n), 0);
    cr_assert_eq(n, 1);
    state_close(s);
}

Test(state, one_usherd_per_namespace) {
    struct state_file *s, *second;
    uint32_t n;
    cr_assert_eq(state_open(dir, 7, &undos, &s, &n), 0);
    cr_assert_eq(state_open(dir, 7, &undos, &second, &n), -EBUSY);
    cr_assert_eq(state_open(dir, 8, &undos, &second, &n), 0);
    state_close(second);
    cr_assert_eq(state_qdisc_note(s, lo), 0);
    cr_assert_eq(state_qdisc_note(s, lo), 0);
    cr_assert_eq(state_qdisc_note(s, 999999), -ENODEV);
    state_qdisc_forget(s, lo);
    state_qdisc_forget(s, lo);
    state_close(s);
    cr_assert_eq(state_open("/proc/nonexistent", 7, &undos, &s, &n), -ENOENT);
    cr_assert_eq(undo_count, 0);
}

/* A child notes reserved ports and dies without a word. */
static void crash_reserved(const char *old, const char *new) {
    pid_t child = fork();
    if (child == 0) {
        struct state_file *s;
        uint32_t n;
        _exit(state_open(dir, 7, &undos, &s, &n) != 0 || state_reserved_note(s, old, new) != 0);
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert_eq(status, 0);
}

Test(state, reserved_ports_are_given_back) {
    struct state_file *s;
    uint32_t n;
    crash_reserved("", "61000-65535");
    cr_assert_eq(state_open(dir, 7, &undos, &s, &n), 0);
    cr_assert(n == 1 && before[0] == '\0' && strcmp(after, "61000-65535") == 0);
    cr_assert_eq(state_reserved_note(s, "8080", "8080,61000-65535"), 0);
    state_reserved_forget(s);
    state_reserved_forget(s);
    state_close(s);
    crash_reserved("8080,9000-9010", "8080,9000-9010,61000-65535");
    edit("2i reserved\\nreserved 7\\n reserved");
    cr_assert_eq(state_open(dir, 7, &undos, &s, &n), 0);
    cr_assert(n == 1 && strcmp(before, "8080,9000-9010") == 0);
    state_close(s);
    cr_assert_eq(state_open(dir, 7, &undos, &s, &n), 0);
    cr_assert_eq(n, 0);
    state_close(s);
}
