#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""One seed, one trace, whatever compiled it: builds the simulator and the engines once more with another compiler and
sanitizers, runs the same seeds in both, and on the build's own modules, and compares the hashes.

    compare.py --compiler clang --build BUILD_DIR --engines ip=FILE.c,... --engines udp=FILE.c,... [--count N]
"""
import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SIMULATOR = ["host.c", "host_flow.c", "link.c", "main.c", "model.c", "model_app.c", "model_control.c", "module.c",
             "options.c", "store.c", "world.c"]
FLAGS = ["-std=gnu17", "-D_GNU_SOURCE", "-DUSHER_DCHECK", "-O1", "-g", "-w", "-fPIC", "-fvisibility=hidden",
         "-fno-strict-aliasing", f"-I{ROOT}"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def run(command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"compare: {' '.join(command)}\n{result.stdout}{result.stderr}")
    return result.stdout


def compile_all(compiler, sources, folder):
    cache = [shutil.which("ccache")] if shutil.which("ccache") else []

    def one(source):
        out = os.path.join(folder, source.replace("/", "_") + ".o")
        run([*cache, compiler, *FLAGS, *SANITIZE, "-c", source, "-o", out])
        return out
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, sources))


def build_other(compiler, engines, folder):
    os.makedirs(folder, exist_ok=True)
    program = os.path.join(folder, "usher-sim")
    objects = compile_all(compiler, [os.path.join(HERE, s) for s in SIMULATOR], folder)
    run([compiler, *SANITIZE, *objects, "-rdynamic", "-ldl", "-o", program])
    for engine in engines:
        name, _, sources = engine.partition("=")
        objects = compile_all(compiler, sources.split(","), folder)
        run([compiler, *SANITIZE, "-shared", *objects, "-o", os.path.join(folder, name + ".so")])
    return program


def hashes(program, engines, count, level):
    # Deaths are left out: they strike at a number of stores, and how many stores a line makes is the compiler's choice.
    os.environ.pop("USHER_SIM_SEEDS", None)
    output = run([program, "--quiet", "--seed", "500", "--count", str(count), "--time", "3s", "--faults", level,
                  "--set", "kills=0", "--engines", engines])
    return re.findall(r"^seed (\d+) app (\w+) wire (\w+)", output, re.M)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--build", required=True)
    parser.add_argument("--engines", action="append", default=[])
    parser.add_argument("--count", type=int, default=10)
    options = parser.parse_args()
    if shutil.which(options.compiler) is None:
        print(f"compare: NOT COMPARED: {options.compiler} is not installed; tools/install-deps installs it")
        return 77
    folder = os.path.join(options.build, "test/sim/other")
    ours = os.path.join(options.build, "bin/usher-sim")
    other = build_other(options.compiler, options.engines, folder)
    bad = 0
    for level in ("mild", "wild"):
        want = hashes(ours, os.path.join(options.build, "lib/sim-engines"), options.count, level)
        modules = os.path.join(options.build, "lib/engines")
        runs = {"the build's own modules": hashes(ours, modules, options.count, level),
                f"{options.compiler} with sanitizers": hashes(other, folder, options.count, level)}
        for name, got in runs.items():
            for a, b in zip(want, got):
                if a != b:
                    print(f"seed {a[0]} ({level}): app {a[1]} wire {a[2]}, but with {name} app {b[1]} wire {b[2]}")
                    bad += 1
        if len(want) != options.count or any(len(got) != options.count for got in runs.values()):
            sys.exit("compare: a run printed too few seeds")
    print(f"compare: {2 * options.count} seeds in three builds, {bad} differences")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
