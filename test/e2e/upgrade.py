#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Parts of usherd are replaced while programs use it: nobody notices.

    host a: usherd + programs, usherctl        host b: kernel peers
"""
import hashlib
import json
import os
import random
import shutil
import socket
import sys
import threading

from rig import A4, B4, check, main, run, until

CONFIG = "interfaces: [{name: va}]\nkeeper: {mode: off}\nengines: {load: [ip, udp, tcp, filter, qos]}\n%s"
ENGINES = ("ip", "udp", "tcp", "filter", "qos")
SEED = 20261120


def versions(rig, name):
    return (f"{rig.bin}/../lib/engines/{name}.so", f"{rig.bin}/../tests/engines-next/{name}.so")


def ctl(rig, *words, ok=(0,)):
    return run(rig.inside("a", [f"{rig.bin}/usherctl", "--socket", f"{rig.dir}/run/control.sock", *words]), ok)


def upgrade(rig, name, module):
    return json.loads(ctl(rig, "-o", "json", "engine", "upgrade", name, module).stdout)


class Stream(threading.Thread):
    """A kernel peer on host b that streams numbers through an echo program on host a and checks what comes back."""

    def __init__(self, rig, port):
        super().__init__(daemon=True)
        self.socket = rig.kernel_socket("b", socket.AF_INET, socket.SOCK_STREAM, timeout=30)
        self.socket.connect((A4, port))
        self.bytes, self.stopping, self.error = 0, False, None
        self.start()

    def talk(self):
        data = random.Random(port_seed()).randbytes(60000)
        sent, got = hashlib.sha256(), hashlib.sha256()
        while not self.stopping:
            self.socket.sendall(data)
            sent.update(data)
            back = 0
            while back < len(data):
                piece = self.socket.recv(65536)
                check(piece, "the connection ended")
                got.update(piece)
                back += len(piece)
            check(sent.digest() == got.digest(), "the stream was changed")
            self.bytes += back

    def run(self):
        try:
            self.talk()
        except Exception as e:  # pylint: disable=broad-except
            self.error = e

    def goes_on(self):
        before = self.bytes
        until("the stream goes on", lambda: self.error or self.bytes > before)
        check(self.error is None, f"after {self.bytes} bytes: {self.error}")

    def end(self):
        self.stopping = True
        self.join(30)
        check(self.error is None and not self.is_alive(), f"after {self.bytes} bytes: {self.error}")
        self.socket.close()


def port_seed(numbers=iter(range(1 << 30))):
    return SEED + next(numbers)


def streams_survive_upgrades_of_every_engine(rig):
    usherd = rig.usherd(CONFIG % "")
    server = rig.client("tcp-echo", "0.0.0.0:7002")
    server.says("carried by usherd")
    rig.client("udp-echo", "0.0.0.0:7001").says("carried by usherd")
    streams = [Stream(rig, 7002) for _ in range(4)]
    moved = 0
    for turn in range(20):
        for name in ENGINES:
            report = upgrade(rig, name, versions(rig, name)[1 - turn // 2 % 2])
            check(report.get("moved", False) == (turn % 2 == 0), f"{name}, turn {turn}: {report}")
            moved += int(report.get("records", 0))
            streams[turn % 4].goes_on()
        rig.answers("b", A4, 7001)
    for s in streams:
        s.end()
    check(moved > 100, f"{moved} records moved")
    check("engine.upgrade: tcp: layout" in usherd.text(), "an upgrade is logged")
    check("Engines/Upgrade" in usherd.text(), "an upgrade leaves an audit record")
    check(usherd.child.poll() is None, "usherd is gone")


def a_policy_holds_through_an_upgrade_of_the_filter(rig):
    rules = rig.path("rules.yaml", "rules:\n  - {name: no, direction: out, to_port: 9000, action: reject}\n")
    rig.kernel_echo("b", 9000)
    rig.kernel_echo("b", 9001)
    rig.usherd(CONFIG % f"policy: {rules}\n")
    for turn in range(3):
        check("Connection refused" in rig.ping("--count", 2, f"{B4}:9000", answered=0), f"forbidden, turn {turn}")
        rig.ping("--count", 2, f"{B4}:9001", answered=2)
        upgrade(rig, "filter", versions(rig, "filter")[1 - turn % 2])


def what_cannot_take_over_is_refused(rig):
    usherd = rig.usherd(CONFIG % "")
    rig.client("udp-echo", "0.0.0.0:7001").says("carried by usherd")
    text = rig.path("text.so", "no module")
    short = rig.path("short.so", "")
    shutil.copy(versions(rig, "udp")[0], short)
    os.truncate(short, 5000)
    loose = rig.path("loose.so", "")
    shutil.copy(versions(rig, "udp")[0], loose)
    os.chmod(loose, 0o666)
    for name, module, why in (("udp", text, "cannot open engine"), ("udp", short, "cannot open engine"),
                              ("udp", loose, "only root and usherd's user"), ("udp", "/no/such.so", "No such file"),
                              ("udp", versions(rig, "tcp")[0], 'the module is engine "tcp"'),
                              ("sctp", text, "no engine")):
        done = ctl(rig, "engine", "upgrade", name, module, ok=None)
        check(done.returncode != 0 and why in done.stderr, f"{module}: {done.returncode}: {done.stderr}")
        rig.answers("b", A4, 7001)
    done = ctl(rig, "engine", "upgrade", "udp")
    check("layout 2, was 2" in done.stdout and "black-out" in done.stdout, done.stdout)
    rig.answers("b", A4, 7001)
    check(usherd.child.poll() is None, "usherd is gone")


if __name__ == "__main__":
    sys.exit(main([streams_survive_upgrades_of_every_engine, a_policy_holds_through_an_upgrade_of_the_filter,
                   what_cannot_take_over_is_refused]))
