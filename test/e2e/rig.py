# SPDX-License-Identifier: Apache-2.0
"""Two hosts in two network namespaces, and what every end-to-end test needs.

       a: usherd                         b: the kernel alone
    10.99.0.1/24 va --------- veth --------- vb 10.99.0.2/24
    fd99::1/64                                  fd99::2/64

Namespaces, folders and processes have names of their own and are removed on any exit. Waiting is always for a condition
and bounded; no test measures time.
"""
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LIBC = ctypes.CDLL(None, use_errno=True)
A4, B4, A6, B6 = "10.99.0.1", "10.99.0.2", "fd99::1", "fd99::2"
WAIT = 20  # seconds; generous, because the machine may be busy


class Failed(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Failed(text)


def run(command, ok=(0,)):
    done = subprocess.run(command, shell=isinstance(command, str), capture_output=True, text=True, timeout=60)
    check(ok is None or done.returncode in ok, f"{command}: exit {done.returncode}: {done.stderr or done.stdout}")
    return done


def until(what, condition, seconds=WAIT):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise Failed(f"waited {seconds} s in vain until {what}")


class Process:
    """A program with its output collected; killed by its own pid."""

    def __init__(self, command, pass_fds=()):
        self.command = " ".join(command)
        # It does not outlive a test that is killed itself.
        self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, text=True, start_new_session=True,
                                      pass_fds=pass_fds,
                                      preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
        self.lines = []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.child.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def pid(self):
        return self.child.pid

    def text(self):
        return "\n".join(self.lines)

    def says(self, words, seconds=WAIT):
        def said():
            check(self.child.poll() is None or words in self.text(), f"{self.command} ended early:\n{self.text()}")
            return words in self.text()
        try:
            until(f"{self.command} says \"{words}\"", said, seconds)
        except Failed as f:
            raise Failed(f"{f}; it said:\n{self.text()}") from None

    def end(self, sig=signal.SIGTERM, seconds=WAIT):
        if self.child.poll() is None:
            self.child.send_signal(sig)
        try:
            code = self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.child.kill()
            raise Failed(f"{self.command} did not end within {seconds} s:\n{self.text()}") from None
        self.reader.join(2)
        return code


class Rig:
    def __init__(self, bin_dir, number):
        self.bin = bin_dir
        self.tag = f"ush{os.getpid() % 100000}x{number}"
        self.dir = tempfile.mkdtemp(prefix="usher-e2e-")
        self.processes, self.sockets, self.threads = [], [], []
        self.stopping = False

    def __enter__(self):
        for host in "ab":
            run(["ip", "netns", "add", self.ns(host)])
            # While a link-local address is tentative the kernel asks for no IPv6 neighbour.
            run(self.inside(host, ["sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0",
                                   "net.ipv6.conf.all.accept_dad=0"]))
        run(f"ip link add va netns {self.ns('a')} type veth peer name vb netns {self.ns('b')}")
        for host, v4, v6 in (("a", A4, A6), ("b", B4, B6)):
            self.ip(host, f"link set lo up")
            self.ip(host, f"addr add {v4}/24 dev v{host}")
            self.ip(host, f"-6 addr add {v6}/64 dev v{host} nodad")
            self.ip(host, f"link set v{host} up")
        # A fresh link joins its IPv6 groups late, and until then nobody answers for its addresses.
        for host, peer in (("a", B6), ("b", A6)):
            until(f"host {host} reaches {peer}", lambda: isinstance(self.asks(host, peer, 9), ConnectionRefusedError))
        for host in "ab":
            self.ip(host, f"neigh flush dev v{host}")
        return self

    def __exit__(self, *_):
        self.stopping = True
        for p in reversed(self.processes):
            if p.child.poll() is None:
                p.child.kill()
                p.child.wait()
        self.keepers_end()
        self.orphans_end()
        for s in self.sockets:
            s.close()
        for host in "ab":
            subprocess.run(["ip", "netns", "del", self.ns(host)], capture_output=True, check=False)
        shutil.rmtree(self.dir, ignore_errors=True)

    def orphans_end(self):
        """What the programs have left running: workers, children that became daemons. All of it is ours to reap."""
        known = {p.pid for p in self.processes}
        for _ in range(100):
            found = []
            for task in os.listdir("/proc/self/task"):
                try:
                    with open(f"/proc/self/task/{task}/children", encoding="ascii") as f:
                        found += [int(pid) for pid in f.read().split() if int(pid) not in known]
                except FileNotFoundError:
                    continue  # a thread of ours that has ended; its children are another's now
            if not found:
                return
            for pid in found:
                try:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                except (ProcessLookupError, ChildProcessError):
                    pass

    def keepers(self):
        """Pids of keepers that serve this rig's run folder."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    words = f.read().split(b"\0")
            except OSError:
                continue
            if words[0].endswith(b"/usher-keeper") and f"{self.dir}/run/keeper.sock".encode() in words:
                found.append(int(pid))
        return found

    def keepers_end(self):
        for pid in self.keepers():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def ns(self, host):
        return f"{self.tag}{host}"

    def ip(self, host, words):
        return run(f"ip -n {self.ns(host)} {words}").stdout

    def inside(self, host, command):
        return ["ip", "netns", "exec", self.ns(host)] + command

    def start(self, host, program, *args):
        p = Process(self.inside(host, [f"{self.bin}/{program}", *map(str, args)]))
        self.processes.append(p)
        return p

    def start_command(self, host, command):
        """A program of the system."""
        p = Process(self.inside(host, command))
        self.processes.append(p)
        return p

    def path(self, name, text=None):
        path = f"{self.dir}/{name}"
        if text is not None:
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
        return path

    @property
    def session(self):
        return f"{self.dir}/run/session.sock"

    def usherd_args(self, config):
        return ["--config", self.path("usherd.yaml", config), "--run-dir", f"{self.dir}/run",
                "--state-dir", f"{self.dir}/state"]

    def usherd(self, config="interfaces: [{name: va}]\nkeeper: {mode: off}\n"):
        p = self.start("a", "usherd", *self.usherd_args(config))
        p.says("info: ready:")
        return p

    def client(self, program, *args):
        return self.start("a", program, "--socket", self.session, *args)

    def ping(self, *args, answered=None):
        """udp-ping on host a; returns its report."""
        p = self.client("udp-ping", *args)
        code = p.end(0)
        check(answered is None or f"{answered} answered" in p.text(), f"expected {answered} answers:\n{p.text()}")
        check(code == 0 or not answered, f"udp-ping: exit {code}:\n{p.text()}")
        return p.text()

    def kernel_socket(self, host, family, kind=socket.SOCK_DGRAM, timeout=5, proto=0):
        """A plain kernel socket of that host. A socket stays in the namespace it was made in."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.ns(host)}", os.O_RDONLY)
        try:
            check(LIBC.setns(there, CLONE_NEWNET) == 0, "setns")
            s = socket.socket(family, kind, proto)
        finally:
            LIBC.setns(here, CLONE_NEWNET)
            os.close(here)
            os.close(there)
        s.settimeout(timeout)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sockets.append(s)
        return s

    def kernel_echo(self, host, port, kind=socket.SOCK_DGRAM, address="::"):
        """Echoes datagrams, or the first bytes of connections; on all addresses of that host unless told otherwise."""
        s = self.kernel_socket(host, socket.AF_INET6, kind, timeout=0.2)
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        s.bind((address, port))
        if kind == socket.SOCK_STREAM:
            s.listen(8)

        def serve():
            while not self.stopping:
                try:
                    if kind == socket.SOCK_DGRAM:
                        data, peer = s.recvfrom(65536)
                        s.sendto(data, peer)
                    else:
                        connection, _ = s.accept()
                        connection.settimeout(5)
                        connection.sendall(connection.recv(65536))
                        connection.close()
                except OSError:
                    continue
        threading.Thread(target=serve, daemon=True).start()

    def asks(self, host, address, port, text=b"hello", timeout=1.0):
        """One datagram from that host: the answer, None for silence, or the error the network sent back."""
        s = self.kernel_socket(host, socket.AF_INET6 if ":" in address else socket.AF_INET, timeout=timeout)
        try:
            s.connect((address, port))
            s.send(text)
            return s.recv(65536)
        except TimeoutError:
            return None
        except OSError as e:
            return e
        finally:
            s.close()
            self.sockets.remove(s)

    def stream_asks(self, host, address, port, text=b"hello", timeout=5.0):
        """The first bytes that come back over a connection from that host."""
        s = self.kernel_socket(host, socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, timeout)
        s.connect((address, port))
        s.sendall(text)
        return s.recv(65536)

    def answers(self, host, address, port):
        return until(f"{address} port {port} answers host {host}",
                     lambda: self.asks(host, address, port) == b"hello")


class Users:
    """Three users made for the test."""

    def __init__(self, rig):
        self.names = {who: f"{rig.tag}{who}" for who in ("alice", "bob", "charlie")}

    def __enter__(self):
        for name in self.names.values():
            run(["useradd", "--no-create-home", "--no-user-group", "--shell", "/usr/sbin/nologin", name])
        return self

    def __exit__(self, *_):
        for name in self.names.values():
            run(["userdel", "--force", name], ok=None)

    def become(self, who, *more):
        return ["setpriv", f"--reuid={self.names[who]}", "--clear-groups", *more]


def main(tests):
    """Runs all, or those named behind the folder of programs; prints what failed."""
    if os.geteuid() != 0:
        print("SKIPPED: needs root to make network namespaces")
        return 0
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans come to us: see orphans_end()
    bin_dir, wanted = os.path.abspath(sys.argv[1]), sys.argv[2:]
    failed = 0
    for number, test in enumerate(tests):
        if wanted and test.__name__ not in wanted:
            continue
        with Rig(bin_dir, number) as rig:
            try:
                test(rig)
                print(f"ok      {test.__name__}", flush=True)
            except (Failed, OSError, subprocess.SubprocessError) as f:
                failed += 1
                print(f"FAILED  {test.__name__}: {f}", flush=True)
                if not isinstance(f, Failed):
                    traceback.print_exc()
                for p in rig.processes:
                    print(f"  | {p.command}")
                    for line in p.lines[-30:]:
                        print(f"  |   {line}")
    return 1 if failed else 0
