#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Checks RFC9293.md: every numbered requirement has its line, and every test it names exists in this folder."""
import glob
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
WANTED = {"MUST": 69, "SHLD": 31, "MAY": 18}


def main():
    with open(os.path.join(HERE, "RFC9293.md")) as f:
        table = f.read()
    tests = set()
    for path in glob.glob(os.path.join(HERE, "*_test.c")):
        with open(path) as f:
            tests.update(".".join(m) for m in re.findall(r"^Test\((\w+), (\w+)", f.read(), re.M))
    wrong = []
    for kind, count in WANTED.items():
        for n in range(1, count + 1):
            lines = re.findall(rf"^\| {kind}-{n} \|.*\| \S.*\|$", table, re.M)
            if len(lines) != 1:
                wrong.append(f"{kind}-{n} has {len(lines)} lines, not one")
    for name in re.findall(r"\btcp_\w+\.\w+", table):
        if name not in tests:
            wrong.append(f"{name} is named but no such test exists")
    print("\n".join(f"RFC9293.md: {w}" for w in wrong) or f"RFC9293.md: complete, {len(tests)} tests to choose from")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
