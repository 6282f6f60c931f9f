#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Classes: who sends how much when there is not enough for all. Shares are compared with one another, ceilings with the
receiver's clock; how fast the machine is plays no part."""
import json
import os
import socket
import sys
import threading
import time

from posix_rig import words
from rig import B4, Process, Users, check, main, run, until

CONFIG = ("interfaces: [{name: va}]\nkeeper: {mode: off}\nsessions: {mode: 0666}\nruntime: {shards: %d}\n"
          "policy: %s\n")
RATE = 1000000  # bytes a second of the whole tree: any machine can send more
SIZE = 1000
ALICE, BOB, CHARLIE = 61001, 61002, 61003

# Sends datagrams of SIZE to a port of B for ever, or a number of them; with `hop`, from a new port every 20.
SENDER = """
import signal, socket, sys
peer, count, hop = (sys.argv[1], int(sys.argv[2])), int(sys.argv[3]), sys.argv[4] == "hop"
def fresh():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect(peer)
    return s
s, sent = fresh(), 0
while count == 0 or sent < count:
    if hop and sent %% 20 == 19:
        s.close()
        s = fresh()
    s.send(sent.to_bytes(4, "big") + bytes(%d))
    sent += 1
print("sent", sent, flush=True)
signal.pause()
""" % (SIZE - 4)


class Sink:
    """A port of host b: how many bytes came, in which order, and from how many ports."""

    def __init__(self, rig, port):
        self.bytes, self.last, self.misordered, self.ports, self.first = 0, -1, 0, set(), None
        self.socket = rig.kernel_socket("b", socket.AF_INET, timeout=0.2)
        self.socket.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        self.socket.bind((B4, port))
        self.rig, self.before = rig, 0
        threading.Thread(target=self.take, daemon=True).start()

    def take(self):
        while not self.rig.stopping:
            try:
                data, peer = self.socket.recvfrom(65536)
            except OSError:
                continue
            number = int.from_bytes(data[:4], "big")
            self.misordered += number < self.last
            self.last = number
            self.first = self.first or time.monotonic()
            self.ports.add(peer[1])
            self.bytes += len(data)


    def rests(self):
        """Nothing came since the last time."""
        time.sleep(0.3)
        before, self.before = self.before, self.bytes
        return before == self.bytes


class Cgroup:
    """One of the unified hierarchy, wherever that is mounted."""

    def __init__(self, rig, name):
        root = "/sys/fs/cgroup/unified" if os.path.isdir("/sys/fs/cgroup/unified") else "/sys/fs/cgroup"
        self.path = f"/usher-{rig.tag}-{name}"
        self.folder = root + self.path
        os.mkdir(self.folder)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        def empty():
            try:
                os.rmdir(self.folder)
                return True
            except OSError:
                for pid in open(f"{self.folder}/cgroup.procs", encoding="ascii").read().split():
                    os.kill(int(pid), 9)
                return False
        until(f"{self.folder} is empty", empty)


def policy(rig, qos, rules=""):
    return rig.path("rules.yaml", qos + rules)


def sender(rig, port, uid=0, cgroup=None, count=0, hop=False):
    os.chmod(rig.dir, 0o755)
    script = rig.path("sender.py", SENDER)
    usher = words(rig, True, "/usr/bin/python3", [script, B4, port, count, "hop" if hop else "stay"])
    command = ["setpriv", "--reuid", str(uid), "--clear-groups", *usher]
    command = rig.inside("a", command)
    if cgroup is not None:  # before `ip netns exec`, which mounts another /sys
        command = ["sh", "-c", f"echo $$ > {cgroup.folder}/cgroup.procs && exec \"$@\"", "sh", *command]
    p = Process(command)
    rig.processes.append(p)
    return p


def ctl(rig, *args, user="root"):
    return run(rig.inside("a", ["setpriv", f"--reuid={user}", "--clear-groups", f"{rig.bin}/usherctl", "--socket",
                                f"{rig.dir}/run/control.sock", *args]))


def grown(sinks, total):
    """What each got while all together got `total` bytes more; the senders are at it when this begins."""
    until("all of them send", lambda: all(s.bytes > 20 * SIZE for s in sinks))
    before = [s.bytes for s in sinks]
    until(f"{total} bytes came", lambda: sum(s.bytes for s in sinks) - sum(before) >= total, 60)
    return [s.bytes - b for s, b in zip(sinks, before)]


def near(got, want, what):
    total = sum(got)
    shares = [g / total for g in got]
    for share, w in zip(shares, want):
        check(abs(share - w) <= 0.1 * w, f"{what}: shares {[f'{s:.3f}' for s in shares]}, not {want}")


def shares_follow_weights_of_users(rig):
    """Three users on two workers, for whom the tree is one; the weights change while they send."""
    users = (ALICE, BOB, CHARLIE)

    def weighted(weights):
        classes = "".join(f"    - {{name: u{uid}, weight: {w}, user: {uid}}}\n" for uid, w in zip(users, weights))
        return policy(rig, f"qos:\n  rate: {RATE * 8}\n  classes:\n{classes}")
    rig.usherd(CONFIG % (2, weighted((1, 2, 5))))
    sinks = [Sink(rig, 9001 + i) for i in range(3)]
    for i, uid in enumerate(users):
        sender(rig, 9001 + i, uid)
    near(grown(sinks, 3 * RATE), [1 / 8, 2 / 8, 5 / 8], "by weight")
    ctl(rig, "policy", "apply", weighted((5, 2, 1)))
    near(grown(sinks, 3 * RATE), [5 / 8, 2 / 8, 1 / 8], "by the weights of another revision")
    told = json.loads(ctl(rig, "qos", "-o", "json").stdout)["classes"]
    check([c["name"] for c in told] == ["root", *(f"u{uid}" for uid in users), "default"], told)
    check(told[0]["sent_bytes"] == sum(c["sent_bytes"] for c in told[1:]) > 6 * RATE, "the root has sent what all have")
    check(sum(c["waiting_bytes"] for c in told) > 0 == sum(c["dropped_packets"] for c in told), "held, nothing dropped")
    check("u%d" % BOB in ctl(rig, "qos").stdout, "people can read it too")


def a_held_sender_loses_nothing(rig):
    """2,000 datagrams as fast as they can be made, against a ceiling: all arrive, in order, and none was dropped."""
    rig.usherd(CONFIG % (1, policy(rig, f"qos:\n  classes:\n    - {{name: slow, ceiling: 4M, user: {ALICE}}}\n")))
    rig.kernel_echo("b", 9000)
    rig.ping("--count", 1, f"{B4}:9000", answered=1)  # what waits for a next hop is bounded, and not what is tested
    sink = Sink(rig, 9001)
    sender(rig, 9001, ALICE, count=2000).says("sent 2000", 60)
    until("all 2,000 arrive", lambda: sink.bytes == 2000 * SIZE, 60)
    check(sink.misordered == 0, f"{sink.misordered} came too late")


def a_rule_chooses_the_class(rig):
    """Two ports of one program: a rule sends one of them through a narrow class."""
    rules = ("rules:\n  - {name: bulk, direction: out, to_port: 9002, class: bulk}\n")
    rig.usherd(CONFIG % (1, policy(rig, f"qos:\n  rate: {RATE * 8}\n  classes:\n    - {{name: bulk, weight: 1}}\n"
                                   "    - {name: rest, weight: 4}\n  default: rest\n", rules)))
    sinks = [Sink(rig, 9001), Sink(rig, 9002)]
    for port in (9001, 9002):
        sender(rig, port)
    near(grown(sinks, 2 * RATE), [4 / 5, 1 / 5], "by the rule")


def a_game_is_shaped_by_its_cgroup(rig):
    """Story 4: alice brings a policy into force. A game that asks from a new port all the time keeps to the ceiling of
    its cgroup; bob and charlie share what it leaves by weight, and all of it when it stops."""
    ceiling, shown = RATE // 5, rig.path("metrics.sock")
    with Users(rig) as users, Cgroup(rig, "game") as game:
        alice, bob, charlie = (users.names[who] for who in ("alice", "bob", "charlie"))
        rig.usherd("interfaces: [{name: va}]\nkeeper: {mode: off}\nsessions: {mode: 0666}\n"
                   f"metrics: {{listen: {shown}}}\n"
                   f"control: {{mode: 0666, roles: [{{role: operator, users: [{alice}]}}]}}\n")
        os.chmod(rig.dir, 0o755)
        rules = policy(rig, f"qos:\n  rate: {RATE * 8}\n  overhead: 0\n  classes:\n"
                       f"    - {{name: game, weight: 10, ceiling: {ceiling * 8}, cgroup: {game.path}}}\n"
                       f"    - {{name: bob, weight: 1, user: {bob}}}\n"
                       f"    - {{name: charlie, weight: 3, user: {charlie}}}\n")
        ctl(rig, "policy", "apply", rules, user=alice)
        sinks = [Sink(rig, 9001 + i) for i in range(3)]
        playing = sender(rig, 9001, alice, cgroup=game, hop=True)
        for i, user in ((1, bob), (2, charlie)):
            sender(rig, 9001 + i, user)
        got = grown(sinks, 4 * RATE)
        elapsed = time.monotonic() - sinks[0].first
        wire = sinks[0].bytes * (SIZE + 42) // SIZE
        check(wire <= ceiling * elapsed * 1.02 + 32768 + 1500, f"{wire} bytes in {elapsed:.3f} s, ceiling {ceiling}")
        near(got, [1 / 5, 1 / 5, 3 / 5], "beside the game")
        check(len(sinks[0].ports) > 20, f"the game used {len(sinks[0].ports)} ports")
        playing.end(9)
        until("the game's last datagrams have left", lambda: sinks[0].rests())
        near(grown(sinks[1:], 2 * RATE), [1 / 4, 3 / 4], "without the game")
        metrics = run(["curl", "-s", "--unix-socket", shown, "http://usherd/metrics"]).stdout
        check('usher_class_sent_bytes_total{class="game",parent="root"} ' in metrics, "metrics name the classes")


def a_stream_keeps_to_its_ceiling(rig):
    """A program on TCP: all of it arrives, no faster than the ceiling, and its segments wait instead of being lost."""
    ceiling, total = RATE // 2, 2 * RATE
    rig.usherd(CONFIG % (2, policy(rig, f"qos:\n  classes: [{{name: slow, ceiling: {ceiling * 8}, user: {ALICE}}}]\n")))
    listener = rig.kernel_socket("b", socket.AF_INET, socket.SOCK_STREAM, timeout=20)
    listener.bind((B4, 9001))
    listener.listen(1)
    os.chmod(rig.dir, 0o755)
    script = rig.path("stream.py", "import signal, socket, sys\ns = socket.create_connection((sys.argv[1], 9001))\n"
                      f"s.sendall(bytes({total}))\nprint('sent', flush=True)\nsignal.pause()\n")
    command = ["setpriv", "--reuid", str(ALICE), "--clear-groups",
               *words(rig, True, "/usr/bin/python3", [script, B4])]
    p = Process(rig.inside("a", command))
    rig.processes.append(p)
    connection, _ = listener.accept()
    rig.sockets.append(connection)
    connection.settimeout(20)
    began, got = time.monotonic(), 0
    while got < total:
        data = connection.recv(1 << 16)
        check(data, f"the stream ended after {got} bytes")
        got += len(data)
        most = ceiling * (time.monotonic() - began) * 1.02 + 4 * 65536 + 65536  # the burst, and a segment
        check(got <= most, f"{got} bytes, at most {most:.0f} by now")
    p.says("sent")
    told = json.loads(ctl(rig, "qos", "-o", "json").stdout)["classes"]
    check(sum(c["dropped_packets"] for c in told) == 0, told)


if __name__ == "__main__":
    sys.exit(main([shares_follow_weights_of_users, a_held_sender_loses_nothing, a_rule_chooses_the_class,
                   a_stream_keeps_to_its_ceiling, a_game_is_shaped_by_its_cgroup]))
