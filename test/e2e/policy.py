#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The operator's rules: what they forbid does not pass, and whom they allow is told apart by user."""
import json
import os
import signal
import socket
import sys
import threading

from posix_rig import under
from rig import A4, B4, check, main, run, until

CONFIG = "interfaces: [{name: va}]\nkeeper: {mode: off}\nsessions: {mode: 0666}\npolicy: %s\n"
STRANGER = 61234
OPEN, CLOSED = "rules: []\n", "rules:\n  - {name: closed, direction: in, to_port: 7, action: drop}\n"
ECHO = "interfaces: [{name: va}]\nkeeper: {mode: off}\necho: {ports: [7, 8]}\n"


def ctl(rig, *args, code=0):
    command = [f"{rig.bin}/usherctl", "--socket", f"{rig.dir}/run/control.sock", *map(str, args)]
    done = run(rig.inside("a", command), ok=None)
    text = f"usherctl {args}: exit {done.returncode}: {done.stdout}{done.stderr}"
    check(code is None or done.returncode == code, text)
    return done.stdout + done.stderr


def revision(rig):
    return json.loads(ctl(rig, "-o", "json", "policy", "history"))["revision"]


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


def passes(rig, port):
    return rig.asks("b", A4, port, timeout=0.3) is not None


def a_policy_is_replaced_under_traffic(rig):
    """Comes into force at once, whole; mistakes and conflicts leave it alone; what was before comes back."""
    usherd = rig.usherd(ECHO)
    rig.answers("b", A4, 7)
    check("everything passes" in ctl(rig, "policy", "history"), "no policy yet")
    closed, opened = rig.path("closed.yaml", CLOSED), rig.path("open.yaml", OPEN)
    text = ctl(rig, "policy", "apply", closed, "--note", "shut it")
    check("revision 1 is in force" in text, text)
    check(not passes(rig, 7) and passes(rig, 8), "port 7 is closed, and only that")
    check("closed  in" not in ctl(rig, "policy", "rules") and "1" in ctl(rig, "policy", "rules", "closed"), "it counts")
    wrong = rig.path("wrong.yaml", "rules:\n  - {name: a, to_port: http}\n")
    text = ctl(rig, "policy", "apply", wrong, code=1)
    check("wrong.yaml:2:24: to_port:" in text and revision(rig) == 1, text)
    text = ctl(rig, "policy", "apply", opened, "--expect", 7, code=None)
    check("REVISION" in text.upper() and revision(rig) == 1 and not passes(rig, 7), text)
    text = ctl(rig, "policy", "diff", opened)
    check("- rule    closed" in text and "0 added, 1 removed" in text, text)
    ctl(rig, "policy", "apply", opened, "--expect", 1)
    check(passes(rig, 7), "open again")
    ctl(rig, "policy", "rollback")
    check(revision(rig) == 1 and not passes(rig, 7), "closed again")
    check(ctl(rig, "policy", "show") == CLOSED, ctl(rig, "policy", "show"))
    check("shut it" in ctl(rig, "policy", "history") and "root" in ctl(rig, "policy", "history"), "who and why")
    check("audit" in usherd.text() and "revision 1" in usherd.text(), usherd.text())


def an_unconfirmed_change_goes_back(rig):
    usherd = rig.usherd(ECHO)
    closed, opened = rig.path("closed.yaml", CLOSED), rig.path("open.yaml", OPEN)
    ctl(rig, "policy", "apply", opened)
    ctl(rig, "policy", "apply", closed, "--confirm", "1s")
    check("goes back by itself" not in ctl(rig, "policy", "apply", closed, code=None), "one change at a time")
    until("it went back", lambda: passes(rig, 7))
    usherd.says("revision 2 was not confirmed in time; revision 1 is in force again")
    ctl(rig, "policy", "apply", closed, "--confirm", "1h")
    check("unconfirmed" in ctl(rig, "policy", "history"), "the history says so")
    # What nobody confirmed is not what a restart finds.
    check(usherd.end(signal.SIGKILL) is not None, "killed")
    usherd = rig.usherd(ECHO)
    check(revision(rig) == 1 and passes(rig, 7), usherd.text())
    ctl(rig, "policy", "apply", closed, "--confirm", "1h")
    ctl(rig, "policy", "confirm")
    check(not passes(rig, 7) and "nothing waits" not in ctl(rig, "policy", "confirm", code=None).lower(), "it stays")
    usherd.end(signal.SIGKILL)
    rig.usherd(ECHO)
    check(not passes(rig, 7) and passes(rig, 8), "also after a crash")


def the_file_and_the_operators_agree(rig):
    """A changed file is a new revision, also at a reload; a broken one leaves the last good policy in force."""
    rules = rig.path("rules.yaml", CLOSED)
    usherd = rig.usherd(ECHO + f"policy: {rules}\n")
    check(not passes(rig, 7), "the file counts")
    rig.path("rules.yaml", CLOSED.replace("7", "8"))
    usherd.child.send_signal(signal.SIGHUP)
    usherd.says("revision 2 of file")
    check(passes(rig, 7) and not passes(rig, 8), "reloaded")
    ctl(rig, "policy", "apply", rig.path("open.yaml", OPEN))
    usherd.end()
    usherd = rig.usherd(ECHO + f"policy: {rules}\n")
    check(passes(rig, 8) and revision(rig) == 3, "what an operator applied since stays")
    usherd.end()
    rig.path("rules.yaml", "rules: {}\n")
    usherd = rig.usherd(ECHO + f"policy: {rules}\n")
    check("rules.yaml:1:8: rules:" in usherd.text() and "revision 3 stays in force" in usherd.text(), usherd.text())


def sets_change_and_packets_are_explained(rig):
    rig.usherd(ECHO)
    ctl(rig, "policy", "apply", rig.path("sets.yaml", "# kept\nsets: {shut: {ports: [9]}}\nrules:\n"
        "  - {name: count, counter: seen}\n  - {name: shut, direction: in, to_port: '@shut', action: drop}\n"))
    check(passes(rig, 7), "open")
    ctl(rig, "policy", "set", "shut", "add", "7", "1000-2000")
    check(not passes(rig, 7) and passes(rig, 8), "closed")
    check("[9, 7, 1000-2000]" in ctl(rig, "policy", "show") and "# kept" in ctl(rig, "policy", "show"), "in the text")
    check("loaded anew" not in ctl(rig, "policy", "set", "shut", "remove", "9"), "in place")
    many = rig.path("many", "\n".join(str(n) for n in range(3000, 3200, 2)))
    text = run(f"ip netns exec {rig.ns('a')} {rig.bin}/usherctl --socket {rig.dir}/run/control.sock "
               f"policy set shut add - < {many}").stdout
    check("102 ranges" in text and "loaded anew" in text and not passes(rig, 7), text)
    check("no number" in ctl(rig, "policy", "set", "shut", "add", "x", code=None), "members are checked")
    text = ctl(rig, "policy", "explain", "-p", "udp", "--from", f"{B4}:4000", "--to", f"{A4}:7")
    check("drop by rule shut of tier host" in text and "goes on after count" in text, text)
    text = ctl(rig, "policy", "explain", "--out", "--to", f"{B4}:7", "--user", "0")
    check("allow by the defaults" in text, text)
    check("usherd's filter engine: allow" in text and "hooks on kernel sockets: allow" in text, text)
    counted = json.loads(ctl(rig, "-o", "json", "policy", "counters"))["counters"][0]
    check(counted["name"] == "seen" and counted["packets"] >= 2, counted)


LIMITED = "sets: {doors: {ports: [7]}}\nrules:\n" \
    "  - {name: slow, direction: in, to_port: '@doors', limit: 1000000/s, over: yes, action: drop}\n"


def gaps_are_refused_or_shown(rig):
    """What the hooks on kernel sockets cannot express is no policy's secret: apply wants to be told."""
    limited = rig.path("limited.yaml", LIMITED)
    rig.usherd(ECHO)
    why = "rule slow (line 3) is open for kernel sockets: hooks have no rate limits"
    text = ctl(rig, "policy", "check", limited)
    check("is good" in text and why in text, text)
    text = ctl(rig, "policy", "apply", limited, code=None)
    check(why in text and "--partial" in text and revision(rig) == 0, text)
    check(passes(rig, 7), "nothing changed")
    text = ctl(rig, "policy", "apply", limited, "--partial")
    check("1 gaps" in text and revision(rig) == 1, text)
    text = ctl(rig, "policy", "explain", "--to", f"{A4}:7", "--user", 0)
    check("hooks on kernel sockets: allow" in text and
          ("rule slow is open there" in text or "kernel sockets are not judged" in text), text)
    check("what is forwarded, raw or the kernel's own passes" in ctl(rig, "policy", "explain", "--to", f"{A4}:7") or
          "kernel sockets are not judged" in text, "nobody's packet")
    check(ctl(rig, "policy", "show").startswith(LIMITED) and why in ctl(rig, "policy", "show"), "show says so, too")
    check("revision 2" in ctl(rig, "policy", "set", "doors", "add", "9"), "not one gap more")
    many = "rules:\n" + "".join(f"  - {{name: r{n}, from_port: {n + 1}, action: drop}}\n" for n in range(1025))
    text = ctl(rig, "policy", "apply", rig.path("many.yaml", many), code=None)
    check("kernel sockets are not judged: the hooks on kernel sockets hold 1,024 rules" in text, text)
    ctl(rig, "policy", "apply", rig.path("open.yaml", OPEN))
    ctl(rig, "policy", "rollback", 1)
    check(revision(rig) == 1, "what was taken once comes back")


def the_file_comes_with_its_gaps(rig):
    usherd = rig.usherd(ECHO + f"policy: {rig.path('limited.yaml', LIMITED)}\n")
    check(revision(rig) == 1 and passes(rig, 7), usherd.text())
    check("rule slow is open for kernel sockets" in usherd.text() or "does not judge kernel sockets" in usherd.text(),
          usherd.text())


def firewalls_become_policies(rig):
    """What nft and iptables-save print becomes a policy that usherd takes, and that means the same."""
    rig.usherd(ECHO)
    run(["ip", "netns", "exec", rig.ns("b"), "nft", "-f", rig.path("rules.nft", """table inet t {
        set w { type inet_service; flags interval; elements = { 80, 8000-8080 }; }
        chain deep { counter drop; }
        chain in { type filter hook input priority 0; policy accept;
            iifname "lo" accept
            ct state established,related accept
            ip6 nexthdr icmpv6 icmpv6 type echo-request accept
            ip saddr { 10.9.0.0/16, 10.8.0.1 } tcp dport @w limit rate 5/second accept
            udp dport 7 drop
            tcp flags & (syn|ack) == syn tcp dport 9 reject with tcp reset
            meta l4proto { tcp, udp } th dport 1 jump deep
        }
    }""")])
    text = run(["ip", "netns", "exec", rig.ns("b"), "nft", "-j", "list", "ruleset"]).stdout
    done = run([f"{rig.bin}/usherctl", "policy", "import", "nft", rig.path("rules.json", text)], ok=(0, 1))
    check(done.returncode == 1 and done.stderr.count("not carried over") == 1 and "l4proto" not in done.stdout,
          done.stdout + done.stderr)
    text = ctl(rig, "policy", "apply", rig.path("nft.yaml", done.stdout), "--partial", code=None)
    check("is in force" in text and not passes(rig, 7) and passes(rig, 8), text + done.stdout)
    run(["ip", "netns", "exec", rig.ns("b"), "nft", "flush", "ruleset"])
    rules = "*filter\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n" \
        "-A INPUT -p udp --dport 8 -m comment --comment x -j DROP\n" \
        "-A INPUT -p tcp -m multiport --dports 22,80 -m state --state NEW -j ACCEPT\nCOMMIT\n"
    run(f"ip netns exec {rig.ns('b')} iptables-restore < {rig.path('rules.ipt', rules)}")
    text = run(["ip", "netns", "exec", rig.ns("b"), "iptables-save"]).stdout
    done = run([f"{rig.bin}/usherctl", "policy", "import", "iptables", rig.path("rules.save", text)])
    text = ctl(rig, "policy", "apply", rig.path("ipt.yaml", done.stdout), "--partial", code=None)
    check("is in force" in text and passes(rig, 7) and not passes(rig, 8), text + done.stdout)


def marks_reach_the_frames(rig):
    """A mark is the frame's where the kernel's own tools look at what leaves."""
    rig.usherd("interfaces: [{name: va}]\nkeeper: {mode: off}\nfirewall: ignore\npolicy: %s\n" % rig.path(
        "rules.yaml", "rules:\n  - {name: m, direction: out, to_port: 9000, mark: 0x10/0xf0}\n"))
    seen = rig.path("marks.nft", "table netdev t { chain c { type filter hook egress device va priority 0; "
                    "meta mark 0x10 udp dport 9000-9001 counter; }; }")
    if run(rig.inside("a", ["nft", "-f", seen]), ok=None).returncode != 0:
        print("SKIPPED: this kernel's nft does not look at what leaves", flush=True)
        return
    for port in (9000, 9001):
        rig.kernel_echo("b", port)
        rig.ping("--count", 3, f"{B4}:{port}", answered=3)
    text = run(rig.inside("a", ["nft", "list", "ruleset"])).stdout
    check("counter packets 3 " in text, text)


MARKERS = """rules:
  - {name: first, tier: platform, counter: %s1}
  - {name: second, counter: %s2, action: allow}
  - {name: third, tier: app, counter: %s3, action: allow}
  - {name: keep1, tier: app, protocol: 255, counter: a1}
  - {name: keep2, tier: app, protocol: 255, counter: a2}
  - {name: keep3, tier: app, protocol: 255, counter: a3}
  - {name: keep4, tier: app, protocol: 255, counter: b1}
  - {name: keep5, tier: app, protocol: 255, counter: b2}
  - {name: keep6, tier: app, protocol: 255, counter: b3}
"""


def no_packet_meets_two_revisions(rig):
    """Each revision marks a packet in every tier: under load all marks of a revision are equal, and none is missing."""
    rig.usherd(ECHO)
    rig.answers("b", A4, 7)
    paths = [rig.path(f"{n}.yaml", MARKERS % (n, n, n)) for n in "ab"]
    ctl(rig, "policy", "apply", paths[0])
    done, sent = threading.Event(), []

    def flood():
        s = rig.kernel_socket("b", socket.AF_INET)
        s.connect((A4, 7))
        s.setblocking(False)
        count = 0
        while not done.is_set():
            try:
                s.send(b"x")
                count += 1
                s.recv(16)
            except OSError:
                pass
        sent.append(count)
    senders = [threading.Thread(target=flood) for _ in range(2)]
    for t in senders:
        t.start()
    for turn in range(20):
        ctl(rig, "policy", "apply", paths[1 - turn % 2])
    done.set()
    for t in senders:
        t.join()

    def counted():
        found = json.loads(ctl(rig, "-o", "json", "policy", "counters"))["counters"]
        return {c["name"]: c["packets"] for c in found}
    before = until("all is quiet", lambda: (lambda c: c if c == counted() else None)(counted()))
    for n in "ab":
        check(before[f"{n}1"] == before[f"{n}2"] == before[f"{n}3"] > 0, before)
    engine = json.loads(ctl(rig, "-o", "json", "engines", "filter"))["engines"][0]["counters"]
    judged = [c["value"] for c in engine if c["name"] == "judged_packets"][0]
    check(before["a1"] + before["b1"] == judged, f"{before}, {judged} judged, {sent} sent")


ASKS = """
import errno, socket, sys
for port in map(int, sys.argv[2:]):
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        s = socket.socket(socket.AF_INET, kind)
        s.settimeout(3)
        try:
            s.connect((sys.argv[1], port))
            s.send(b"x")
            s.recv(1)
            s.send(b"x")
            print(port, "passes")
        except OSError as e:
            print(port, errno.errorcode.get(e.errno, type(e).__name__))
"""


def programs_are_told_what_the_rule_says(rig):
    usherd = rig.usherd(ECHO)
    actions = {9001: "reject", 9002: "reject, reject_with: admin", 9003: "reject, reject_with: host", 9004: "drop"}
    rules = [f"  - {{name: r{port}, direction: out, to: {B4}, to_port: {port}, action: {action}}}\n"
             for port, action in actions.items()]
    rules[0] = rules[0].replace("}", ", log: yes}")
    ctl(rig, "policy", "apply", rig.path("rules.yaml", "rules:\n" + "".join(rules)))
    for port in range(9001, 9005):
        text = ctl(rig, "policy", "explain", "--out", "--to", f"{B4}:{port}", "--user", 0)
        check(f"rule r{port}" in text, text)
    p = under(rig, "python3", rig.path("asks.py", ASKS), B4, *range(9001, 9005))
    p.end(0)
    told = dict.fromkeys(range(9001, 9005), ())
    for line in p.lines:
        if line[:4].isdigit():
            told[int(line[:4])] += (line[5:],)
    # A connection that is being made goes on trying where the kernel's does.
    want = {9001: ("ECONNREFUSED",) * 2, 9002: ("EACCES",) * 2, 9003: ("EHOSTUNREACH", "TimeoutError"),
            9004: ("EPERM", "TimeoutError")}
    check(told == want, p.text())
    usherd.says("policy.log: r9001: reject out protocol 17 10.99.0.1:")
    usherd.says("> 10.99.0.2:9001, python3 pid")


sys.exit(main([mistakes_prevent_the_start, users_are_told_apart, what_comes_in_is_judged_by_its_owner,
               a_policy_is_replaced_under_traffic, an_unconfirmed_change_goes_back, the_file_and_the_operators_agree,
               sets_change_and_packets_are_explained, gaps_are_refused_or_shown, the_file_comes_with_its_gaps,
               firewalls_become_policies, marks_reach_the_frames,
               no_packet_meets_two_revisions, programs_are_told_what_the_rule_says]))
