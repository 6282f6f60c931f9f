#!/usr/bin/env python3
"""Runs test programs on Debian's own kernel, in a virtual machine of its own without a network.

    vm.py [--modules cls_flower,veth] [--tools tc,ip] PROGRAM...

The machine is QEMU without KVM; its only file system is an initramfs made here: busybox, the kernel modules, the tools
and the programs, each with the libraries it needs. The programs run as root, one after the other; our exit status is 0
when theirs all are. What cannot be had (QEMU, the kernel of tools/vm-kernel) skips, loudly.
"""
import argparse
import glob
import os
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import time

KERNEL = "/var/cache/usher-vm/kernel"
BOOT_LIMIT_S = 90    # to the first word of /init; 2 to 5 s on a quiet machine
ATTEMPTS = 2         # a machine that never came up is started again; a program that failed is not

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin; ln -sf /usr/bin/sh /bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/shm; mount -t tmpfs tmp /tmp; mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup; mount -t bpf bpf /sys/fs/bpf
echo 'vm: up'
for module in {modules}; do insmod /modules/$module || echo "vm: cannot load $module"; done
echo 131072 >/proc/sys/net/core/optmem_max # as usherd does; the namespaces of tests cannot
ip link set lo up
export PATH=/usr/sbin:/usr/bin:/bin TERM=dumb
status=0
for program in /test/*; do
    echo "vm: $program"
    $program -j1 </dev/null || status=1
done
echo "vm: status $status"
poweroff -f
"""


def skip(why):
    print(f"SKIPPED: {why}")
    sys.exit(0)


class Archive:
    """A cpio archive in the kernel's `newc` form."""

    def __init__(self, file):
        self.file, self.inode, self.folders = file, 0, set()

    def entry(self, name, mode, data=b""):
        self.inode += 1
        raw = name.encode() + b"\0"
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        head = b"070701" + b"".join(b"%08X" % f for f in fields) + raw
        self.file.write(head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4))

    def folder(self, name):
        if name and name not in self.folders:
            self.folder(os.path.dirname(name))
            self.folders.add(name)
            self.entry(name, 0o40755)

    def add(self, name, data, mode=0o100755):
        self.folder(os.path.dirname(name))
        self.entry(name, mode, data)

    def end(self):
        self.entry("TRAILER!!!", 0)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def libraries(program):
    """Paths of the shared objects that a program asks for, by the names it asks with."""
    out = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return set(re.findall(r"(/\S+) \(0x", out))


def modules(names):
    """Paths of the modules below lib/modules, each behind those it depends on."""
    base = glob.glob(f"{KERNEL}/lib/modules/*")[0]
    needs = {}
    with open(f"{base}/modules.dep", encoding="ascii") as f:
        for line in f:
            path, _, rest = line.partition(":")
            needs[os.path.basename(path).removesuffix(".ko").replace("-", "_")] = [path, *rest.split()]
    order = []
    for name in names:
        for path in reversed(needs[name]):
            if path not in order:
                order.append(path)
    return base, order


def initramfs(path, programs, tools, wanted):
    base, order = modules(wanted)
    with open(path, "wb") as f:
        archive = Archive(f)
        for folder in ("proc", "sys", "dev", "tmp", "bin", "run"):
            archive.folder(folder)
        archive.add("bin/busybox", read(shutil.which("busybox")))
        for module in order:
            archive.add("modules/" + os.path.basename(module), read(f"{base}/{module}"))
        found = {tool: shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin") for tool in tools}
        files = {"usr/sbin/" + tool: where for tool, where in found.items()}
        files |= {"test/" + os.path.basename(program): program for program in programs}
        files["usr/bin/sh"] = "/bin/dash"  # busybox's own shell prefers its own tools to those of the path
        for where in set(files.values()):
            files |= {lib.lstrip("/"): lib for lib in libraries(where)}
        for name, where in files.items():
            archive.add(name, read(where))
        names = " ".join(os.path.basename(m) for m in order)
        archive.add("init", INIT.replace("{modules}", names).encode())
        archive.end()


def boot(image, limit_s):
    """Returns (came up, the programs' status or None); what the machine says goes to stdout."""
    kernel = glob.glob(f"{KERNEL}/boot/vmlinuz-*")[0]
    command = ["qemu-system-x86_64", "-accel", "tcg", "-M", "q35", "-cpu", "max", "-smp", "2", "-m", "512",
               "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot", "-nic", "none",
               "-kernel", kernel, "-initrd", image,
               "-append", "console=ttyS0 panic=-1 quiet oops=panic random.trust_cpu=on"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as machine:
        try:
            return listen(machine, limit_s)
        finally:
            machine.kill()


def listen(machine, limit_s):
    begin, up, status, rest = time.monotonic(), False, None, b""
    with selectors.DefaultSelector() as selector:
        selector.register(machine.stdout, selectors.EVENT_READ)
        while time.monotonic() - begin < (limit_s if up else min(limit_s, BOOT_LIMIT_S)):
            if not selector.select(timeout=1):
                continue
            data = os.read(machine.stdout.fileno(), 65536)
            if not data:
                return up, status
            *lines, rest = (rest + data).split(b"\n")
            for raw in lines:
                line = raw.decode(errors="replace").rstrip("\r")
                print(line, flush=True)
                up = up or line == "vm: up"
                said = re.fullmatch(r"vm: status (\d+)", line)
                status = int(said[1]) if said else status
    print(f"vm: the machine has not come to an end within {limit_s} s")
    return up, status


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--modules", default="")
    parser.add_argument("--tools", default="")
    parser.add_argument("--timeout", type=int, default=300, help="seconds from power-on to power-off")
    parser.add_argument("programs", nargs="+")
    a = parser.parse_args()
    if os.uname().machine != "x86_64" or not shutil.which("qemu-system-x86_64") or not shutil.which("busybox"):
        skip("no virtual machine here: qemu-system-x86 and busybox-static are missing (run tools/install-deps)")
    if not os.path.isdir(KERNEL):
        skip("no kernel for a virtual machine (run tools/vm-kernel as root)")
    split = lambda words: [w for w in words.split(",") if w]
    with tempfile.TemporaryDirectory(prefix="usher-vm-") as folder:
        image = os.path.join(folder, "initramfs")
        initramfs(image, a.programs, split(a.tools), split(a.modules))
        for _ in range(ATTEMPTS):
            up, status = boot(image, a.timeout)
            if up:
                sys.exit(1 if status is None else status)
            print("vm: the machine did not come up")
    sys.exit(1)


if __name__ == "__main__":
    main()
