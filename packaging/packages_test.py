#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The Debian packages: built, judged by lintian, installed into an empty root, upgraded, purged without a trace; and
where a container can be booted, lived with under a real systemd (see boot_test.sh).

usage: packages_test.py BUILD_DIR
"""
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.path.realpath(sys.argv[1])
# Nobody receives mail about a package that nobody has uploaded; the calls of ldconfig are cpack's own.
LINTIAN_EXCEPT = "bogus-mail-host,bogus-mail-host-in-debian-changelog,maintscript-calls-ldconfig"
WANTED = {
    "usher": ("/usr/sbin/usherd", "/usr/sbin/usher-keeper", "/usr/bin/usherctl", "/usr/lib/usher/engines/ip.so",
              "/usr/lib/usher/engines/udp.so", "/usr/lib/usher/engines/tcp.so", "/usr/lib/usher/engines/filter.so",
              "/usr/lib/usher/engines/qos.so", "/etc/usher/usherd.yaml",
              "/usr/lib/systemd/system/usherd.service", "/usr/lib/systemd/system/usherd-session.socket",
              "/usr/lib/systemd/system/usherd-control.socket", "/usr/lib/systemd/catalog/usher.catalog",
              "/usr/share/man/man1/usherctl.1.gz", "/usr/share/man/man5/usherd.yaml.5.gz",
              "/usr/share/man/man8/usherd.8.gz", "/usr/share/bash-completion/completions/usherctl",
              "/usr/share/usher/grafana-dashboard.json"),
    "libusher0": ("/usr/lib/*/libusher.so.0", "/usr/lib/*/libusher.so.0.*"),
    "libusher-dev": ("/usr/include/usher/usher.h", "/usr/lib/*/libusher.so", "/usr/lib/*/pkgconfig/libusher.pc",
                     "/usr/share/man/man7/libusher.7.gz"),
}


class Failed(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Failed(text)


def run(*command, ok=(0,), **more):
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False, **more)
    check(done.returncode in ok, f"{' '.join(command)}: exit {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def build():
    """The packages, by name."""
    shutil.rmtree(f"{BUILD}/packages", ignore_errors=True)
    run("cpack", cwd=BUILD)
    debs = {re.match(r"(.*?)_", os.path.basename(p))[1]: p for p in glob.glob(f"{BUILD}/packages/*.deb")}
    check(debs.keys() == WANTED.keys(), f"built {sorted(debs)}")
    return debs


def contents_are_right(debs):
    for name, path in debs.items():
        listed = run("dpkg-deb", "--contents", path)
        for line in listed.splitlines():
            check(line.split()[1] == "root/root", f"{name}: not root's: {line}")
    control = run("dpkg-deb", "--info", debs["usher"])
    for word in ("libgrpc", "libsystemd0", "libbpf", "init-system-helpers"):
        check(word in control, f"usher does not depend on {word}: {control}")
    check("libusher0 (= " in run("dpkg-deb", "--info", debs["libusher-dev"]), "libusher-dev goes with its libusher0")


def lintian_agrees(debs):
    if shutil.which("lintian") is None:
        print("lintian is not installed: not asked")
        return
    said = run("lintian", "--allow-root", "--suppress-tags", LINTIAN_EXCEPT, "--fail-on", "error,warning",
               *debs.values(), ok=(0, 2))
    faults = [line for line in said.splitlines() if line.startswith(("E:", "W:"))]
    check(not faults, "\n".join(faults))


def dpkg(root, *words):
    return run("dpkg", f"--root={root}", "--force-script-chrootless,depends,not-root", "--log=/dev/null", *words)


def files_below(root):
    return {os.path.relpath(os.path.join(at, n), root) for at, _, names in os.walk(root) for n in names
            if not at.startswith(f"{root}/var/lib/dpkg")}


def installs_upgrades_and_purges(debs):
    with tempfile.TemporaryDirectory() as root:
        os.makedirs(f"{root}/var/lib/dpkg/info")
        os.makedirs(f"{root}/var/lib/dpkg/updates")
        for name in ("status", "available"):
            open(f"{root}/var/lib/dpkg/{name}", "w", encoding="utf-8").close()
        dpkg(root, "--install", *debs.values())
        for name, wanted in WANTED.items():
            for pattern in wanted:
                check(glob.glob(root + pattern), f"{name}: {pattern} is not installed")
        check(run(f"{root}/usr/sbin/usherd", "--version").startswith("usherd "), "usherd runs")
        run(f"{root}/usr/sbin/usherd", "--check-config", "--config", f"{root}/etc/usher/usherd.yaml")
        check(run(f"{root}/usr/bin/usherctl", "--version").startswith("usherctl "), "usherctl runs")
        # What the administrator wrote survives an upgrade.
        with open(f"{root}/etc/usher/usherd.yaml", "a", encoding="utf-8") as f:
            f.write("# mine\n")
        dpkg(root, "--force-confdef", "--install", *debs.values())
        with open(f"{root}/etc/usher/usherd.yaml", encoding="utf-8") as f:
            check(f.read().endswith("# mine\n"), "an upgrade keeps the settings")
        os.makedirs(f"{root}/var/lib/usher")
        dpkg(root, "--remove", *debs)
        check(os.path.exists(f"{root}/etc/usher/usherd.yaml"), "a removal keeps them too")
        dpkg(root, "--purge", *debs)
        left = files_below(root)
        check(not left, f"a purge leaves {sorted(left)}")
        check(not os.path.exists(f"{root}/var/lib/usher"), "a purge forgets the state")


# ---- under a real systemd: this host's own files below an overlay, booted in a container ----

UNIT = """[Unit]
After=basic.target
[Service]
Type=oneshot
ExecStart=/out/boot_test.sh
TimeoutStartSec=150
ExecStopPost=/bin/systemctl poweroff --force --force
"""


def boot(folder):
    """In a mount namespace of its own; returns when the container has ended."""
    root = f"{folder}/root"
    script = f"""set -e
mount -t tmpfs tmpfs {folder}
mkdir -p {folder}/upper {folder}/work {root}
mount -t overlay overlay -o lowerdir=/,upperdir={folder}/upper,workdir={folder}/work {root}
: >{root}/etc/machine-id
rm -f {root}/usr/sbin/policy-rc.d
rm -rf {root}/var/lib/usher {root}/etc/usher
mkdir -p {root}/out {root}/build
printf '%s' "$UNIT" >{root}/etc/systemd/system/usher-test.service
exec timeout 170 systemd-nspawn --quiet --register=no --keep-unit --directory={root} --private-network \
  --capability=all --system-call-filter='bpf perf_event_open @aio @raw-io' --bind={folder}.out:/out \
  --bind-ro={BUILD}:/build --machine=usher{os.getpid()} --console=pipe --boot -- --unit=usher-test.service
"""
    with subprocess.Popen(["unshare", "--mount", "--propagation", "private", "bash", "-c", script],
                          env=dict(os.environ, UNIT=UNIT), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True) as container:
        return container.communicate(timeout=200)[0]


def container_cgroups():
    """systemd-nspawn makes them below our own cgroup and leaves them behind."""
    return {os.path.join(at, name) for at in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")
            for name in ("payload", "supervisor") if os.path.isdir(os.path.join(at, name))}


def cgroups_remove(paths):
    for path in paths:
        for at, _, _ in os.walk(path, topdown=False):
            try:
                os.rmdir(at)
            except OSError:
                pass


def lives_under_systemd(_):
    if shutil.which("systemd-nspawn") is None:
        print("        not booted: systemd-nspawn is not installed (package systemd-container)")
        return
    folder = tempfile.mkdtemp(prefix="usherboot", dir="/tmp")
    out = f"{folder}.out"
    os.mkdir(out)
    before = container_cgroups()
    try:
        shutil.copy(f"{HERE}/boot_test.sh", out)
        console = boot(folder)
        verdict = open(f"{out}/verdict", encoding="utf-8").read().strip() if os.path.exists(f"{out}/verdict") else None
        log = open(f"{out}/log", encoding="utf-8").read() if os.path.exists(f"{out}/log") else ""
        if verdict is None and not log:
            print(f"        not booted: {console.strip().splitlines()[-1] if console.strip() else 'no word of why'}")
            return
        check(verdict == "passed", f"{verdict}\n{log[-6000:]}")
    finally:
        cgroups_remove(container_cgroups() - before)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)


def main():
    if shutil.which("cpack") is None or shutil.which("dpkg") is None:
        print("SKIPPED: cpack or dpkg is not installed")
        return
    if os.geteuid() != 0:
        print("SKIPPED: needs root to install into a folder")
        return
    debs = build()
    for test in (contents_are_right, lintian_agrees, installs_upgrades_and_purges, lives_under_systemd):
        try:
            test(debs)
        except Failed as f:
            sys.exit(f"FAILED  {test.__name__}: {f}")
        print(f"ok      {test.__name__}")


main()
