/* SPDX-License-Identifier: Apache-2.0
 *
 * Lines of `usherctl capture` and of tcpdump, as they were printed, and lines that nobody printed.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "control/usherctl/capture_line.h"

static struct capture_line l;
static char why[200];

static void reads(const char *text) {
    cr_assert_eq(capture_line_read(text, &l, why, sizeof why), 0, "%s: %s", text, why);
}

static void ends(const char *protocol, const char *source, const char *destination) {
    cr_assert_str_eq(l.protocol, protocol);
    cr_assert_str_eq(l.source, source);
    cr_assert_str_eq(l.destination, destination);
}

Test(capture_line, of_usherctl) {
    reads("18:00:30.314150 va out IP 10.99.0.1.4096 > 10.99.0.2.23: TCP [S], length 0  (sent by python3, pid 23777, "
          "user bob (1002), /usr/bin/python3.11, cgroup /games.slice/a%2Cb; dropped: the policy says so, rule x)");
    ends("tcp", "10.99.0.1:4096", "10.99.0.2:23");
    cr_assert_str_eq(l.direction, "out");
    cr_assert_str_eq(l.interface, "va");
    cr_assert_str_eq(l.flags, "syn");
    cr_assert_str_eq(l.state, "new");
    cr_assert_str_eq(l.comm, "python3");
    cr_assert_str_eq(l.user, "1002");
    cr_assert_str_eq(l.exe, "/usr/bin/python3.11");
    cr_assert_str_eq(l.cgroup, "/games.slice/a,b");
    cr_assert_eq(l.length, 40);
    reads("18:00:30.314150 va in  IP6 fd99::2.53 > fd99::1.4000: UDP, length 100  (for no socket known here)");
    ends("udp", "[fd99::2]:53", "[fd99::1]:4000");
    cr_assert_str_eq(l.direction, "in");
    cr_assert_eq(l.length, 148);
    cr_assert(l.user[0] == '\0' && l.comm[0] == '\0' && l.exe[0] == '\0' && l.cgroup[0] == '\0');
    reads("18:00:30 va out IP 10.0.0.1 > 10.0.0.2: ICMP type 3 code 1, length 36  (sent past Usher by a process that "
          "has ended, uid 7)");
    ends("icmp", "10.0.0.1", "10.0.0.2");
    cr_assert(l.icmp_type == 3 && l.icmp_code == 1 && l.length == 56);
    cr_assert_str_eq(l.user, "7");
    cr_assert_str_eq(l.comm, "");
    reads("18:00:30 va in IP 10.0.0.1 > 10.0.0.2: protocol 47, length 36  (for the kernel)");
    ends("47", "10.0.0.1", "10.0.0.2");
}

Test(capture_line, of_tcpdump) {
    reads("12:34:56.789012 IP 10.0.0.1.40000 > 10.0.0.2.80: Flags [S.], seq 1, ack 2, win 64240, options [mss 1460], "
          "length 0");
    ends("tcp", "10.0.0.1:40000", "10.0.0.2:80");
    cr_assert_str_eq(l.flags, "syn,ack");
    cr_assert_str_eq(l.state, "established");
    cr_assert_str_eq(l.direction, "");
    cr_assert_str_eq(l.address, "10.0.0.1");
    reads("12:34:56.789012 eth0  Out IP 10.0.0.1.40000 > 10.0.0.2.53: 1234+ A? debian.org. (28)");
    ends("udp", "10.0.0.1:40000", "10.0.0.2:53");
    cr_assert_str_eq(l.direction, "out");
    cr_assert_str_eq(l.interface, "eth0");
    reads("12:34:56.7 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff, ethertype 802.1Q (0x8100), length 102: vlan 5, p 0, "
          "ethertype IPv4 (0x0800), 10.0.0.1 > 10.0.0.2: ICMP echo request, id 1, seq 1, length 64");
    ends("icmp", "10.0.0.1", "10.0.0.2");
    cr_assert(l.icmp_type == 8 && l.icmp_code == 0 && l.length == 84 && l.vlan == 5);
    reads("12:34:56.7 IP6 fd00::1 > ff02::1:ff00:2: ICMP6, neighbor solicitation, who has fd00::2, length 32");
    ends("icmp6", "fd00::1", "ff02::1:ff00:2");
    cr_assert_eq(l.icmp_type, 135);
    reads("12:34:56.7 IP (tos 0x0, ttl 64, id 1, offset 0, flags [DF], proto TCP (6), length 60)\n    10.0.0.1.1 > "
          "10.0.0.2.2: Flags [P.], cksum 0x1 (correct), seq 1:5, ack 1, length 4");
    ends("tcp", "10.0.0.1:1", "10.0.0.2:2");
    cr_assert_eq(l.length, 44);
}

Test(capture_line, of_nobody) {
    static const char *const lines[] = {
        "",
        " > ",
        "a > b",
        "10.0.0.1 > fd00::1: UDP",
        "10.0.0.1.5 > 10.0.0.2: UDP",
        "10.0.0.1.99999 > 10.0.0.2.1: UDP",
        "IP host.http > other.ssh: Flags [S]",
        "10.0.0.1 > 10.0.0.2: protocol 300, length 1",
        "12:00 va out ARP, who has 10.0.0.1, tell 10.0.0.2",
        "10.0.0.1 >",
        "> 10.0.0.1",
        "10.0.0.1 > 10.0.0.2",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        cr_assert_eq(capture_line_read(lines[i], &l, why, sizeof why), -1, "%s", lines[i]);
        cr_assert_gt(strlen(why), 20);
    }
}

/* Cut and mangled in every way, a line is read or refused, never more. */
Test(capture_line, mangled) {
    static const char whole[] = "1 va out IP 10.99.0.1.4096 > 10.99.0.2.23: TCP [S], length 0  (sent by a%20b, pid 2, "
                                "user bob (1002), /usr/bin/x, cgroup /; dropped: y)";
    srand(1);
    for (size_t cut = 0; cut < sizeof whole; cut++) {
        char *text = malloc(cut + 1);
        memcpy(text, whole, cut);
        text[cut] = '\0';
        (void)capture_line_read(text, &l, why, sizeof why);
        for (int i = 0; i < 200 && cut > 0; i++) {
            text[(size_t)rand() % cut] = (char)(1 + rand() % 255);
            (void)capture_line_read(text, &l, why, sizeof why);
        }
        free(text);
    }
}
