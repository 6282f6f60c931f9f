#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Ends of all kinds: of clients, of usherd, with and without a keeper."""
import errno
import os
import signal
import socket
import sys
import time

from rig import A4, B4, WAIT, Process, check, main, run, until

KEPT = "interfaces: [{name: va}]\nkeeper: {mode: on, recovery_grace: %s}\necho: {ports: [7777]}\n"


def refused(rig, port):
    return isinstance(rig.asks("b", A4, port), ConnectionRefusedError)


def killed_client_loses_its_claim(rig):
    usherd = rig.usherd()
    server = rig.client("udp-echo", ":7000")
    rig.answers("b", A4, 7000)
    # A claimed port without a socket behind it would be silent; the kernel's refusal shows that the claim is away.
    server.end(signal.SIGKILL)
    until("the kernel refuses the port again", lambda: refused(rig, 7000))
    usherd.says("session.end")
    rig.client("udp-echo", ":7000")
    rig.answers("b", A4, 7000)


def a_killed_client_frees_all_at_once(rig):
    """Its peers hear of it, and the kernel has its ports again."""
    usherd = rig.usherd()
    server = rig.client("tcp-echo", "0.0.0.0:7002")
    server.says("carried by usherd")
    peers = [rig.kernel_socket("b", socket.AF_INET, socket.SOCK_STREAM) for _ in range(20)]
    for s in peers:
        s.connect((A4, 7002))
        s.sendall(b"hello")
        check(s.recv(5) == b"hello", "it echoes")
    began = time.monotonic()
    server.child.send_signal(signal.SIGKILL)
    for s in peers:
        try:
            check(s.recv(5) == b"", "nobody answers")
        except ConnectionResetError:
            pass
    told = time.monotonic() - began

    def port_refused():
        s = rig.kernel_socket("b", socket.AF_INET, socket.SOCK_STREAM)
        try:
            return s.connect_ex((A4, 7002)) == errno.ECONNREFUSED
        finally:
            s.close()
            rig.sockets.remove(s)
    until("the kernel refuses the port", port_refused)
    free = time.monotonic() - began
    print(f"        20 peers knew within {told * 1e3:.1f} ms, all was free within {free * 1e3:.1f} ms")
    usherd.says("session.end")
    rig.client("tcp-echo", "0.0.0.0:7002").says("carried by usherd")


def orderly_stop_leaves_nothing(rig):
    before = rig.ip("a", "-d link show va"), run(rig.inside("a", ["tc", "qdisc", "show"])).stdout
    usherd = rig.usherd(KEPT % "10s")
    rig.kernel_echo("b", 9000)
    rig.ping("--count", 10, f"{B4}:9000", answered=10)
    check(usherd.end() == 0, usherd.text())
    check(refused(rig, 7777), "the kernel answers for the echo port again")
    until("the keeper has ended", lambda: not rig.keepers())
    after = rig.ip("a", "-d link show va"), run(rig.inside("a", ["tc", "qdisc", "show"])).stdout
    check(before == after, f"left behind:\n{before}\n{after}")
    check("managed" not in rig.ip("a", "neigh show"), "a managed neighbour was left")
    check(os.listdir(f"{rig.dir}/run") == [], f"left in run_dir: {os.listdir(f'{rig.dir}/run')}")
    check(not [f for f in os.listdir(f"{rig.dir}/state") if f.endswith(".state")], "a state file was left")


def clients_go_on_over_the_kernel(rig):
    usherd = rig.usherd()
    server = rig.client("udp-echo", ":7000")
    rig.answers("b", A4, 7000)
    usherd.end(signal.SIGKILL)
    server.says("going on over the kernel")
    rig.answers("b", A4, 7000)


def without_keeper_a_kill_frees_all(rig):
    usherd = rig.usherd("interfaces: [{name: va}]\nkeeper: {mode: off}\necho: {ports: [7777]}\n")
    rig.answers("b", A4, 7777)
    usherd.end(signal.SIGKILL)
    until("the kernel refuses the port", lambda: refused(rig, 7777))
    second = rig.usherd("interfaces: [{name: va}]\nkeeper: {mode: off}\necho: {ports: [7777]}\n")
    rig.answers("b", A4, 7777)
    check(second.end() == 0, second.text())


def keeper_holds_until_a_successor_comes(rig):
    usherd = rig.usherd(KEPT % "60s")
    rig.answers("b", A4, 7777)
    usherd.end(signal.SIGKILL)
    for _ in range(3):
        check(rig.asks("b", A4, 7777, timeout=0.3) is None, "claimed packets are kept from the kernel")
    second = rig.usherd(KEPT % "60s")
    check("kernel objects of the predecessor were taken over" in second.text(), second.text())
    rig.answers("b", A4, 7777)
    check(second.end() == 0, second.text())
    check(refused(rig, 7777), "and an orderly stop lets go")
    until("the keeper has ended", lambda: not rig.keepers())


def keeper_gives_up_after_the_grace(rig):
    usherd = rig.usherd(KEPT % "1s")
    rig.kernel_echo("b", 9000)
    rig.ping("--count", 10, f"{B4}:9000", answered=10)
    usherd.end(signal.SIGKILL)
    check("managed" in rig.ip("a", "neigh show"), "the next hop was managed")
    until("the kernel refuses the port", lambda: refused(rig, 7777))
    until("the keeper has ended", lambda: not rig.keepers())
    until("cleanup released the next hop", lambda: "managed" not in rig.ip("a", "neigh show"))


def cleanup_ends_a_keeper(rig):
    usherd = rig.usherd(KEPT % "60s")
    args = rig.usherd_args(KEPT % "60s")
    busy = run(rig.inside("a", [f"{rig.bin}/usherd", "--cleanup", *args]), ok=None)
    check(busy.returncode == 1 and "stop it first" in busy.stderr, f"refused while it runs: {busy.stderr}")
    rig.answers("b", A4, 7777)
    usherd.end(signal.SIGKILL)
    check(rig.asks("b", A4, 7777, timeout=0.3) is None, "kept")
    until("cleanup is done", lambda: run(rig.inside("a", [f"{rig.bin}/usherd", "--cleanup", *args]),
                                         ok=None).returncode == 0)
    until("the kernel refuses the port", lambda: refused(rig, 7777))
    until("the keeper has ended", lambda: not rig.keepers())


def a_dead_keeper_is_replaced(rig):
    usherd = rig.usherd(KEPT % "60s")
    old = rig.keepers()
    check(len(old) == 1, f"one keeper: {old}")
    os.kill(old[0], signal.SIGKILL)
    usherd.says("takes its place")
    rig.answers("b", A4, 7777)
    usherd.end(signal.SIGKILL)
    check(rig.asks("b", A4, 7777, timeout=0.3) is None, "the new one keeps")
    second = rig.usherd(KEPT % "60s")
    rig.answers("b", A4, 7777)
    check(second.end() == 0, second.text())


def systemd_is_told(rig):
    path = rig.path("notify")
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.bind(path)
    s.settimeout(WAIT)
    config = "interfaces: [{name: va}]\nkeeper: {mode: auto}\n"
    usherd = Process(rig.inside("a", ["env", f"NOTIFY_SOCKET={path}", "INVOCATION_ID=1", f"{rig.bin}/usherd",
                                      *rig.usherd_args(config)]))
    rig.processes.append(usherd)
    heard = []
    def hears(words):
        while not any(words in h for h in heard):
            heard.append(s.recv(4096).decode())
    hears("READY=1")
    check(any("FDSTORE=1\nFDPOLL=0\nFDNAME=claims" in h for h in heard), f"the fd store holds the claims: {heard}")
    check(not rig.keepers(), "no keeper where systemd has an fd store")
    usherd.child.terminate()
    hears("STOPPING=1")
    hears("FDSTOREREMOVE=1\nFDNAME=claims")
    check(any("FDNAME=dataplane.keys.0" in h for h in heard), f"and what connections live in: {heard}")
    s.settimeout(0.1)
    while usherd.child.poll() is None: # it waits for room when nobody listens
        try:
            s.recv(4096)
        except TimeoutError:
            pass
    check(usherd.end() == 0, usherd.text())
    s.close()


def one_usherd_in_a_namespace(rig):
    rig.usherd()
    second = rig.start("a", "usherd", *rig.usherd_args("keeper: {mode: off}\n"))
    check(second.end(0) == 1, second.text())
    check("already runs in this network namespace" in second.text(), second.text())


sys.exit(main([killed_client_loses_its_claim, a_killed_client_frees_all_at_once, orderly_stop_leaves_nothing,
               clients_go_on_over_the_kernel, without_keeper_a_kill_frees_all, keeper_holds_until_a_successor_comes,
               keeper_gives_up_after_the_grace, cleanup_ends_a_keeper, a_dead_keeper_is_replaced, systemd_is_told,
               one_usherd_in_a_namespace]))
