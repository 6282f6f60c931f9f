/* SPDX-License-Identifier: Apache-2.0
 *
 * What usherctl shows: words, numbers, tables at two widths against golden screens, JSON, and what errors mean.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/usherctl/client_status.h"
#include "control/usherctl/explain.h"
#include "control/usherctl/golden.h"
#include "control/usherctl/json.h"
#include "control/usherctl/lists.h"
#include "control/usherctl/nic.h"
#include "control/usherctl/policy.h"
#include "control/usherctl/qos.h"
#include "control/usherctl/reflect.h"
#include "control/usherctl/sample.h"
#include "control/usherctl/ss.h"
#include "control/usherctl/status.h"
#include "control/usherctl/text.h"

/* ---- golden screens ---- */

static void draw_status(const struct screen *s) {
    status_print(s, sample_info(), SAMPLE_NOW);
}
static void draw_workers(const struct screen *s) {
    list_print(&list_workers, &sample_workers()->base, SAMPLE_NOW, s);
}
static void draw_shards(const struct screen *s) {
    list_print(&list_shards, &sample_workers()->base, SAMPLE_NOW, s);
}
static void draw_ports(const struct screen *s) {
    list_print(&list_ports, &sample_ports()->base, SAMPLE_NOW, s);
}
static void draw_sessions(const struct screen *s) {
    list_print(&list_sessions, &sample_sessions()->base, SAMPLE_NOW, s);
}
static void draw_sockets(const struct screen *s) {
    list_print(&list_sockets, &sample_sockets()->base, SAMPLE_NOW, s);
}
static void draw_refusals(const struct screen *s) {
    list_print(&list_refusals, &sample_refusals()->base, SAMPLE_NOW, s);
}
static void draw_drops(const struct screen *s) {
    list_print(&list_counters, &sample_drops()->base, SAMPLE_NOW, s);
}
static void draw_qos(const struct screen *s) {
    qos_print(s, sample_classes(false), sample_classes(true));
}
static void draw_ss(const struct screen *s) {
    const struct ss_wish wish = {.all = true, .processes = true, .info = true, .extended = true};
    struct ss_view *v = ss_begin(&wish);
    ss_add(v, sample_sockets());
    ss_end(v, s);
}
static void draw_help(const struct screen *s) {
    explain_help(command_find("sockets"), NULL, s);
}
static void draw_diff(const struct screen *s) {
    policy_print_diff(sample_diff(), s);
}
static void draw_explain(const struct screen *s) {
    policy_print_explain(sample_explain(), s);
}
static void draw_history(const struct screen *s) {
    list_print(&list_policy_history, &sample_history()->base, SAMPLE_NOW, s);
}
static void draw_rules(const struct screen *s) {
    list_print(&list_policy_rules, &sample_rules()->base, SAMPLE_NOW, s);
}
static void draw_group(const struct screen *s) {
    explain_help(NULL, "policy", s);
}

Test(golden, screens) {
    static const struct {
        const char *name;
        draw_fn *draw;
    } screens[] = {{"status", draw_status},
                   {"workers", draw_workers},
                   {"shards", draw_shards},
                   {"ports", draw_ports},
                   {"sessions", draw_sessions},
                   {"sockets", draw_sockets},
                   {"refusals", draw_refusals},
                   {"drops", draw_drops},
                   {"qos", draw_qos},
                   {"help-sockets", draw_help},
                   {"policy-diff", draw_diff},
                   {"policy-explain", draw_explain},
                   {"policy-history", draw_history},
                   {"policy-rules", draw_rules},
                   {"help-policy", draw_group}};
    for (size_t i = 0; i < sizeof screens / sizeof screens[0]; i++) {
        golden_check(screens[i].name, 80, screens[i].draw);
        golden_check(screens[i].name, 120, screens[i].draw);
    }
}

/* ss cuts nothing either. */
Test(golden, ss_as_people_know_it) {
    golden_check("ss", 0, draw_ss);
}

/* A terminal must never see what a client wrote as it wrote it. */
Test(golden, nothing_of_a_client_reaches_the_terminal_raw) {
    draw_fn *const all[] = {draw_sessions, draw_sockets, draw_refusals, draw_ss};
    for (size_t i = 0; i < 4; i++) {
        char *text = golden_draw(all[i], 0, false);
        cr_expect_null(strpbrk(text, "\033\007\r\x7f"));
        cr_expect_null(strchr(text, '\xff'));
        free(text);
    }
    char *text = golden_draw(draw_sockets, 0, true);
    cr_expect_not_null(strstr(text, "\033[33m7\033[0m"), "drops are worth a look");
    free(text);
}

Test(golden, no_terminal_no_cut) {
    char *text = golden_draw(draw_ports, 0, false);
    cr_expect_not_null(
        strstr(text, "packet, because XDP on veth would convert every packet of the kernel's and cost it"));
    free(text);
}

/* ---- lists and messages ---- */

Test(lists, every_path_names_a_field) {
    const struct list *const all[] = {
        &list_workers,      &list_shards,          &list_ports,       &list_engines,  &list_engine_counters,
        &list_sessions,     &list_sockets,         &list_refusals,    &list_counters, &list_policy_history,
        &list_policy_rules, &list_policy_counters, &list_policy_sets, &list_nics,     &list_nic_rules};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        cr_expect_leq(all[i]->column_count, TABLE_COLUMN_MAX);
        for (size_t c = 0; c < all[i]->column_count; c++) {
            const struct list_column *col = &all[i]->columns[c];
            char path[64];
            snprintf(path, sizeof path, col->show == SHOW_ENDPOINT ? "%s_address" : "%s", col->path);
            cr_expect(reflect_names(all[i]->row, path), "%s of %s", path, all[i]->row->name);
        }
    }
}

Test(lists, enums_are_words) {
    char word[ENUM_WORD_MAX];
    PB(Socket) s = USHER__CONTROL__V1__SOCKET__INIT;
    s.state = USHER__CONTROL__V1__SOCKET_STATE__SOCKET_STATE_FIN_WAIT_1;
    list_cell_text(&s.base, "state", SHOW_WORD, 0, word, sizeof word);
    cr_expect_str_eq(word, "fin-wait-1");
    s.state = (PB(SocketState))77;
    list_cell_text(&s.base, "state", SHOW_WORD, 0, word, sizeof word);
    cr_expect_str_eq(word, "77", "of a newer usherd");
}

Test(json, says_everything) {
    char *text = NULL;
    size_t size = 0;
    PB(Session) s = USHER__CONTROL__V1__SESSION__INIT;
    uint32_t shards[] = {0, 3};
    s.session_id = UINT64_MAX;
    s.label = (char *)(uintptr_t) "q\"\\\n\xc3\xa4\xff";
    s.shards = shards;
    s.n_shards = 2;
    FILE *out = open_memstream(&text, &size);
    json_write(out, &s.base, 0);
    fclose(out);
    cr_expect_str_eq(text, "{\"session_id\":18446744073709551615,\"owner\":null,"
                           "\"label\":\"q\\\"\\\\\\u000a\xc3\xa4\\ufffd\",\"attached_unix_ns\":0,\"sockets\":0,"
                           "\"socket_max\":0,\"abi\":0,\"tx_bytes\":0,\"rx_bytes\":0,\"shards\":[0,3]}\n");
    free(text);
}

/* ---- words and numbers ---- */

Test(text, numbers_are_short) {
    char t[TEXT_NUMBER_MAX];
    static const struct {
        uint64_t n;
        const char *count, *bytes, *duration;
    } cases[] = {
        {0, "0", "0", "0ns"},
        {999, "999", "999", "999ns"},
        {1000, "1.0k", "1000", "1.0us"},
        {1023, "1.0k", "1023", "1.0us"},
        {10240, "10k", "10K", "10us"},
        {1048576, "1.0M", "1.0M", "1.0ms"},
        {59999999999, "59G", "55G", "59s"},
        {200000000000, "200G", "186G", "3m20s"},
        {18120000000000, "18T", "16T", "5h02m"},
        {273600000000000, "273T", "248T", "3d04h"},
        {UINT64_MAX, "18E", "15E", "213503d23h"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        text_count(cases[i].n, t);
        cr_expect_str_eq(t, cases[i].count);
        text_bytes(cases[i].n, t);
        cr_expect_str_eq(t, cases[i].bytes);
        text_duration(cases[i].n, t);
        cr_expect_str_eq(t, cases[i].duration);
    }
    text_percent(3, 1000, t);
    cr_expect_str_eq(t, "0.3%");
    text_percent(5, 0, t);
    cr_expect_str_eq(t, "0%");
}

Test(text, is_cleaned_and_cut_by_characters) {
    char t[32];
    text_clean("a\033[1mb\x9b\xc2\x9b\xc3\xa4\xe2\x82", t, sizeof t);
    cr_expect_str_eq(t, "a?[1mb???\xc3\xa4??");
    text_clean("\xc3\xa4\xc3\xa4", t, 4);
    cr_expect_str_eq(t, "\xc3\xa4", "no half character");
    cr_expect_eq(text_columns("\xc3\xa4x"), 2);
    cr_expect_eq(text_cut("\xc3\xa4\xc3\xa4x", 2), 4);
}

/* ---- the command line ---- */

static const struct option_def first[] = {
    {"output", 'o', "FORMAT", NULL, "", NULL}, {"watch", 'w', "SECONDS", NULL, "", "1"}, {.name = NULL}};
static const struct option_def second[] = {
    {"tcp", 't', NULL, NULL, "", NULL}, {"listening", 'l', NULL, NULL, "", NULL}, {.name = NULL}};

static int parse(struct options_result *ret, char *err, int until_word, const char *const *words) {
    int n = 0, used;
    while (words[n] != NULL)
        n++;
    memset(ret, 0, sizeof *ret);
    err[0] = '\0';
    return options_parse(first, second, n, (char *const *)(uintptr_t)words, until_word, &used, ret, err, 160) == 0
               ? used
               : -1;
}

Test(options, stand_anywhere_and_join) {
    struct options_result r;
    char err[160];
    cr_expect_eq(parse(&r, err, 0, (const char *[]){"-tl", "a", "-ojson", "--watch", "b", "--", "-t", NULL}), 7);
    cr_expect(r.second[0] != NULL && r.second[1] != NULL);
    cr_expect_str_eq(r.first[0], "json");
    cr_expect_str_eq(r.first[1], "1");
    cr_expect_eq(r.arg_count, 3);
    cr_expect_str_eq(r.args[2], "-t");
    cr_expect_eq(parse(&r, err, 1, (const char *[]){"--output=x=y", "cmd", "--no", NULL}), 1);
    cr_expect_str_eq(r.first[0], "x=y");
    cr_expect_eq(parse(&r, err, 0, (const char *[]){"-w0.5", NULL}), 1);
    cr_expect_str_eq(r.first[1], "0.5");
}

Test(options, wrong_ones_are_named) {
    struct options_result r;
    char err[160];
    static const struct {
        const char *words[12], *say;
    } cases[] = {{{"--outputs", "x"}, "there is no option --outputs here"},
                 {{"-x"}, "there is no option -x here"},
                 {{"--output"}, "--output needs a value"},
                 {{"-o"}, "--output needs a value"},
                 {{"--tcp=yes"}, "--tcp takes no value"},
                 {{"1", "2", "3", "4", "5", "6", "7", "8", "9"}, "9 is one word too many"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_expect_eq(parse(&r, err, 0, cases[i].words), -1);
        cr_expect_str_eq(err, cases[i].say);
    }
}

Test(commands, are_whole) {
    size_t globals = 0;
    while (global_options[globals].name != NULL)
        globals++;
    cr_expect_leq(globals, OPTION_MAX);
    for (size_t i = 0; i < command_count; i++) {
        const struct command *m = &commands[i];
        size_t own = 0;
        cr_expect_eq(command_find(m->name), m, "%s is there twice", m->name);
        cr_expect(m->summary[0] != '\0' && m->help[0] != '\0' && m->run != NULL && m->arg_max <= ARG_MAX);
        for (const struct option_def *o = m->options; o != NULL && o->name != NULL; o++, own++) {
            for (const struct option_def *g = global_options; g->name != NULL; g++)
                cr_expect(strcmp(o->name, g->name) != 0, /* a letter may: the command's own meaning goes first */
                          "%s: --%s clashes with a global option", m->name, o->name);
        }
        cr_expect_leq(own, OPTION_MAX);
    }
}

Test(commands, the_nearest_is_found) {
    char hint[128];
    explain_nearest("sokets", "", hint, sizeof hint);
    cr_expect_str_eq(hint, "did you mean `usherctl sockets`?");
    explain_nearest("stat", "", hint, sizeof hint);
    cr_expect_str_eq(hint, "did you mean `usherctl status`?");
    explain_nearest("xyzzy", "", hint, sizeof hint);
    cr_expect_str_eq(hint, "see `usherctl --help`");
    explain_nearest("policy", "aply", hint, sizeof hint);
    cr_expect_str_eq(hint, "did you mean `usherctl policy apply`?");
    explain_nearest("policy", "xyzzy", hint, sizeof hint);
    cr_expect_str_eq(hint, "see `usherctl policy --help`");
}

/* ---- what errors mean ---- */

Test(status, codes_become_exits_and_details_are_read) {
    struct fault f;
    static const uint8_t info[] = "\x08\x05\x12\x02no"
                                  "\x1a\x33\x0a\x28type.googleapis.com/google.rpc.ErrorInfo\x12\x07\x0a\x05GONE!";
    struct status_details d = {info, sizeof info - 1};
    status_fault(5, "there is no session 7", &d, true, &f);
    cr_expect_eq(f.exit, EXIT_NOT_FOUND);
    cr_expect_str_eq(f.code, "NOT_FOUND");
    cr_expect_str_eq(f.reason, "GONE!");
    cr_expect_str_eq(f.text, "there is no session 7");
    d.size = 0;
    status_fault(7, "", &d, true, &f);
    cr_expect_eq(f.exit, EXIT_DENIED);
    cr_expect_not_null(strstr(f.hint, "control"));
    status_fault(99, "x\033[2J", &d, true, &f);
    cr_expect_eq(f.exit, EXIT_FAILED);
    cr_expect_str_eq(f.text, "x?[2J");
}

/* Details are a stranger's bytes: every cut and every flipped bit of good ones is taken without harm. */
Test(status, hostile_details_do_no_harm) {
    static const uint8_t good[] = "\x1a\x4f\x0a\x29type.googleapis.com/google.rpc.BadRequest\x12\x22\x0a\x20\x0a\x0c"
                                  "filter.local\x12\x10what is wrong...";
    uint8_t copy[sizeof good];
    struct fault f;
    for (size_t cut = 0; cut < sizeof good; cut++) {
        for (int bit = 0; bit < 8; bit++) {
            memcpy(copy, good, sizeof good);
            copy[cut] ^= (uint8_t)(1 << bit);
            struct status_details d = {copy, sizeof good - 1};
            status_fault(3, "x", &d, false, &f);
            d.size = cut;
            status_fault(3, "x", &d, false, &f);
        }
    }
    struct status_details whole = {good, sizeof good - 1};
    status_fault(3, "x", &whole, false, &f);
    cr_expect_str_eq(f.text, "filter.local: x");
}
