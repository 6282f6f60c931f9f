#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every way an interface can be run: packet, xdp, tap, shared, dedicated, with faults."""
import signal
import socket
import struct
import sys

from rig import A4, A6, B4, check, main, until

CONFIG = "interfaces: [{name: va, %s}]\nkeeper: {mode: off}\necho: {ports: [7777]}\n"
OWN4, OWN6 = "10.99.0.50", "fd99::50"


def serves_beside_the_kernel(rig, kind, words):
    usherd = rig.usherd(CONFIG % kind)
    check(words in usherd.text(), usherd.text())
    rig.kernel_echo("a", 8000)
    rig.kernel_echo("b", 9000)
    for address in (A4, A6):
        for port in (7777, 8000):
            rig.answers("b", address, port)
        big = b"x" * 5000
        until("5000 bytes come back", lambda: rig.asks("b", address, 7777, big) == big)
    check("carried by usherd" in rig.ping("--count", 50, f"{B4}:9000", answered=50), "a client is carried")
    check(usherd.end() == 0, usherd.text())
    check(isinstance(rig.asks("b", A4, 7777), ConnectionRefusedError), "the port is the kernel's again")


def packet(rig):
    serves_beside_the_kernel(rig, "kind: packet", "kind packet")


def xdp_native(rig):
    serves_beside_the_kernel(rig, "kind: xdp", "kind xdp (native")


def xdp_generic(rig):
    serves_beside_the_kernel(rig, "kind: xdp, native: no, generic: yes", "kind xdp (generic")


def icmp_echo(rig, address):
    """ping: True when the answer came."""
    v6 = ":" in address
    family, proto = (socket.AF_INET6, 58) if v6 else (socket.AF_INET, 1)
    s = rig.kernel_socket("b", family, socket.SOCK_RAW, timeout=1, proto=proto)
    body = struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, 7, 1) + b"usher-ping"
    if not v6:
        total = sum(struct.unpack(f"!{len(body) // 2}H", body))
        total = (total & 0xffff) + (total >> 16)
        body = body[:2] + struct.pack("!H", ~total & 0xffff) + body[4:]
    try:
        s.sendto(body, (address, 0))
        while True:
            data, _ = s.recvfrom(2048)
            answer = data if v6 else data[20:]
            if answer[0] == (129 if v6 else 0) and answer[8:] == b"usher-ping":
                return True
    except OSError:
        return False


def dedicated(rig):
    usherd = rig.usherd(CONFIG % f"mode: dedicated, addresses: [{OWN4}/24, '{OWN6}/64'], gateways: [{B4}]")
    rig.kernel_echo("a", 8000)
    for address in (OWN4, OWN6):
        rig.answers("b", address, 7777)
        until(f"{address} answers ping", lambda: icmp_echo(rig, address))
    for address in (A4, A6):
        rig.answers("b", address, 8000)
    kernel = rig.ip("a", "-br link show va").split()[2]
    neighbours = rig.ip("b", f"neigh show {OWN4}") + rig.ip("b", f"neigh show {OWN6}")
    check(kernel not in neighbours and neighbours.count("lladdr") == 2, f"own MAC, not {kernel}: {neighbours}")
    server = rig.client("udp-echo", "[::]:7000")
    for address in (OWN4, OWN6):
        rig.answers("b", address, 7000)
    server.end(signal.SIGKILL)
    check(usherd.end() == 0, usherd.text())


def tap(rig):
    addresses = "[10.97.0.2/24, 'fd97::2/64']"
    usherd = rig.usherd(f"interfaces: [{{name: ut0, kind: tap, mode: dedicated, addresses: {addresses}}}]\n"
                        "keeper: {mode: off}\necho: {ports: [7777]}\n")
    rig.ip("a", "addr add 10.97.0.1/24 dev ut0")
    rig.ip("a", "-6 addr add fd97::1/64 dev ut0 nodad")
    rig.ip("a", "link set ut0 up")
    for address in ("10.97.0.2", "fd97::2"):
        rig.answers("a", address, 7777)
    check(usherd.end() == 0, usherd.text())
    check("ut0" not in rig.ip("a", "link"), "the tap goes with usherd")


def faults_drop_everything(rig):
    rig.usherd(CONFIG % "faults: {drop_ppm: 1000000}")
    check(rig.asks("b", A4, 7777) is None, "everything is dropped")


def faults_duplicate(rig):
    rig.usherd(CONFIG % "faults: {duplicate_ppm: 1000000, rx: no}")
    s = rig.kernel_socket("b", socket.AF_INET, timeout=5)
    s.sendto(b"once", (A4, 7777))
    check(s.recv(100) == b"once" and s.recv(100) == b"once", "each answer comes twice")


sys.exit(main([packet, xdp_native, xdp_generic, dedicated, tap, faults_drop_everything, faults_duplicate]))
