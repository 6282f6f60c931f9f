#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The control service as a stranger's client sees it: grpc-js, in test/e2e/control.

    host a: usherd + client (UNIX socket, and TLS on loopback)     host b: peers of usherd's sockets
"""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

from rig import A4, B4, Failed, check, main, run, until

HERE = os.path.dirname(os.path.abspath(__file__))
PROTO = os.path.normpath(f"{HERE}/../../proto")
NOBODY, DAEMON = 65534, 1


def install(build):
    """The pinned packages, once for each build folder. A sentence when they cannot be had."""
    folder = f"{build}/control-client"
    lock = f"{HERE}/control/package-lock.json"
    if shutil.which("node") is None or shutil.which("npm") is None:
        return None, "node and npm are needed for a third-party client; run tools/install-deps"
    with open(lock, encoding="utf-8") as f:
        wanted = f.read()
    try:
        with open(f"{folder}/installed", encoding="utf-8") as f:
            if f.read() == wanted:
                return folder, None
    except OSError:
        pass
    os.makedirs(folder, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(f"{HERE}/control/{name}", folder)
    try:
        done = subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, timeout=60,
                              capture_output=True, text=True, check=False)
    except subprocess.TimeoutExpired:
        return None, "npm did not answer within 60 s; is its registry reachable?"
    if done.returncode != 0:
        return None, f"npm cannot install grpc-js: {done.stderr.strip().splitlines()[-1:]}"
    with open(f"{folder}/installed", "w", encoding="utf-8") as f:
        f.write(wanted)
    return folder, None


MODULES = [None]


def control_socket(rig):
    return f"unix://{rig.dir}/run/control.sock"


def command(rig, scenario, uid, args):
    a = {"target": control_socket(rig), "proto": PROTO, **args}
    user = [] if uid == 0 else ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    env = [f"USHER_NODE_MODULES={MODULES[0]}/node_modules"]
    return user + ["env", *env, "node", f"{HERE}/control/scenarios.js", scenario, json.dumps(a)]


def does(rig, scenario, uid=0, **args):
    done = subprocess.run(rig.inside("a", command(rig, scenario, uid, args)), capture_output=True, text=True,
                          timeout=90, check=False)
    check(done.returncode == 0, f"{scenario}: {done.stdout}{done.stderr}")


SETTINGS = "interfaces: [{name: va}]\nkeeper: {mode: off}\ncontrol: {mode: 0666, %s}\n"


def asks_and_errors(rig):
    p = rig.usherd()
    does(rig, "basics")
    does(rig, "workers")
    does(rig, "streams")
    check("audit: root (admin, unix uid 0" in p.text(), "changes leave audit records")
    check(p.end() == 0, "usherd ends in order")


def learns_by_reflection(rig):
    rig.usherd()
    does(rig, "reflection")


def survives_hostile_messages(rig):
    p = rig.usherd()
    does(rig, "hostile")
    check(p.child.poll() is None, "usherd is gone")


def lists_and_kills(rig):
    p = rig.usherd()
    rig.client("udp-echo", "0.0.0.0:7001").says("carried by usherd")
    server = rig.client("tcp-echo", "0.0.0.0:7002")
    server.says("carried by usherd")
    s = rig.kernel_socket("b", socket.AF_INET, socket.SOCK_STREAM)
    s.connect((A4, 7002))
    s.sendall(b"hello")
    check(s.recv(16) == b"hello", "the echo answers")
    does(rig, "list", sessions=2, peer=B4)
    try:
        check(s.recv(16) == b"", "a killed stream is not open")
        raise Failed("a killed stream was closed instead of reset")
    except ConnectionResetError:
        pass
    check("the operator ended it" in p.text(), p.text())
    s = rig.kernel_socket("b", socket.AF_INET, socket.SOCK_STREAM)
    s.connect((A4, 7002))
    s.sendall(b"again")
    check(s.recv(16) == b"again" and server.child.poll() is None, "the server has lost one connection and serves on")


def serves_a_crowd(rig):
    """200 streams, a part of them not read, and their client killed in the midst: the data path goes on."""
    p = rig.usherd()
    rig.client("udp-echo", "0.0.0.0:7001").says("carried by usherd")
    crowd = subprocess.Popen(rig.inside("a", command(rig, "crowd", 0, {"count": 200})), stdout=subprocess.PIPE,
                             text=True, start_new_session=True)
    try:
        check(crowd.stdout.readline().strip() == "streaming", "200 streams begin")
        rig.answers("b", A4, 7001)
        rig.answers("b", A4, 7001)
    finally:
        os.killpg(crowd.pid, signal.SIGKILL)
        crowd.wait()
        crowd.stdout.close()
    rig.answers("b", A4, 7001)
    does(rig, "limits", calls=256, rate=0)
    check(p.child.poll() is None, "usherd is gone")


def keeps_limits(rig):
    rig.usherd(SETTINGS % "caller_calls: 20, caller_rate: 50")
    does(rig, "limits", calls=20, rate=50)


def gives_roles(rig):
    os.chmod(rig.dir, 0o755)
    p = rig.usherd(SETTINGS % "roles: [{role: viewer, users: [nobody]}]")
    does(rig, "viewer", uid=NOBODY)
    check("audit: nobody (viewer" in p.text() and "refused (7)" in p.text(), f"a refusal is audited: {p.text()}")
    does(rig, "refused", uid=DAEMON)
    check("control.refuse" in p.text(), "a caller without a role is told of")


def certificates(rig):
    folder = f"{rig.dir}/certs"
    os.mkdir(folder)

    def openssl(*args):
        run(["openssl", *args])

    def authority(name):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                "-subj", f"/CN={name}", "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem")

    def leaf(name, issuer, subject, alternative):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={subject}",
                "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.csr")
        extensions = rig.path("certs/ext", f"subjectAltName={alternative}\n")
        openssl("x509", "-req", "-in", f"{folder}/{name}.csr", "-CA", f"{folder}/{issuer}.pem", "-CAkey",
                f"{folder}/{issuer}.key", "-CAcreateserial", "-days", "2", "-extfile", extensions, "-out",
                f"{folder}/{name}.pem")
    authority("ca")
    authority("other")
    leaf("server", "ca", "usherd", "DNS:localhost,IP:127.0.0.1")
    leaf("admin", "ca", "somebody", "DNS:ops.example")
    leaf("stranger", "ca", "stranger", "DNS:stranger.example")
    leaf("renewed", "other", "usherd", "DNS:localhost,IP:127.0.0.1")
    leaf("foreign", "other", "somebody", "DNS:ops.example")
    return folder


def asks_for_certificates(rig):
    folder = certificates(rig)
    p = rig.usherd(SETTINGS % ("roles: [{role: admin, names: [ops.example]}], tls: {address: '127.0.0.1:9480', "
                               f"certificate: {folder}/server.pem, key: {folder}/server.key, "
                               f"client_ca: {folder}/ca.pem}}"))
    does(rig, "tls", target="127.0.0.1:9480", certs=folder)
    # Renewed under way: the running core shows the new one to whoever connects.
    for kind in ("key", "pem"):
        os.rename(f"{folder}/renewed.{kind}", f"{folder}/server.{kind}")
    p.says("new connections see the new ones")
    does(rig, "renewed", target="127.0.0.1:9480", certs=folder)
    check(p.child.poll() is None, "usherd is gone")


def threads(p):
    return len(os.listdir(f"/proc/{p.pid}/task"))


def switches(p):
    total = 0
    for task in os.listdir(f"/proc/{p.pid}/task"):
        with open(f"/proc/{p.pid}/task/{task}/status", encoding="utf-8") as f:
            total += sum(int(line.split()[1]) for line in f if "ctxt_switches" in line)
    return total


def sleeps_when_nobody_asks(rig):
    p = rig.usherd(SETTINGS % "idle_stop: 500ms")
    quiet = threads(p)
    does(rig, "basics")
    check(threads(p) > quiet, "the core has threads while it runs")
    until("the core has ended", lambda: threads(p) == quiet)
    before, seconds = switches(p), 5
    time.sleep(seconds)
    woken = switches(p) - before
    check(woken < seconds, f"an idle usherd was woken {woken} times in {seconds} s")
    does(rig, "basics")


def drains_and_ends(rig):
    p = rig.usherd()
    rig.client("udp-echo", "0.0.0.0:7001").says("carried by usherd")
    does(rig, "drain")
    check(p.end(0) == 0, "usherd ends in order")
    check("audit: " in p.text() and "Daemon/Shutdown" in p.text(), "the end is audited")


if __name__ == "__main__":
    MODULES[0], reason = install(os.path.dirname(os.path.abspath(sys.argv[1])))
    if reason is not None:
        print(f"SKIPPED: {reason}")
        sys.exit(0)
    sys.exit(main([asks_and_errors, learns_by_reflection, survives_hostile_messages, lists_and_kills, serves_a_crowd,
                   keeps_limits, gives_roles, asks_for_certificates, sleeps_when_nobody_asks, drains_and_ends]))
