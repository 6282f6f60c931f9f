#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a user gets wrong: settings, command lines, privileges. And what a firewall means."""
import sys

from rig import A4, B4, check, main, run, until


def bad_settings_are_named(rig):
    for text, words in (
            ("runtime:\n  spin_us: fast\n", "bad.yaml:2:12: runtime.spin_us: "),
            ("interfaces:\n  - nmae: va\n", "bad.yaml:2:5: interfaces[0].nmae: unknown setting; did you mean name?"),
            ("runtime: {mode: auto\n", "bad.yaml:2:1: not valid YAML"),
            ("firewall: import\n", "use refuse or ignore")):
        path = rig.path("bad.yaml", text)
        for more in ([], ["--check-config"]):
            done = run([f"{rig.bin}/usherd", "--config", path, *more], ok=None)
            check(done.returncode == 2, f"exit {done.returncode} for {text}")
            check(words in done.stderr, f"\"{words}\" is missing in: {done.stderr}")
    done = run([f"{rig.bin}/usherd", "--config", f"{rig.dir}/none.yaml"], ok=None)
    check(done.returncode == 2 and "cannot be opened" in done.stderr, done.stderr)


def printed_settings_are_settings(rig):
    first = run([f"{rig.bin}/usherd", "--check-config", "--config", rig.path("c.yaml", "echo: {ports: [7]}\n")]).stdout
    second = run([f"{rig.bin}/usherd", "--check-config", "--config", rig.path("d.yaml", first)]).stdout
    check(first == second and "ports: [7]" in first, first)


def command_line(rig):
    for args in (["--no-such-option"], ["surplus"], ["--run-dir", "relative"]):
        check(run([f"{rig.bin}/usherd", *args], ok=None).returncode == 2, f"{args} is refused")
    check("usage:" in run([f"{rig.bin}/usherd", "--help"]).stdout, "help")
    check(run([f"{rig.bin}/usherd", "--version"]).stdout.startswith("usherd "), "version")
    check(".TH USHERD.YAML 5" in run([f"{rig.bin}/usherd", "--config-doc"]).stdout, "manual")


def missing_privilege_is_named(rig):
    args = rig.usherd_args("")
    done = run(["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw", "ip", "netns", "exec", rig.ns("a"),
                f"{rig.bin}/usherd", *args], ok=None)
    check(done.returncode == 1 and "CAP_NET_RAW is missing" in done.stderr, done.stderr)


def start_failures_say_what_to_do(rig):
    rig.kernel_echo("a", 7777)
    usherd = rig.start("a", "usherd", *rig.usherd_args(
        "interfaces: [{name: va}]\nkeeper: {mode: on}\necho: {ports: [7777]}\n"))
    check(usherd.end(0) == 1, usherd.text())
    check("echo port 7777 cannot be opened: Address already in use" in usherd.text(), usherd.text())
    until("the keeper has ended", lambda: not rig.keepers())
    rig.answers("b", A4, 7777)


def firewall_rules_forbid_acceleration(rig):
    config = "interfaces: [{name: va}]\nkeeper: {mode: off}\nfirewall: %s\n"
    rig.kernel_echo("b", 9000)
    usherd = rig.usherd(config % "refuse")
    check("carried by usherd" in rig.ping("--count", 5, f"{B4}:9000", answered=5), "no rules yet")
    nft = run(rig.inside("a", ["nft", "add table inet t; add chain inet t c { type filter hook input priority 0; }; "
                               "add rule inet t c udp dport 53 drop"]), ok=None)
    if nft.returncode != 0:
        print("        (no nftables here)")
        return
    def is_refused():
        report = rig.ping("--count", 5, f"{B4}:9000", answered=5)
        return "carried by usherd" not in report and "netfilter has rules" in report
    until("the rules are noticed", is_refused)
    check(usherd.end() == 0, usherd.text())
    rig.usherd(config % "ignore")
    check("carried by usherd" in rig.ping("--count", 5, f"{B4}:9000", answered=5), "ignore means ignore")


sys.exit(main([bad_settings_are_named, printed_settings_are_settings, command_line, missing_privilege_is_named,
               start_failures_say_what_to_do, firewall_rules_forbid_acceleration]))
