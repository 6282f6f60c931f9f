/* SPDX-License-Identifier: Apache-2.0
 *
 * Every command and option, once. Dispatch, help, completion and usherctl(1) are made from these tables.
 */
#include <string.h>

#include "control/usherctl/capture.h"
#include "control/usherctl/ctl.h"
#include "control/usherctl/filter.h"
#include "control/usherctl/global.h"
#include "control/usherctl/nic.h"
#include "control/usherctl/policy.h"
#include "control/usherctl/ss.h"

#define LEVELS "error warning info debug"
#define MODES  "auto dedicated spreading compacting"

/* In the order of enum global. */
const struct option_def global_options[] = {
    {"socket", 'S', "PATH", "FILE", "control socket of usherd (default /run/usher/control.sock)", NULL},
    {"connect", 'C', "HOST:PORT", NULL, "another host, by mutual TLS; needs --ca, --cert and --key", NULL},
    {"ca", 0, "FILE", "FILE", "certificate of the authority that signed usherd's certificate", NULL},
    {"cert", 0, "FILE", "FILE", "your certificate, for --connect", NULL},
    {"key", 0, "FILE", "FILE", "its key", NULL},
    {"output", 'o', "FORMAT", "table wide json",
     "table fits the terminal, wide cuts nothing, json is for scripts: its names are those of the API", NULL},
    {"watch", 'w', "SECONDS", NULL, "again and again, every second or as --watch=SECONDS says, until Ctrl-C", "1"},
    {"no-headers", 'H', NULL, NULL, "tables without their first line", NULL},
    {"color", 0, "WHEN", "auto always never", "colours: auto is on a terminal, unless NO_COLOR is set", NULL},
    {"timeout", 0, "SECONDS", NULL, "give up after so long (default 10)", NULL},
    {"help", 'h', NULL, NULL, "explain usherctl, or the command", NULL},
    {"version", 'V', NULL, NULL, "print the version", NULL},
    {.name = NULL}};

static const struct option_def zeros_option[] = {{"all", 'a', NULL, NULL, "also those that are zero", NULL},
                                                 {.name = NULL}};
static const struct option_def force_option[] = {
    {"force", 'f', NULL, NULL, "also while programs are attached; they go on over the kernel's stack", NULL},
    {.name = NULL}};
static const struct option_def events_option[] = {
    {"history", 'n', "N", NULL, "begin with so many of the latest events (default 10)", NULL}, {.name = NULL}};

/* clang-format off */
const struct command commands[] = {
    {"status", "", 0, 0, "What runs, and how it is",
     "Shows the daemon's version, state, programs, sockets and what you may do.",
     "viewer", NULL, false, NULL, run_status},
    {"top", "[FILTER]", 0, 1, "A full-screen live view",
     "Workers, interfaces, and sockets, programs or drops by rate. Keys: 1 2 3 pages, < > sort, / filter, h help, "
     "q quit. --watch=SECONDS sets the interval.",
     "viewer", NULL, true, NULL, run_top},
    {"doctor", "", 0, 0, "What keeps this host from being fast, and how to mend it",
     "Looks at the kernel, the cores, the NICs, usherd's settings and its counters. Says for each weakness what it "
     "costs and how to mend it. Exit status 1: something is broken. Works without usherd as well.",
     "viewer", NULL, false, NULL, run_doctor},
    {"workers", "", 0, 0, "Workers, the shards they run, and their load",
     "BUSY is the time spent with work, SPIN the time spent looking for it, P99 DELAY the recent queueing delay that "
     "99 of 100 packets stay under.",
     "viewer", NULL, false, NULL, run_workers},
    {"shards", "", 0, 0, "Shards and their packets",
     "A shard is the unit that runs and moves: engine states, port queues, programs' rings.",
     "viewer", NULL, false, NULL, run_shards},
    {"ports", "[INTERFACE]", 0, 1, "Interfaces usherd runs, how, and why so",
     "Other interfaces are the kernel's alone.",
     "viewer", NULL, false, NULL, run_ports},
    {"engines", "[ENGINE]", 0, 1, "Engines; of one engine, its counters",
     "Engines are the modules that handle packets, one state in every shard.",
     "viewer", "ip udp tcp echo", false, NULL, run_engines},
    {"sessions", "", 0, 0, "Programs that are attached",
     "A session is one process and its shared memory.",
     "viewer", NULL, false, session_options, run_sessions},
    {"sockets", "", 0, 0, "Sockets that usherd carries",
     "RX and TX are bytes of payload, RECVQ and SENDQ what waits.",
     "viewer", NULL, false, socket_options, run_sockets},
    {"ss", "", 0, 0, "The same, in the columns and with the letters of ss(8)",
     "`usherctl ss -tunap` shows what `ss -tunap` would, of the sockets that usherd carries; the kernel's own `ss` "
     "lists the programs' kernel sockets behind them. Without -a or -l: what is connected.",
     "viewer", NULL, false, ss_options, run_ss},
    {"refusals", "", 0, 0, "Sockets that stayed with the kernel, and why",
     "The latest 256 are remembered.",
     "viewer", NULL, false, NULL, run_refusals},
    {"counters", "[PREFIX]", 0, 1, "All counters, or those whose name begins so",
     "Names are drop.REASON, engine.ENGINE.COUNTER, shard.N.COUNTER, worker.N.COUNTER, port.INTERFACE.COUNTER, "
     "session.COUNTER and control.COUNTER.",
     "viewer", "drop. engine. shard. worker. port. session. control.", false, zeros_option, run_counters},
    {"qos", "", 0, 0, "Classes of the policy, their rates and what waits",
     "RATE is that of one second, in bits on the wire; AT LEAST and AT MOST are what the policy says. WAITS are bytes "
     "that programs have sent and their class has not let go yet. Classes are part of the policy: see usher-policy(5).",
     "viewer", NULL, false, NULL, run_qos},
    {"drops", "", 0, 0, "Packets that died, by reason",
     "Each packet that dies has exactly one reason.",
     "viewer", NULL, false, zeros_option, run_drops},
    {"events", "[PREFIX]", 0, 1, "What happens, as it happens",
     "The events that usherd logs, at the log level in force, until Ctrl-C.",
     "viewer", "session. interface. address. keeper", true, events_option, run_events},
    {"capture", "[FILTER]", 0, ARG_MAX, "Packets as they pass, each with its owner",
     "FILTER is an expression of pcap-filter(7): usherctl capture -w - 'tcp port 80' | tcpdump -r - shows them in "
     "tcpdump. Every packet carries a comment with the process, user, program and cgroup it belongs to, and why it was "
     "dropped. What is captured is what usherd carries: received, sent, between programs of this host, and dropped; "
     "and what kernel sockets send or receive on the interfaces that usherd runs. When usherd is upgraded the capture "
     "goes on with the next one, in a section of its own of the same file; when it stops, the capture ends. "
     "Until Ctrl-C.",
     "operator", NULL, true, capture_options, run_capture},
    {"config", "", 0, 0, "The settings in force",
     "Every setting with its value, in the format of usherd.yaml.",
     "viewer", NULL, false, NULL, run_config},
    {"check-config", "[FILE]", 0, 1, "Would usherd take these settings?",
     "Without FILE the files usherd was started with are read again; - is standard input.",
     "viewer", "FILE", false, NULL, run_check_config},
    {"engine", "load|unload|upgrade ENGINE [MODULE]", 2, 3, "Load, unload or replace an engine while it runs",
     "load and unload: until usherd ends; the setting engines.load says what is loaded at its start, and engines that "
     "hold programs' sockets stay. upgrade: a newer or older version takes its place under traffic; what it cannot "
     "take over it leaves to the old one. Without MODULE it is read again from the engine folder; MODULE is a file on "
     "usherd's host that only root or usherd's user can write.",
     "admin", "load unload upgrade", false, NULL, run_engine},
    {"nic show", "", 0, 0, "Interfaces with rules in front, and what came of it",
     "Rules in front drop packets before they reach usherd, the kernel's as well; see interfaces[].nic in usherd.yaml.",
     "viewer", NULL, false, NULL, run_nic_show},
    {"nic rules", "[RULE]", 0, 1, "Each rule's place, and why not further in front",
     "A rule is in the NIC, partly there, or in software. COUNTS are of packets that died in front.",
     "viewer", NULL, false, NULL, run_nic_rules},
    {"nic explain", "RULE", 1, 1, "Why a rule is where it is, and how to get it further in front",
     "Also how long the NIC's last change took, and the last socket that NICs had to learn of.",
     "viewer", NULL, false, NULL, run_nic_explain},
    {"policy history", "", 0, 0, "Policies that were in force, and by whom",
     "A policy that comes into force becomes a revision. One that is unconfirmed goes back by itself.",
     "viewer", NULL, false, NULL, run_policy_history},
    {"policy show", "[REVISION]", 0, 1, "The text of the policy in force, or of a revision",
     "It goes out as it came in, fit for a file; what kernel sockets are not judged by is named on standard error.",
     "viewer", NULL, false, NULL, run_policy_show},
    {"policy rules", "[RULE]", 0, 1, "Rules in the order in which they are asked, and what they matched",
     "Counts go on from revision to revision as long as a rule keeps its name and usherd runs.",
     "viewer", NULL, false, NULL, run_policy_rules},
    {"policy counters", "", 0, 0, "Counters that rules name", "Several rules may share one.",
     "viewer", NULL, false, NULL, run_policy_counters},
    {"policy sets", "", 0, 0, "Sets of the policy in force", "Neighbouring members are joined to ranges.",
     "viewer", NULL, false, NULL, run_policy_sets},
    {"policy explain", "[LINE]", 0, 1, "Which rule decides about a packet, where, and why",
     "Describe the packet and whose it is by the options, or give a line (in quotes, or - for standard input) as "
     "`usherctl capture` or `tcpdump -n` prints it; options come before what the line says, and what nobody says is "
     "what is most usual. Limits count as not reached. Each place that judges such a packet is named with what it "
     "says: rules in front of an interface, the filter engine, the hooks on kernel sockets.",
     "viewer", NULL, false, policy_explain_options, run_policy_explain},
    {"policy check", "FILE", 1, 1, "Would usherd take this policy?",
     "Names every mistake with its line, column and field, and what kernel sockets would not be judged by; - is "
     "standard input. Exit status 1: it has mistakes.",
     "operator", "FILE", false, NULL, run_policy_check},
    {"policy diff", "[FILE]", 0, 1, "What a policy would change",
     "Rules and sets are known by their names. + comes, - goes, ~ changes, ^ stands elsewhere in the order.",
     "operator", "FILE", false, policy_diff_options, run_policy_diff},
    {"policy apply", "FILE", 1, 1, "Bring a policy into force",
     "It replaces the one in force whole and at once; no packet is judged by a mix of both. With a mistake nothing "
     "changes. With --confirm it goes back by itself, should it lock you out. Rules that the hooks on kernel sockets "
     "cannot express are refused, unless --partial leaves them open there.",
     "operator", "FILE", false, policy_apply_options, run_policy_apply},
    {"policy confirm", "[REVISION]", 0, 1, "Keep a policy that was applied with --confirm", "Ends the wait.",
     "operator", NULL, false, NULL, run_policy_confirm},
    {"policy rollback", "[REVISION]", 0, 1, "Bring an earlier policy back",
     "Without REVISION the one that was in force before.",
     "operator", NULL, false, NULL, run_policy_rollback},
    {"policy set", "SET add|remove|replace MEMBER...", 2, ARG_MAX, "Change the members of a set",
     "Rules, counters and limits go on. A member - stands for the lines of standard input.",
     "operator", "add remove replace", false, NULL, run_policy_set},
    {"policy import", "nft|iptables [FILE]", 1, 2, "Write a policy with the rules of a firewall",
     "FILE, or standard input, is what `nft -j list ruleset` or `iptables-save` prints. The policy goes to standard "
     "output; on standard error each rule that could not be carried over is named, with the reason. Exit status 1: "
     "there were such.",
     "", "nft iptables", false, NULL, run_policy_import},
    {"mode", "MODE", 1, 1, "Change how workers share cores",
     "dedicated: a pinned worker per shard that spins. spreading: a worker per shard that sleeps when "
     "idle. compacting: as few workers as keep the queueing delay low. auto: usherd chooses. It takes effect at once, "
     "under traffic.",
     "operator", MODES, false, NULL, run_mode},
    {"move-shard", "SHARD WORKER", 2, 2, "Move a shard to another worker",
     "Between two polls; nothing is lost. In mode compacting usherd may move it again.",
     "operator", NULL, false, NULL, run_move_shard},
    {"kill-session", "SESSION", 1, 1, "End a program's session",
     "Its connections are reset, its ports go back to the kernel; it may attach again.",
     "operator", NULL, false, NULL, run_kill_session},
    {"kill-socket", "SESSION HANDLE", 2, 2, "Close one socket in usherd",
     "A stream is reset. A datagram socket or listener is let go: its program goes on over the kernel's stack.",
     "operator", NULL, false, NULL, run_kill_socket},
    {"drain", "", 0, 0, "Let no new program attach",
     "Programs that come then use the kernel's stack; those that are attached go on.",
     "operator", NULL, false, NULL, run_drain},
    {"resume", "", 0, 0, "Let programs attach again", "Ends a drain.",
     "operator", NULL, false, NULL, run_resume},
    {"reload", "", 0, 0, "Read the settings again",
     "As `systemctl reload usherd` does. Roles, limits, the log level and the mode take effect at once; it says what "
     "wants a restart. Exit status 1: the settings are wrong, and nothing was changed.",
     "admin", NULL, false, NULL, run_reload},
    {"log-level", "LEVEL", 1, 1, "Change which events are logged",
     "Until usherd ends; usherd.yaml is not changed.",
     "operator", LEVELS, false, NULL, run_log_level},
    {"shutdown", "", 0, 0, "Stop usherd in order",
     "Refused while programs are attached, unless forced. Under systemd use `systemctl stop usherd`.",
     "admin", NULL, false, force_option, run_shutdown},
    {"upgrade", "[PROGRAM]", 0, 1, "Put another usherd in the place of the one that runs",
     "Programs stay attached and notice a pause. Without PROGRAM the file that usherd was started from is run anew. "
     "What cannot start leaves the old usherd serving, or brings it back.",
     "admin", "FILE", false, NULL, run_upgrade},
    {"completion", "SHELL", 1, 1, "Print completion for bash, zsh or fish",
     "For bash: usherctl completion bash > /usr/share/bash-completion/completions/usherctl",
     "", "bash zsh fish", false, NULL, run_completion},
    {"manual", "", 0, 0, "Print usherctl(1) as roff", "It is installed as the manual page.",
     "", NULL, false, NULL, run_manual},
};
/* clang-format on */

const size_t command_count = sizeof commands / sizeof commands[0];

const struct command *command_find(const char *name) {
    for (size_t i = 0; i < command_count; i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    return NULL;
}

const struct command *command_of(int argc, char *const *argv, int *ret_used) {
    char two[64];
    if (argc > 1) {
        (void)snprintf(two, sizeof two, "%s %s", argv[0], argv[1]);
        *ret_used = 2;
        const struct command *m = command_find(two);
        if (m != NULL)
            return m;
    }
    *ret_used = 1;
    return argc > 0 ? command_find(argv[0]) : NULL;
}

bool command_split(const struct command *m, char ret_group[24], const char **ret_rest) {
    const char *blank = strchr(m->name, ' ');
    if (blank == NULL)
        return false;
    (void)snprintf(ret_group, 24, "%.*s", (int)(blank - m->name), m->name);
    *ret_rest = blank + 1;
    return true;
}

bool command_is_group(const char *word) {
    char group[24];
    const char *rest;
    for (size_t i = 0; i < command_count; i++)
        if (command_split(&commands[i], group, &rest) && strcmp(group, word) == 0)
            return true;
    return false;
}
