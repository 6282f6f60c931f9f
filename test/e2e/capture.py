#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Captures: what usherd shows is what the other end sees, with the owner of each packet; real tools read it; nobody
gets one who may not, and no expression does harm."""
import json
import os
import socket
import sys

from pcap import read_pcap, read_pcapng
from rig import A4, B4, B6, Users, check, main, run, until

STRANGER = 61235


def ctl(rig, *args):
    return rig.start("a", "usherctl", "--socket", f"{rig.dir}/run/control.sock", *args)


def captures(rig, *args):
    """A capture that has begun: its file has a header. Returns the process and the file."""
    path = rig.path(f"{len(rig.processes)}.pcapng")
    p = ctl(rig, "capture", "-w", path, *args)

    def begun():
        check(p.child.poll() is None, p.text())
        return os.path.exists(path) and os.path.getsize(path) > 0
    until("the capture begins", begun)
    return p, path


def sees(path, what, condition):
    """The capture's packets, once the condition holds for them."""
    return until(what, lambda: (lambda packets: packets if condition(packets) else None)(read_pcapng(path)))


def udp(packets, port):
    """Datagrams over IPv4 to or from that port."""
    want = port.to_bytes(2, "big")
    return [p for p in packets
            if p.data[12:14] == b"\x08\x00" and p.data[23] == 17 and want in (p.data[34:36], p.data[36:38])]


def is_what_the_other_end_saw(rig):
    rig.kernel_echo("b", 9000)
    rig.usherd()
    dump = rig.path("b.pcap")
    tcpdump = rig.start_command("b", ["tcpdump", "-i", "vb", "-w", dump, "-U", "udp port 9000"])
    tcpdump.says("listening on")
    p, path = captures(rig, "--at", "in,out", "udp port 9000")
    for size in (8, 64, 1400):
        rig.ping("--count", 20, "--size", size, f"{B4}:9000", answered=20)
    rig.ping("--count", 20, f"[{B6}]:9000", answered=20)
    ours = sees(path, "160 packets are captured", lambda got: len(got) >= 160)
    theirs = until("160 packets arrive", lambda: (lambda got: got if len(got) >= 160 else None)(read_pcap(dump)))
    check([o.wire() for o in ours] == [t.wire() for t in theirs], "both ends saw the same packets in the same order")
    for tool in (["tcpdump", "-r", path, "-w", f"{path}.pcap"],  # as the tools read it, byte by byte
                 ["tshark", "-r", path, "-F", "pcap", "-w", f"{path}.pcap"]):
        run(tool)
        read = [packet.wire() for packet in read_pcap(f"{path}.pcap")]
        check(read[:len(theirs)] == [t.wire() for t in theirs], f"{tool[0]} reads what the other end saw")
    check(p.end(2) == 0 and "160 packets captured" in p.text() and " 0 lost" in p.text(), p.text())
    for packet in ours:
        check(packet.interface == "va" and packet.words["comm"] == "udp-ping" and packet.words["uid"] == "0" and
              packet.words["exe"].endswith("/udp-ping") and packet.words["cgroup"].startswith("/") and
              packet.words["verdict"] == "pass" and packet.words["engine"] == "udp", packet.words)


def receivers_are_known_across_shards(rig):
    """Packets come in at one shard; whose they are another may know."""
    rig.kernel_echo("b", 9000)
    rig.usherd("interfaces: [{name: va}]\nkeeper: {mode: off}\nruntime: {shards: 2}\n")
    p, path = captures(rig, "--at", "in", "--no-kernel", "udp port 9000")
    pings = [rig.client("udp-ping", "--interval", "20000", "--count", "100000", f"{B4}:9000") for _ in range(4)]
    sees(path, "each program's answers are named",
         lambda packets: {str(ping.pid) for ping in pings} <= {g.words.get("pid") for g in packets})
    p.end(2)


def streams_are_what_the_other_end_saw(rig):
    rig.kernel_echo("b", 9001, kind=socket.SOCK_STREAM)
    rig.usherd()
    dump = rig.path("b.pcap")
    tcpdump = rig.start_command("b", ["tcpdump", "-i", "vb", "-w", dump, "-U", "tcp port 9001"])
    tcpdump.says("listening on")
    p, path = captures(rig, "tcp port 9001")
    run(rig.inside("a", ["sh", "-c", f"echo hello | {rig.bin}/tcp-cat --socket {rig.session} {B4}:9001"]))

    def same():
        ours, theirs = read_pcapng(path), read_pcap(dump)
        ends = sum(1 for packet in ours if packet.data[47] & 1)  # a FIN from each side
        return ends >= 2 and sorted(o.wire() for o in ours) == sorted(t.wire() for t in theirs) and ours
    ours = until("both ends saw the same segments", same)
    p.end(2)
    check({o.words.get("comm") for o in ours} == {"tcp-cat"}, [o.words for o in ours])


def tools_read_it(rig):
    rig.usherd("interfaces: [{name: va}]\nkeeper: {mode: off}\necho: {ports: [7]}\n")
    p, path = captures(rig, "-c", "4", "--snaplen", "60", "udp port 7")
    rig.answers("b", A4, 7)
    rig.ping("--count", 5, f"{A4}:7", answered=5)
    check(p.end(0) == 0 and "4 packets captured" in p.text(), p.text())
    check(len(run(["tcpdump", "-nr", path]).stdout.splitlines()) == 4, "tcpdump reads it")
    shown = run(["tshark", "-nr", path, "-T", "fields", "-e", "frame.interface_name", "-e", "frame.cap_len", "-e",
                 "frame.comment"]).stdout
    check(shown.count("\n") == 4 and "va\t" in shown and "usher\t60\tsent by udp-ping" in shown, shown)
    here = f"{rig.bin}/usherctl --socket {rig.dir}/run/control.sock capture -c 1 -w - 'udp port 7'"
    pipe = rig.start_command("a", ["sh", "-c", f"{here} | tcpdump -nlr -"])
    until("a pipe shows packets", lambda: rig.asks("b", A4, 7) == b"hello" and f"{A4}.7" in pipe.text())
    pipe.end(0)


def wireshark_has_it_as_an_interface(rig):
    rig.usherd("interfaces: [{name: va}]\nkeeper: {mode: off}\necho: {ports: [7]}\n")
    folder = rig.path("extcap")
    os.mkdir(folder)
    os.symlink(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../packaging/usher.extcap"),
               f"{folder}/usher")
    lines = run(["tshark", "-G", "folders"]).stdout.splitlines()
    place = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("Extcap path"))
    # tshark looks in one folder only: ours takes its place in a mount namespace of its own.
    p = rig.start_command("a", ["env", f"USHERCTL={rig.bin}/usherctl",
                                f"USHER_CONTROL_SOCKET={rig.dir}/run/control.sock", "unshare", "-m", "sh", "-c",
                                f"mount --bind {folder} {place} && exec tshark -l -i usher -f 'udp port 7' -c 2 "
                                "-T fields -e udp.dstport -e frame.comment"])
    until("tshark shows packets", lambda: rig.asks("b", A4, 7) and "sent by Usher itself" in p.text(), 60)
    check("7\tfor no socket" in p.text(), p.text())
    p.end(0)


def drops_have_reasons(rig):
    rules = rig.path("rules.yaml", "rules:\n  - {name: no-nine, direction: out, to_port: 9, action: drop}\n")
    rig.usherd(f"interfaces: [{{name: va}}]\nkeeper: {{mode: off}}\npolicy: {rules}\n")
    lines = ctl(rig, "capture", "--at", "drop", "-o", "json")
    p, path = captures(rig, "--at", "drop")
    rig.ping("--count", 1, f"{B4}:9")
    got = sees(path, "a drop is captured", lambda packets: len(udp(packets, 9)) > 0)
    words = udp(got, 9)[0].words
    check(words["reason"] == "POLICY" and words["rule"] == "no-nine" and words["verdict"] == "drop" and
          words["dir"] == "out" and words["engine"] == "filter" and words["comm"] == "udp-ping", words)
    until("a line tells of it", lambda: "rule no-nine" in lines.text())
    line = json.loads(next(l for l in lines.lines if "rule no-nine" in l))
    check(line["packet"].startswith(f"IP {A4}.") and line["owner"].startswith("sent by udp-ping"), line)


def a_capture_outlives_usherd(rig):
    """usherctl goes on with the usherd that takes over: one file, a section for each."""
    usherd = rig.usherd("interfaces: [{name: va}]\n")
    p, path = captures(rig, "udp port 9")
    rig.ping("--count", 1, f"{B4}:9")
    sees(path, "the first packet is there", lambda packets: len(udp(packets, 9)) >= 1)
    run(rig.inside("a", [f"{rig.bin}/usherctl", "--socket", f"{rig.dir}/run/control.sock", "upgrade"]))
    usherd.says("took over from usherd")
    until("the capture goes on", lambda: rig.ping("--count", 1, f"{B4}:9") and
          len(udp(read_pcapng(path), 9)) >= 2)
    check("is being replaced" in p.text() and p.child.poll() is None, p.text())
    check(len(run(["tcpdump", "-nr", path]).stdout.splitlines()) >= 2, "tcpdump reads both parts")
    check(p.end(2) == 0 and "packets captured" in p.text() and "0 packets" not in p.text(), p.text())
    stopped, _ = captures(rig, "udp port 9")
    usherd.end()
    check(stopped.child.wait(20) == 3 and "usherd ends" in stopped.text(), stopped.text())


def lines_are_explained(rig):
    """A line that somebody saw, of usherctl's or tcpdump's, is all that explain needs to name rule and place."""
    rules = rig.path("rules.yaml", "rules:\n  - {name: no-nine, direction: out, to_port: 9, user: 0, action: drop}\n"
                                   "  - {name: no-eight, direction: out, to_port: 8, action: drop}\n")
    rig.usherd(f"interfaces: [{{name: va}}]\nkeeper: {{mode: off}}\npolicy: {rules}\n")
    shown = ctl(rig, "capture", "--at", "drop", "udp port 9")
    tcpdump = rig.start_command("b", ["tcpdump", "-nli", "vb", "udp port 53"])
    tcpdump.says("listening on")

    def seen(p, what, port):
        rig.ping("--count", 1, f"{B4}:{port}")
        return next((l for l in p.text().splitlines() if what in l), None)
    ours = until("a drop is shown", lambda: seen(shown, "rule no-nine", 9))
    theirs = until("tcpdump shows a packet", lambda: seen(tcpdump, f"{B4}.53: ", 53))
    for line, options, decided in ((ours, [], "no-nine"), (ours, ["--to", f"{B4}:8"], "no-eight"),
                                   (ours, ["--user", "1"], "default"), (theirs, [], "default")):
        p = ctl(rig, "policy", "explain", *options, line)
        check(p.end(0) == 0, p.text())
        check(decided in p.text() and "filter engine" in p.text() and "out udp" in p.text(), f"{line}:\n{p.text()}")
    p = ctl(rig, "policy", "explain", "nothing of a packet")
    check(p.end(0) == 2 and "two addresses" in p.text(), p.text())


def a_refused_packet_names_its_rule(rig):
    """The filter has it answered by ICMP: the rule must not be mistaken for the kind of answer."""
    rules = rig.path("rules.yaml", "rules:\n" + "".join(
        f"  - {{name: no-{port}, direction: in, to_port: {port}, action: reject}}\n" for port in range(7000, 7008)))
    rig.usherd(f"interfaces: [{{name: va}}]\nkeeper: {{mode: off}}\npolicy: {rules}\n")
    rig.client("udp-echo", ":7001")
    lines = ctl(rig, "capture", "--at", "drop", "-o", "json")
    s = rig.kernel_socket("b", socket.AF_INET)

    def told():
        s.sendto(b"x", (A4, 7001))
        return "rule no-7001" in lines.text()
    until("the capture names the rule", told)
    check("rule no-" not in lines.text().replace("rule no-7001", ""), lines.text())


def rules_show_packets(rig):
    """mirror: captures that ask for it get what a rule names, judged as it was, and nothing else."""
    rules = rig.path("rules.yaml", "rules:\n"
                     "  - {name: show, to_port: 9000-9001, mirror: yes}\n"
                     "  - {name: no, direction: out, to_port: 9001, action: drop}\n"
                     "  - {name: refuse, direction: in, to_port: 7001, mirror: yes, action: reject}\n")
    rig.usherd(f"interfaces: [{{name: va}}]\nkeeper: {{mode: off}}\npolicy: {rules}\n")
    rig.kernel_echo("b", 9000)
    rig.kernel_echo("b", 9002)
    rig.client("udp-echo", ":7001")
    _, path = captures(rig, "--at", "mirror")
    rig.ping("--count", 1, f"{B4}:9002", answered=1)
    rig.ping("--count", 1, f"{B4}:9001")
    rig.ping("--count", 1, f"{B4}:9000", answered=1)
    rig.asks("b", A4, 7001, timeout=0.3)
    got = sees(path, "the refused packet is shown", lambda packets: len(udp(packets, 7001)) > 0)
    check(len(got) == len(udp(got, 9000)) + len(udp(got, 9001)) + len(udp(got, 7001)), [p.words for p in got])
    for port, verdict, way in ((9000, "pass", "out"), (9001, "drop", "out"), (7001, "drop", "in")):
        words = udp(got, port)[0].words
        check(words["point"] == "mirror" and words["verdict"] == verdict and words["dir"] == way, words)
    check(udp(got, 9001)[0].words["comm"] == "udp-ping" and udp(got, 9001)[0].words["rule"] == "no", "and whose")


def files_make_a_ring(rig):
    rig.kernel_echo("b", 9000)
    rig.usherd()
    path = rig.path("ring")
    p = ctl(rig, "capture", "-w", path, "--file-size", "1", "--files", "2")
    until("the capture begins", lambda: os.path.exists(f"{path}.0") and os.path.getsize(f"{path}.0") > 0)
    for _ in range(20):
        rig.ping("--count", 100, "--size", 1400, f"{B4}:9000", answered=100)
    until("both files are used twice", lambda: p.child.poll() is None and os.path.exists(f"{path}.1") and
          os.path.getsize(f"{path}.1") > 900000 and os.path.getsize(f"{path}.0") > 100000)
    p.end(2)
    check(sorted(f for f in os.listdir(rig.dir) if f.startswith("ring")) == ["ring.0", "ring.1"], os.listdir(rig.dir))
    for number in (0, 1):
        check(len(read_pcapng(f"{path}.{number}")) > 50, "each file stands alone")
        run(["tcpdump", "-nr", f"{path}.{number}"])


def hostile_expressions_are_refused(rig):
    usherd = rig.usherd()
    for text in ("tcp prot 80", "((((", "!" * 4000, "host", "ip[99999999999]", "%s%n", "port \x01", "a" * 5000,
                 "udp port 1" + " or udp port 2" * 280):
        p = ctl(rig, "capture", "-d", "1", "--", text)
        code = p.end(0)
        check(code in (0, 2) and (code == 0 or "filter" in p.text()), f"{text[:40]}: exit {code}: {p.text()}")
    check(ctl(rig, "capture", "-i", "nosuch").end(0) == 5, "an interface that is not there")
    p = ctl(rig, "capture", "-d", "1", "-s", "262144", "tcp")
    check(p.end(0) == 0 and "0 packets captured" in p.text(), p.text())
    check(usherd.child.poll() is None, usherd.text())


def many_at_once_are_limited(rig):
    rig.usherd("interfaces: [{name: va}]\nkeeper: {mode: off}\ncontrol: {caller_calls: 64}\n")
    open_ones = [captures(rig)[0] for _ in range(8)]
    p = ctl(rig, "capture")
    check(p.end(0) == 1 and "8 captures are under way" in p.text(), p.text())
    open_ones[0].end(2)
    captures(rig)


def only_operators_may(rig):
    usherd = rig.usherd("interfaces: [{name: va}]\nkeeper: {mode: off}\n"
                        "control: {mode: 0666, roles: [{role: viewer, users: [nobody]}]}\n")
    os.chmod(rig.dir, 0o755)
    nobody = run(["id", "-u", "nobody"]).stdout.strip()
    for user, codes in ((nobody, (4,)), (str(STRANGER), (3, 4))):
        done = run(rig.inside("a", ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups",
                                    f"{rig.bin}/usherctl", "--socket", f"{rig.dir}/run/control.sock", "capture"]),
                   ok=None)
        check(done.returncode in codes, f"user {user}: exit {done.returncode}: {done.stderr}")
    check("audit: nobody (viewer" in usherd.text(), f"the refusal is audited: {usherd.text()}")
    p, _ = captures(rig, "udp port 53")
    until("the capture is audited",
          lambda: "audit: root (admin" in usherd.text() and "udp port 53" in usherd.text())
    p.end(2)


# ---- kernel sockets, which go past Usher ----

SENDS = """
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("%s", %d))
while True:
    s.send(b"past usher")
    time.sleep(0.02)
"""

SERVES = """
import socket
s = socket.create_server(("%s", %d))
while True:
    c, _ = s.accept()
    c.send(c.recv(100))
    c.close()
"""

FLOODS = """
import socket, struct, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("va", 0))
mac = bytes([2, 0, 0, 0, 0, 1])
for i in range(1 << 30):
    asks = struct.pack(">HHBBH", 1, 0x800, 6, 4, 1) + mac + bytes([10, 99, 0, 1])
    s.send(bytes([255] * 6) + mac + b"\\x08\\x06" + asks + bytes(6) + bytes([10, 99, 1, i % 256]))
    time.sleep(0.005)
"""


def python(rig, text, *become):
    return rig.start_command("a", [*become, "/usr/bin/python3", "-c", text])


def kernel_sockets_have_owners_too(rig):
    rig.kernel_echo("b", 9000)
    rig.usherd()
    p, path = captures(rig, "udp port 9000 or tcp port 8888")
    alone, alone_path = captures(rig, "--no-kernel", "udp port 9000")
    sender = python(rig, SENDS % (B4, 9000), "setpriv", f"--reuid={STRANGER}", "--clear-groups")
    server = python(rig, SERVES % (A4, 8888))

    def answers():
        try:
            s = rig.kernel_socket("b", socket.AF_INET, socket.SOCK_STREAM)
            s.connect((A4, 8888))
            s.send(b"hello")
            return s.recv(10) == b"hello"
        except OSError:  # it does not listen yet
            return False

    def known(packets):
        """Each way: the sender's datagrams and their answers, and the server's connection."""
        found = {(g.words.get("pid"), g.out) for g in packets if g.words["engine"] == "kernel"}
        wanted = {(str(pid), out) for pid in (sender.pid, server.pid) for out in (True, False)}
        return wanted <= found or (answers() and False)  # a connection is over before its process is looked for
    got = sees(path, "kernel sockets are named", known)
    mine = next(g for g in got if g.words.get("pid") == str(sender.pid) and g.out)
    check(mine.words["uid"] == str(STRANGER) and mine.words["comm"] == "python3" and
          mine.comment.startswith("sent past Usher by python3"), mine.words)
    rig.ping("--count", 1, f"{B4}:9000", answered=1)
    got = sees(alone_path, "usher's own packets are there", lambda packets: len(packets) >= 2)
    check(all(g.words["comm"] == "udp-ping" for g in got), "nothing of the kernel's, nothing twice")

    def ours(packets):
        return [g for g in packets if g.words.get("comm") == "udp-ping"]
    both = ours(sees(path, "and in the other file, too", lambda packets: len(ours(packets)) >= 2))
    check(len(both) == 2 and all(g.words["engine"] == "udp" for g in both), "usher's packets are not shown twice")


def alice_finds_who_floods(rig):
    """Story 1: bob's program floods with ARP past Usher, charlie's with odd UDP through it. Alice, who may not ask
    them, finds process, user and cgroup, by one capture each."""
    rig.kernel_echo("b", 666)
    with Users(rig) as users:
        usherd = rig.usherd("interfaces: [{name: va}]\nkeeper: {mode: off}\nsessions: {mode: 0666}\n"
                            f"control: {{mode: 0666, roles: [{{role: operator, users: [{users.names['alice']}]}}]}}\n")
        os.chmod(rig.dir, 0o755)
        bob = python(rig, FLOODS, *users.become("bob", "--inh-caps=+net_raw", "--ambient-caps=+net_raw"))
        charlie = rig.start_command("a", [*users.become("charlie"), f"{rig.bin}/udp-ping", "--socket", rig.session,
                                          "--interval", "5000", "--count", "100000", f"{B4}:666"])
        for who, flooder, expression in (("bob", bob, "arp and ether src 02:00:00:00:00:01"),
                                         ("charlie", charlie, "udp port 666")):
            found = rig.start_command("a", [*users.become("alice"), f"{rig.bin}/usherctl", "--socket",
                                            f"{rig.dir}/run/control.sock", "capture", "-c", "20", expression])
            check(found.end(0) == 0, found.text())
            named = [l for l in found.lines if "va out " in l and f"pid {flooder.pid}, user {users.names[who]} (" in l]
            check(named and ", cgroup /" in named[0], found.text())
            flooder.end()
        check(f"audit: {users.names['alice']} (operator" in usherd.text(), "alice's captures are on record")


if __name__ == "__main__":
    sys.exit(main([is_what_the_other_end_saw, receivers_are_known_across_shards, streams_are_what_the_other_end_saw,
                   tools_read_it, wireshark_has_it_as_an_interface, drops_have_reasons, lines_are_explained,
                   a_capture_outlives_usherd, a_refused_packet_names_its_rule, rules_show_packets, files_make_a_ring,
                   hostile_expressions_are_refused, many_at_once_are_limited, only_operators_may,
                   kernel_sockets_have_owners_too, alice_finds_who_floods]))
