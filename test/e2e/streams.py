#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Streams between usherd's clients and a kernel host, both roles, and between two clients."""
import hashlib
import os
import socket
import subprocess
import sys
import threading

from rig import A4, A6, B4, B6, WAIT, check, main

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


if __name__ == "__main__":
    sys.exit(main([kernel_peer_connects, client_connects, clients_talk_to_one_another,
                   thousands_of_short_connections, foreign_and_refused, peers_see_resets]))
