#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Story 3: programs that block on I/O sleep until their data arrives, and nothing burns a core for them."""
import os
import sys
import time

from posix_rig import under
from rig import A4, check, main, until

TICKS = os.sysconf("SC_CLK_TCK")
WATCHED = 2.0  # seconds

BLOCKS = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", %d))
print("waits", flush=True)
while True:
    data, peer = s.recvfrom(2048)
    s.sendto(data, peer)
"""


def cpu_seconds(pids):
    """What the processes have used so far, all their threads together."""
    used = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        used += int(fields[11]) + int(fields[12])
    return used / TICKS


def blocked_programs_sleep(rig, mode="auto"):
    usherd = rig.usherd(f"interfaces: [{{name: va}}]\nkeeper: {{mode: off}}\nruntime: {{mode: {mode}}}\n")
    native = rig.client("udp-echo", ":9100")
    native.says("listening; carried by usherd")
    preloaded = under(rig, "python3", "-c", BLOCKS % 9200)
    preloaded.says("waits")
    pids = [usherd.pid, native.pid, preloaded.pid]
    for port in (9100, 9200):
        rig.answers("b", A4, port)  # both wait, both are carried and woken

    def asleep():
        """Idle comes soon after the last packet: spinning is bounded."""
        before = cpu_seconds(pids)
        time.sleep(WATCHED)
        return cpu_seconds(pids) - before < 0.1 * WATCHED
    until("usherd and the programs sleep", asleep)
    for port in (9100, 9200):
        check(rig.asks("b", A4, port, timeout=10) == b"hello", f"port {port} wakes up")
    until("they sleep again", asleep)


sys.exit(main([blocked_programs_sleep]))
