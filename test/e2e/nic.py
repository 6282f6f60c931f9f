#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Rules in front of an interface: what they drop reaches neither usherd nor the kernel, and nobody else can tell.

    namespace a (usherd, va) ---- veth ---- b (asks)
"""
import json
import os
import signal
import sys

from rig import A4, B4, check, main, run, until

KERNEL = 9000
CONFIG = "interfaces: [{name: va, nic: %s}]\nkeeper: {mode: off}\necho: {ports: [7, 8]}\n"
CLOSED = ("rules:\n"
          "  - {name: may, direction: in, from: %s/32, to_port: 8, action: allow}\n"
          "  - {name: seven, direction: in, to_port: 7-8, action: drop}\n"
          "  - {name: nine, direction: in, protocol: udp, to_port: %d, action: drop}\n" % (B4, KERNEL))


def ctl(rig, *args, code=0):
    done = run(rig.inside("a", [f"{rig.bin}/usherctl", "--socket", f"{rig.dir}/run/control.sock", *map(str, args)]),
               ok=None)
    check(code is None or done.returncode == code, f"usherctl {args}: {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def passes(rig, port):
    return rig.asks("b", A4, port, timeout=0.3) == b"hello"


def counted(rig, rule):
    rules = json.loads(ctl(rig, "-o", "json", "policy", "rules", rule))["rules"]
    return sum(int(r.get("packets", 0)) for r in rules if r["name"] == rule)


def follows_sets(rig):
    ctl(rig, "policy", "apply", rig.path("set.yaml", "sets: {shut: {ports: [7, 9]}}\nrules:\n"
                                         "  - {name: shut, direction: in, to_port: '@shut', action: drop}\n"))
    until("the set's port is closed", lambda: not passes(rig, 7))
    ctl(rig, "policy", "set", "shut", "remove", "7")
    rig.answers("b", A4, 7)
    ctl(rig, "policy", "set", "shut", "add", "8")
    check(not passes(rig, 8), "a port that came into the set is closed")
    places = json.loads(ctl(rig, "-o", "json", "nic", "rules", "shut"))["rules"]
    check(places[0]["place"] == "nic", places)


def drops_what_is_forbidden(rig, nic):
    usherd = rig.usherd(CONFIG % nic)
    usherd.says("va: rules in front by a ")
    rig.kernel_echo("a", KERNEL)
    for port in (7, 8, KERNEL):
        rig.answers("b", A4, port)
    ctl(rig, "policy", "apply", rig.path("closed.yaml", CLOSED))
    check(not passes(rig, 7) and not passes(rig, KERNEL), "the forbidden ports are closed, the kernel's too")
    rig.answers("b", A4, 8)
    for rule in ("seven", "nine"):
        check(counted(rig, rule) == 1, f"{rule} counted its packet once, not {counted(rig, rule)} times")
    places = {r["name"]: r for r in json.loads(ctl(rig, "-o", "json", "nic", "rules"))["rules"]}
    check(places["nine"]["place"] == "nic" and places["seven"]["place"] == "nic", places)
    check(places["may"]["place"] == "software" and "software has the last word" in places["may"]["why"], places)
    check("software has the last word" in ctl(rig, "nic", "rules", "may"), "one rule alone")
    text = ctl(rig, "policy", "explain", "-p", "udp", "--from", f"{B4}:4000", "--to", f"{A4}:{KERNEL}")
    check("rules in front of va (xdp): drop" in text and "goes no further" in text, text)
    shown = json.loads(ctl(rig, "-o", "json", "nic", "show"))["nics"][0]
    check(shown["interface"] == "va" and int(shown["covers"]) == 1 and shown["backend"] == "xdp", shown)
    ctl(rig, "policy", "rollback", code=None)
    ctl(rig, "policy", "apply", rig.path("open.yaml", "rules: []\n"))
    for port in (7, 8, KERNEL):
        rig.answers("b", A4, port)
    ctl(rig, "policy", "apply", rig.path("closed.yaml", CLOSED))
    check(not passes(rig, KERNEL), "closed again")
    check(counted(rig, "nine") >= 2, "the rule's count goes on")
    follows_sets(rig)
    ctl(rig, "policy", "apply", rig.path("closed.yaml", CLOSED))
    check(not passes(rig, KERNEL), "closed once more")
    check(usherd.end(signal.SIGKILL) is not None, "killed")
    until("it fails open", lambda: passes(rig, KERNEL))


STRANGER = 61234


def echo_of(rig, uid, port):
    p = rig.start_command("a", ["setpriv", "--reuid", str(uid), "--clear-groups", f"{rig.bin}/udp-echo",
                                "--socket", rig.session, f"0.0.0.0:{port}"])
    p.says("carried by usherd")
    return p


def in_nic(rig, rule):
    place = json.loads(ctl(rig, "-o", "json", "nic", "rules", rule))["rules"][0]
    return int(place.get("packets", 0))


def owners_are_known_by_their_sockets(rig):
    rig.usherd(CONFIG % "tc").says("va: rules in front by a ")
    os.chmod(rig.dir, 0o755)
    ctl(rig, "policy", "apply", rig.path("owner.yaml", "rules:\n"
        "  - {name: not-his, direction: in, protocol: udp, user: %d, action: drop}\n" % STRANGER))
    his = echo_of(rig, STRANGER, 7001)
    echo_of(rig, 0, 7002)
    rig.answers("b", A4, 7002)
    check(not passes(rig, 7001) and in_nic(rig, "not-his") > 0, "his socket's packets die in front")
    died = in_nic(rig, "not-his")
    his.end()
    ours = echo_of(rig, 0, 7001)
    rig.answers("b", A4, 7001)
    check(in_nic(rig, "not-his") == died, "the port's next owner is not him")
    ours.end()
    echo_of(rig, STRANGER, 7001)
    check(not passes(rig, 7001), "his again")
    ctl(rig, "policy", "apply", rig.path("open.yaml", "rules: []\n"))
    rig.answers("b", A4, 7001)


def at_the_ingress_hook(rig):
    drops_what_is_forbidden(rig, "tc")


def before_everything(rig):
    drops_what_is_forbidden(rig, "xdp")


sys.exit(main([at_the_ingress_hook, before_everything, owners_are_known_by_their_sockets]))
