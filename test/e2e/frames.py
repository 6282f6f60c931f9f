#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Packet sockets under usher-run: what they send goes through usherd, byte by byte as the program made it, under its
owner's name and the policy's eyes; what they receive is the kernel's. And what happens to those who may not."""
import json
import os
import socket
import sys

from capture import captures, ctl, sees
from posix_rig import USHERD, ask, carried, is_carried, lines_of, needs, under, words
from rig import A4, B4, Users, check, main, run, until

MAC = bytes([2, 0, 0, 0, 0, 1])
ODD = 0x88b5  # for experiments (IEEE 802): nobody answers

# Sends every frame of sys.argv[1:] (hex) by interface va, in the ways there are.
SENDS = """
import socket, sys
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("va", 0))
loose = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
for i, text in enumerate(sys.argv[1:]):
    frame = bytes.fromhex(text)
    way = i % 4
    if way == 0:
        raw.send(frame)
    elif way == 1:
        loose.sendto(frame, ("va", 0))
    elif way == 2:
        raw.sendmsg([frame[:5], frame[5:14], frame[14:]])
    else:
        raw.sendmsg([frame], [], 0, ("va", 0x1234))
cooked = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
cooked.sendto(b"cooked", ("va", ODD, 0, 0, b"\\xff" * 6))
for bad in (bytes(13), bytes(1515)):
    try:
        raw.send(bad)
    except OSError as e:
        print("refused", len(bad), e.errno, flush=True)
child = __import__("os").fork()
raw.send(bytes.fromhex(sys.argv[1]) + (b"child" if child == 0 else b"parent"))
"""

FLOODS = """
import socket, struct, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("va", 0))
mac = bytes([2, 0, 0, 0, 0, 1])
for i in range(1 << 30):
    asks = struct.pack(">HHBBH", 1, 0x800, 6, 4, 1) + mac + bytes([10, 99, 0, 1])
    try:
        s.send(bytes([255] * 6) + mac + b"\\x08\\x06" + asks + bytes(6) + bytes([10, 99, 1, i % 256]))
    except OSError as e:
        print("errno", e.errno, flush=True)
    time.sleep(0.005)
"""


def sniffer(rig, ethertype, host="b"):
    s = rig.kernel_socket(host, socket.AF_PACKET, socket.SOCK_RAW, timeout=20, proto=socket.htons(ethertype))
    return s


def frame(payload, ethertype=ODD, source=MAC, to=b"\xff" * 6):
    return to + source + ethertype.to_bytes(2, "big") + payload


def frames_arrive_as_they_were_made(rig):
    rig.usherd(USHERD)
    sniff = sniffer(rig, ODD)
    p, path = captures(rig, f"ether proto {ODD}")
    sent = [frame(bytes((i * 7 + k) % 256 for k in range(size)))
            for i, size in enumerate((0, 1, 45, 46, 100, 1000, 1499, 1500))]
    sender = under(rig, "python3", "-c", SENDS.replace("ODD", str(ODD)), *(f.hex() for f in sent))
    mac = bytes.fromhex(run(rig.inside("a", ["cat", "/sys/class/net/va/address"])).stdout.replace(":", ""))
    want = sent + [frame(b"cooked", source=mac), sent[0] + b"child", sent[0] + b"parent"]
    check(sender.child.wait(20) == 0, sender.text())
    until("the sender has told", lambda: "refused 1515" in sender.text())
    check("refused 13 22" in sender.text() and "refused 1515 90" in sender.text(), sender.text())
    got = [sniff.recv(2000) for _ in want]
    check(sorted(got) == sorted(want), f"{len(got)} of {len(want)} frames: {[len(g) for g in got]}")
    is_carried(sender, "frames on va")
    ours = sees(path, "all of them are captured", lambda packets: len(packets) >= len(want))
    check(sorted(o.data for o in ours) == sorted(want) and
          all(o.words["comm"] == "python3" and o.words["engine"] == "frames" and o.out for o in ours),
          [(len(o.data), o.words) for o in ours])
    p.end(2)


def arping_asks(rig):
    """A program of the distribution: it asks through usherd, the kernel's half of its socket hears the answer."""
    if not needs("arping"):
        return
    rig.usherd(USHERD)
    p, path = captures(rig, "--no-kernel", "arp")
    done = ask(rig, "a", "arping", "-c", "2", "-I", "va", B4, usher=True)
    check("Received 2 response(s)" in done.text, done.text)
    check(carried(done, "frames on va"), done.report)
    got = sees(path, "its requests are captured", lambda packets: len(packets) >= 2)
    check(all(g.words["comm"] == "arping" and g.words["engine"] == "frames" for g in got), [g.words for g in got])
    p.end(2)


def only_who_may(rig):
    """The kernel gives no packet socket to those without CAP_NET_RAW, so they have none of usherd's either."""
    rig.usherd(USHERD + "sessions: {mode: 0666}\n")
    os.chmod(rig.dir, 0o755)
    with Users(rig) as users:
        p = rig.start_command("a", [*users.become("bob"), *words(rig, True, "python3", ["-c", FLOODS])])
        until("bob is refused", lambda: "PermissionError" in p.text())


def an_operator_may_leave_them_to_the_kernel(rig):
    rig.usherd(USHERD + "sessions: {raw_frames: kernel}\n")
    sniff = sniffer(rig, ODD)
    sender = under(rig, "python3", "-c", SENDS.replace("ODD", str(ODD)), frame(b"x" * 50).hex())
    check(sniff.recv(2000) == frame(b"x" * 50), "the kernel sends it")
    until("it is told why", lambda: carried(sender, "frames on va", "by the kernel: the config leaves"))


RULES = """
rules:
  - {name: nothing-of-bob, direction: out, user: %s, action: drop}
  - {name: no-telnet, direction: out, protocol: tcp, to_port: 23, action: drop}
  - {name: only-of-conversations, direction: out, protocol: udp, to_port: 53, state: new, action: drop}
"""


def bob_floods(rig, users):
    return rig.start_command("a", [*users.become("bob", "--inh-caps=+net_raw", "--ambient-caps=+net_raw"),
                                   *words(rig, True, "python3", ["-c", FLOODS])])


def ip4(proto, payload):
    header = bytes([0x45, 0]) + (20 + len(payload)).to_bytes(2, "big") + bytes([0, 0, 0x40, 0, 64, proto, 0, 0])
    return frame(header + socket.inet_aton(A4) + socket.inet_aton(B4) + payload, 0x800)


def rules_judge_frames(rig):
    """By owner and by what is in them, past any tag; what ends is told to the program and named in captures."""
    with Users(rig) as users:
        rules = rig.path("rules.yaml", RULES % users.names["bob"])
        rig.usherd(USHERD + f"policy: {rules}\nsessions: {{mode: 0666}}\n")
        os.chmod(rig.dir, 0o755)
        lines = ctl(rig, "capture", "--at", "drop", "-o", "json")
        bob = bob_floods(rig, users)
        until("bob is told", lambda: "errno 1" in bob.text())
        until("a capture names the rule", lambda: "rule nothing-of-bob" in lines.text())
        line = json.loads(next(l for l in lines.lines if "rule nothing-of-bob" in l))
        check(f"pid {bob.pid}, user {users.names['bob']}" in line["owner"], line)
        bob.end()
    sniff = sniffer(rig, 0x800)
    telnet = ip4(6, bytes([16, 0, 0, 23]) + bytes(8) + bytes([0x50, 2]) + bytes(6))
    dns = ip4(17, bytes([16, 0, 0, 53, 0, 12, 0, 0]) + bytes(4))
    tagged = telnet[:12] + bytes([0x81, 0, 0, 5]) + telnet[12:]
    passes = ip4(6, bytes([16, 0, 0, 24]) + bytes(8) + bytes([0x50, 2]) + bytes(6))
    sender = under(rig, "python3", "-c", FILTERED, *(f.hex() for f in (telnet, dns, tagged, passes)))
    check(sniff.recv(2000) == passes, "what no rule forbids passes, and nothing before it")
    check(sender.child.wait(20) == 0, sender.text())
    until("the program is told", lambda: "errno 1" in sender.text())
    for rule in ("no-telnet", "only-of-conversations"):
        until("captures name the rules", lambda: f"rule {rule}" in lines.text())


FILTERED = """
import socket, sys, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("va", 0))
for text in sys.argv[1:]:
    for again in range(3):
        try:
            s.send(bytes.fromhex(text))
            break
        except OSError as e:  # of the one before
            print("errno", e.errno, flush=True)
    time.sleep(0.05)
"""


def alice_finds_who_floods(rig):
    """Story 1, through usherd: bob's program floods with ARP by a packet socket. Alice, who may not ask him, finds
    process, user and cgroup, by one capture; and by one `usherctl top`."""
    with Users(rig) as users:
        rig.usherd(USHERD + "sessions: {mode: 0666}\n"
                   f"control: {{mode: 0666, roles: [{{role: operator, users: [{users.names['alice']}]}}]}}\n")
        os.chmod(rig.dir, 0o755)
        bob = bob_floods(rig, users)
        is_carried(bob, "frames on va")
        alice = [*users.become("alice"), f"{rig.bin}/usherctl", "--socket", f"{rig.dir}/run/control.sock"]
        found = rig.start_command("a", [*alice, "capture", "--no-kernel", "-c", "20",
                                        "arp and ether src 02:00:00:00:00:01"])
        check(found.end(0) == 0, found.text())
        named = [l for l in found.lines if "va out " in l and f"pid {bob.pid}, user {users.names['bob']} (" in l]
        check(named and ", cgroup /" in named[0], found.text())

        def listed():
            done = run(rig.inside("a", [*alice, "sockets", "-o", "json"]))
            mine = [s for s in json.loads(done.stdout)["sockets"] if s["owner"]["pid"] == bob.pid]
            return mine and int(mine[0]["tx_packets"]) > 20 and mine[0]
        row = until("the list has it", listed)
        check(row["protocol"] == "frame" and row["local_address"] == "va" and int(row["tx_bytes"]) > 800, row)


def frames_go_on_over_upgrades(rig):
    """None is lost while an engine is replaced; of those sent while usherd itself is, some are, as datagrams are."""
    usherd = rig.usherd("interfaces: [{name: va}]\n")
    sniff = sniffer(rig, ODD)
    sender = under(rig, "python3", "-c", COUNTS)
    upgrade = [f"{rig.bin}/usherctl", "--socket", f"{rig.dir}/run/control.sock"]

    def numbers():
        return [int.from_bytes(sniff.recv(2000)[14:18], "big") for _ in range(100)]
    got = numbers()
    run(rig.inside("a", [*upgrade, "engine", "upgrade", "udp"]))
    got += numbers()
    check(got == list(range(200)), got)
    run(rig.inside("a", [*upgrade, "upgrade"]))
    usherd.says("back again")
    got += numbers()
    check(got == sorted(set(got)), got)
    check(usherd.child.poll() is None and sender.child.poll() is None, usherd.text())
    check(len([l for l in lines_of(sender) if "frames on va: carried" in l]) == 1, sender.text())


COUNTS = """
import socket, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("va", 0))
for i in range(1 << 30):
    s.send(bytes([255] * 6) + bytes([2, 0, 0, 0, 0, 1]) + b"\\x88\\xb5" + i.to_bytes(4, "big") + bytes(42))
    time.sleep(0.002)
"""


if __name__ == "__main__":
    sys.exit(main([frames_arrive_as_they_were_made, arping_asks, only_who_may, an_operator_may_leave_them_to_the_kernel,
                   rules_judge_frames, alice_finds_who_floods, frames_go_on_over_upgrades]))
