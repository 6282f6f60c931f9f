#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""usherd and its service manager, played by this test: readiness, watchdog, fd store, socket activation, reload."""
import array
import fcntl
import os
import re
import signal
import socket
import sys
import threading

from rig import B4, Process, check, main, until

CONFIG = "interfaces: [{name: va}]\nkeeper: {mode: auto}\n"


class Manager:
    """systemd's end of the notification socket, read by a thread as systemd would: whoever sends never waits long.
    Keeps what is stored, by name."""

    def __init__(self, rig):
        self.path = rig.path("notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        rig.sockets.append(self.socket)
        self.messages, self.store, self.faults = [], {}, []
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        while True:
            try:
                data, control, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(16 * 4))
            except OSError:
                return
            fds = array.array("i")
            for _, _, content in control:
                fds.frombytes(content)
            text = data.decode()
            self.keep(dict(line.split("=", 1) for line in text.splitlines()), list(fds))
            self.messages.append(text)

    def keep(self, fields, fds):
        if "FDSTOREREMOVE" in fields:
            for fd in self.store.pop(fields["FDNAME"], []):
                os.close(fd)
        if "FDSTORE" in fields:
            if fields.get("FDPOLL") != "0":
                self.faults.append(f"{fields} is dropped as soon as its peer hangs up")
            # Out of the way of the numbers that passed fds will have.
            self.store.setdefault(fields["FDNAME"], []).extend(
                fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in fds)
            for fd in fds:
                os.close(fd)

    def heard(self, words):
        until(f"usherd says {words}", lambda: [m for m in list(self.messages) if words in m])
        check(not self.faults, self.faults)


def start(rig, manager, config=CONFIG, fds=(), names=(), env=None):
    """usherd as systemd starts it: passed fds begin at 3, LISTEN_PID is its own."""
    variables = {"NOTIFY_SOCKET": manager.path, "INVOCATION_ID": "0123456789abcdef0123456789abcdef",
                 "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(names), **(env or {})}
    words = " ".join(f"{k}='{v}'" for k, v in variables.items())
    fds = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in fds]
    moves = " ".join(f"{3 + i}<&{fd}" for i, fd in enumerate(fds))
    command = " ".join(rig.inside("a", [f"{rig.bin}/usherd", *rig.usherd_args(config)]))
    p = Process(["bash", "-c", f"exec {moves}; export {words}; exec sh -c 'LISTEN_PID=$$ exec {command}'"],
                pass_fds=fds)
    for fd in fds:
        os.close(fd)
    rig.processes.append(p)
    return p


def ready_when_programs_can_attach(rig):
    manager = Manager(rig)
    usherd = start(rig, manager)
    manager.heard("READY=1")
    check(f"MAINPID={usherd.pid}" in "\n".join(manager.messages), manager.messages)
    rig.kernel_echo("b", 9000)
    check("carried by usherd" in rig.ping("--count", 5, f"{B4}:9000", answered=5), "it serves")
    check(usherd.end() == 0, usherd.text())
    manager.heard("STOPPING=1")


def watchdog_is_fed(rig):
    manager = Manager(rig)
    usherd = start(rig, manager, env={"WATCHDOG_USEC": "200000"})
    manager.heard("READY=1")
    until("it is fed a few times", lambda: sum("WATCHDOG=1" in m for m in manager.messages) >= 4)
    check("watchdog:" not in usherd.text(), usherd.text())
    check(usherd.end() == 0, usherd.text())


def store_outlives_a_crash(rig):
    manager = Manager(rig)
    usherd = start(rig, manager)
    manager.heard("READY=1")
    rig.kernel_echo("b", 9000)
    rig.ping("--count", 5, f"{B4}:9000", answered=5)
    until("claims are stored", lambda: manager.store)
    usherd.end(signal.SIGKILL)
    names = sorted(manager.store)
    fds = [manager.store[n][0] for n in names]
    manager.messages.clear()
    usherd = start(rig, manager, fds=fds, names=names)
    manager.heard("READY=1")
    check("adopt" in usherd.text() and "were taken over" in usherd.text(), usherd.text())
    check("carried by usherd" in rig.ping("--count", 5, f"{B4}:9000", answered=5), "and it serves")
    check(usherd.end() == 0, usherd.text())
    until("an orderly stop leaves nothing in the store", lambda: not manager.store)


def sockets_may_be_passed(rig):
    manager = Manager(rig)
    os.makedirs(f"{rig.dir}/run", exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(rig.session)
        listener.listen(8)
        usherd = start(rig, manager, fds=[listener.fileno()], names=["session"])
        manager.heard("READY=1")
        rig.kernel_echo("b", 9000)
        check("carried by usherd" in rig.ping("--count", 5, f"{B4}:9000", answered=5), "by the passed socket")
        check(usherd.end() == 0, usherd.text())
        check(os.path.exists(rig.session), "a passed socket stays: it is the manager's")


def reload_says_what_it_did(rig):
    manager = Manager(rig)
    usherd = start(rig, manager)
    manager.heard("READY=1")
    rig.path("usherd.yaml", CONFIG + "log: {level: debug}\nruntime: {spin_us: 7}\n")
    manager.messages.clear()
    os.kill(usherd.pid, signal.SIGHUP)
    manager.heard("RELOADING=1\nMONOTONIC_USEC=")
    manager.heard("READY=1\nSTATUS=serving; a restart is needed for: runtime.spin_us")
    usherd.says("reload: the settings were read again; changed: log.level")
    usherd.says("reload: takes effect at a restart of usherd: runtime.spin_us")
    rig.path("usherd.yaml", "nonsense: 1\n")
    os.kill(usherd.pid, signal.SIGHUP)
    usherd.says("the settings are wrong; nothing was changed")
    check(usherd.end() == 0, usherd.text())


def rights_are_given_up(rig):
    usherd = rig.usherd()
    with open(f"/proc/{usherd.pid}/status", encoding="ascii") as f:
        status = dict(re.findall(r"^(\w+):\s+(.*)$", f.read(), re.M))
    check(status["NoNewPrivs"] == "1", "no new privileges")
    # chown, net_bind_service, net_admin, net_raw, ipc_lock, sys_ptrace, perfmon, bpf
    kept = {0, 10, 12, 13, 14, 19, 38, 39}
    for which in ("CapEff", "CapPrm", "CapBnd"):
        bits = {i for i in range(64) if int(status[which], 16) >> i & 1}
        check(bits <= kept, f"{which} holds {sorted(bits - kept)} as well")


sys.exit(main([ready_when_programs_can_attach, watchdog_is_fed, store_outlives_a_crash, sockets_may_be_passed,
               reload_says_what_it_did, rights_are_given_up]))
