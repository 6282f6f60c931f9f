#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Streams of unmodified programs that go from one process to another: fork, exec, vfork, posix_spawn, and descriptors
in messages."""
import socket
import sys

from posix_rig import carried, is_carried, under
from rig import A4, check, main, until
from streams import digest, exchange, text_of

# Accepts on the port of argv[2] and hands its connections over in the manner of argv[1].
SERVER = r"""
import os, socket, sys, threading
style, port = sys.argv[1], int(sys.argv[2])
def whole(c):
    while data := c.recv(65536):
        c.sendall(data)
l = socket.create_server(("0.0.0.0", port), backlog=64)
print("ready", flush=True)
if style == "fork":  # the child serves, the parent closes
    while True:
        c, _ = l.accept()
        if os.fork() == 0:
            l.close()
            whole(c)
            c.close()
            os._exit(0)
        c.close()
        os.waitpid(-1, os.WNOHANG)
if style == "both":  # each says its part, in turns; the parent waits for its child and goes on
    while True:
        c, _ = l.accept()
        c.sendall(b"parent ")
        if os.fork() == 0:
            c.sendall(c.recv(5) + b" child ")
            os._exit(0)
        os.wait()
        c.sendall(c.recv(5) + b" parent ")
        if os.fork() == 0:
            os._exit(0)  # a copy that is never used
        os.wait()
        whole(c)
        c.close()
if style == "exec":  # inetd's manner: another program with the connection as its input and output
    while True:
        c, _ = l.accept()
        if os.fork() == 0:
            os.dup2(c.fileno(), 0)
            os.dup2(c.fileno(), 1)
            os.execvp("cat", ["cat"])
        c.close()
        os.waitpid(-1, os.WNOHANG)
if style == "send":  # a second process, made before, gets each connection in a message, half of its first line read
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        l.close()
        here.close()
        while True:
            data, fds, _, _ = socket.recv_fds(there, 100, 1)
            if not data:
                os._exit(0)
            c = socket.socket(fileno=fds[0])
            c.sendall(data)
            threading.Thread(target=lambda c=c: (whole(c), c.close())).start()
    while True:
        c, _ = l.accept()
        socket.send_fds(here, [c.recv(3)], [c.fileno()])
        c.close()
if style == "vfork":  # a shell makes its children so
    while True:
        c, _ = l.accept()
        c.sendall(b"parent " + c.recv(5, socket.MSG_WAITALL) + b" ")
        if os.fork() == 0:
            os.dup2(c.fileno(), 0)
            os.dup2(c.fileno(), 1)
            os.execv("/bin/sh", ["sh", "-c", "/bin/echo child; /bin/true; cat; exit 0"])
        c.close()
        os.wait()
if style == "spawn":
    while True:
        c, _ = l.accept()
        c.sendall(b"parent " + c.recv(5, socket.MSG_WAITALL) + b" ")
        child = os.posix_spawnp("cat", ["cat"], os.environ, file_actions=[
            (os.POSIX_SPAWN_DUP2, c.fileno(), 0), (os.POSIX_SPAWN_DUP2, c.fileno(), 1)])
        c.close()
        os.waitpid(child, 0)
if style == "system":  # the shells get nothing of ours, and take nothing
    while True:
        c, _ = l.accept()
        os.set_inheritable(c.fileno(), True)
        c.sendall(b"parent " + c.recv(5, socket.MSG_WAITALL) + b" ")
        assert os.system("exit 3") == 3 << 8
        assert os.popen("echo said").read() == "said\n"
        whole(c)
        c.close()
if style == "confined":  # a child that may open nothing any more reads a little and ends; the parent has the rest
    import ctypes, resource
    while True:
        c, _ = l.accept()
        if os.fork() == 0:
            resource.setrlimit(resource.RLIMIT_NOFILE, (1, 1))
            ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
            c.sendall(c.recv(5, socket.MSG_WAITALL) + b" child ")
            c.recv(50_000, socket.MSG_PEEK | socket.MSG_WAITALL)
            os._exit(0)
        os.wait()
        whole(c)
        c.close()
if style == "successor":  # hands its listener and an open connection to the program that follows it
    c, _ = l.accept()
    c.sendall(c.recv(65536))
    os.set_inheritable(l.fileno(), True)
    os.set_inheritable(c.fileno(), True)
    os.execv(sys.executable, [sys.executable, "-c", '''
import os, socket, sys, threading
l, c = socket.socket(fileno=int(sys.argv[1])), socket.socket(fileno=int(sys.argv[2]))
def whole(c):
    while data := c.recv(65536):
        c.sendall(data)
    c.close()
print("succeeded", flush=True)
threading.Thread(target=whole, args=(c,)).start()
while True:
    whole(l.accept()[0])
''', str(l.fileno()), str(c.fileno())])
"""


def started(rig, style, port=7000):
    rig.usherd()
    server = under(rig, "python3", "-c", SERVER, style, port, options=["--listen=now"])
    server.says("ready")
    until("its listener is carried", lambda: carried(server, "listener"))
    return server


def peer(rig, port=7000):
    s = rig.kernel_socket("b", socket.AF_INET, socket.SOCK_STREAM, timeout=40)
    s.connect((A4, port))
    return s


def echoes(s, data):
    back = exchange(s, data)
    check(digest(back) == digest(data), f"{len(back)} of {len(data)} bytes came back")


def reads(s, want):
    got = b""
    while len(got) < len(want) and (piece := s.recv(len(want) - len(got))):
        got += piece
    check(got == want, f"{got} instead of {want}")


def children_serve(rig):
    server = started(rig, "fork")
    for size in (1, 100_000, 2_000_000):
        echoes(peer(rig), text_of(size))
    several = [peer(rig) for _ in range(8)]
    for i, s in enumerate(several):
        echoes(s, text_of(10_000 + i))
    is_carried(server, "listener")


def both_sides_use_it(rig):
    started(rig, "both")
    for _ in range(3):
        s = peer(rig)
        s.sendall(b"first")
        reads(s, b"parent first child ")
        s.sendall(b"later")
        reads(s, b"later parent ")
        echoes(s, text_of(100_000))


def another_program_goes_on(rig):
    started(rig, "exec")
    for size in (1, 100_000, 1_000_000):
        echoes(peer(rig), text_of(size))


def children_that_share_its_memory_first(rig, style, greeting=b""):
    started(rig, style)
    for size in (1, 100_000, 1_000_000):
        s = peer(rig)
        s.sendall(b"first")
        reads(s, b"parent first " + greeting)
        echoes(s, text_of(size))


def vfork_hands_on(rig):
    children_that_share_its_memory_first(rig, "vfork", b"child\n")


def posix_spawn_hands_on(rig):
    children_that_share_its_memory_first(rig, "spawn")


def system_and_popen_leave_it(rig):
    children_that_share_its_memory_first(rig, "system")


def a_confined_child_leaves_the_rest(rig):
    started(rig, "confined")
    for _ in range(3):
        s = peer(rig)
        s.sendall(b"first" + text_of(50_000))
        reads(s, b"first child ")
        reads(s, text_of(50_000))
        echoes(s, text_of(100_000))


def a_message_carries_it(rig):
    started(rig, "send")
    for size in (3, 1_000, 100_000, 1_000_000):
        echoes(peer(rig), text_of(size))


def a_successor_goes_on(rig):
    server = started(rig, "successor")
    s = peer(rig)
    s.sendall(b"before")
    reads(s, b"before")
    server.says("succeeded")
    echoes(s, text_of(100_000))
    echoes(peer(rig), text_of(100_000))
    until("the listener is carried again", lambda: len(carried(server, "listener")) >= 2)


if __name__ == "__main__":
    sys.exit(main([children_serve, both_sides_use_it, another_program_goes_on,
                   vfork_hands_on, posix_spawn_hands_on, system_and_popen_leave_it, a_confined_child_leaves_the_rest,
                   a_message_carries_it, a_successor_goes_on]))
