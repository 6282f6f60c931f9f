/* SPDX-License-Identifier: Apache-2.0
 *
 * Settings: good ones round-trip through print, bad ones are named with their place, hostile YAML is bounded.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/config/schema.h"

static struct problems problems;
static struct config cfg;

static int parse(const char *text) {
    problems = (struct problems){0};
    return config_parse("t.yaml", text, strlen(text), &cfg, &problems);
}

/* The one problem of a text is at `where` and says `what`. */
static void expect_problem(const char *text, const char *where, const char *what) {
    int err = parse(text);
    cr_assert_eq(err, -EINVAL, "accepted: %s", text);
    cr_assert_eq(problems.count, 1, "%u problems in: %s\n%s\n%s", problems.count, text, problems.text[0],
                 problems.text[1]);
    cr_assert_eq(strncmp(problems.text[0], where, strlen(where)), 0, "want %s, got %s", where, problems.text[0]);
    cr_assert_not_null(strstr(problems.text[0], what), "want \"%s\" in %s", what, problems.text[0]);
}

static char *printed(const struct config *c) {
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    config_print(c, f);
    fclose(f);
    return text;
}

static const char full[] =
    "runtime: {mode: compacting, cpus: '0-1,3', shards: 2, spin_us: 7, target_delay_us: 9}\n"
    "interfaces:\n"
    "  - name: veth0\n"
    "    kind: packet\n"
    "    queues: 2\n"
    "    faults: {seed: 18446744073709551615, drop_ppm: 1000, delay: 1500us, bottleneck: 10M, rx: no}\n"
    "  - name: eth1\n"
    "    mode: dedicated\n"
    "    addresses: [10.1.2.3/24, 'fd00::1/64']\n"
    "    gateways: [10.1.2.254]\n"
    "    mac: '02:00:00:00:00:01'\n"
    "    zero_copy: off\n"
    "sessions: {mode: 0660, group: users, tx_bytes: 96K, rx_bytes: 1G}\n"
    "engines: {load: [ip, udp, echo], udp: {sockets: 100}}\n"
    "echo: {ports: [7, 7777], generate: [{peer: 10.0.0.9, window: 3}]}\n"
    "firewall: ignore\n"
    "keeper: {mode: on, recovery_grace: 250ms}\n"
    "state_dir: /tmp/a \"b\\c\n"
    "control: {roles: [{role: operator, users: [op], groups: [netdev, adm]}, {role: admin, names: [ops.example]}],\n"
    "  tls: {address: '[::1]:9480', certificate: /c, key: /k, client_ca: /a}, caller_rate: 0, idle_stop: 2s}\n"
    "log: {level: debug}\n";

Test(config, full_file) {
    cr_assert_eq(parse(full), 0, "%s", problems.text[0]);
    cr_assert_eq(cfg.runtime.cpus, 0xb);
    cr_assert_eq(cfg.interface_count, 2);
    cr_assert_eq(cfg.interfaces[0].faults.delay_ns, 1500000);
    cr_assert_eq(cfg.interfaces[0].faults.bottleneck_bps, 10000000);
    cr_assert(cfg.interfaces[0].zero_copy && !cfg.interfaces[1].zero_copy);
    cr_assert_eq(cfg.interfaces[1].addresses[0].len, 120);
    cr_assert_eq(cfg.interfaces[1].addresses[1].len, 64);
    cr_assert(cfg.interfaces[1].mac.given);
    cr_assert_eq(cfg.sessions.mode, 0660);
    cr_assert_eq(cfg.sessions.tx_bytes, 96 * 1024);
    cr_assert_eq(cfg.keeper.recovery_grace_ns, 250000000);
    cr_assert_eq(cfg.echo.ports[1], 7777);
    cr_assert_eq(cfg.echo.generate_count, 1);
    cr_assert_eq(cfg.echo.generate[0].window, 3);
    cr_assert_eq(cfg.echo.generate[0].peer.addr.b[15], 9);
    cr_assert_eq(cfg.echo.generate[0].timeout_ns, 100000000);
    cr_assert_str_eq(cfg.state_dir, "/tmp/a \"b\\c");
    cr_assert(cfg.control.role_count == 2 && cfg.control.roles[0].group_count == 2);
    cr_assert_str_eq(cfg.control.roles[0].groups[1].text, "adm");
    cr_assert_eq(cfg.control.roles[1].role, ROLE_ADMIN);
    cr_assert_eq(cfg.control.idle_stop_ns, 2000000000);
}

Test(config, control_service) {
    expect_problem("control: {roles: [{role: admin}]}", "t.yaml:1:", "to nobody");
    expect_problem("control: {roles: [{role: king, users: [a]}]}", "t.yaml:1:", "viewer, operator, admin");
    expect_problem("control: {socket: a}", "t.yaml:1:", "absolute path");
    expect_problem("control: {tls: {address: 'localhost:1', certificate: /c, key: /k, client_ca: /a}}",
                   "t.yaml:1:", "an IP address and a port");
    expect_problem("control: {tls: {address: '127.0.0.1:1', certificate: /c, key: /k}}", "t.yaml:1:", "client_ca");
}

Test(config, defaults_are_valid) {
    cr_assert_eq(parse(""), 0, "%s", problems.text[0]);
    cr_assert_eq(cfg.engines.load_count, 3);
    cr_assert_str_eq(cfg.run_dir, "/run/usher");
    cr_assert_eq(cfg.sessions.mode, 0666);
    cr_assert_eq(parse("interfaces:\nruntime:\n"), 0, "%s", problems.text[0]);
}

Test(config, every_default_and_bound_parses) {
    const struct field *stack[8] = {config_schema};
    for (int depth = 0; depth >= 0;) {
        const struct field *f = stack[depth];
        if (f->name == NULL) {
            depth--;
            continue;
        }
        stack[depth]++;
        if (f->type == FIELD_SECTION) {
            stack[++depth] = f->sub;
            continue;
        }
        uint8_t value[512];
        char why[384];
        cr_assert(f->item_max > 0 || f->min > 0 || scalar_parse(f, f->def, true, value, why, sizeof why), "%s: %s",
                  f->name, why);
        cr_assert_gt(strlen(f->doc), 4);
    }
}

Test(config, printed_form_parses_to_the_same) {
    struct config first;
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(parse(i == 0 ? full : ""), 0);
        first = cfg;
        char *text = printed(&first);
        cr_assert_eq(parse(text), 0, "%s\n%s", problems.text[0], text);
        cr_assert_eq(memcmp(&first, &cfg, sizeof cfg), 0, "%s", text);
        char *again = printed(&cfg);
        cr_assert_str_eq(text, again);
        free(text);
        free(again);
    }
}

Test(config, bad_values_are_named) {
    expect_problem("runtime:\n  spin_us: 12x\n", "t.yaml:2:12: runtime.spin_us: ", "from 0 to 1000000 us");
    expect_problem("runtime:\n  spin_us: -1\n", "t.yaml:2:12: ", "whole number");
    expect_problem("runtime:\n  spin_us: '5'\n", "t.yaml:2:12: ", "whole number");
    expect_problem("runtime:\n  shards: 17\n", "t.yaml:2:11: ", "0 to 16");
    expect_problem("runtime:\n  mode: fast\n", "t.yaml:2:9: ", "one of auto, dedicated, spreading, compacting");
    expect_problem("runtime:\n  cpus: 3-1\n", "t.yaml:2:9: ", "core numbers");
    expect_problem("runtime:\n  cpus: 64\n", "t.yaml:2:9: ", "core numbers");
    expect_problem("sessions: {tx_bytes: 99999999999999999999G}", "t.yaml:1:22: ", "from 64K to 4G bytes");
    expect_problem("sessions: {tx_bytes: 18446744073709551615G}", "t.yaml:1:22: ", "from 64K to 4G bytes");
    expect_problem("sessions: {mode: 0999}", "t.yaml:1:18: ", "octal");
    expect_problem("keeper: {recovery_grace: 10}", "t.yaml:1:26: ", "with its unit");
    expect_problem("echo: {ports: [1, 0]}", "t.yaml:1:19: echo.ports[1]: ", "from 1 to 65535");
    expect_problem("echo: {ports: 7}", "t.yaml:1:15: echo.ports: ", "must be a list");
    expect_problem("runtime: 5", "t.yaml:1:10: runtime: ", "section");
    expect_problem("runtime: {mode: [auto]}", "t.yaml:1:17: runtime.mode: ", "single value, not a list");
    expect_problem("runtime: {spin_us: 1, mode: \"a\\0b\"}", "t.yaml:1:29: ", "NUL");
    expect_problem("log: {level: !!str info}", "t.yaml:1:14: ", "tags");
}

Test(config, unknown_keys_get_a_hint) {
    expect_problem("runtim: {}", "t.yaml:1:1: runtim: ", "did you mean runtime?");
    expect_problem("runtime:\n  spinus: 3\n", "t.yaml:2:3: runtime.spinus: ", "did you mean spin_us?");
    expect_problem("quite_other_thing: 1", "t.yaml:1:1: ", "known here are runtime, interfaces");
}

Test(config, rules_across_settings) {
    expect_problem("interfaces: [{kind: xdp}]", "t.yaml:1:14: interfaces[0].name: ", "is missing");
    expect_problem("interfaces:\n- name: a\n- name: a\n", "t.yaml:3:9: interfaces[1].name: ", "given twice");
    expect_problem("interfaces:\n- name: a\n  mode: dedicated\n", "t.yaml:3:9: ", "needs at least one");
    expect_problem("interfaces:\n- name: a\n  addresses: [1.2.3.4/8]\n", "t.yaml:3:14: ", "only with mode: dedicated");
    expect_problem("interfaces:\n- {name: a*, mode: dedicated, addresses: [1.2.3.4/8]}\n",
                   "t.yaml:2:10: ", "must be named");
    expect_problem("interfaces:\n- {name: a, mode: dedicated, addresses: [1.2.3.4/33]}\n",
                   "t.yaml:2:42: ", "prefix length");
    expect_problem("interfaces:\n- {name: a, kind: tap}\n", "t.yaml:2:19: interfaces[0].kind: ", "mode: dedicated");
    expect_problem("engines: {load: [ip]}", "t.yaml:1:17: engines.load: ", "must hold ip and udp");
    expect_problem("engines: {load: [ip, udp, ../x]}", "t.yaml:1:27: engines.load[2]: ", "a name of");
    expect_problem("engines: {load: [ip, udp]}\necho: {generate: [{size: 64}]}",
                   "t.yaml:2:18: echo.generate: ", "echo engine");
    expect_problem("engines: {load: [ip, udp]}\necho: {ports: [7]}", "t.yaml:2:15: echo.ports: ", "echo engine");
    expect_problem("firewall: import", "t.yaml:1:11: firewall: ", "use refuse or ignore");
    expect_problem("run_dir: here", "t.yaml:1:10: run_dir: ", "absolute");
}

Test(config, yaml_mistakes) {
    expect_problem("a: [", "t.yaml:2:1: not valid YAML", "did not find");
    expect_problem("runtime: {}\nruntime: {}\n", "t.yaml:2:1: runtime: ", "first in line 1");
    expect_problem("- a\n", "t.yaml:1:1: ", "section");
    expect_problem("just words", "t.yaml:1:1: ", "section");
    expect_problem("--- {}\n--- {}\n", "t.yaml:2:1: ", "second YAML document");
    expect_problem("? [a]\n: b\n", "t.yaml:1:3: ", "plain word");
    expect_problem("a: *x", "t.yaml:1:4: *x", "write the value out");
    expect_problem("a: &x [*x]", "t.yaml:1:4: &x", "write the value out");
    expect_problem("runtime: &r {spin_us: 1}", "t.yaml:1:10: &r", "write the value out");
    expect_problem("runtime: {spin_us: &s 1}", "t.yaml:1:20: &s", "write the value out");
    expect_problem("a: \xff", "t.yaml: not valid YAML", "UTF-8");
}

Test(config, size_and_depth_are_bounded) {
    static char text[64 << 10];
    size_t used = (size_t)snprintf(text, sizeof text, "a: [x");
    while (used < sizeof text - 8)
        used += (size_t)snprintf(text + used, sizeof text - used, ",x");
    (void)snprintf(text + used, sizeof text - used, "]");
    cr_assert_eq(parse(text), -EINVAL);
    cr_assert_not_null(strstr(problems.text[0], "more than 20000 values"), "%s", problems.text[0]);

    char deep[128] = "a: ";
    memset(deep + 3, '[', 40);
    expect_problem(deep, "t.yaml:1:19: ", "nested deeper than 16");
}

Test(config, many_problems_are_all_counted) {
    char text[2048] = "runtime:\n";
    for (int i = 0; i < 30; i++)
        snprintf(text + strlen(text), 32, "  unknown_%d: 1\n", i);
    cr_assert_eq(parse(text), -EINVAL);
    cr_assert_eq(problems.count, 30);
    cr_assert_not_null(strstr(problems.text[PROBLEM_MAX - 1], "unknown_15"));
}

static void write_file(const char *dir, const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    fputs(text, f);
    fclose(f);
}

Test(config, drop_ins_are_laid_on_top) {
    char dir[] = "/tmp/usher-config-XXXXXX", sub[64], path[64], command[96];
    cr_assert_not_null(mkdtemp(dir));
    snprintf(sub, sizeof sub, "%s/conf.d", dir);
    snprintf(path, sizeof path, "%s/usherd.yaml", dir);
    cr_assert_eq(mkdir(sub, 0755), 0);
    write_file(dir, "usherd.yaml", "runtime: {spin_us: 1, shards: 3}\ninterfaces: [{name: a}]\n");
    write_file(sub, "20.yaml", "runtime: {spin_us: 3}\n");
    write_file(sub, "10.yaml", "runtime: {spin_us: 2}\ninterfaces: [{name: b}]\n");
    write_file(sub, "30.yml", "nonsense");
    problems = (struct problems){0};
    int err = config_load(path, &cfg, &problems);
    cr_expect_eq(err, 0, "%s", problems.text[0]);
    cr_expect_eq(cfg.runtime.spin_us, 3);
    cr_expect_eq(cfg.runtime.shards, 3);
    cr_expect_eq(cfg.interface_count, 2);
    write_file(sub, "40.yaml", "\nrun_dir: x\n");
    cr_expect_eq(config_load(path, &cfg, &problems), -EINVAL);
    cr_expect_not_null(strstr(problems.text[0], "conf.d/40.yaml:2:10: run_dir"), "%s", problems.text[0]);
    snprintf(command, sizeof command, "rm -r %s", dir);
    cr_expect_eq(system(command), 0);
}

Test(config, missing_file_is_a_problem) {
    problems = (struct problems){0};
    cr_assert_eq(config_load("/nonexistent/usherd.yaml", &cfg, &problems), -EINVAL);
    cr_assert_not_null(strstr(problems.text[0], "/nonexistent/usherd.yaml: cannot be opened: No such file"));
}

/* Any mutation of a good file is either accepted or refused with words; sanitizers watch the rest. */
Test(config, mutations_never_break_the_reader, .timeout = 60) {
    char text[sizeof full];
    uint64_t seed = 12345;
    for (int round = 0; round < 3000; round++) {
        memcpy(text, full, sizeof full);
        for (int k = 0; k < 3; k++) {
            seed = seed * 6364136223846793005ull + 1442695040888963407ull;
            text[(seed >> 33) % (sizeof full - 1)] = "{}[]:,-&*!'\"\n #x09\t\xff"[(seed >> 20) % 21];
        }
        problems = (struct problems){0};
        int err = config_parse("m.yaml", text, sizeof full - 1, &cfg, &problems);
        cr_assert_eq(err == 0, problems.count == 0);
    }
}

Test(config, manual_names_every_setting) {
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    config_print_manual(f);
    fclose(f);
    cr_assert_not_null(strstr(text, ".B interfaces[].faults.drop_ppm"));
    cr_assert_not_null(strstr(text, ".B runtime.spin_us"));
    cr_assert_not_null(strstr(text, ".B keeper.recovery_grace"));
    free(text);
}

Test(config, compares_by_name) {
    static struct config a, b;
    char names[64], small[12];
    config_init(&a);
    config_init(&b);
    cr_assert_eq(config_compare(&a, &b, names, sizeof names), 0);
    cr_assert_str_eq(names, "");
    b.log.level = 3;
    b.runtime.spin_us++;
    b.echo.ports[b.echo.port_count++] = 7;
    cr_assert_eq(config_compare(&a, &b, names, sizeof names), 3);
    cr_assert_str_eq(names, "runtime.spin_us echo.ports log.level");
    cr_assert_eq(config_compare(&a, &b, small, sizeof small), 3, "cut to fit");
    cr_assert_str_eq(small, "runtime.spi");
}
