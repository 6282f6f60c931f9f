#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What Prometheus sees: the metrics of a usherd at work, judged by promtool, and a dashboard that asks for no other."""
import json
import os
import re
import shutil
import signal
import socket
import sys

from rig import B4, check, main, run, until

PACKAGING = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../packaging")
CONFIG = "interfaces: [{name: va}]\nkeeper: {mode: off}\nmetrics: {listen: %s}\n"


def scrape(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(10)
        s.connect(path)
        s.sendall(b"GET /metrics HTTP/1.1\r\nHost: usherd\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: s.recv(65536), b"")).decode()
    head, _, body = answer.partition("\r\n\r\n")
    check(head.startswith("HTTP/1.1 200 "), head)
    return body


def values(text):
    """Samples by name, summed over their labels."""
    sums = {}
    for line in text.splitlines():
        m = re.match(r"([a-z_0-9]+)(?:\{.*\})? ([0-9.]+)$", line)
        if m:
            sums[m[1]] = sums.get(m[1], 0) + float(m[2])
    return sums


def traffic_is_counted(rig):
    path = rig.path("metrics.sock")
    rig.kernel_echo("b", 9000)
    usherd = rig.usherd(CONFIG % path)
    before = values(scrape(path))
    rig.ping("--count", 50, f"{B4}:9000", answered=50)
    # A scrape that follows at once gets the same text.
    after = until("the scrape is a new one", lambda: (v := values(scrape(path))) != before and v)
    for name, least in (("usher_port_receive_packets_total", 50), ("usher_port_transmit_packets_total", 50),
                        ("usher_shard_to_session_packets_total", 50), ("usher_udp_rx_packets_total", 50),
                        ("usher_sessions_attached_total", 1), ("usher_worker_busy_turns_total", 1)):
        check(after[name] - before[name] >= least, f"{name}: {before[name]}, then {after[name]}")
    check(after["usher_worker_running"] >= 1 and after["usher_port_up"] == 1, "gauges")
    check(usherd.end() == 0 and not os.path.exists(path), "the socket is gone with usherd")


def promtool_agrees(rig):
    if shutil.which("promtool") is None:
        print("        SKIPPED: promtool is not installed; tools/install-deps installs it")
        return
    path = rig.path("metrics.sock")
    rig.usherd(CONFIG % path)
    done = run(["sh", "-c", f"curl -s --unix-socket {path} http://usherd/metrics | promtool check metrics"], ok=None)
    check(done.returncode == 0, f"promtool: {done.stdout}{done.stderr}")


def operators_are_counted(rig):
    path = rig.path("metrics.sock")
    rig.usherd(CONFIG % path)
    ctl = [f"{rig.bin}/usherctl", "--socket", f"{rig.dir}/run/control.sock"]
    for words in (["status"], ["status"], ["kill-session", "4711"]):
        run(rig.inside("a", [*ctl, *words]), ok=None)
    watch = rig.start("a", "usherctl", *ctl[1:], "events")
    name = 'usher_control_calls_total{service="usher.control.v1.%s",method="%s",code="%s"} %d'
    wanted = [name % ("Daemon", "GetInfo", "OK", 2), name % ("Sessions", "Kill", "NOT_FOUND", 1),
              'usher_control_refused_total{what="role"} 0', "usher_control_core_running 1"]
    text = until("the calls are counted", lambda: (t := scrape(path)) and all(w in t for w in wanted) and t)
    until("the stream is counted", lambda: values(scrape(path)).get("usher_control_calls") == 1)
    watch.end(signal.SIGINT)
    stream = 'usher_control_streams{service="usher.control.v1.Events",method="Watch"} 0'
    until("and its end", lambda: stream in scrape(path))
    check(text.count("usher_control_calls_total{") < 10, "what never happened has no line")


def dashboard_asks_for_what_there_is(rig):
    path = rig.path("metrics.sock")
    rig.usherd(CONFIG % path)
    run(rig.inside("a", [f"{rig.bin}/usherctl", "--socket", f"{rig.dir}/run/control.sock", "counters"]))
    until("a call is counted", lambda: "usher_control_calls_total{" in scrape(path))
    there = values(scrape(path))
    with open(f"{PACKAGING}/grafana-dashboard.json", encoding="utf-8") as f:
        text = f.read()
    asked = set(re.findall(r"\b(?:usher|process)_[a-z0-9_]+", " ".join(
        t["expr"] for p in json.loads(text)["panels"] for t in p.get("targets", []))))
    check(len(asked) > 20, f"only {len(asked)} metrics are shown")
    check(not asked - there.keys(), f"no such metrics: {sorted(asked - there.keys())}")


def loopback_serves_and_others_are_refused(rig):
    usherd = rig.usherd(CONFIG % "127.0.0.1:9477")
    done = run(rig.inside("a", ["curl", "-s", "http://127.0.0.1:9477/metrics"]))
    check("usher_build_info{" in done.stdout, done.stdout)
    check(usherd.end() == 0, usherd.text())
    done = run([f"{rig.bin}/usherd", "--check-config", "--config", rig.path("bad.yaml", CONFIG % "10.99.0.1:9477")],
               ok=None)
    check(done.returncode == 2 and "metrics.listen: must be 127.0.0.1:PORT" in done.stderr, done.stderr)


sys.exit(main([traffic_is_counted, promtool_agrees, operators_are_counted, dashboard_asks_for_what_there_is,
               loopback_serves_and_others_are_refused]))
