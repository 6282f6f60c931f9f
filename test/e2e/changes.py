#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The network changes while clients talk: MTU, addresses, routes, neighbours, interfaces."""
import sys

from rig import A4, A6, B4, Failed, check, main, run, until

ECHO = "interfaces: [{name: v*}]\nkeeper: {mode: off}\necho: {ports: [7777]}\n"


def drops(rig):
    command = [f"{rig.bin}/usherctl", "--socket", f"{rig.dir}/run/control.sock", "drops"]
    return run(rig.inside("a", command), ok=None).stdout


def mtu_changes_live(rig):
    usherd = rig.usherd(ECHO)
    for mtu in (9000, 1280):
        for host in "ab":
            rig.ip(host, f"link set v{host} mtu {mtu}")
        usherd.says(f"interface.change: va: mtu {mtu}")
        for address in (A4, A6):
            text, seen = b"m" * 8000, []

            def comes_back():
                seen.append(rig.asks("b", address, 7777, text))
                return seen[-1] == text
            try:
                until(f"8000 bytes come back from {address} with mtu {mtu}", comes_back)
            except Failed as f:
                raise Failed(f"{f}: {str(seen[-1])[:60]} after {len(seen)} tries; drops: {drops(rig)}") from None


def addresses_come_and_go(rig):
    rig.usherd(ECHO)
    rig.ip("a", "addr add 10.99.0.77/24 dev va")
    rig.answers("b", "10.99.0.77", 7777)
    rig.ip("a", "addr del 10.99.0.77/24 dev va")
    until("the address is gone", lambda: rig.asks("b", "10.99.0.77", 7777, timeout=0.3) != b"hello")
    rig.answers("b", A4, 7777)


def neighbours_change(rig):
    rig.usherd(ECHO)
    rig.kernel_echo("b", 9000)
    rig.ping("--count", 20, f"{B4}:9000", answered=20)
    check("managed" in rig.ip("a", f"neigh show {B4}"), "the next hop in use is kept by the kernel")
    rig.ip("b", "link set vb address 02:00:00:00:00:77")
    rig.ip("a", f"neigh replace {B4} lladdr 02:00:00:00:00:77 nud reachable dev va")
    rig.answers("b", A4, 7777)
    rig.ping("--count", 20, f"{B4}:9000", answered=20)


def routes_decide_who_carries(rig):
    rig.usherd(ECHO)
    rig.ip("b", "addr add 10.55.0.1/32 dev lo")
    rig.ip("a", f"route add 10.55.0.0/24 via {B4}")
    rig.kernel_echo("b", 9000, address="::ffff:10.55.0.1")
    def carried():
        report = rig.ping("--count", 5, "--timeout", 200, "10.55.0.1:9000")
        return "carried by usherd" in report and "5 answered" in report
    until("the route is known", carried)
    rig.ip("a", f"route replace 10.55.0.0/24 dev lo")
    until("the route leads elsewhere", lambda: "carried by usherd" not in rig.ping(
        "--count", 1, "--timeout", 100, "10.55.0.1:9000"))


def interfaces_come_and_go(rig):
    usherd = rig.usherd(ECHO)
    run(f"ip link add vc netns {rig.ns('a')} type veth peer name vd netns {rig.ns('b')}")
    rig.ip("a", "addr add 10.98.0.1/24 dev vc")
    rig.ip("b", "addr add 10.98.0.2/24 dev vd")
    rig.ip("b", "link set vd up")
    rig.ip("a", "link set vc up")
    rig.answers("b", "10.98.0.1", 7777)
    rig.ip("a", "link del vc")
    usherd.says("interface.gone: vc")
    rig.answers("b", A4, 7777)
    rig.ip("a", "link set va down")
    usherd.says("va: mtu 1500, down")
    rig.ip("a", "link set va up")
    rig.ip("a", f"-6 addr replace {A6}/64 dev va nodad")
    for address in (A4, A6):
        rig.answers("b", address, 7777)


sys.exit(main([mtu_changes_live, addresses_come_and_go, neighbours_change, routes_decide_who_carries,
               interfaces_come_and_go]))
