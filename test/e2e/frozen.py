#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Programs with the libusher of an earlier release (test/frozen) on the usherd of today.

    host a: usherd + programs        host b: kernel peers
"""
import glob
import os
import signal
import sys

from rig import A4, check, main, run
from upgrade import Stream

CONFIG = "interfaces: [{name: va}]\nkeeper: {mode: on, recovery_grace: 20s}\n"


def old(rig, library, program, *words):
    p = rig.start_command("a", ["env", f"LD_LIBRARY_PATH={library}", f"{rig.bin}/{program}", "--socket", rig.session,
                                *words])
    p.says("carried by usherd")
    with open(f"/proc/{p.pid}/maps", encoding="ascii") as f:
        check(os.path.realpath(library) in f.read(), f"{program} has the library of {library}")
    return p


def releases(rig):
    found = sorted(glob.glob(f"{rig.bin}/../lib/frozen-*"))
    check(found, "there is a frozen library")
    return found


def datagrams_go_and_come(rig):
    rig.usherd(CONFIG)
    for at, library in enumerate(releases(rig)):
        old(rig, library, "udp-echo", f"0.0.0.0:{7100 + at}")
        rig.answers("b", A4, 7100 + at)


def streams_live_through_deaths_and_upgrades(rig):
    usherd = rig.usherd(CONFIG)
    streams = []
    for at, library in enumerate(releases(rig)):
        old(rig, library, "tcp-echo", f"0.0.0.0:{7200 + at}")
        streams += [Stream(rig, 7200 + at) for _ in range(2)]
    for s in streams:
        s.goes_on()
    usherd.end(signal.SIGKILL)
    usherd = rig.usherd(CONFIG)
    for s in streams:
        s.goes_on()
    done = run(rig.inside("a", [f"{rig.bin}/usherctl", "--socket", f"{rig.dir}/run/control.sock", "upgrade"]))
    check("took over from usherd" in done.stdout, done.stdout)
    for s in streams:
        s.goes_on()
        s.end()


def old_and_new_talk_to_each_other(rig):
    rig.usherd(CONFIG)
    for at, library in enumerate(releases(rig)):
        server = rig.client("tcp-echo", f"0.0.0.0:{7300 + at}")
        server.says("carried by usherd")
        asked = rig.start_command("a", ["env", f"LD_LIBRARY_PATH={library}", f"{rig.bin}/tcp-cat", "--socket",
                                        rig.session, "--count", "50", f"{A4}:{7300 + at}"])
        check(asked.end(0) == 0 and "50 connections answered" in asked.text(), asked.text())


if __name__ == "__main__":
    sys.exit(main([datagrams_go_and_come, streams_live_through_deaths_and_upgrades, old_and_new_talk_to_each_other]))
