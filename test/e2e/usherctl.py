#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""usherctl against a real usherd: what it shows, what it changes, how it ends, and its screens in a terminal."""
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

from rig import A4, B4, WAIT, check, main, run, until

READS = ("status", "workers", "shards", "ports", "engines", "sessions", "sockets", "refusals", "counters", "drops",
         "config", "check-config")


def ctl(rig, *words, code=0, user=None):
    command = [f"{rig.bin}/usherctl", "--socket", f"{rig.dir}/run/control.sock", *words]
    if user is not None:
        command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command]
    done = run(rig.inside("a", command), ok=None)
    check(done.returncode == code, f"usherctl {' '.join(words)}: exit {done.returncode}, not {code}: "
          f"{done.stdout}{done.stderr}")
    return done


def busy(rig):
    """usherd with a program on it."""
    rig.kernel_echo("b", 9000)
    usherd = rig.usherd()
    client = rig.client("udp-ping", "--count", 1000000, "--interval", 2000, f"{B4}:9000")
    until("the socket is carried", lambda: "udp-ping" in ctl(rig, "sockets").stdout)
    return usherd, client


def lists_show_what_runs(rig):
    usherd, client = busy(rig)
    for command in READS:
        check(ctl(rig, command).stdout.strip(), f"{command} says nothing")
    check(f"pid {usherd.pid}" in ctl(rig, "status").stdout, "status names the process")
    check("va " in ctl(rig, "ports").stdout, "ports name the interface")
    sockets = json.loads(ctl(rig, "-o", "json", "sockets", "--udp", "--program", "udp-ping").stdout)["sockets"]
    check(len(sockets) == 1 and sockets[0]["remote_port"] == 9000 and sockets[0]["owner"]["pid"] == client.pid, sockets)
    check(json.loads(ctl(rig, "-o", "json", "sockets", "--tcp").stdout) == {"sockets": []}, "no TCP here")
    for command in READS[:-1]:
        json.loads(ctl(rig, "-o", "json", command).stdout)
    listed = ctl(rig, "ss", "-tunap").stdout.splitlines()
    check(listed[0].split() == "Netid State Recv-Q Send-Q Local Address:Port Peer Address:Port Process".split()
          and "ESTAB" in listed[1] and f'users:(("udp-ping",pid={client.pid}))' in listed[1], listed)
    check("tx_packets" in ctl(rig, "engines", "udp").stdout, "an engine shows its counters")


def changes_are_made(rig):
    usherd, _ = busy(rig)
    check("mode compacting, was spreading" in ctl(rig, "mode", "compacting").stdout, "mode")
    check("was info" in ctl(rig, "log-level", "debug").stdout, "log level")
    ctl(rig, "drain")
    check("draining" in ctl(rig, "status").stdout, "status says so")
    ctl(rig, "resume")
    session = json.loads(ctl(rig, "-o", "json", "sessions").stdout)["sessions"][0]["session_id"]
    ctl(rig, "shutdown", code=6)
    check("udp-ping" in ctl(rig, "kill-session", session if isinstance(session, str) else str(session)).stdout, "kill")
    ctl(rig, "shutdown", "--force")
    check(usherd.end(0) == 0, usherd.text())


def sockets_are_let_go(rig):
    """A datagram socket that the operator takes off usherd answers on, by the kernel."""
    usherd = rig.usherd()
    rig.client("udp-echo", "0.0.0.0:7001").says("carried by usherd")
    rig.answers("b", A4, 7001)
    socket, = json.loads(ctl(rig, "-o", "json", "sockets").stdout)["sockets"]
    session, handle = str(socket["session_id"]), str(socket.get("handle", 0))
    check("closed" in ctl(rig, "kill-socket", session, handle).stdout, "it is said")
    rig.answers("b", A4, 7001)
    check(json.loads(ctl(rig, "-o", "json", "sockets").stdout) == {"sockets": []}, "usherd carries it no more")
    ctl(rig, "kill-socket", session, handle, code=5)
    check("1 attached" in ctl(rig, "status").stdout or "udp-echo" in ctl(rig, "sessions").stdout, "the session stays")
    check(usherd.end() == 0, usherd.text())


def engines_come_and_go(rig):
    usherd = rig.usherd("interfaces: [{name: va}]\nkeeper: {mode: off}\necho: {ports: [7777]}\n")
    rig.answers("b", A4, 7777)
    check("unloaded" in ctl(rig, "engine", "unload", "echo").stdout, "echo is out")
    check(rig.asks("b", A4, 7777, timeout=0.3) != b"hello", "and its ports with it")
    check("echo" not in ctl(rig, "engines").stdout and "udp" in ctl(rig, "engines").stdout, "the others are there")
    ctl(rig, "engine", "load", "echo")
    rig.answers("b", A4, 7777)
    for code, words, say in ((1, ("load", "echo"), "is there already"), (6, ("unload", "udp"), "holds the sockets"),
                             (5, ("unload", "nothing"), "no engine"), (6, ("unload", "filter"), "stays"),
                             (5, ("load", "nothing"), "check engine_dir"),
                             (6, ("load", "../udp"), "is no engine's name"),
                             (2, ("eat", "udp"), "not known what to do")):
        check(say in ctl(rig, "engine", *words, code=code).stderr, f"{words}: {say}")
    check("audit: root (admin" in usherd.text() and "engine.load: engine echo" in usherd.text(), usherd.text())
    check(usherd.end() == 0, usherd.text())


def ends_tell_what_happened(rig):
    usherd, _ = busy(rig)
    for code, words, say in (
            (2, ["nonsense"], "there is no command nonsense"), (2, ["sokets"], "did you mean `usherctl sockets`?"),
            (2, ["mode"], "needs MODE"), (2, ["mode", "fast"], "is no mode"), (2, ["status", "--x"], "no option --x"),
            (2, ["sockets", "--local", "10.0.0.0/99"], "filter.local_prefix"), (2, [], "usage:"),
            (5, ["kill-session", "4711"], "no session 4711"), (5, ["ports", "nope0"], "nope0"),
            (2, ["--connect", "127.0.0.1:1", "status"], "--ca is missing")):
        done = ctl(rig, *words, code=code)
        check(say in done.stderr, f"{words}: \"{say}\" is missing in: {done.stderr}")
    error = json.loads(ctl(rig, "-o", "json", "kill-session", "4711", code=5).stderr)["error"]
    check(error["code"] == "NOT_FOUND" and error["reason"] and error["message"], error)
    check(usherd.end() == 0, usherd.text())
    check("usherd does not run" in ctl(rig, "status", code=3).stderr, "nobody is there")


def roles_are_explained(rig):
    os.chmod(rig.dir, 0o755)
    program = rig.path("usherctl")
    shutil.copy(f"{rig.bin}/usherctl", program)
    usherd = rig.usherd("interfaces: [{name: va}]\nkeeper: {mode: off}\n"
                        "control: {mode: 0666, roles: [{role: viewer, users: [nobody]}]}\n")

    def as_user(uid, *words, code):
        command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", program, "--socket",
                   f"{rig.dir}/run/control.sock", *words]
        done = run(rig.inside("a", command), ok=None)
        check(done.returncode == code, f"{uid} {words}: exit {done.returncode}, not {code}: {done.stdout}{done.stderr}")
        return done
    check("nobody, by unix: viewer" in as_user(65534, "status", code=0).stdout, "a viewer sees")
    check("operator" in as_user(65534, "drain", code=4).stderr, "and is told what he lacks")
    check("control.roles" in as_user(12345, "status", code=3).stderr, "a stranger is told who can help")
    os.chmod(f"{rig.dir}/run/control.sock", 0o600)
    check("you may not connect" in as_user(12345, "status", code=4).stderr, "or that he may not connect")
    check(usherd.end() == 0, usherd.text())


def roles_and_limits_change_under_way(rig):
    """A viewer becomes nobody: his open stream ends, his connection is of no more use; then he becomes an operator."""
    head = "interfaces: [{name: va}]\nkeeper: {mode: off}\n"
    os.chmod(rig.dir, 0o755)
    program = rig.path("usherctl")
    shutil.copy(f"{rig.bin}/usherctl", program)
    usherd = rig.usherd(head + "control: {mode: 0666, roles: [{role: viewer, users: [nobody]}]}\n")
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program, "--socket",
              f"{rig.dir}/run/control.sock"]

    def reload(settings, *wanted):
        rig.path("usherd.yaml", head + settings)
        done = ctl(rig, "reload")
        check(all(w in done.stdout for w in wanted), done.stdout)

    def tries(*words, code):
        done = run(rig.inside("a", [*nobody, *words]), ok=None)
        check(done.returncode == code, f"{words}: exit {done.returncode}, not {code}: {done.stdout}{done.stderr}")
        return done
    stream = Program(rig.inside("a", [*nobody, "--watch=0.2", "workers"]), 100, 30)
    stream.shows("WORKER")
    events = Program(rig.inside("a", [*nobody, "events"]), 100, 30)
    events.shows("ready")
    tries("drain", code=4)
    reload("control: {mode: 0666, caller_rate: 7}\nruntime: {spin_us: 7}\n", "changed: ", "control.roles",
           "control.caller_rate", "restart of usherd: runtime.spin_us")
    check(events.end() == 4 and "ROLE" not in events.text and "role" in events.text, events.text)
    stream.shows("role")
    stream.end(signal.SIGINT)
    tries("status", code=3)
    reload("control: {mode: 0666, roles: [{role: operator, users: [nobody]}]}\n", "control.roles")
    tries("drain", code=0)
    reload("sessions: {sockets_per_uid: 1}\n", "sessions.sockets_per_uid")
    rig.path("usherd.yaml", "nonsense: 1\n")
    done = ctl(rig, "reload", code=1)
    check("nonsense" in done.stdout and "nothing was changed" in done.stderr, done.stdout + done.stderr)
    check("audit: root" in usherd.text() and usherd.end() == 0, usherd.text())


def certificates(rig):
    """An authority, usherd's certificate for 127.0.0.1, and one for each of two people."""
    def openssl(*words):
        run(["openssl", *words])

    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=test authority", "-keyout", rig.path("ca.key"), "-out", rig.path("ca.pem"))
    for name, extra in (("usherd", "subjectAltName=IP:127.0.0.1"), ("ada", "subjectAltName=DNS:ada"),
                        ("eve", "subjectAltName=DNS:eve")):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                "-keyout", rig.path(f"{name}.key"), "-out", rig.path(f"{name}.csr"))
        openssl("x509", "-req", "-in", rig.path(f"{name}.csr"), "-CA", rig.path("ca.pem"), "-CAkey",
                rig.path("ca.key"), "-CAcreateserial", "-days", "2", "-out", rig.path(f"{name}.pem"),
                "-extfile", rig.path(f"{name}.ext", extra + "\n"))


def another_host_is_reached_by_tls(rig):
    if shutil.which("openssl") is None:
        print("        SKIPPED: openssl is not installed")
        return
    certificates(rig)
    usherd = rig.usherd("interfaces: [{name: va}]\nkeeper: {mode: off}\n"
                        "control:\n  roles: [{role: operator, names: [ada]}]\n"
                        f"  tls: {{address: '127.0.0.1:9480', certificate: {rig.path('usherd.pem')}, "
                        f"key: {rig.path('usherd.key')}, client_ca: {rig.path('ca.pem')}}}\n")

    def as_person(name, *words, code, port=9480):
        return ctl(rig, "--connect", f"127.0.0.1:{port}", "--ca", rig.path("ca.pem"), "--cert",
                   rig.path(f"{name}.pem"), "--key", rig.path(f"{name}.key"), "--timeout", "10", *words, code=code)
    check("ada, by tls: operator" in as_person("ada", "status", code=0).stdout, "ada is an operator")
    check("draining" in as_person("ada", "drain", code=0).stdout, "and changes things")
    check("admin" in as_person("ada", "shutdown", code=4).stderr, "but not all")
    check("control.roles" in as_person("eve", "status", code=4).stderr, "eve has no role")
    check("check the address" in as_person("ada", "status", code=3, port=9481).stderr, "nobody is there")
    check(usherd.end() == 0, usherd.text())


class Program:
    """A program in a terminal of its own."""

    def __init__(self, command, columns, rows):
        env = dict(os.environ, TERM="xterm", LC_ALL="C.UTF-8")
        env.pop("COLUMNS", None)
        env.pop("NO_COLOR", None)
        self.child, self.fd = pty.fork()
        if self.child == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.execvpe(command[0], command, env)
        self.text = ""

    def read(self):
        while select.select([self.fd], [], [], 0)[0]:
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                return self.text
            if not data:
                return self.text
            self.text += data.decode(errors="replace")
        return self.text

    def shows(self, words):
        until(f"the screen shows {words!r}", lambda: words in self.read())

    def type(self, keys):
        os.write(self.fd, keys.encode())

    def end(self, sig=None):
        if sig is not None:
            os.kill(self.child, sig)
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            self.read()
            pid, status = os.waitpid(self.child, os.WNOHANG)
            if pid != 0:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)
        raise AssertionError("usherctl did not end")


class Screen(Program):
    def __init__(self, rig, columns, rows, *words):
        super().__init__(rig.inside("a", [f"{rig.bin}/usherctl", "--socket", f"{rig.dir}/run/control.sock", *words]),
                         columns, rows)


def terminals_get_color_and_fit(rig):
    usherd, _ = busy(rig)
    screen = Screen(rig, 72, 24, "ports")
    check(screen.end() == 0, screen.text)
    check("\033[1mINTERFACE" in screen.text and "\033[32mup" in screen.text, screen.text)
    plain = re.sub("\033\\[[0-9]*m", "", screen.text)
    check(all(len(line) <= 72 for line in plain.splitlines()), plain)
    screen = Screen(rig, 80, 24, "--watch=0.2", "workers")
    until("it is drawn again", lambda: screen.read().count("\033[H\033[2J") >= 3)
    check(screen.end(signal.SIGINT) == -signal.SIGINT, "Ctrl-C ends it")
    done = subprocess.run(["sh", "-c", " ".join(rig.inside("a", [
        f"{rig.bin}/usherctl", "--socket", f"{rig.dir}/run/control.sock", "counters", "--all"])) + " | head -1"],
        capture_output=True, text=True, timeout=30, check=False)
    check(done.stderr == "", f"a closed pipe is no reason to complain: {done.stderr}")
    check(usherd.end() == 0, usherd.text())


def top_runs_in_a_terminal(rig):
    usherd, _ = busy(rig)
    screen = Screen(rig, 100, 30, "--watch=0.2", "top")
    screen.shows("udp-ping")
    screen.shows("worker 0")
    screen.type("o")
    screen.shows("SOCKETS")
    screen.type("/no such program\n")
    screen.shows("no program has a socket that fits")
    screen.type("h")
    screen.shows("quit")
    check(usherd.end() == 0, usherd.text())
    screen.shows("trying again")
    rig.usherd()
    screen.type("hsq")
    check(screen.end() == 0, screen.text[-2000:])
    check("\033[?1049l" in screen.text, "the terminal is given back")
    check("top needs a terminal" in ctl(rig, "top", code=2).stderr, "in a pipe it says what else to use")


def doctor_judges(rig):
    usherd, _ = busy(rig)
    done = ctl(rig, "doctor")
    check("daemon.version" in done.stdout and "0 broken" in done.stdout, done.stdout)
    found = json.loads(ctl(rig, "-o", "json", "doctor").stdout)["findings"]
    keeper = [f for f in found if f["id"] == "daemon.keeper"]
    check(keeper[0]["verdict"] == "warn" and keeper[0]["costs"] and keeper[0]["mend"], keeper)
    check(usherd.end() == 0, usherd.text())
    done = ctl(rig, "doctor", code=1)
    check("FAIL  daemon.answer" in done.stdout and "usherd does not run" in done.stdout, done.stdout)


def shells_take_the_completion(rig):
    for shell, test in (("bash", ["bash", "-n"]), ("zsh", ["zsh", "-n"]), ("fish", ["fish", "-n"])):
        text = ctl(rig, "completion", shell).stdout
        check("check-config" in text and "--watch" in text or "watch" in text, text)
        if shutil.which(shell):
            done = run([*test, rig.path(f"complete.{shell}", text)], ok=None)
            check(done.returncode == 0, f"{shell}: {done.stderr}")
    script = rig.path("complete.bash") + "; COMP_WORDS=(usherctl sockets --sta); COMP_CWORD=2; _usherctl; " \
        "echo \"${COMPREPLY[@]}\"; COMP_WORDS=(usherctl mode co); _usherctl; echo \"${COMPREPLY[@]}\""
    done = run(["bash", "-c", f". {script}"])
    check(done.stdout.splitlines() == ["--state", "compacting"], done.stdout)
    if shutil.which("zsh"):
        zsh_completes(rig)
    if shutil.which("fish"):
        def fish(line):
            script = f"source {rig.path('complete.fish')}; complete -C '{line}'"
            return run(["fish", "--no-config", "-c", script]).stdout
        check("compacting" in fish("usherctl mode co") and "--state" in fish("usherctl sockets --st"), "fish completes")


def zsh_completes(rig):
    """An interactive zsh in a terminal of its own, with the completion where zsh looks for it."""
    os.makedirs(f"{rig.dir}/zsh", exist_ok=True)
    shutil.copy(rig.path("complete.zsh"), f"{rig.dir}/zsh/_usherctl")
    rig.path("zsh/.zshrc", f"fpath=({rig.dir}/zsh $fpath); autoload -Uz compinit; compinit -u -d {rig.dir}/zsh/dump\n"
             "PS1='ready> '; unsetopt beep; print compinit done\n")
    screen = Program(["env", f"ZDOTDIR={rig.dir}/zsh", "TERM=dumb", "zsh", "-i"], 200, 50)
    screen.shows("compinit done")
    for typed, wanted in (("usherctl mode comp\t", "mode compacting"), ("usherctl sockets --sta\t", "--state"),
                          ("usherctl check-c\t", "check-config")):
        screen.type(typed)
        screen.shows(wanted)
        screen.type("\x15")
    screen.type("exit\n")
    check(screen.end() == 0, screen.text)


sys.exit(main([lists_show_what_runs, changes_are_made, sockets_are_let_go, engines_come_and_go,
               ends_tell_what_happened, roles_are_explained, roles_and_limits_change_under_way,
               another_host_is_reached_by_tls, terminals_get_color_and_fit, top_runs_in_a_terminal, doctor_judges,
               shells_take_the_completion]))
