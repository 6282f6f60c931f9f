/* SPDX-License-Identifier: Apache-2.0
 *
 * The host and its NICs, from /proc and /sys. What cannot be read is not judged.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "control/usherctl/doctor.h"
#include "control/usherctl/text.h"

#define PATH_SIZE 256
#define FILES_MIN 4096u

/* First line of a file below the root; false: it cannot be read. */
static bool line_read(const char *root, char *ret, size_t size, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static bool line_read(const char *root, char *ret, size_t size, const char *fmt, ...) {
    char name[PATH_SIZE], path[PATH_SIZE + 64];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    (void)snprintf(path, sizeof path, "%s%s", root, name);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return false;
    bool ok = fgets(ret, (int)size, f) != NULL;
    (void)fclose(f);
    if (ok)
        ret[strcspn(ret, "\n")] = '\0';
    return ok;
}

static bool number_read(const char *root, const char *path, long *ret) {
    char text[64];
    char *end;
    if (!line_read(root, text, sizeof text, "%s", path))
        return false;
    *ret = strtol(text, &end, 10);
    return end != text;
}

/* ---- kernel ---- */

static void check_kernel(const char *root, struct findings *f) {
    char release[80];
    unsigned major = 0, minor = 0;
    if (!line_read(root, release, sizeof release, "/proc/sys/kernel/osrelease") ||
        sscanf(release, "%u.%u", &major, &minor) != 2)
        return;
    unsigned version = major * 100 + minor;
    if (version < 514)
        finding_add(f, VERDICT_FAIL, "host.kernel",
                    "usherd does not start: it tells network namespaces apart by cookies",
                    "run Linux 5.14 or later; Debian 12 has 6.1", "Linux %s is too old", release);
    else if (version < 604)
        finding_add(f, VERDICT_NOTE, "host.kernel",
                    "AF_XDP sockets cannot be handed over whole: a restart loses what arrives in some 10 ms",
                    "run Linux 6.4 or later if that matters", "Linux %s does all that usherd needs", release);
    else
        finding_add(f, VERDICT_OK, "host.kernel", "", "", "Linux %s has all that usherd uses", release);
}

static void check_io_uring(const char *root, struct findings *f) {
    long off;
    if (!number_read(root, "/proc/sys/kernel/io_uring_disabled", &off))
        return;
    if (off == 2)
        finding_add(f, VERDICT_FAIL, "host.io_uring", "usherd's workers cannot sleep and do not start",
                    "sysctl kernel.io_uring_disabled=1, in /etc/sysctl.d to keep it", "io_uring is switched off");
    else
        finding_add(f, VERDICT_OK, "host.io_uring", "", "", "io_uring is there");
}

static void check_bpf_jit(const char *root, struct findings *f) {
    long on;
    if (!number_read(root, "/proc/sys/net/core/bpf_jit_enable", &on))
        return;
    if (on == 0)
        finding_add(f, VERDICT_WARN, "host.bpf_jit",
                    "every packet of the host passes interpreted claim programs: some hundred ns each",
                    "sysctl net.core.bpf_jit_enable=1, in /etc/sysctl.d to keep it", "BPF programs are not compiled");
    else
        finding_add(f, VERDICT_OK, "host.bpf_jit", "", "", "BPF programs are compiled");
}

static void check_clock(const char *root, struct findings *f) {
    char name[32];
    if (!line_read(root, name, sizeof name, "/sys/devices/system/clocksource/clocksource0/current_clocksource"))
        return;
    bool fast = strcmp(name, "tsc") == 0 || strcmp(name, "kvm-clock") == 0 || strcmp(name, "arch_sys_counter") == 0;
    if (!fast)
        finding_add(f, VERDICT_WARN, "host.clock",
                    "reading the time is a slow device access or a system call: about 1 us "
                    "in every turn of a worker",
                    "boot with clocksource=tsc where the machine has a stable one", "the clock is %s", name);
    else
        finding_add(f, VERDICT_OK, "host.clock", "", "", "the clock is %s", name);
}

/* ---- cores ---- */

/* "0-3,6": how many. */
static unsigned cores_count(const char *list) {
    unsigned n = 0;
    while (*list != '\0') {
        char *end;
        unsigned long first = strtoul(list, &end, 10), last = first;
        if (end == list)
            break;
        if (*end == '-')
            last = strtoul(end + 1, &end, 10);
        n += last >= first && last - first < 4096 ? (unsigned)(last - first) + 1 : 0;
        list = *end == ',' ? end + 1 : end;
    }
    return n;
}

static void check_cores(const char *root, struct findings *f) {
    char list[256], isolated[256] = "";
    if (!line_read(root, list, sizeof list, "/sys/devices/system/cpu/online"))
        return;
    unsigned n = cores_count(list);
    (void)line_read(root, isolated, sizeof isolated, "/sys/devices/system/cpu/isolated");
    if (n <= 2)
        finding_add(f, VERDICT_NOTE, "host.cores", "workers share cores with programs: each takes turns with the other",
                    "more cores, if latency under load matters", "%u core%s", n, n == 1 ? "" : "s");
    else if (isolated[0] == '\0')
        finding_add(f, VERDICT_OK, "host.cores", "", "", "%u cores", n);
    else
        finding_add(f, VERDICT_OK, "host.cores", "", "", "%u cores, of which %s are isolated", n, isolated);
}

static void check_governor(const char *root, struct findings *f) {
    char name[32];
    if (!line_read(root, name, sizeof name, "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"))
        return;
    if (strcmp(name, "powersave") == 0 || strcmp(name, "ondemand") == 0 || strcmp(name, "conservative") == 0)
        finding_add(f, VERDICT_WARN, "host.governor",
                    "a core that wakes up is slow for tens of microseconds: p99 of round trips suffers",
                    "cpupower frequency-set -g performance (or schedutil)", "cores are governed by %s", name);
    else
        finding_add(f, VERDICT_OK, "host.governor", "", "", "cores are governed by %s", name);
}

/* ---- ports ---- */

static void check_port_range(const char *root, struct findings *f) {
    char range[64], reserved[256] = "";
    unsigned low, high;
    if (!line_read(root, range, sizeof range, "/proc/sys/net/ipv4/ip_local_port_range") ||
        sscanf(range, "%u %u", &low, &high) != 2)
        return;
    (void)line_read(root, reserved, sizeof reserved, "/proc/sys/net/ipv4/ip_local_reserved_ports");
    if (high >= 61000 && reserved[0] == '\0')
        finding_add(
            f, VERDICT_NOTE, "host.port_range",
            "the kernel's own connections may take ports that usherd's outgoing connections use (61000 to 65535, "
            "settings engines.tcp): those then stay with the kernel",
            "sysctl net.ipv4.ip_local_port_range='32768 60999', which is Linux' default",
            "the kernel hands out local ports %u to %u", low, high);
    else
        finding_add(f, VERDICT_OK, "host.port_range", "", "", "the kernel hands out local ports %u to %u%s%s", low,
                    high, reserved[0] != '\0' ? " except " : "", reserved);
}

void doctor_host(const char *root, struct findings *f) {
    check_kernel(root, f);
    check_io_uring(root, f);
    check_bpf_jit(root, f);
    check_clock(root, f);
    check_cores(root, f);
    check_governor(root, f);
    check_port_range(root, f);
}

/* ---- NICs ---- */

static void check_nic(const char *root, const PB(Port) * p, struct findings *f) {
    char state[32] = "", speed[32] = "", driver[PATH_SIZE], path[PATH_SIZE];
    (void)line_read(root, state, sizeof state, "/sys/class/net/%s/operstate", p->name);
    (void)line_read(root, speed, sizeof speed, "/sys/class/net/%s/speed", p->name);
    (void)snprintf(path, sizeof path, "%s/sys/class/net/%s/device/driver", root, p->name);
    ssize_t n = readlink(path, driver, sizeof driver - 1);
    driver[n > 0 ? n : 0] = '\0';
    const char *name = strrchr(driver, '/') != NULL ? strrchr(driver, '/') + 1 : "a virtual device";
    if (strcmp(state, "down") == 0 || !p->up)
        finding_add(f, VERDICT_WARN, "nic.link", "nothing is sent or received there",
                    "look at the cable or the peer; ip link set DEV up", "%s: the link is down", p->name);
    else if (atoi(speed) > 0)
        finding_add(f, VERDICT_OK, "nic.link", "", "", "%s: %s, %s Mbit/s", p->name, name, speed);
    else
        finding_add(f, VERDICT_OK, "nic.link", "", "", "%s: %s", p->name, name);
}

static void check_limits(const char *root, uint32_t pid, struct findings *f) {
    char line[160], path[PATH_SIZE];
    (void)snprintf(path, sizeof path, "%s/proc/%u/limits", root, pid);
    FILE *file = fopen(path, "re");
    unsigned long files = 0;
    if (file == NULL)
        return;
    while (fgets(line, sizeof line, file) != NULL)
        (void)sscanf(line, "Max open files %lu", &files);
    (void)fclose(file);
    if (files > 0 && files < FILES_MIN)
        finding_add(f, VERDICT_WARN, "daemon.files",
                    "each program takes a handful: new ones will be refused before the "
                    "settings' limit is reached",
                    "LimitNOFILE=1048576 in the unit, or ulimit -n before usherd", "usherd may open %lu files", files);
    else if (files > 0)
        finding_add(f, VERDICT_OK, "daemon.files", "", "", "usherd may open %lu files", files);
}

void doctor_nic(const char *root, const struct doctor_answers *a, struct findings *f) {
    for (size_t i = 0; a->ports != NULL && i < a->ports->n_ports; i++)
        check_nic(root, a->ports->ports[i], f);
    if (a->info != NULL)
        check_limits(root, a->info->pid, f);
}
