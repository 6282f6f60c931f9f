#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The policy on kernel sockets: only bob's postgres on 5432, only charlie's mysqld on 3306, whoever else tries.

    host a: usherd, PostgreSQL of bob, MariaDB of charlie, and intruders     host b: clients of both
"""
import os
import shutil
import signal
import socket
import sys

from rig import A4, B4, Process, check, main, run, until

BOB, CHARLIE = 61001, 61002
POSTGRES = "/usr/lib/postgresql/15/bin"
MARIADB = "/usr/sbin/mariadbd"
INTRUDER = r"""
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int udp = argc > 2, fd = socket(AF_INET, udp ? SOCK_DGRAM : SOCK_STREAM, 0), on = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1]))};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || (!udp && listen(fd, 8) != 0)) {
        perror("refused");
        return 1;
    }
    puts("serving");
    fflush(stdout);
    for (int c; !udp && (c = accept(fd, NULL, NULL)) >= 0; close(c))
        if (write(c, "intruder", 8) != 8)
            return 2;
    pause();
}
"""


class World:
    """Programs of host a that know bob and charlie: their accounts exist in a mount namespace of their own."""

    def __init__(self, rig):
        self.rig = rig
        os.chmod(rig.dir, 0o755)
        accounts = (("bob", BOB), ("charlie", CHARLIE))
        for name, line in (("passwd", "%s:x:%d:%d::/:/bin/sh\n"), ("group", "%s:x:%d:\n")):
            with open(f"/etc/{name}", encoding="utf-8") as f:
                text = f.read()
            rig.path(name, text + "".join(line % ((n, i, i) if name == "passwd" else (n, i)) for n, i in accounts))

    def command(self, uid, *words):
        # `ip netns exec` has hidden the cgroup tree behind a /sys of the network namespace's.
        script = "mount --bind \"$0\" /etc/passwd && mount --bind \"$1\" /etc/group && " \
            "mount -t cgroup2 none /sys/fs/cgroup && shift && exec \"$@\""
        user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
        return self.rig.inside("a", ["unshare", "--mount", "--propagation", "private", "sh", "-c", script,
                                     self.rig.path("passwd"), self.rig.path("group"), *user, *map(str, words)])

    def start(self, uid, *words):
        p = Process(self.command(uid, *words))
        self.rig.processes.append(p)
        return p

    def usherd(self, config):
        p = self.start(0, f"{self.rig.bin}/usherd", *self.rig.usherd_args(config))
        p.says("info: ready:")
        return p

    def folder(self, name, uid):
        path = self.rig.path(name)
        os.makedirs(path)
        os.chown(path, uid, uid)
        return path


def databases_rules(rig, postgres, mysqld):
    lines = []
    for name, port, user, exe in (("postgres", 5432, "bob", postgres), ("mysqld", 3306, "charlie", mysqld)):
        lines += [f"{{name: {name}-in, direction: in, protocol: tcp, to_port: {port}, user: {user}, exe: {exe}, "
                  "action: allow}",
                  f"{{name: {name}-out, direction: out, protocol: tcp, from_port: {port}, user: {user}, exe: {exe}, "
                  "action: allow}",
                  f"{{name: no-other-{name}-in, direction: in, to_port: {port}, action: drop}}",
                  f"{{name: no-other-{name}-out, direction: out, from_port: {port}, action: reject}}"]
    return rig.path("rules.yaml", "rules:\n" + "".join(f"  - {line}\n" for line in lines))


def settings(rules):
    return f"interfaces: [{{name: va}}]\npolicy: {rules}\n"


def hooks_or_skip(usherd):
    until("kernel sockets are judged or not", lambda: "coverage: " in usherd.text())
    if "does not judge kernel sockets" in usherd.text():
        print(f"SKIPPED: {usherd.text().split('coverage: ')[1].splitlines()[0]}", flush=True)
        return False
    check("coverage: kernel sockets are judged on 1 interface" in usherd.text(), usherd.text())
    return True


def intruder_of(rig):
    path = rig.path("intruder")
    if not os.path.exists(path):
        run(["gcc", "-O1", "-static", "-x", "c", rig.path("intruder.c", INTRUDER), "-o", path])
        shutil.copy(path, rig.path("postgres"))  # a program's name is not the program
        os.chmod(rig.path("postgres"), 0o755)
    return path


def refused(world, uid, *words):
    p = world.start(uid, *words)
    check(p.end(0) == 1 and "refused: Operation not permitted" in p.text(), f"{words}: {p.text()}")


def greets(rig, port, wait=2.0):
    """What host b hears from that port of host a."""
    s = rig.kernel_socket("b", socket.AF_INET, socket.SOCK_STREAM, timeout=wait)
    try:
        s.connect((A4, port))
        return s.recv(16)
    except OSError as e:
        return e
    finally:
        s.close()
        rig.sockets.remove(s)


def strangers_are_kept_out(rig):
    """Binding, by another program, user, name, protocol or over Usher; and a listener that was there before."""
    world = World(rig)
    intruder = intruder_of(rig)
    early = world.start(CHARLIE, intruder, 5432)
    early.says("serving")
    check(greets(rig, 5432) == b"intruder", "before the policy it is heard")
    usherd = world.usherd(settings(databases_rules(rig, intruder, MARIADB if os.path.exists(MARIADB) else intruder)))
    if not hooks_or_skip(usherd):
        return
    check(greets(rig, 5432) != b"intruder", "a listener that was there before is judged as well")
    early.end(signal.SIGKILL)
    for uid, words in ((CHARLIE, (intruder, 5432)), (0, (intruder, 5432)), (BOB, (rig.path("postgres"), 5432)),
                       (BOB, (intruder, 5432, "udp")), (BOB, (intruder, 3306))):
        refused(world, uid, *words)
    p = rig.client("tcp-echo", "0.0.0.0:5432")
    check(p.end(0) != 0 and "not permitted" in p.text(), f"over Usher neither: {p.text()}")
    owner = world.start(BOB, intruder, 5432)
    owner.says("serving")
    check(greets(rig, 5432) == b"intruder", "whom the rule names is heard")
    owner.end(signal.SIGKILL)
    # Where an interface is not managed, a bind may be meant for it: then the packets are judged.
    rig.ip("a", "link add other type veth peer name other2")
    for link in ("other", "other2"):
        rig.ip("a", f"link set {link} up")
    late = []

    def binds():
        late.append(world.start(CHARLIE, intruder, 5432))
        until("it has tried", lambda: "serving" in late[-1].text() or late[-1].child.poll() is not None)
        return late[-1].child.poll() is None
    until("the new link is known", binds)
    check(greets(rig, 5432) != b"intruder", "it is not heard on a managed interface")
    check(usherd.end() == 0, usherd.text())
    until("an orderly end leaves no hook", lambda: greets(rig, 5432) == b"intruder")


def headers_are_judged(rig):
    """What a packet of a kernel socket says of itself: DSCP, length, ICMP type. None of it is a gap."""
    rules = [f"{{name: dscp, direction: out, to: {B4}, protocol: udp, dscp: ef, action: drop}}",
             f"{{name: long, direction: out, to: {B4}, protocol: udp, length: 500-600, action: drop}}",
             f"{{name: ping, direction: out, to: {B4}, icmp_type: 8, protocol: icmp, action: drop}}"]
    usherd = World(rig).usherd(settings(rig.path("rules.yaml", "rules:\n" + "".join(f"  - {r}\n" for r in rules))))
    if not hooks_or_skip(usherd):
        return
    check("the hooks leave 0 open" in usherd.text(), usherd.text())
    s = rig.kernel_socket("a", socket.AF_INET)

    def sends(size):
        try:
            return s.sendto(bytes(size), (B4, 9)) == size
        except PermissionError:
            return False
    check([sends(n) for n in (471, 472, 572, 573)] == [True, False, False, True], "lengths of the IP packet")
    s.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 46 << 2)
    check(not sends(4), "expedited")
    s.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 45 << 2)
    check(sends(4), "something else")
    if shutil.which("ping"):
        done = run(rig.inside("a", ["ping", "-c", "1", "-W", "1", B4]), ok=None)
        check("not permitted" in done.stdout + done.stderr and done.returncode != 0, done.stdout + done.stderr)
        run(rig.inside("b", ["ping", "-c", "1", "-W", "9", A4]))


def hooks_outlive_usherd(rig):
    world = World(rig)
    intruder = intruder_of(rig)
    rules = databases_rules(rig, intruder, intruder)
    usherd = world.usherd(settings(rules))
    if not hooks_or_skip(usherd):
        return
    owner = world.start(BOB, intruder, 5432)
    owner.says("serving")
    os.kill(usherd.pid, signal.SIGKILL)
    until("usherd is gone", lambda: usherd.child.poll() is not None)
    check(greets(rig, 5432) == b"intruder", "bob is heard")
    refused(world, CHARLIE, intruder, 5432)
    again = world.usherd(settings(rules))
    check(hooks_or_skip(again), "the successor judges")
    check(greets(rig, 5432) == b"intruder", "the successor knows whose the socket is")
    refused(world, CHARLIE, intruder, 5432)
    check(again.end() == 0, again.text())
    stranger = world.start(CHARLIE, intruder, 3306)
    stranger.says("serving")


def rules_do_not_fall_open(rig):
    """usherd dies and nobody comes: long after the grace the rules hold, claims are let go, and cleanup ends it."""
    world = World(rig)
    intruder = intruder_of(rig)
    config = settings(databases_rules(rig, intruder, intruder)) + \
        "keeper: {mode: on, recovery_grace: 1s}\necho: {ports: [7]}\n"
    usherd = world.usherd(config)
    if not hooks_or_skip(usherd):
        return
    rig.answers("b", A4, 7)
    usherd.end(signal.SIGKILL)

    until("the grace is over: the kernel has its port again",
          lambda: isinstance(rig.asks("b", A4, 7, timeout=0.3), ConnectionRefusedError))
    refused(world, CHARLIE, intruder, 5432)
    owner = world.start(BOB, intruder, 5432)
    owner.says("serving")
    check(greets(rig, 5432) == b"intruder", "whom the rule names is heard")
    owner.end(signal.SIGKILL)
    again = world.usherd(config)
    check(hooks_or_skip(again), "a late successor judges")
    refused(world, CHARLIE, intruder, 5432)
    again.end(signal.SIGKILL)
    until("cleanup is done", lambda: run(rig.inside("a", [f"{rig.bin}/usherd", "--cleanup", *rig.usherd_args(config)]),
                                         ok=None).returncode == 0)
    until("the keeper has ended", lambda: not rig.keepers())
    stranger = world.start(CHARLIE, intruder, 5432)
    stranger.says("serving")


def bobs_postgres_and_charlies_mysqld(rig):
    if not os.path.exists(f"{POSTGRES}/postgres") or not os.path.exists(MARIADB):
        print("SKIPPED: postgresql or mariadb-server is not installed (tools/install-deps)", flush=True)
        return
    world = World(rig)
    usherd = world.usherd(settings(databases_rules(rig, f"{POSTGRES}/postgres", MARIADB)))
    if not hooks_or_skip(usherd):
        return
    data = world.folder("pg", BOB)
    run(world.command(BOB, f"{POSTGRES}/initdb", "-D", data, "-A", "trust", "-N"))
    with open(f"{data}/pg_hba.conf", "a", encoding="utf-8") as f:
        f.write("host all all 10.99.0.0/24 trust\n")
    options = ["-c", f"listen_addresses={A4}", "-c", f"unix_socket_directories={data}", "-c", "fsync=off"]
    postgres = world.start(BOB, f"{POSTGRES}/postgres", "-D", data, *options)
    postgres.says("ready to accept connections")
    my = world.folder("my", CHARLIE)
    run(world.command(CHARLIE, "mariadb-install-db", "--no-defaults", f"--datadir={my}", "--skip-test-db",
                      "--auth-root-authentication-method=normal"))
    mysqld = world.start(CHARLIE, MARIADB, "--no-defaults", f"--datadir={my}", f"--bind-address={A4}",
                         f"--socket={my}/sock", f"--pid-file={my}/pid", "--skip-grant-tables", "--skip-name-resolve")
    mysqld.says("ready for connections")

    def answers():
        for words in ([f"{POSTGRES}/psql", "-h", A4, "-U", "bob", "-Atc", "select 6*7", "postgres"],
                      ["mariadb", "--no-defaults", "-h", A4, "-N", "-e", "select 6*7"]):
            done = run(rig.inside("b", ["timeout", "20", *words]), ok=None)
            check(done.stdout.strip() == "42", f"{words}: {done.stdout}{done.stderr}")
    answers()
    postgres.end(signal.SIGINT)
    swapped = world.folder("swapped", CHARLIE)
    shutil.copytree(data, f"{swapped}/data")
    run(["chown", "-R", f"{CHARLIE}:{CHARLIE}", swapped])
    other = world.start(CHARLIE, f"{POSTGRES}/postgres", "-D", f"{swapped}/data", "-c", f"listen_addresses={A4}", "-c",
                        f"unix_socket_directories={swapped}", "-c", "fsync=off")
    check(other.end(0) != 0 and "not permitted" in other.text(), f"charlie's postgres is not bob's: {other.text()}")
    postgres = world.start(BOB, f"{POSTGRES}/postgres", "-D", data, *options)
    postgres.says("ready to accept connections")
    os.kill(usherd.pid, signal.SIGKILL)
    until("usherd is gone", lambda: usherd.child.poll() is not None)
    answers()
    refused(world, BOB, intruder_of(rig), 3306)


if __name__ == "__main__":
    sys.exit(main([strangers_are_kept_out, headers_are_judged, hooks_outlive_usherd, rules_do_not_fall_open,
               bobs_postgres_and_charlies_mysqld]))
