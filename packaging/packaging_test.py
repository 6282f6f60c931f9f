#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What is installed agrees with what is built: events and their catalog, units and the rights usherd keeps.

usage: packaging_test.py BIN_DIR
"""
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
BIN = os.path.realpath(sys.argv[1])
EXPOSURE_MAX = 3.6  # systemd-analyze security; 0 is best, "OK" ends at 4


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def check(condition, text):
    if not condition:
        sys.exit(f"packaging_test: {text}")


def events_are_listed():
    sources = [p for p in glob.glob(f"{ROOT}/control/**/*.c", recursive=True) if not p.endswith("_test.c")]
    used = set()
    for path in sources:
        used.update(re.findall(r'\blog_(?:error|warning|info|debug)\(\s*"([^"]+)"', read(path)))
        used.update(re.findall(r'\blog_(?:event|fields)\(\w+,\s*"([^"]+)"', read(path)))
    listed = re.findall(r'^EVENT\("([^"]+)", ([0-9a-f]{32}),', read(f"{ROOT}/control/events.def"), re.M)
    names, ids = [n for n, _ in listed], [i for _, i in listed]
    check(len(set(names)) == len(names) and len(set(ids)) == len(ids), "a name or an id is twice in events.def")
    check(not used - set(names), f"not in events.def: {sorted(used - set(names))}")
    check(not set(names) - used, f"logged nowhere, but in events.def: {sorted(set(names) - used)}")
    return ids


def catalog_is_one(ids):
    text = run(f"{BIN}/usherd", "--event-catalog").stdout
    check(re.findall(r"^-- ([0-9a-f]{32})$", text, re.M) == ids, "the catalog has other ids than events.def")
    if shutil.which("journalctl") is None:
        return
    with tempfile.TemporaryDirectory() as root:
        folder = f"{root}/usr/lib/systemd/catalog"
        os.makedirs(folder)
        os.makedirs(f"{root}/var/lib/systemd/catalog")
        with open(f"{folder}/usher.catalog", "w", encoding="utf-8") as f:
            f.write(text)
        done = run("journalctl", f"--root={root}", "--update-catalog")
        check(done.returncode == 0, f"journalctl does not take the catalog: {done.stderr}")
        listed = run("journalctl", f"--root={root}", "--list-catalog", ids[0]).stdout
        check("usherd" in listed, f"not found in the catalog: {listed}")


def unit_grants_what_usherd_keeps():
    unit = read(f"{HERE}/usherd.service")
    granted = set(re.search(r"^CapabilityBoundingSet=(.*)$", unit, re.M)[1].split())
    kept = set(re.findall(r'"(CAP_\w+)"\}', read(f"{ROOT}/control/rights.c")))
    check(granted == kept, f"the unit grants {sorted(granted)}, usherd keeps {sorted(kept)}")


def units_verify():
    if shutil.which("systemd-analyze") is None:
        print("SKIPPED: systemd-analyze is not installed")
        return
    with tempfile.TemporaryDirectory() as folder:
        for unit in glob.glob(f"{HERE}/usherd*.service") + glob.glob(f"{HERE}/usherd*.socket"):
            text = read(unit).replace("/usr/sbin/usherd", f"{BIN}/usherd")
            with open(f"{folder}/{os.path.basename(unit)}", "w", encoding="utf-8") as f:
                f.write(text)
        units = sorted(glob.glob(f"{folder}/*"))
        done = run("systemd-analyze", "verify", "--man=no", *units)
        ours = [line for line in done.stderr.splitlines() if "usher" in line]
        check(done.returncode == 0 and not ours, f"systemd-analyze verify: {done.stderr}")
        done = run("systemd-analyze", "security", "--offline=true", f"{folder}/usherd.service")
        score = re.search(r"Overall exposure level for usherd.service: ([0-9.]+)", done.stdout)
        check(score and float(score[1]) <= EXPOSURE_MAX, f"systemd-analyze security: {score and score[0]}")
        print(score[0])


catalog_is_one(events_are_listed())
unit_grants_what_usherd_keeps()
units_verify()
