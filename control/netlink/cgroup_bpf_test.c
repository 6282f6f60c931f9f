/* SPDX-License-Identifier: Apache-2.0
 *
 * BPF programs on cgroups, in a cgroup2 hierarchy mounted in a mount namespace of the test's own.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "control/netlink/cgroup_bpf.h"

static char dir[] = "/tmp/usher-cgroup-XXXXXX", group[64], child[80], name[32], child_name[48];
static bool mounted;

static int bpf(int cmd, union bpf_attr *attr) {
    return (int)syscall(SYS_bpf, cmd, attr, sizeof *attr);
}

/* "Let it pass." */
static int program_load(void) {
    static const struct bpf_insn code[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 1},
                                           {.code = BPF_JMP | BPF_EXIT}};
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.prog_type = BPF_PROG_TYPE_CGROUP_SKB;
    attr.expected_attach_type = BPF_CGROUP_INET_EGRESS;
    attr.insn_cnt = 2;
    attr.insns = (uint64_t)(uintptr_t)code;
    attr.license = (uint64_t)(uintptr_t) "Apache-2.0";
    return bpf(BPF_PROG_LOAD, &attr);
}

static int program_attach(int program, const char *path, bool on) {
    union bpf_attr attr;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    memset(&attr, 0, sizeof attr);
    attr.target_fd = (uint32_t)fd;
    attr.attach_bpf_fd = (uint32_t)program;
    attr.attach_type = BPF_CGROUP_INET_EGRESS;
    int err = bpf(on ? BPF_PROG_ATTACH : BPF_PROG_DETACH, &attr) == 0 ? 0 : -errno;
    close(fd);
    return err;
}

static void setup(void) {
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        cr_skip_test("SKIPPED: needs the right to make a mount namespace");
    cr_assert_not_null(mkdtemp(dir));
    while (umount2("/sys/fs/cgroup/unified", MNT_DETACH) == 0)
        continue; /* the first hierarchy found must be ours to write */
    mounted = mount("none", dir, "cgroup2", 0, NULL) == 0;
    if (!mounted)
        return;
    snprintf(name, sizeof name, "/usher-test-%d", getpid());
    snprintf(child_name, sizeof child_name, "%s/child", name);
    snprintf(group, sizeof group, "%s%s", dir, name);
    snprintf(child, sizeof child, "%s%s", dir, child_name);
}

static void teardown(void) {
    if (mounted) {
        rmdir(child);
        rmdir(group);
        umount2(dir, MNT_DETACH);
    }
    rmdir(dir);
}

TestSuite(cgroup_bpf, .init = setup, .fini = teardown, .timeout = 30);

Test(cgroup_bpf, programs_of_the_group_and_above_it_count) {
    char what[160] = "";
    if (!mounted || mkdir(group, 0755) != 0 || mkdir(child, 0755) != 0)
        cr_skip_test("SKIPPED: this kernel gives no cgroup2 hierarchy to make groups in");
    int program = program_load();
    if (program < 0 || program_attach(program, group, true) != 0)
        cr_skip_test("SKIPPED: BPF programs cannot be attached to cgroups here (%s)", strerror(errno));
    bool of_group = cgroup_bpf_judges(name, what, sizeof what);
    bool of_child = cgroup_bpf_judges(child_name, what, sizeof what);
    bool of_root = cgroup_bpf_judges("", what, sizeof what);
    cr_expect_eq(program_attach(program, group, false), 0);
    bool afterwards = cgroup_bpf_judges(name, what, sizeof what);
    close(program);
    cr_expect(of_group);
    cr_expect(of_child, "what sits above judges, too");
    cr_expect_not(of_root);
    cr_expect_not(afterwards);
    cr_expect_not_null(strstr(what, "1 BPF program at egress of cgroup /usher-test-"), "%s", what);
}

Test(cgroup_bpf, what_is_not_there_judges_nothing) {
    char what[160] = "";
    (void)cgroup_bpf_judges("/no/such/group", what, sizeof what);
    (void)cgroup_bpf_judges("/../outside", what, sizeof what);
    cr_expect_not(cgroup_bpf_judges("", what, sizeof what), "%s", what);
}
