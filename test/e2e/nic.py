#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Rules in front of an interface: what they drop reaches neither usherd nor the kernel, and nobody else can tell.

    namespace a (usherd, va) ---- veth ---- b (asks)
"""
import json
import os
import signal
import sys
import time

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
DROP = "  - {name: %s, direction: in, protocol: udp, to_port: %d, action: drop}\n"


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


def a_small_table_is_for_the_hottest(rig):
    rig.usherd("interfaces: [{name: va, nic: tc, nic_entries: 2}]\nkeeper: {mode: off}\necho: {ports: [7, 8, 9]}\n")
    ctl(rig, "policy", "apply", rig.path("small.yaml", "rules:\n" + "".join(DROP % (f"r{p}", p) for p in (7, 8, 9))))

    def placed():
        return {r["name"] for r in json.loads(ctl(rig, "-o", "json", "nic", "rules"))["rules"] if r["place"] == "nic"}

    def hot():
        for _ in range(40):
            rig.asks("b", A4, 9, timeout=0.01)
        return "r9" in placed()
    check(placed() == {"r7", "r8"}, placed())
    check("no entry left" in ctl(rig, "nic", "rules", "r9"), "it says why")
    told = ctl(rig, "nic", "explain", "r9")
    check("0 of its 1 entries" in told and "nic_entries" in told and "last change took" in told, told)
    until("the hottest rule is in the NIC", hot, 60)
    check(len(placed()) == 2, placed())
    before = counted(rig, "r9")
    check(not passes(rig, 9) and in_nic(rig, "r9") > 0, "it dies in front")
    check(counted(rig, "r9") == before + 1, "and is counted once")


def killed_in_the_middle_of_changes(rig):
    """Whatever usherd was about when it was killed: the revision that is in force afterwards is what packets meet, and
    the NIC has all of it that it can."""
    big = "rules:\n" + "".join(
        "  - {name: n%d, direction: in, protocol: udp, from: 192.0.2.%d, to_port: %d, action: drop}\n"
        % (i, i % 250 + 1, 10000 + i) for i in range(900))
    files = [rig.path(f"shut{p}.yaml", big + DROP % ("shut", p)) for p in (7, 8)]

    def attached():
        return json.loads(ctl(rig, "-o", "json", "nic", "show"))["nics"][0].get("hook")
    for round in range(5):
        usherd = rig.usherd(CONFIG % ("tc", "xdp")[round % 2])
        until("its rules are attached", attached, 30)
        if round > 0:
            until("the open port answers", lambda: passes(rig, 7) != passes(rig, 8))
            check(json.loads(ctl(rig, "-o", "json", "nic", "rules", "shut"))["rules"][0]["place"] == "nic", "placed")
        ctl(rig, "policy", "apply", files[round % 2])
        applying = rig.start_command("a", ["sh", "-c", " && ".join(
            f"{rig.bin}/usherctl --socket {rig.dir}/run/control.sock policy apply {files[i % 2]}" for i in range(8))])
        time.sleep(0.02 * (round + 1))
        usherd.end(signal.SIGKILL)
        applying.end()


def at_the_ingress_hook(rig):
    drops_what_is_forbidden(rig, "tc")


def before_everything(rig):
    drops_what_is_forbidden(rig, "xdp")


sys.exit(main([at_the_ingress_hook, before_everything, owners_are_known_by_their_sockets,
               a_small_table_is_for_the_hottest, killed_in_the_middle_of_changes]))
