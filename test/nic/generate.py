#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the three policies of this folder: what servers in public clouds have, by size. Same output every time.

    web.yaml         200 rules: one server's security group
    blocklist.yaml   1,200 rules: a reputation list in front of a few services
    tenants.yaml     5,000 rules: a long list, and a shared service that each tenant reaches from prefixes of its own
"""
import os
import random

HEAD = "  - {name: known, direction: in, state: [established, related], action: allow}\n"
OPEN = "".join("  - {name: open-%d, direction: in, protocol: tcp, to_port: %d, action: allow}\n" % (p, p)
               for p in (80, 443))


def prefix(rng, first, bits):
    address = first << 24 | rng.getrandbits(24)
    address &= 0xffffffff << (32 - bits) & 0xffffffff
    return "%d.%d.%d.%d/%d" % (address >> 24, address >> 16 & 255, address >> 8 & 255, address & 255, bits)


def denied(rng, count):
    seen = set()
    while len(seen) < count:
        bits = rng.choice((16, 20, 22, 24, 24, 24, 28, 32))
        seen.add(prefix(rng, rng.choice((45, 91, 103, 141, 185, 193, 212)), bits))
    return "".join("  - {name: bad-%d, direction: in, from: %s, action: drop}\n" % (i, p)
                   for i, p in enumerate(sorted(seen)))


def allowed(rng, count, name):
    ports = (22, 5432, 6379, 8443, 9100, 9200, 27017)
    return "".join("  - {name: %s-%d, direction: in, protocol: tcp, from: %s, to_port: %d, action: allow}\n"
                   % (name, i, prefix(rng, 10, rng.choice((24, 26, 28))), rng.choice(ports)) for i in range(count))


def write(name, bad, good, seed):
    rng = random.Random(seed)
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), name), "w", encoding="ascii") as f:
        f.write("# SPDX-License-Identifier: Apache-2.0\n# Written by generate.py.\ndefaults: {host: drop}\nrules:\n")
        f.write(denied(rng, bad) + HEAD + OPEN + allowed(rng, good, "peer"))


write("web.yaml", 0, 197, 1)
write("blocklist.yaml", 1000, 197, 2)
write("tenants.yaml", 4300, 697, 3)
