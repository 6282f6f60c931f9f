#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Unmodified programs run all the time while engines and usherd itself are replaced and killed at random moments: no
request fails, no connection breaks, no byte changes.

    host a: usherd, programs under usher-run as servers and as clients        host b: their peers, on the kernel

The seed fixes what is done in which order; how much of the programs' work lies between is up to the machine.
"""
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time

from posix_rig import ask, carried, is_carried, listening, needs, plain, under, words
from programs import nginx_config, postgres_server, served, ssh_options, ssh_server
from rig import A4, B4, check, main, run, until
from upgrade import ENGINES, Stream, ctl, upgrade, versions

SEED = 20261120
CONFIG = """interfaces: [{name: va}]
keeper: {mode: on, recovery_grace: 60s}
sessions: {mode: 0666}
engines: {load: [ip, udp, tcp, filter, qos]}
policy: %s
"""
# No packet goes past an engine: every one is judged by a rule and has a class.
POLICY = """qos:
  rate: 40G
  classes: [{name: web, weight: 1}, {name: rest, weight: 4}]
  default: rest
rules:
  - {name: web, direction: out, from_port: 8080, action: allow, class: web}
  - {name: never, direction: in, to_port: 9, action: drop}
"""
PATIENCE = 180  # seconds more than a run takes on a quiet machine


class Pace:
    """How the programs are run: for so many seconds, and then again or not."""

    def __init__(self, seconds, again):
        self.seconds, self.again = seconds, again


class Load(threading.Thread):
    """One program. Each run must end well and say what it should."""

    def __init__(self, rig, pace, host, program, *args, usher=False, judge=lambda text: True, ready=lambda: None):
        super().__init__(daemon=True)
        self.name = f"{os.path.basename(program)} on {host}{' under usher-run' if usher else ''}"
        self.rig, self.pace, self.host, self.command, self.usher = rig, pace, host, (program, *args), usher
        self.judge, self.ready, self.runs, self.carried = judge, ready, 0, 0
        self.error, self.stopping = None, False
        self.start()

    def once(self):
        self.ready()
        answer = ask(self.rig, self.host, *self.command, usher=self.usher, seconds=self.pace.seconds + PATIENCE)
        check(self.judge(answer.text), f"run {self.runs}: {answer.text[-2000:]} {answer.err[-1000:]}")
        self.carried += len(carried(answer, "stream"))
        self.runs += 1

    def run(self):
        try:
            self.once()
            while self.pace.again and not self.stopping:
                self.once()
        except Exception as e:  # pylint: disable=broad-except
            self.error = e

    def end(self):
        self.join(self.pace.seconds + PATIENCE)
        check(self.error is None and not self.is_alive(), f"{self.name}, after {self.runs} runs: {self.error}")
        check(self.carried > 0 or not self.usher, f"{self.name}: never carried")


class Database:
    """pgbench that stays connected, against a server that forks for each connection and hands it to its child. While
    such a hand-over is under way a death of usherd costs the connection; so none is made on the way."""

    def __init__(self, rig, bins):
        self.child = plain(rig, "b", f"{bins}/pgbench", "-c", 4, "-j", 2, "-T", 100000, "-P", 1, "-h", A4, "-U",
                           "postgres", "postgres")
        self.child.says("progress: ")

    @property
    def error(self):
        return None if self.child.child.poll() is None else f"pgbench: {self.child.text()}"

    def end(self):
        before = self.child.text().count("progress: ")
        until("pgbench gets answers", lambda: self.error or self.child.text().count("progress: ") > before + 1)
        check(self.error is None, self.error)
        check(self.child.end(signal.SIGINT) == -signal.SIGINT, self.child.text())
        check("error" not in self.child.text(), self.child.text())


class Shell(threading.Thread):
    """One ssh session from the first moment to the last: what is typed comes back, a little at a time."""

    def __init__(self, rig):
        super().__init__(daemon=True)
        command = words(rig, True, "ssh", [*ssh_options(rig), f"root@{B4}", "cat"])
        self.child = subprocess.Popen(rig.inside("a", command), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.DEVNULL)
        self.name, self.bytes, self.error, self.stopping = "ssh session", 0, None, False
        self.start()

    def run(self):
        sent, got, data = hashlib.sha256(), hashlib.sha256(), random.Random(SEED)
        try:
            while not self.stopping:
                line = data.randbytes(3000)
                self.child.stdin.write(line)
                self.child.stdin.flush()
                back = self.child.stdout.read(len(line))
                sent.update(line)
                got.update(back)
                check(sent.digest() == got.digest(), f"after {self.bytes} bytes: {len(back)} of {len(line)} came back")
                self.bytes += len(back)
                time.sleep(0.005)
            self.child.stdin.close()
            check(self.child.wait(PATIENCE) == 0, f"it ended with {self.child.returncode}")
        except Exception as e:  # pylint: disable=broad-except
            self.error = e

    def end(self):
        self.join(PATIENCE)
        alive = self.is_alive()
        self.child.kill()
        check(self.error is None and not alive, f"{self.name}, after {self.bytes} bytes: {self.error}")


def redis(rig, pace):
    serve = ["redis-server", "--port", 6379, "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir",
             rig.dir]
    server = under(rig, *serve)
    plain(rig, "b", *serve)
    listening(rig, "a", 6379)
    listening(rig, "b", 6379)
    is_carried(server, "listener")

    def bench(host, address, usher):
        return Load(rig, pace, host, "redis-benchmark", "-h", address, "-t", "get", "-n", 4000 * pace.seconds, "-c", 20,
                    "-q", usher=usher, judge=lambda text: "requests per second" in text and "rror" not in text)
    return [bench("b", A4, False), bench("a", B4, True)]


def postgres(rig, pace):
    bins, server = postgres_server(rig, "a")
    postgres_server(rig, "b")
    is_carried(server, "listener")
    for address in (A4, B4):
        ask(rig, "b", f"{bins}/pgbench", "-i", "-q", "-s", 1, "-h", address, "-U", "postgres", "postgres")
    return [Database(rig, bins),
            Load(rig, pace, "a", f"{bins}/pgbench", "-c", 4, "-j", 2, "-T", pace.seconds, "-h", B4, "-U", "postgres",
                 "postgres", usher=True, judge=lambda text: "number of failed transactions: 0" in text)]


def nginx(rig, pace):
    server = under(rig, "nginx", "-c", nginx_config(rig, served(rig)), "-p", rig.dir)
    listening(rig, "a", 8080)
    is_carried(server, "listener")
    return [Load(rig, pace, "b", "wrk", "-c", 10, "-t", 1, "-d", pace.seconds, "--timeout", "60s",
                 f"http://{A4}:8080/file",
                 judge=lambda text: "requests in" in text and "Socket errors" not in text and "Non-2xx" not in text)]


def iperf3(rig, pace):
    loads = []
    for server_host, address, client_host in (("a", A4, "b"), ("b", B4, "a")):
        usher = server_host == "a"
        serve = ["iperf3", "-s", "-p", 5201, "--forceflush"]
        server = under(rig, *serve) if usher else plain(rig, "b", *serve)
        listening(rig, server_host, 5201)
        began = iter(range(1, 1 << 30))

        def ready(server=server, began=began):
            n = next(began)
            until("iperf3 listens again", lambda: server.text().count("Server listening") >= n, PATIENCE)
        loads.append(Load(rig, pace, client_host, "iperf3", "-c", address, "-p", 5201, "-t", pace.seconds, "-b", "200M",
                          "--bidir", usher=not usher, ready=ready, judge=lambda text: "iperf Done" in text))
    return loads


CONNECTIONS = {6379: 40, 5432: 8, 8080: 10, 5201: 6, 2222: 1}  # by port, what the programs make at their start


def connected(rig):
    """What host b has of them, at either end."""
    out = run(rig.inside("b", ["ss", "-Htn", "state", "established"])).stdout.split()
    return all(sum(word.endswith(f":{port}") for word in out) >= n for port, n in CONNECTIONS.items())


class Runners:
    """Everything that must not notice."""

    def __init__(self, rig, pace):
        rig.client("tcp-echo", "0.0.0.0:7002").says("carried by usherd")
        ssh_server(rig, "b")
        self.all = [Shell(rig), *[Stream(rig, 7002) for _ in range(2)], *postgres(rig, pace), *nginx(rig, pace)]
        self.all += [*iperf3(rig, pace), *redis(rig, pace)]
        until("all are connected", lambda: self.goes_on() or connected(rig), PATIENCE)

    def goes_on(self):
        for r in self.all:
            check(r.error is None, f"{getattr(r, 'name', 'stream')}: {r.error}")

    def end(self):
        for r in self.all:
            r.stopping = True
        for r in self.all:
            r.end()
        done = [f"{r.name}: {r.runs}" for r in self.all if isinstance(r, Load)]
        streamed = sum(r.bytes for r in self.all if isinstance(r, (Shell, Stream)))
        print(f"        runs: {', '.join(done)}; {streamed >> 20} MiB compared", flush=True)


class Course:
    """usherd and what is done to it."""

    def __init__(self, rig, pace, pause):
        self.rig, self.pause, self.random = rig, pause, random.Random(SEED)
        self.config = CONFIG % rig.path("rules.yaml", POLICY)
        self.usherd = rig.usherd(self.config)
        self.runners = Runners(rig, pace)
        self.turn = {name: 0 for name in ENGINES}

    def engine(self, name):
        """In turns another layout, the same again, the first, the same again."""
        self.turn[name] += 1
        upgrade(self.rig, name, versions(self.rig, name)[self.turn[name] // 2 % 2])

    def daemon(self):
        done = ctl(self.rig, "upgrade")
        check("took over from usherd" in done.stdout, done.stdout)

    def kill(self):
        self.usherd.end(signal.SIGKILL)
        self.usherd = self.rig.usherd(self.config)

    def run(self, engines, daemons, kills):
        steps = [(self.engine, name) for name in ENGINES for _ in range(engines)]
        steps += [(self.daemon,)] * daemons + [(self.kill,)] * kills
        self.random.shuffle(steps)
        for number, (step, *words) in enumerate(steps):
            time.sleep(self.random.uniform(0, self.pause))  # at any moment of the programs' work
            step(*words)
            self.runners.goes_on()
            if number % 50 == 49:
                print(f"        {number + 1} of {len(steps)} done", flush=True)
        self.runners.end()
        check(self.usherd.child.poll() is None, "usherd is gone")
        lost = [line for line in self.usherd.text().splitlines() if "recovery is over" in line]
        check(all(" 0 could not, 0 were reset" in line for line in lost), lost)


def equipped():
    return needs("redis-server", "redis-benchmark", "wrk", "nginx", "iperf3", "sshd", "ssh", "ssh-keygen")


def nobody_notices(rig):
    if equipped():
        Course(rig, Pace(20, again=False), 0.4).run(2, 2, 2)


def nobody_notices_engines(rig):
    if equipped():
        Course(rig, Pace(5, again=True), 0.2).run(200, 0, 0)


def nobody_notices_successors(rig):
    if equipped():
        Course(rig, Pace(120, again=False), 2).run(0, 50, 0)


def nobody_notices_kills(rig):
    if equipped():
        Course(rig, Pace(120, again=False), 2).run(0, 0, 50)


if __name__ == "__main__":  # the long ones by name only
    LONG = [nobody_notices_engines, nobody_notices_successors, nobody_notices_kills]
    sys.exit(main([nobody_notices] + (LONG if len(sys.argv) > 2 else [])))
