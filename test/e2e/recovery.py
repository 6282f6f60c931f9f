#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""usherd is killed, or replaced, while programs use it: they notice a pause and nothing else.

    host a: usherd + programs        host b: kernel peers
"""
import fcntl
import glob
import os
import signal
import socket
import sys
import threading

from handover import SERVER as FORKS
from posix_rig import is_carried, under
from rig import A4, Process, check, main, run, until
from upgrade import Stream

CONFIG = "interfaces: [{name: va}]\nkeeper: {mode: on, recovery_grace: 20s}\n"


def carried(rig, *words):
    p = rig.client(*words)
    p.says("carried by usherd")
    return p


def listening(rig, *words):
    """An unmodified program whose listener is usherd's."""
    server = under(rig, "python3", "-c", *words, options=["--listen=now"])
    server.says("ready")
    is_carried(server, "listener")


def killed(rig, usherd):
    usherd.end(signal.SIGKILL)
    return rig.usherd(CONFIG)


def streams_outlive_kills(rig):
    usherd = rig.usherd(CONFIG)
    server = carried(rig, "tcp-echo", "0.0.0.0:7002")
    streams = [Stream(rig, 7002) for _ in range(4)]
    for turn in range(5):
        for s in streams:
            s.goes_on()
        usherd = killed(rig, usherd)
        for s in streams:
            s.goes_on()
    late = Stream(rig, 7002)
    late.goes_on()
    for s in streams + [late]:
        s.end()
    check("usherd is gone" not in server.text(), server.text())
    check(", back again" in usherd.text(), "the program came back")
    check(usherd.end() == 0, usherd.text())


# An event loop that sleeps until its epoll set says something, however long that takes.
LOOP = """
import select, socket
l = socket.create_server(("0.0.0.0", 7003))
l.setblocking(False)
e, open_ones = select.epoll(), {}
e.register(l.fileno(), select.EPOLLIN)
print("ready", flush=True)
while True:
    for fd, _ in e.poll():
        if fd == l.fileno():
            c, _ = l.accept()
            open_ones[c.fileno()] = c
            e.register(c.fileno(), select.EPOLLIN)
        elif data := open_ones[fd].recv(65536):
            open_ones[fd].setblocking(True)
            open_ones[fd].sendall(data)
        else:
            open_ones.pop(fd).close()
"""


def an_event_loop_comes_back_as_often_as_usherd(rig):
    usherd = rig.usherd(CONFIG)
    listening(rig, LOOP)
    streams = [Stream(rig, 7003) for _ in range(2)]
    for turn in range(6):  # two deaths in a row, with what may or may not have come back between them
        usherd = killed(rig, usherd)
        for s in streams if turn % 2 else []:
            s.goes_on()
    for s in streams:
        s.end()


def connections_come_between_deaths(rig):
    """Each right before usherd dies, and every other time its successor dies while programs are on their way back."""
    usherd = rig.usherd(CONFIG)
    listening(rig, LOOP)
    for turn in range(8):
        streams = [Stream(rig, 7003) for _ in range(2)]
        for _ in range(1 + turn % 2):
            usherd = killed(rig, usherd)
        for s in streams:
            s.goes_on()
            s.end()


def a_forked_server_keeps_its_connections(rig):
    """Its children were handed the connections that its parent had accepted."""
    usherd = rig.usherd(CONFIG)
    listening(rig, FORKS, "fork", 7004)
    streams = [Stream(rig, 7004) for _ in range(2)]
    for _ in range(3):
        for s in streams:
            s.goes_on()
        usherd = killed(rig, usherd)
    for s in streams:
        s.end()


def datagrams_and_listeners_come_back(rig):
    usherd = rig.usherd(CONFIG)
    server = carried(rig, "udp-echo", "0.0.0.0:7001")
    rig.answers("b", A4, 7001)
    usherd = killed(rig, usherd)
    usherd.says(", back again")
    rig.answers("b", A4, 7001)
    sockets = run(rig.inside("a", [f"{rig.bin}/usherctl", "--socket", f"{rig.dir}/run/control.sock", "sockets"])).stdout
    check("7001" in sockets, f"usherd carries it again:\n{sockets}")
    check("usherd is gone" not in server.text(), server.text())


def an_orderly_stop_is_no_pause(rig):
    usherd = rig.usherd(CONFIG)
    server = carried(rig, "udp-echo", "0.0.0.0:7001")
    check(usherd.end() == 0, usherd.text())
    server.says("going on over the kernel")
    rig.answers("b", A4, 7001)


def who_does_not_come_back_is_reset(rig):
    config = CONFIG.replace("20s", "2s")
    usherd = rig.usherd(config)
    server = carried(rig, "tcp-echo", "0.0.0.0:7002")
    s = rig.kernel_socket("b", socket.AF_INET, socket.SOCK_STREAM, timeout=20)
    s.connect((A4, 7002))
    s.sendall(b"x")
    check(s.recv(1) == b"x", "it echoes")
    os.kill(server.pid, signal.SIGSTOP)
    usherd.end(signal.SIGKILL)
    usherd = rig.usherd(config)
    s.sendall(b"y")
    try:
        check(s.recv(1) == b"", "nobody answers")
    except ConnectionResetError:
        pass
    usherd.says("1 were reset because their program did not come back")
    server.end(signal.SIGKILL)


def without_a_successor_the_kernel_goes_on(rig):
    usherd = rig.usherd(CONFIG.replace("20s", "1s"))
    server = carried(rig, "udp-echo", "0.0.0.0:7001")
    rig.answers("b", A4, 7001)
    usherd.end(signal.SIGKILL)
    server.says("going on over the kernel")
    until("the keeper has ended", lambda: not rig.keepers())
    rig.answers("b", A4, 7001)


def usherctl(rig, *words, ok=(0,)):
    return run(rig.inside("a", [f"{rig.bin}/usherctl", "--socket", f"{rig.dir}/run/control.sock", *words]), ok)


def a_successor_takes_over(rig):
    usherd = rig.usherd(CONFIG)
    carried(rig, "tcp-echo", "0.0.0.0:7002")
    carried(rig, "udp-echo", "0.0.0.0:7001")
    streams = [Stream(rig, 7002) for _ in range(4)]
    for _ in range(3):
        for s in streams:
            s.goes_on()
        done = usherctl(rig, "upgrade")
        check("took over from usherd" in done.stdout, done.stdout)
        for s in streams:
            s.goes_on()
        rig.answers("b", A4, 7001)
    for s in streams:
        s.end()
    check("1 connections did not" not in usherd.text(), usherd.text())
    check(usherd.end() == 0, usherd.text())


def under_systemd_it_hands_on_what_the_store_has(rig):
    """The fd store gives nothing to whoever a running service becomes."""
    path = rig.path("notify")
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(path)
    told.settimeout(0.2)
    rig.sockets.append(told)

    def listen():
        while not rig.stopping:
            try:
                told.recv(4096)
            except OSError:
                pass
    threading.Thread(target=listen, daemon=True).start()
    usherd = Process(rig.inside("a", ["env", f"NOTIFY_SOCKET={path}", "INVOCATION_ID=1", f"{rig.bin}/usherd",
                                      *rig.usherd_args(CONFIG.replace("mode: on", "mode: auto"))]))
    rig.processes.append(usherd)
    usherd.says("info: ready:")
    check(not rig.keepers(), "systemd's store serves")
    carried(rig, "tcp-echo", "0.0.0.0:7002")
    s = Stream(rig, 7002)
    for _ in range(2):
        s.goes_on()
        check("took over from usherd" in usherctl(rig, "upgrade").stdout, usherd.text())
        s.goes_on()
    s.end()
    check(usherd.end() == 0, usherd.text())


def program(rig, name, text):
    path = rig.path(name, f"#!/bin/sh\n{text}\n")
    os.chmod(path, 0o755)
    return path


def what_cannot_take_over_is_refused(rig):
    usherd = rig.usherd(CONFIG)
    carried(rig, "udp-echo", "0.0.0.0:7001")
    loose = program(rig, "loose", "exit 0")
    os.chmod(loose, 0o777)
    for path, why in ((program(rig, "fails", "echo no such thing >&2; exit 1"), "says: no such thing"),
                      (program(rig, "crashes", "kill -SEGV $$"), "dies or hangs"), ("/nowhere", "cannot find"),
                      (rig.path("text", "hello"), "only a program"), (loose, "only a program")):
        done = usherctl(rig, "upgrade", path, ok=None)
        check(done.returncode != 0 and why in done.stderr, f"{path}: {done.returncode}: {done.stderr}")
        rig.answers("b", A4, 7001)
    check(usherd.child.poll() is None and "takes over" not in usherd.text(), usherd.text())


def one_that_cannot_start_gives_way_again(rig):
    """The lock of the state is taken before the successor has it, and given back when it has given up."""
    usherd = rig.usherd(CONFIG)
    carried(rig, "tcp-echo", "0.0.0.0:7002")
    s = Stream(rig, 7002)
    s.goes_on()
    (lock,) = glob.glob(f"{rig.dir}/state/*.lock")
    with open(lock, "r+", encoding="ascii") as f:
        waiter = threading.Thread(target=fcntl.flock, args=(f, fcntl.LOCK_EX), daemon=True)
        waiter.start() # first in the queue when the old one lets go
        asked = rig.start("a", "usherctl", "--socket", f"{rig.dir}/run/control.sock", "upgrade")
        waiter.join(30)
        check(not waiter.is_alive(), "the old one does not let go")
        usherd.says("already runs in this network namespace")
    check(asked.end(0, 60) != 0 and "its successor failed (it could not start)" in asked.text(), asked.text())
    s.goes_on()
    s.end()
    check(usherd.end() == 0, usherd.text())


if __name__ == "__main__":
    sys.exit(main([a_successor_takes_over, under_systemd_it_hands_on_what_the_store_has,
                   what_cannot_take_over_is_refused, one_that_cannot_start_gives_way_again,
                   streams_outlive_kills, an_event_loop_comes_back_as_often_as_usherd,
                   connections_come_between_deaths,
                   a_forked_server_keeps_its_connections, datagrams_and_listeners_come_back,
                   an_orderly_stop_is_no_pause, who_does_not_come_back_is_reset,
                   without_a_successor_the_kernel_goes_on]))
