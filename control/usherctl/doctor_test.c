/* SPDX-License-Identifier: Apache-2.0
 *
 * `usherctl doctor` on hosts that do not exist: a folder plays /proc and /sys, samples play usherd.
 */
#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/usherctl/doctor.h"
#include "control/usherctl/golden.h"
#include "control/usherctl/sample.h"

static char root[] = "/tmp/usherctl-doctor-XXXXXX";
static struct findings found;

static int unlink_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void setup(void) {
    cr_assert_not_null(mkdtemp(root));
    found.count = 0;
}

static void teardown(void) {
    nftw(root, unlink_one, 16, FTW_DEPTH | FTW_PHYS);
}

TestSuite(doctor, .init = setup, .fini = teardown);

static void put(const char *path, const char *text) {
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *p = full + strlen(root) + 1; (p = strchr(p, '/')) != NULL; p++) {
        *p = '\0';
        (void)mkdir(full, 0700);
        *p = '/';
    }
    FILE *f = fopen(full, "w");
    cr_assert_not_null(f, "%s", full);
    fputs(text, f);
    fclose(f);
}

static enum verdict verdict_of(const char *id) {
    for (size_t i = 0; i < found.count; i++) {
        if (strcmp(found.list[i].id, id) == 0)
            return found.list[i].verdict;
    }
    cr_assert(false, "nothing was said of %s", id);
    return VERDICT_OK;
}

static void good_host(void) {
    put("/proc/sys/kernel/osrelease", "6.12.9\n");
    put("/proc/sys/kernel/io_uring_disabled", "0\n");
    put("/proc/sys/net/core/bpf_jit_enable", "1\n");
    put("/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n");
    put("/sys/devices/system/cpu/online", "0-3,8-11\n");
    put("/sys/devices/system/cpu/isolated", "2-3\n");
    put("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n");
    put("/proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n");
    put("/sys/class/net/enp1s0f0np0/operstate", "up\n");
    put("/sys/class/net/enp1s0f0np0/speed", "25000\n");
    put("/proc/4242/limits",
        "Limit  Soft Limit  Hard Limit  Units\nMax open files            1048576   1048576   files\n");
}

Test(doctor, a_good_host_is_well) {
    good_host();
    doctor_host(root, &found);
    cr_expect_eq(found.count, 7);
    for (size_t i = 0; i < found.count; i++)
        cr_expect_eq(found.list[i].verdict, VERDICT_OK, "%s: %s", found.list[i].id, found.list[i].what);
}

Test(doctor, weaknesses_are_found) {
    put("/proc/sys/kernel/osrelease", "5.10.0-8\n");
    put("/proc/sys/kernel/io_uring_disabled", "2\n");
    put("/proc/sys/net/core/bpf_jit_enable", "0\n");
    put("/sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n");
    put("/sys/devices/system/cpu/online", "0\n");
    put("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n");
    put("/proc/sys/net/ipv4/ip_local_port_range", "1024\t65535\n");
    doctor_host(root, &found);
    cr_expect_eq(verdict_of("host.kernel"), VERDICT_FAIL);
    cr_expect_eq(verdict_of("host.io_uring"), VERDICT_FAIL);
    cr_expect_eq(verdict_of("host.bpf_jit"), VERDICT_WARN);
    cr_expect_eq(verdict_of("host.clock"), VERDICT_WARN);
    cr_expect_eq(verdict_of("host.cores"), VERDICT_NOTE);
    cr_expect_eq(verdict_of("host.governor"), VERDICT_WARN);
    cr_expect_eq(verdict_of("host.port_range"), VERDICT_NOTE);
    for (size_t i = 0; i < found.count; i++)
        cr_expect(found.list[i].costs[0] != '\0' && found.list[i].mend[0] != '\0', "%s says neither", found.list[i].id);
}

Test(doctor, an_unreadable_host_is_not_judged) {
    put("/proc/sys/kernel/osrelease", "strange\n");
    put("/sys/devices/system/cpu/online", "");
    doctor_host(root, &found);
    cr_expect_eq(found.count, 0);
}

static struct doctor_answers answers(void) {
    return (struct doctor_answers){sample_info(), sample_workers(), sample_ports(), sample_drops(), sample_refusals()};
}

static void draw(const struct screen *s) {
    const struct doctor_answers a = answers();
    found.count = 0;
    doctor_host(root, &found);
    doctor_daemon(&a, &found);
    doctor_nic(root, &a, &found);
    doctor_print(&found, s);
}

Test(doctor, looks_as_approved) {
    good_host();
    golden_check("doctor", 80, draw);
    golden_check("doctor", 120, draw);
    cr_expect_eq(verdict_of("daemon.refused"), VERDICT_WARN);
    cr_expect_eq(verdict_of("drop.SESSION_NO_CELL"), VERDICT_WARN);
    cr_expect_eq(verdict_of("refusal"), VERDICT_NOTE);
    cr_expect_eq(verdict_of("nic.link"), VERDICT_OK);
}

Test(doctor, no_interface_is_a_failure) {
    const PB(ListPortsResponse) none = USHER__CONTROL__V1__LIST_PORTS_RESPONSE__INIT;
    const struct doctor_answers a = {.ports = &none};
    doctor_daemon(&a, &found);
    cr_expect_eq(verdict_of("port.none"), VERDICT_FAIL);
}

Test(doctor, json_is_whole) {
    char *text = NULL;
    size_t size = 0;
    finding_add(&found, VERDICT_FAIL, "a.b", "much", "so", "it \"%s\" \033[1m", "broke");
    FILE *out = open_memstream(&text, &size);
    doctor_json(&found, out);
    fclose(out);
    cr_expect_str_eq(text, "{\"findings\":[\n{\"verdict\":\"fail\",\"id\":\"a.b\",\"what\":\"it \\\"broke\\\" ?[1m\","
                           "\"costs\":\"much\",\"mend\":\"so\"}\n]}\n");
    free(text);
}

Test(doctor, too_much_is_left_out) {
    for (int i = 0; i < 3 * FINDING_MAX; i++)
        finding_add(&found, VERDICT_OK, "x", "", "", "%d", i);
    cr_expect_eq(found.count, FINDING_MAX);
}
