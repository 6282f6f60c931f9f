#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""usherd is killed, or replaced, while programs use it: they notice a pause and nothing else.

    host a: usherd + programs        host b: kernel peers
"""
import os
import random
import signal
import socket
import sys

from rig import A4, B4, check, main, run, until
from upgrade import Stream

CONFIG = "interfaces: [{name: va}]\nkeeper: {mode: on, recovery_grace: 20s}\n"


def carried(rig, *words):
    p = rig.client(*words)
    p.says("carried by usherd")
    return p


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


if __name__ == "__main__":
    sys.exit(main([streams_outlive_kills, datagrams_and_listeners_come_back, an_orderly_stop_is_no_pause,
                   who_does_not_come_back_is_reset, without_a_successor_the_kernel_goes_on]))
