/* SPDX-License-Identifier: Apache-2.0
 *
 * Owners of real processes, and the table under pressure.
 */
#include "control/identity/owner.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

Test(owner, reads_this_process) {
    struct owner o;
    int pidfd = pidfd_open(getpid(), 0);
    cr_assert_eq(prctl(PR_SET_NAME, "odd) (name"), 0);
    cr_assert_eq(owner_read(getpid(), pidfd, &o), 0);
    struct stat st;
    cr_assert_eq(stat("/proc/self/exe", &st), 0);
    cr_assert_eq(o.pid, (uint32_t)getpid());
    cr_assert_eq(o.uid, geteuid());
    cr_assert_eq(o.gid, getegid());
    cr_assert_eq(o.exe_ino, st.st_ino);
    cr_assert_eq(o.exe_dev, st.st_dev);
    cr_assert_str_eq(o.comm, "odd) (name");
    cr_assert_gt(o.start_time, 0);
    cr_assert_eq(o.exe[0], '/');
    close(pidfd);
}

Test(owner, a_dead_process_is_not_read) {
    pid_t child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    struct owner o;
    int pidfd = pidfd_open(child, 0);
    cr_assert_eq(owner_read(child, pidfd, &o), 0);
    cr_assert_eq(kill(child, SIGKILL), 0);
    siginfo_t info;
    cr_assert_eq(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
    cr_assert_eq(owner_read(child, pidfd, &o), -ESRCH, "a zombie still has its number");
    cr_assert_eq(waitpid(child, NULL, 0), child);
    cr_assert_eq(owner_read(child, pidfd, &o), -ESRCH);
    /* The number could belong to somebody else by now: this process stands for it. */
    cr_assert_eq(owner_read(getpid(), pidfd, &o), -ESRCH);
    close(pidfd);
}

Test(owner, groups_are_sorted_and_end_with_their_line) {
    if (geteuid() != 0)
        cr_skip_test("needs root to set groups");
    gid_t groups[] = {50, 7, 20};
    cr_assert_eq(setgroups(3, groups), 0);
    struct owner o;
    int pidfd = pidfd_open(getpid(), 0);
    cr_assert_eq(owner_read(getpid(), pidfd, &o), 0);
    cr_assert_eq(o.group_count, 3);
    cr_assert(o.groups[0] == 7 && o.groups[1] == 20 && o.groups[2] == 50);
    cr_assert_eq(setgroups(0, groups), 0);
    cr_assert_eq(owner_read(getpid(), pidfd, &o), 0);
    cr_assert_eq(o.group_count, 0);
    cr_assert_eq(setresuid(65534, 65534, 65534), 0);
    cr_assert_eq(owner_read(getpid(), pidfd, &o), 0);
    cr_assert_eq(o.uid, 65534);
    close(pidfd);
}

static struct owner make(uint32_t pid) {
    struct owner o;
    memset(&o, 0, sizeof o);
    o.pid = pid;
    return o;
}

Test(owner_table, equal_owners_share_an_entry) {
    struct owner_table *t;
    uint32_t a, b, c;
    cr_assert_eq(owner_table_create(4, &t), 0);
    struct owner one = make(1), two = make(2);
    cr_assert_eq(owner_intern(t, &one, &a), 0);
    cr_assert_eq(owner_intern(t, &one, &b), 0);
    cr_assert_eq(owner_intern(t, &two, &c), 0);
    cr_assert(a == b && a != c && a != 0 && c != 0);
    owner_release(t, a);
    cr_assert_eq(owner_get(t, a)->pid, 1);
    owner_release(t, a);
    cr_assert_null(owner_get(t, a));
    owner_release(t, a); /* one too many is no harm */
    cr_assert_eq(owner_table_count(t), 1);
    cr_assert_null(owner_get(t, 0));
    cr_assert_null(owner_get(t, 99));
    owner_table_destroy(t);
}

Test(owner_table, full_then_reused_late) {
    struct owner_table *t;
    uint32_t index[4], again;
    cr_assert_eq(owner_table_create(4, &t), 0);
    for (uint32_t i = 0; i < 4; i++) {
        struct owner o = make(i + 1);
        cr_assert_eq(owner_intern(t, &o, &index[i]), 0);
    }
    struct owner more = make(9);
    cr_assert_eq(owner_intern(t, &more, &again), -ENOSPC);
    for (uint32_t i = 0; i < 4; i++)
        owner_release(t, index[i]);
    cr_assert_eq(owner_table_count(t), 0);
    cr_assert_eq(owner_intern(t, &more, &again), 0);
    cr_assert_eq(again, index[0], "the one that rested longest");
    owner_table_destroy(t);
}
