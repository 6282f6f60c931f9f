#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Streams between usherd's clients and a kernel host, both roles, and between two clients."""
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from rig import A4, A6, B4, B6, WAIT, check, main, run, until

BULK = 20_000_000


def text_of(size):
    """Bytes that betray a hole, a copy or a swap."""
    block = b"".join(i.to_bytes(4, "big") for i in range(16384))
    return (block * (size // len(block) + 1))[:size]


def digest(data):
    return hashlib.sha256(data).hexdigest()


def exchange(s, data):
    """Sends all of it and hangs up, while it reads all that comes back."""
    back = bytearray()

    def read():
        while piece := s.recv(1 << 16):
            back.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    s.sendall(data)
    s.shutdown(socket.SHUT_WR)
    reader.join(60)
    s.close()
    return bytes(back)


def kernel_stream_echo(rig, host, port):
    """A kernel host that sends back all of each connection, one after the other."""
    s = rig.kernel_socket(host, socket.AF_INET6, socket.SOCK_STREAM, timeout=0.2)
    s.bind(("::", port))
    s.listen(8)

    def serve():
        while not rig.stopping:
            try:
                connection, _ = s.accept()
                connection.settimeout(30)
                while piece := connection.recv(1 << 16):
                    connection.sendall(piece)
                connection.close()
            except OSError:
                continue
    threading.Thread(target=serve, daemon=True).start()


def cat(rig, address, data, *options):
    """tcp-cat on host a: what it wrote and what it said."""
    command = rig.inside("a", [f"{rig.bin}/tcp-cat", "--socket", rig.session, *options, address])
    p = subprocess.run(command, input=data, capture_output=True, timeout=90, check=False)
    check(p.returncode == 0, f"tcp-cat: exit {p.returncode}: {p.stderr.decode()}")
    return p.stdout, p.stderr.decode()


def server(rig):
    echo = rig.client("tcp-echo", "[::]:7000")
    echo.says("listening; carried by usherd")
    return echo


def kernel_peer_connects(rig):
    rig.usherd()
    server(rig)
    data = text_of(BULK)
    for address, family in ((A4, socket.AF_INET), (A6, socket.AF_INET6)):
        for size in (1, 100_000, BULK):
            s = rig.kernel_socket("b", family, socket.SOCK_STREAM, timeout=30)
            s.connect((address, 7000))
            back = exchange(s, data[:size])
            check(digest(back) == digest(data[:size]), f"{size} bytes to {address}, {len(back)} came back")


def client_connects(rig):
    rig.usherd()
    kernel_stream_echo(rig, "b", 9000)
    data = text_of(BULK)
    for address in (f"{B4}:9000", f"[{B6}]:9000"):
        for size in (1, 100_000, BULK):
            back, said = cat(rig, address, data[:size])
            check("carried by usherd" in said, said)
            check(digest(back) == digest(data[:size]), f"{size} bytes to {address}, {len(back)} came back")


def clients_talk_to_one_another(rig):
    rig.usherd()
    server(rig)
    data = text_of(BULK)
    for address in (f"{A4}:7000", f"[{A6}]:7000"):
        back, said = cat(rig, address, data)
        check("carried by usherd" in said, said)
        check(digest(back) == digest(data), f"{len(back)} of {BULK} bytes came back")


def thousands_of_short_connections(rig):
    rig.usherd()
    server(rig)
    said, _ = cat(rig, f"{A4}:7000", b"", "--count", "5000")
    check(b"5000 connections answered" in said, said)
    for i in range(1000):
        s = rig.kernel_socket("b", socket.AF_INET, socket.SOCK_STREAM)
        s.connect((A4, 7000))
        s.sendall(b"line %d" % i)
        check(s.recv(100) == b"line %d" % i, "each has its own answer")
        s.close()


def shards_of(rig, port):
    """How many connections of a port each shard has, and how many listeners operators are shown."""
    control = f"{rig.dir}/run/control.sock"
    said = run(rig.inside("a", [f"{rig.bin}/usherctl", "--socket", control, "-o", "json", "sockets", "--tcp"])).stdout
    ours = [s for s in json.loads(said)["sockets"] if s["local_port"] == port]
    listeners = [s for s in ours if "listen" in s["state"].lower()]
    return [sum(s.get("shard", 0) == i for s in ours if s not in listeners) for i in (0, 1)], len(listeners)


def a_listener_serves_in_every_shard(rig):
    """Two workers: connections of one listener live on both, and stay there when usherd is killed."""
    config = "interfaces: [{name: va}]\nkeeper: {mode: on}\nruntime: {shards: 2, mode: spreading}\n"
    usherd = rig.usherd(config)
    server(rig)
    held = []
    for i in range(40):
        family, address = (socket.AF_INET, A4) if i % 2 else (socket.AF_INET6, A6)
        held.append(rig.kernel_socket("b", family, socket.SOCK_STREAM, timeout=30))
        held[-1].connect((address, 7000))

    def all_answer():
        for i, s in enumerate(held):
            s.sendall(b"%d" % i)
            check(s.recv(10) == b"%d" % i, f"connection {i} answers")
    all_answer()
    counts, listeners = shards_of(rig, 7000)
    check(sum(counts) == 40 and min(counts) > 0, f"by shard: {counts}")
    check(listeners == 1, f"operators see {listeners} listeners")
    usherd.end(signal.SIGKILL)
    rig.usherd(config)
    all_answer()
    check(shards_of(rig, 7000) == (counts, 1), f"before: {counts}, after: {shards_of(rig, 7000)}")
    data = text_of(BULK)
    check(digest(exchange(held.pop(), data)) == digest(data), "bulk comes back")
    said, _ = cat(rig, f"{A4}:7000", b"", "--count", "1000")
    check(b"1000 connections answered" in said, said)


def foreign_and_refused(rig):
    rig.usherd()
    kernel_stream_echo(rig, "a", 9001)
    back, said = cat(rig, "127.0.0.1:9001", b"by the loopback")
    check(back == b"by the loopback" and "carried by the kernel" in said, said)
    command = rig.inside("a", [f"{rig.bin}/tcp-cat", "--socket", rig.session, f"{B4}:9009"])
    p = subprocess.run(command, input=b"", capture_output=True, timeout=WAIT, check=False)
    check(b"Connection refused" in p.stderr, p.stderr)


def peers_see_resets(rig):
    rig.usherd()
    echo = server(rig)
    s = rig.kernel_socket("b", socket.AF_INET, socket.SOCK_STREAM)
    s.connect((A4, 7000))
    s.sendall(b"x")
    check(s.recv(1) == b"x", "it answers")
    os.kill(echo.pid, 9)
    try:
        check(s.recv(1) != b"", "the program died: a reset, no orderly end")
    except ConnectionResetError:
        pass
    s.close()


def from_a_port_of_its_choice(rig):
    rig.usherd()
    seen = []
    s = rig.kernel_socket("b", socket.AF_INET6, socket.SOCK_STREAM, timeout=20)
    s.bind(("::", 9002))
    s.listen(8)

    def serve():
        for _ in range(4):
            connection, peer = s.accept()
            seen.append(peer[:2])
            connection.settimeout(30)
            while piece := connection.recv(1 << 16):
                connection.sendall(piece)
            connection.close()
    reader = threading.Thread(target=serve, daemon=True)
    reader.start()
    for bind, address in ((f"{A4}:7100", f"{B4}:9002"), (f"[{A6}]:7101", f"[{B6}]:9002"), (":7102", f"{B4}:9002")):
        back, said = cat(rig, address, b"from here", "--bind", bind)
        check(back == b"from here" and "carried by usherd" in said, said)
    # Not Usher's way: the same call by the kernel.
    kernel_stream_echo(rig, "a", 9003)
    back, said = cat(rig, "127.0.0.1:9003", b"by the loopback", "--bind", "127.0.0.1:7103")
    check(back == b"by the loopback" and "carried by the kernel" in said, said)
    # The kernel has the port again: the program has closed it, and so has usherd.
    back, said = cat(rig, f"{B4}:9002", b"again", "--bind", f"{A4}:7104")
    reader.join(WAIT)
    check(seen == [(f"::ffff:{A4}", 7100), (A6, 7101), (f"::ffff:{A4}", 7102), (f"::ffff:{A4}", 7104)], seen)
    until("the kernel refuses the port again", lambda: port_refused(rig, 7104))


def port_refused(rig, port):
    s = rig.kernel_socket("b", socket.AF_INET, socket.SOCK_STREAM, timeout=2)
    try:
        s.connect((A4, port))
    except ConnectionRefusedError:
        return True
    except TimeoutError:
        pass
    return False


def kernel_clients_of_the_same_host(rig):
    """What reaches a listener by the loopback goes to the program all the same, by its kernel socket."""
    rig.usherd()
    server(rig)
    data = text_of(1_000_000)
    for address, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6), (A4, socket.AF_INET),
                            (A6, socket.AF_INET6)):
        s = rig.kernel_socket("a", family, socket.SOCK_STREAM, timeout=30)
        s.connect((address, 7000))
        back = exchange(s, data)
        check(digest(back) == digest(data), f"{address}: {len(back)} of {len(data)} bytes came back")
    # Another network's clients come by usherd at the same time.
    s = rig.kernel_socket("b", socket.AF_INET, socket.SOCK_STREAM, timeout=30)
    s.connect((A4, 7000))
    check(exchange(s, b"from afar") == b"from afar", "and those of other hosts")


def kernel_listeners_of_the_same_host(rig):
    """A port of this host where usherd has no listener, or not at that address, is the kernel's."""
    rig.ip("a", "addr add 10.99.0.11/24 dev va")
    rig.usherd()
    echo = rig.client("tcp-echo", "10.99.0.11:7000")
    echo.says("listening; carried by usherd")
    kernel_stream_echo(rig, "a", 9001)
    s = rig.kernel_socket("a", socket.AF_INET, socket.SOCK_STREAM)
    s.bind((A4, 7000))
    s.listen(8)
    back, said = cat(rig, f"{A4}:9001", b"the kernel's port")
    check(back == b"the kernel's port" and "carried by the kernel" in said, said)
    p = rig.client("tcp-cat", "--count", "1", f"{A4}:7000")
    connection, _ = s.accept()
    connection.sendall(connection.recv(100))
    check(p.end(0) == 0, p.text())
    back, said = cat(rig, "10.99.0.11:7000", b"usherd's address")
    check(back == b"usherd's address" and "carried by usherd" in said, said)
    command = rig.inside("a", [f"{rig.bin}/tcp-cat", "--socket", rig.session, f"{A4}:9009"])
    refused = subprocess.run(command, input=b"", capture_output=True, timeout=WAIT, check=False)
    check(b"Connection refused" in refused.stderr, refused.stderr)


def blocked(rig, address):
    """tcp-cat that has said a word and waits for an answer."""
    command = rig.inside("a", [f"{rig.bin}/tcp-cat", "--socket", rig.session, address])
    p = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    p.stdin.write(b"hello")
    p.stdin.flush()
    return p


def usherd_goes_under_streams(rig):
    """Neither end waits for ever: programs hear that the network is down, peers get a reset."""
    for sig, address in ((signal.SIGKILL, f"{B4}:9004"), (signal.SIGTERM, f"[{B6}]:9005")):
        usherd = rig.usherd()
        s = rig.kernel_socket("b", socket.AF_INET6, socket.SOCK_STREAM, timeout=WAIT)
        s.bind(("::", 9004 if sig == signal.SIGKILL else 9005))
        s.listen(8)
        p = blocked(rig, address)
        connection, _ = s.accept()
        connection.settimeout(WAIT)
        check(connection.recv(100) == b"hello", "they speak")
        usherd.end(sig)
        _, said = p.communicate(timeout=WAIT)
        check(p.returncode == 1 and b"receive" in said, said)
        try:
            while True:
                connection.sendall(b"anybody there?")
                time.sleep(0.02)
        except OSError as e:
            check(isinstance(e, (ConnectionResetError, BrokenPipeError)), e)


def a_reader_that_leaves_bytes(rig):
    """RFC 9293, SHLD-3: who closes with received bytes unread says so by a reset."""
    rig.usherd()
    s = rig.kernel_socket("b", socket.AF_INET, socket.SOCK_STREAM, timeout=WAIT)
    s.bind((B4, 9006))
    s.listen(8)
    p = rig.client("tcp-cat", "--count", "1", f"{B4}:9006")
    connection, _ = s.accept()
    connection.settimeout(WAIT)
    line = connection.recv(100)
    connection.sendall(line + b"more than it wants" * 1000)
    check(p.end(0) in (0, 1), p.text())
    try:
        while connection.recv(100):
            pass
        check(False, "an orderly end, though bytes were lost")
    except ConnectionResetError:
        pass


RESERVED = "/proc/sys/net/ipv4/ip_local_reserved_ports"


def reserved(rig):
    return run(rig.inside("a", ["cat", RESERVED])).stdout.strip()


def small_range(rig):
    """The kernel gives out 100 ports, usherd wants the upper half of them."""
    run(rig.inside("a", ["sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40099",
                         "net.ipv4.ip_local_reserved_ports=40007"]))
    return "interfaces: [{name: va}]\nkeeper: {mode: off}\nengines: {tcp: {port_low: 40050, port_high: 40099}}\n"


def kernel_ports(rig, count):
    """Ports that the kernel gives to connections of programs that know nothing of usherd."""
    found = set()
    for _ in range(count):
        s = rig.kernel_socket("a", socket.AF_INET, socket.SOCK_STREAM)
        s.connect((B4, 9000))
        found.add(s.getsockname()[1])
        s.sendall(b"kernel")
        check(s.recv(100) == b"kernel", "the kernel's own connection")
        s.close()
    return found


def outgoing_ports_are_kept_from_the_kernel(rig):
    usherd = rig.usherd(small_range(rig))
    check(reserved(rig) == "40007,40050-40099", reserved(rig))
    kernel_stream_echo(rig, "b", 9000)
    back, said = cat(rig, f"{B4}:9000", b"by usherd")
    check(back == b"by usherd" and "carried by usherd" in said, said)
    ports = kernel_ports(rig, 40)
    check(not [p for p in ports if p >= 40050], f"the kernel gave out {ports}")
    check(usherd.end() == 0, usherd.text())
    check(reserved(rig) == "40007", reserved(rig))


def reserved_ports_come_back_after_a_crash(rig):
    config = small_range(rig)
    for undo in ("--cleanup", None):
        rig.usherd(config).end(signal.SIGKILL)
        check(reserved(rig) == "40007,40050-40099", reserved(rig))
        if undo:
            until("cleanup is done", lambda: run(rig.inside("a", [f"{rig.bin}/usherd", undo, *rig.usherd_args(config)]),
                                                 ok=None).returncode == 0)
            check(reserved(rig) == "40007", reserved(rig))
    run(rig.inside("a", ["sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=40008,40050-40099"]))
    second = rig.usherd(config)
    check(second.end() == 0, second.text())
    check(reserved(rig) == "40008", f"what was added meanwhile stays: {reserved(rig)}")


if __name__ == "__main__":
    sys.exit(main([kernel_peer_connects, client_connects, clients_talk_to_one_another,
                   thousands_of_short_connections, a_listener_serves_in_every_shard, foreign_and_refused,
                   peers_see_resets, usherd_goes_under_streams, a_reader_that_leaves_bytes, from_a_port_of_its_choice,
                   kernel_clients_of_the_same_host, kernel_listeners_of_the_same_host,
                   outgoing_ports_are_kept_from_the_kernel, reserved_ports_come_back_after_a_crash]))
