#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Whose a socket is, when its program does not stay what it was: it changes its user, moves to another cgroup, forks,
dies. A socket is its maker's, as he was when he made it; the same for kernel sockets and for Usher's."""
import os
import subprocess
import sys

from coverage import BOB, World
from posix_rig import words
from qos import Cgroup
from rig import B4, check, main

CONFIG = "interfaces: [{name: va}]\nkeeper: {mode: off}\nsessions: {mode: 0666}\n"
OPEN, BOBS, INSIDE = 9000, 9001, 9002  # open to all; not to bob; not to the cgroup
PROGRAM = """
import os, socket, sys
sockets = {}

def ask(name, port):
    try:
        sockets[name].sendto(b"x", (sys.argv[1], port))
        sockets[name].recv(16)
        return "answered"
    except (PermissionError, TimeoutError):
        return "refused"

def do(what, *rest):
    if what == "make":
        sockets[rest[0]] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sockets[rest[0]].settimeout(1)
        return ask(rest[0], 9000)
    if what == "ask":
        return ask(rest[0], int(rest[1]))
    if what == "become":
        os.setresuid(int(rest[0]), int(rest[0]), int(rest[0]))
    if what == "leave" and os.fork():
        os._exit(0)
    return str(os.getpid())

for line in sys.stdin:
    print(do(*line.split()), flush=True)
"""


class Program:
    """Does what it is told, by lines."""

    def __init__(self, rig, usher):
        os.chmod(rig.dir, 0o755)
        self.child = subprocess.Popen(
            rig.inside("a", words(rig, usher, "/usr/bin/python3", [rig.path("program.py", PROGRAM), B4])),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.stdin.close()  # whoever reads there by now ends
        self.child.stdout.read()
        self.child.stdout.close()
        self.child.wait()

    def says(self, *line):
        self.child.stdin.write(" ".join(map(str, line)) + "\n")
        self.child.stdin.flush()
        return self.child.stdout.readline().strip()


def sockets_are_their_makers(rig, usher):
    with Cgroup(rig, "inside") as cgroup:
        drops = [f"{{name: bobs, direction: out, to_port: {BOBS}, user: {BOB}, action: drop}}",
                 f"{{name: inside, direction: out, to_port: {INSIDE}, cgroup: {cgroup.path}, action: drop}}"]
        rules = rig.path("rules.yaml", "rules:\n" + "".join(f"  - {r}\n" for r in drops))
        usherd = World(rig).usherd(CONFIG + f"policy: {rules}\n")
        if "does not judge kernel sockets" in usherd.text() and not usher:
            print("SKIPPED: no hooks on kernel sockets here", flush=True)
            return
        for port in (OPEN, BOBS, INSIDE):
            rig.kernel_echo("b", port)
        with Program(rig, usher) as program:
            def answers(socket, bobs, inside):
                got = [program.says("ask", socket, port) == "answered" for port in (BOBS, INSIDE)]
                check(got == [bobs, inside], f"{socket}: {got}, not {[bobs, inside]}: {usherd.text()}")
            check(program.says("make", "roots") == "answered", "the way is open")
            pid = program.says("become", BOB)
            check(program.says("make", "bobs") == "answered", "still")
            answers("roots", True, True)
            answers("bobs", False, True)
            with open(f"{cgroup.folder}/cgroup.procs", "w", encoding="ascii") as f:
                f.write(pid)
            check(program.says("make", "insiders") == "answered", "still")
            answers("roots", True, True)
            answers("bobs", False, True)
            answers("insiders", False, False)
            check(program.says("leave") != pid, "another process has the sockets now, and their maker is dead")
            check(program.says("make", "childs") == "answered", "still")
            # What a child has on Usher it opens anew, as what it is, if usherd has already let go of its dead maker's;
            # else it goes on by the kernel, as the maker's.
            reopened = usher and program.says("ask", "roots", BOBS) == "refused"
            answers("roots", not reopened, not reopened)
            answers("insiders", False, False)
            answers("childs", False, False)


def kernel_sockets(rig):
    sockets_are_their_makers(rig, False)


def sockets_of_usher(rig):
    sockets_are_their_makers(rig, True)


if __name__ == "__main__":
    sys.exit(main([kernel_sockets, sockets_of_usher]))
