#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Unmodified programs on Usher: sockets of either kind, both roles, fall-back, waiting, fork."""
import errno
import os
import signal
import socket
import sys
import threading
import time

from posix_rig import ask, carried, is_carried, listening, needs, under
from rig import A4, A6, B4, check, main, until
from streams import digest, exchange, kernel_stream_echo, text_of

BULK = 20_000_000

# An echo server in one of the styles that programs have: argv is style, port.
ECHO = r"""
import os, select, selectors, socket, sys, threading
style, port = sys.argv[1], int(sys.argv[2])
l = socket.socket(socket.AF_INET6)
l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
l.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
l.bind(("::", port))
l.listen(64)
print("ready", flush=True)
def whole(c):
    while data := c.recv(65536):
        c.sendall(data)
    c.close()
if style == "block":
    while True:
        whole(l.accept()[0])
if style == "threads":
    while True:
        threading.Thread(target=whole, args=(l.accept()[0],)).start()
sel = {"epoll": selectors.EpollSelector, "poll": selectors.PollSelector, "select": selectors.SelectSelector}[style]()
l.setblocking(False)
sel.register(l, selectors.EVENT_READ, None)
while True:
    for key, mask in sel.select():
        if key.data is None:
            c, _ = l.accept()
            c.setblocking(False)
            sel.register(c, selectors.EVENT_READ, bytearray())
            continue
        c, todo = key.fileobj, key.data
        if mask & selectors.EVENT_READ:
            try:
                data = c.recv(65536)
            except ConnectionError:
                sel.unregister(c)
                c.close()
                continue
            todo += data
            if not data:
                sel.unregister(c)
                c.setblocking(True)
                c.sendall(todo)
                c.close()
                continue
        try:
            while todo:
                n = c.send(todo)
                del todo[:n]
        except BlockingIOError:
            pass
        sel.modify(c, selectors.EVENT_READ | (selectors.EVENT_WRITE if todo else 0), todo)
"""


def echo_server(rig, style, port=7000):
    p = under(rig, "python3", "-c", ECHO, style, port, options=["--listen=now"])
    p.says("ready")
    until("its listener is carried", lambda: carried(p, "listener"))
    return p


def by_kernel_peer(rig, address, port, data):
    s = rig.kernel_socket("b", socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, timeout=40)
    s.connect((address, port))
    back = exchange(s, data)
    check(digest(back) == digest(data), f"{len(back)} of {len(data)} bytes came back")


def every_style_serves(rig):
    rig.usherd()
    data = text_of(BULK)
    for port, style in enumerate(("block", "threads", "epoll", "poll", "select"), 7000):
        server = echo_server(rig, style, port)
        for size in (1, 100_000, BULK):
            by_kernel_peer(rig, A4, port, data[:size])
        by_kernel_peer(rig, A6, port, data[:100_000])
        is_carried(server, "listener")
        server.end(signal.SIGKILL)


def many_at_once(rig):
    rig.usherd()
    data = text_of(300_000)
    for port, style in enumerate(("threads", "epoll", "poll"), 7000):
        echo_server(rig, style, port)
        failed = []

        def one(port=port):
            try:
                by_kernel_peer(rig, A4, port, data)
            except Exception as e:  # pylint: disable=broad-except
                failed.append(e)
        threads = [threading.Thread(target=one) for _ in range(20)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        check(not failed, f"{style}: {failed[:1]}")


CLIENT = r"""
import hashlib, socket, sys, threading
host, port, size, way = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
data = bytes(i * 7 % 251 for i in range(4096)) * (size // 4096 + 1)
data = data[:size]
if way == "plain":
    s = socket.create_connection((host, port))
else:
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    s.settimeout(30)
    s.connect((host, port))
print(s.getsockname()[0], s.getpeername()[:2])
back = hashlib.sha256()
def read():
    while piece := s.recv(65536):
        back.update(piece)
t = threading.Thread(target=read)
t.start()
s.sendall(data)
s.shutdown(socket.SHUT_WR)
t.join()
sys.exit(back.digest() != hashlib.sha256(data).digest())
"""


def clients_connect(rig):
    rig.usherd()
    kernel_stream_echo(rig, "b", 9000)
    for size in (1, 100_000, BULK):
        for way in ("plain", "timeout"):
            answer = ask(rig, "a", "python3", "-c", CLIENT, B4, 9000, size, way, usher=True)
            is_carried(answer, "stream")
            check(f"{A4} ('{B4}', 9000)" in answer.text, answer.text)


def both_sides_on_usher(rig):
    rig.usherd()
    echo_server(rig, "epoll")
    for address in (A4, A6):
        answer = ask(rig, "a", "python3", "-c", CLIENT, address, 7000, BULK, "plain", usher=True)
        is_carried(answer, "stream")


def the_kernel_takes_the_rest(rig):
    rig.usherd()
    kernel_stream_echo(rig, "a", 9001)
    for way in ("plain", "timeout"):
        for address in ("127.0.0.1", A4):  # the loopback; a port of this host where only the kernel listens
            answer = ask(rig, "a", "python3", "-c", CLIENT, address, 9001, 100_000, way, usher=True)
            check(carried(answer, "stream", "by the kernel"), str(answer.report))
        refused = ask(rig, "a", "python3", "-c", CLIENT, B4, 9009, 1, way, usher=True, ok=1)
        check("ConnectionRefusedError" in refused.err, refused.err)


def a_listener_serves_both_worlds(rig):
    rig.usherd()
    for port, style in ((7000, "block"), (7001, "epoll"), (7002, "poll")):
        echo_server(rig, style, port)
        by_kernel_peer(rig, A4, port, b"by usherd")
        for address in ("127.0.0.1", A4):
            s = rig.kernel_socket("a", socket.AF_INET, socket.SOCK_STREAM)
            s.connect((address, port))
            check(exchange(s, b"by the kernel") == b"by the kernel", f"{style}: {address}")


def usher_has_a_loopback(rig):
    rig.usherd()
    echo_server(rig, "epoll")
    kernel_stream_echo(rig, "a", 9001)
    for address in ("127.0.0.1", "127.1.2.3", "::1"):
        for way in ("plain", "timeout"):
            answer = ask(rig, "a", "python3", "-c", CLIENT, address, 7000, 1_000_000, way, usher=True)
            is_carried(answer, "stream")
    check("127.0.0.1 ('127.1.2.3'" in ask(rig, "a", "python3", "-c", CLIENT, "127.1.2.3", 7000, 1, "plain",
                                          usher=True).text, "both ends have the kernel's addresses")
    for way in ("plain", "timeout"):
        for port in (7000, 9001):
            answer = ask(rig, "a", "python3", "-c", CLIENT, "127.0.0.1", port, 1000, way, usher=True,
                         options=["--loopback=kernel"])
            check(carried(answer, "stream", "by the kernel: the loopback"), str(answer.report))
        answer = ask(rig, "a", "python3", "-c", CLIENT, "127.0.0.1", 9001, 1000, way, usher=True, ok=1,
                     options=["--loopback=usher"])
        check("ConnectionRefusedError" in answer.err, answer.err)
    for port, address in ((7001, "127.0.0.1"), (7002, "::1")):
        server = under(rig, "python3", "-c", ECHO.replace('"::"', f'"::ffff:{address}"' if "." in address else '"::1"'),
                       "block", port, options=["--listen=now"])
        server.says("ready")
        is_carried(server, "listener")
        is_carried(ask(rig, "a", "python3", "-c", CLIENT, address, port, 1000, "plain", usher=True), "stream")


DATAGRAMS = r"""
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
s.bind(("::", int(sys.argv[1])))
print("ready", flush=True)
while True:
    data, peer = s.recvfrom(65536)
    s.sendto(data, peer)
"""


def datagrams_both_ways(rig):
    rig.usherd()
    server = under(rig, "python3", "-c", DATAGRAMS, 7000)
    server.says("ready")
    for host, address in (("b", A4), ("b", A6), ("a", "127.0.0.1"), ("a", A4), ("b", A4)):
        check(rig.asks(host, address, 7000, b"hello", 5) == b"hello", f"{host} asks {address}")
    is_carried(server, "datagrams")
    rig.kernel_echo("b", 9000)
    rig.kernel_echo("a", 9001)
    for address, port in ((B4, 9000), ("127.0.0.1", 7000), ("127.0.0.1", 9001)):
        code = ("import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(10)\n"
                f"for i in range(100):\n s.sendto(b'%d' % i, ('{address}', {port})); assert s.recv(100) == b'%d' % i\n"
                "print(s.getsockname()[1] != 0)")
        answer = ask(rig, "a", "python3", "-c", code, usher=True)
        is_carried(answer, "datagrams")
        check("True" in answer.text, answer.text)


FORKING = r"""
import os, socket, socketserver, sys
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
class Server(socketserver.ForkingTCPServer):
    allow_reuse_address = True
server = Server(("0.0.0.0", int(sys.argv[1])), Echo)
print("ready", flush=True)
server.serve_forever()
"""


def who_hands_over_may_stay_with_the_kernel(rig):
    rig.usherd()
    server = under(rig, "python3", "-c", FORKING, 7000, options=["--listen=learn"])
    server.says("ready")
    for size in (1, 100_000, 1, 1_000_000):
        by_kernel_peer(rig, A4, 7000, text_of(size))
    until("it is seen", lambda: carried(server, "listener", "by the kernel: its program hands connections"))


def who_forks_for_each_is_carried(rig):
    rig.usherd()
    server = under(rig, "python3", "-c", FORKING, 7000)
    server.says("ready")
    until("its listener is carried", lambda: carried(server, "listener"))
    for size in (1, 100_000, 1, 1_000_000):
        by_kernel_peer(rig, A4, 7000, text_of(size))
    is_carried(ask(rig, "a", "python3", "-c", CLIENT, A4, 7000, 100_000, "plain", usher=True), "stream")


def trust_is_learned(rig):
    rig.usherd()
    server = under(rig, "python3", "-c", ECHO, "threads", 7000, options=["--listen=learn"])
    server.says("ready")
    kept = rig.kernel_socket("b", socket.AF_INET, socket.SOCK_STREAM)
    kept.connect((A4, 7000))
    kept.sendall(b"first")
    check(kept.recv(100) == b"first", "the kernel serves it first")
    for size in (1, 100_000, BULK):
        by_kernel_peer(rig, A4, 7000, text_of(size))
    is_carried(server, "listener")
    kept.sendall(b"still")
    check(kept.recv(100) == b"still", "and what it has goes on")


PREFORK = r"""
import os, socket, sys
l = socket.socket()
l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
l.bind(("0.0.0.0", int(sys.argv[1])))
l.listen(64)
for i in range(3):
    if os.fork() == 0:
        while True:
            c, _ = l.accept()
            while data := c.recv(65536):
                c.sendall(data)
            c.close()
print("ready", flush=True)
os.wait()
"""


def several_processes_accept(rig):
    rig.usherd()
    server = under(rig, "python3", "-c", PREFORK, 7000, options=["--listen=now"])
    server.says("ready")
    until("all are carried", lambda: len(carried(server, "listener")) == 3)
    for size in (1, 100_000, 1_000_000) * 5:
        by_kernel_peer(rig, A4, 7000, text_of(size))


# Accepts, closes its listener, goes on talking; or says all it has to say and ends.
LAST = r"""
import socket, sys
l = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
c, _ = l.accept()
l.close()
print("closed", flush=True)
if sys.argv[2] == "talk":
    while data := c.recv(65536):
        c.sendall(data)
else:
    c.sendall(b"0123456789" * int(sys.argv[3]))
"""


def a_connection_outlives_its_listener(rig):
    rig.usherd()
    server = under(rig, "python3", "-c", LAST, 7000, "talk", options=["--listen=now"])
    server.says("ready")
    s = rig.kernel_socket("b", socket.AF_INET, socket.SOCK_STREAM, timeout=40)
    s.connect((A4, 7000))
    server.says("closed")
    is_carried(server, "listener")
    late = rig.kernel_socket("b", socket.AF_INET, socket.SOCK_STREAM, timeout=40)
    check(late.connect_ex((A4, 7000)) == errno.ECONNREFUSED, "the port is the kernel's, where nobody listens")
    rig.kernel_echo("a", 7000, socket.SOCK_STREAM)
    check(rig.stream_asks("b", A4, 7000) == b"hello", "and another's who takes it there")
    data = text_of(1_000_000)
    check(digest(exchange(s, data)) == digest(data), "the connection goes on")


def what_was_said_arrives_after_the_end(rig):
    rig.usherd()
    server = under(rig, "python3", "-c", LAST, 7000, "leave", 15_000, options=["--listen=now"])
    server.says("ready")
    s = rig.kernel_socket("b", socket.AF_INET, socket.SOCK_STREAM, timeout=40)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)  # most of it is not acknowledged
    s.connect((A4, 7000))
    check(server.end(0) == 0, "it ends")
    got = 0
    while piece := s.recv(65536):
        got += len(piece)
    check(got == 150_000, f"{got} bytes came")


def no_usherd(rig):
    kernel_stream_echo(rig, "b", 9000)
    answer = ask(rig, "a", "python3", "-c", CLIENT, B4, 9000, 100_000, "plain", usher=True)
    check(carried(answer, "stream", "by the kernel: no usherd"), str(answer.report))


def numbers(p):
    with open(f"/proc/{p.pid}/stat", encoding="ascii") as f:
        return f.read().rpartition(")")[2].split()


def state(p):
    return numbers(p)[0]


def busy(p):
    """Has it used the CPU while the test slept?"""
    def used():
        return int(numbers(p)[11]) + int(numbers(p)[12])
    before = used()
    time.sleep(0.3)
    return used() - before > 3


def usherd_dies(rig):
    daemon = rig.usherd()
    server = echo_server(rig, "epoll")
    s = rig.kernel_socket("b", socket.AF_INET, socket.SOCK_STREAM)
    s.connect((A4, 7000))
    s.sendall(b"x")
    check(s.recv(1) == b"x", "it answers")
    os.kill(daemon.pid, 9)
    until("the listener is the kernel's again", lambda: carried(server, "listener", "by the kernel: usherd is gone"))
    by_kernel_peer(rig, A4, 7000, b"served by the kernel")
    # It sleeps: what hung up has left its epoll set.
    until("it waits asleep", lambda: state(server) == "S" and not busy(server))


def programs_talk(rig):
    if not needs("nc", "curl"):
        return
    rig.usherd()
    kernel_stream_echo(rig, "b", 9000)
    check(ask(rig, "a", "nc", "-N", B4, 9000, usher=True, data=b"hello\n").out == b"hello\n", "nc connects")
    server = under(rig, "python3", "-m", "http.server", "8000", "--directory", rig.dir)
    rig.path("file", "text\n" * 100_000)
    listening(rig, "a", 8000)
    ask(rig, "b", "curl", "-sS", f"http://{A4}:8000/")  # shows that the server serves itself
    for host, usher in (("b", False), ("a", True)):
        answer = ask(rig, host, "curl", "-sS", f"http://{A4}:8000/file", usher=usher)
        check(len(answer.out) == 500_000, f"{len(answer.out)} bytes")
    is_carried(server, "listener")


if __name__ == "__main__":
    sys.exit(main([every_style_serves, many_at_once, clients_connect, both_sides_on_usher, the_kernel_takes_the_rest,
                   a_listener_serves_both_worlds, usher_has_a_loopback, datagrams_both_ways,
                   who_hands_over_may_stay_with_the_kernel, who_forks_for_each_is_carried, trust_is_learned,
                   several_processes_accept, a_connection_outlives_its_listener, what_was_said_arrives_after_the_end,
                   no_usherd, usherd_dies, programs_talk]))
