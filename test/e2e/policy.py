#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The operator's rules: what they forbid does not pass, and whom they allow is told apart by user."""
import os
import sys

from rig import A4, B4, check, main, run

CONFIG = "interfaces: [{name: va}]\nkeeper: {mode: off}\nsessions: {mode: 0666}\npolicy: %s\n"
STRANGER = 61234


def mistakes_prevent_the_start(rig):
    rules = rig.path("rules.yaml", "rules:\n  - {name: a, to_port: http}\n")
    usherd = rig.start("a", "usherd", *rig.usherd_args(CONFIG % rules))
    check(usherd.end(0) == 1, usherd.text())
    check("rules.yaml:2:24: to_port: 'http' is no number or range" in usherd.text(), usherd.text())


def users_are_told_apart(rig):
    rules = rig.path("rules.yaml", "rules:\n"
                     "  - {name: root-asks, direction: out, to_port: 9000, user: 0, action: allow}\n"
                     "  - {name: nobody-else, direction: out, to_port: 9000, action: reject}\n")
    rig.kernel_echo("b", 9000)
    rig.kernel_echo("b", 9001)
    usherd = rig.usherd(CONFIG % rules)
    check("rules.yaml is in force: 2 rules" in usherd.text(), usherd.text())
    check("carried by usherd" in rig.ping("--count", 5, f"{B4}:9000", answered=5), "root may ask")
    os.chmod(rig.dir, 0o755)
    ping = rig.inside("a", ["setpriv", "--reuid", str(STRANGER), "--clear-groups", f"{rig.bin}/udp-ping",
                            "--socket", rig.session, "--count", "3", f"{B4}:%d"])
    asked = [run(ping[:-1] + [ping[-1] % port], ok=None) for port in (9000, 9001)]
    check("3 answered" not in asked[0].stdout and "carried by usherd" in asked[1].stdout,
          f"{asked[0].stdout} {asked[0].stderr} {asked[1].stdout} {asked[1].stderr}")


def what_comes_in_is_judged_by_its_owner(rig):
    rules = rig.path("rules.yaml", "rules:\n"
                     "  - {name: closed, direction: in, to_port: 7, from: %s/32, action: drop}\n" % B4)
    rig.usherd(CONFIG % rules + "echo: {ports: [7, 8]}\n")
    check(rig.asks("b", A4, 7) is None, "port 7 is closed")
    rig.answers("b", A4, 8)


sys.exit(main([mistakes_prevent_the_start, users_are_told_apart, what_comes_in_is_judged_by_its_owner]))
