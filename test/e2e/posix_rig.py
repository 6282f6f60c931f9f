# SPDX-License-Identifier: Apache-2.0
"""Programs under usher-run: what the POSIX tests share.

    under(rig, "nginx", "-g", ...)     starts a program on host a with its sockets on Usher
    ask(rig, "b", "curl", ...)         runs a program to its end on a host, plainly; with usher=True under usher-run
    carried(process)                   the lines of usher-run --check: how each socket is carried

Host b has the kernel alone, so it is the kernel peer; another program under usher-run on host a is the Usher peer, by
the address of host a.
"""
import functools
import os
import re
import shutil
import subprocess

from rig import Process, WAIT, Failed, check, until

USHERD = "interfaces: [{name: va}]\nkeeper: {mode: off}\n"


def needs(*programs):
    """False, said aloud, when this machine lacks one of the programs."""
    missing = [p for p in programs if not find(p)]
    if missing:
        print(f"skipped: {', '.join(missing)} is not installed (tools/install-deps)", flush=True)
    return not missing


def find(program):
    return shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")


@functools.cache
def sanitizer(bin_dir):
    """What a program of the system must load first when our library is built with a sanitizer."""
    found = subprocess.run(["ldd", f"{bin_dir}/../lib/libusher-posix.so"], capture_output=True, text=True, check=False)
    return re.findall(r"/\S*/lib[at]san\.so\S*", found.stdout)


# They get our library built without a sanitizer: sshd's seccomp list does not know what that calls, and PostgreSQL's
# server, which setpriv becomes, and arping have not been tried. What programs do not free at their end is not ours.
NOT_SANITIZED = ("arping", "sshd", "setpriv")


def words(rig, usher, program, args, options=()):
    command = [find(program) or program, *map(str, args)]
    run = [f"{rig.bin}/usher-run", "--check", f"--socket={rig.session}", *options]
    first, env = sanitizer(rig.bin), []
    if first and os.path.basename(program) in NOT_SANITIZED:
        env = ["env", f"LD_PRELOAD={rig.bin}/../lib/plain/libusher-posix.so", "ASAN_OPTIONS=verify_asan_link_order=0"]
    elif first:
        early = f"{rig.bin}/../lib/libsanitizer-first.so"
        env = ["env", f"LD_PRELOAD={first[0]}:{early}", "ASAN_OPTIONS=detect_leaks=0"]
    return env + run + command if usher else command


def under(rig, program, *args, host="a", options=()):
    p = Process(rig.inside(host, words(rig, True, program, args, options)))
    rig.processes.append(p)
    return p


def plain(rig, host, program, *args):
    p = Process(rig.inside(host, words(rig, False, program, args)))
    rig.processes.append(p)
    return p


class Answer:
    def __init__(self, done):
        self.code, self.out = done.returncode, done.stdout
        lines = done.stderr.decode("utf-8", "replace").splitlines()
        self.report = [line for line in lines if line.startswith("usher-run: ")]
        self.err = "\n".join(line for line in lines if not line.startswith("usher-run: "))

    @property
    def text(self):
        return self.out.decode("utf-8", "replace")


def ask(rig, host, program, *args, usher=False, data=b"", ok=0, seconds=60, options=()):
    command = rig.inside(host, words(rig, usher, program, args, options))
    try:
        answer = Answer(subprocess.run(command, input=data, capture_output=True, timeout=seconds, check=False))
    except subprocess.TimeoutExpired as e:
        raise Failed(f"{' '.join(command)} did not end within {seconds} s: {e.stdout} {e.stderr}") from None
    check(ok is None or answer.code == ok,
          f"{' '.join(command)}: exit {answer.code}: {answer.err} {answer.text[-500:]} {answer.report}")
    return answer


def lines_of(what):
    return what.report if isinstance(what, Answer) else what.text().splitlines()


def carried(what, kind="", how="by usherd"):
    return [line for line in lines_of(what) if "fd " in line and f": carried {how}" in line and kind in line]


def is_carried(what, kind):
    if isinstance(what, Process):  # what it says may be under way
        until(f"a {kind} is carried by usherd:\n{what.text()}", lambda: carried(what, kind))
    check(carried(what, kind), f"no {kind} carried by usherd:\n" + "\n".join(lines_of(what)[-30:]))


def listening(rig, host, port, proto="tcp"):
    """Until a socket of that port is there."""
    def there():
        out = subprocess.run(rig.inside(host, ["ss", "-Hlnt" if proto == "tcp" else "-Hlnu"]), capture_output=True,
                             text=True, check=False).stdout
        return any(f":{port} " in line for line in out.splitlines())
    until(f"somebody listens at {proto} port {port} of host {host}", there, WAIT)
