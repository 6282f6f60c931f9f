#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Datagrams between usherd's clients and a plain kernel host; the kernel keeps the rest."""
import signal
import socket
import sys

from rig import A4, A6, B4, B6, check, main, until

SO_RCVBUFFORCE = 33  # not in the module


def client_asks_kernel_peer(rig):
    rig.usherd()
    rig.kernel_echo("b", 9000)
    for address in (f"{B4}:9000", f"[{B6}]:9000"):
        report = rig.ping("--count", 200, address, answered=200)
        check("carried by usherd (packet on va: packet, because" in report, report)


def kernel_peer_asks_client(rig):
    rig.usherd()
    server = rig.client("udp-echo", "[::]:7000")
    for address in (A4, A6):
        rig.answers("b", address, 7000)
        for size in (1, 1472, 9000, 60000):
            text = bytes(i % 251 for i in range(size))
            until(f"{size} bytes come back", lambda: rig.asks("b", address, 7000, text) == text)
    server.end(signal.SIGKILL)


def built_in_echo(rig):
    rig.usherd("interfaces: [{name: va}]\nkeeper: {mode: off}\necho: {ports: [7777]}\n")
    for address in (A4, A6):
        rig.answers("b", address, 7777)


def kernel_keeps_the_rest(rig):
    rig.usherd("interfaces: [{name: va}]\nkeeper: {mode: off}\necho: {ports: [7777]}\n")
    rig.kernel_echo("a", 8000)
    rig.kernel_echo("a", 8001, socket.SOCK_STREAM)
    for address, family in ((A4, socket.AF_INET), (A6, socket.AF_INET6)):
        rig.answers("b", address, 8000)
        for size in (5, 200000):
            s = rig.kernel_socket("b", family, socket.SOCK_STREAM)
            s.connect((address, 8001))
            text = b"x" * min(size, 60000)
            s.sendall(text)
            check(s.recv(5) == text[:5], "TCP of the kernel's own works while usherd is attached")
            s.close()
        refused = rig.asks("b", address, 8999)
        check(isinstance(refused, ConnectionRefusedError), f"nobody's port is refused by the kernel, not {refused}")


def loopback_and_foreign_peers_stay(rig):
    rig.usherd()
    rig.kernel_echo("a", 9000)
    report = rig.ping("--count", 20, "127.0.0.1:9000", answered=20)
    check("carried by usherd" not in report, report)
    report = rig.ping("--count", 20, f"{A4}:9000", answered=20)
    check("carried by usherd" not in report and "not accelerated" in report, report)


def the_kernels_peers_get_what_usherd_cannot_carry(rig):
    """An unconnected socket of usherd's asks echoes that only the kernel reaches, and one that usherd does."""
    rig.ip("a", "link add fa type veth peer name fb")
    rig.ip("a", f"link set fb netns {rig.ns('b')}")
    for host, number in (("a", 1), ("b", 2)):
        rig.ip(host, f"addr add 10.98.0.{number}/24 dev f{host}")
        rig.ip(host, f"-6 addr add fd98::{number}/64 dev f{host} nodad")
        rig.ip(host, f"link set f{host} up")
    rig.usherd()
    for host in "ab":
        rig.kernel_echo(host, 9000)
    for address in ("127.0.0.1", A4, f"[{A6}]", "10.98.0.1", "10.98.0.2", "[fd98::2]"):
        for size in (64, 9000):
            report = rig.ping("--unconnected", "--count", 50, "--size", size, f"{address}:9000", answered=50)
            check("carried by usherd" in report and "50 answers came by the kernel" in report, report)
    report = rig.ping("--unconnected", "--count", 50, f"{B4}:9000", answered=50)
    check("carried by usherd" in report and "by the kernel" not in report, report)


def nothing_bounced_is_lost_or_overtaken(rig):
    """A client that sends and never polls, to a socket of its own host's kernel."""
    rig.usherd()
    s = rig.kernel_socket("a", socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
    s.bind((A4, 9000))
    for count in (1, 100, 5000):
        p = rig.start("a", "usher-burst", rig.session, A4, 9000, count)
        check(p.end(0) == 0, p.text())
        numbers = [int.from_bytes(s.recv(100), "little") for _ in range(count)]
        check(numbers == list(range(count)), f"of {count} datagrams came, in this order: {numbers[:50]} ...")


def two_clients_of_one_host(rig):
    rig.usherd()
    rig.client("udp-echo", ":7000")
    rig.answers("b", A4, 7000)
    report = rig.ping("--count", 100, f"{A4}:7000", answered=100)
    check("carried by usherd" in report, report)


def a_shared_port_is_not_taken_away(rig):
    """A kernel socket with SO_REUSEADDR has the port that a client of usherd's then shares."""
    rig.usherd()
    s = rig.kernel_socket("a", socket.AF_INET)
    s.bind(("0.0.0.0", 7000))
    report = rig.ping("--count", 1, "--reuse", "--bind", "0.0.0.0:7000", "--timeout", 50, f"{B4}:9", answered=0)
    check("carried by the kernel" in report and "shared with a kernel socket" in report, report)
    s.close()
    rig.kernel_echo("b", 9000)
    report = rig.ping("--count", 5, "--reuse", "--bind", "0.0.0.0:7000", f"{B4}:9000", answered=5)
    check("carried by usherd" in report, report)


def one_version_leaves_the_other(rig):
    rig.usherd()
    rig.client("udp-echo", ":7000")
    rig.answers("b", A4, 7000)
    s = rig.kernel_socket("a", socket.AF_INET6)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind(("::", 7000))
    b = rig.kernel_socket("b", socket.AF_INET6)
    b.sendto(b"to the kernel", (A6, 7000))
    check(s.recv(100) == b"to the kernel", "the kernel's socket of the other IP version keeps its port")


def policy_rules_keep_sockets_with_the_kernel(rig):
    rig.usherd()
    rig.kernel_echo("b", 9000)
    rig.ip("a", "rule add prio 100 to 10.99.0.0/24 lookup 7")
    rig.ip("a", f"route add 10.99.0.0/24 dev va src {A4} table 7")
    report = rig.ping("--count", 10, f"{B4}:9000", answered=10)
    check("carried by the kernel (routing follows rules that usherd does not know (ip rule): IPv4 rule 100" in report,
          report)
    rig.ip("a", "rule del prio 100")
    until("usherd carries again", lambda: "carried by usherd" in rig.ping("--count", 10, f"{B4}:9000", answered=10))


sys.exit(main([client_asks_kernel_peer, kernel_peer_asks_client, built_in_echo, kernel_keeps_the_rest,
               loopback_and_foreign_peers_stay, the_kernels_peers_get_what_usherd_cannot_carry,
               nothing_bounced_is_lost_or_overtaken, two_clients_of_one_host,
               a_shared_port_is_not_taken_away, one_version_leaves_the_other,
               policy_rules_keep_sockets_with_the_kernel]))
