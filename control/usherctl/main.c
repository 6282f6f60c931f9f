/* SPDX-License-Identifier: Apache-2.0
 *
 * usherctl's main: the command line, the screen, one command (or the same again and again), and how it ended.
 */
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "control/usherctl/ctl.h"
#include "control/usherctl/explain.h"
#include "control/usherctl/global.h"
#include "control/usherctl/json.h"

#define WATCH_MIN_S 0.1
#define WATCH_MAX_S 3600.0

static bool one_of(const char *word, const char *const *list, size_t count, size_t *ret_index) {
    for (size_t i = 0; i < count; i++) {
        if (strcmp(word, list[i]) == 0) {
            *ret_index = i;
            return true;
        }
    }
    return false;
}

/* ---- the screen ---- */

static size_t terminal_width(void) {
    struct winsize size;
    const char *columns = getenv("COLUMNS");
    if (columns != NULL && atoi(columns) > 0)
        return (size_t)atoi(columns);
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    return isatty(STDOUT_FILENO) ? 80 : 0;
}

static int screen_set(struct ctl *c) {
    static const char *const whens[] = {"auto", "always", "never"};
    const char *wish = c->given.first[GLOBAL_COLOR], *dumb = getenv("TERM"), *no = getenv("NO_COLOR");
    size_t when = 0;
    if (wish != NULL && !one_of(wish, whens, 3, &when))
        return ctl_usage(c, "--color takes auto, always or never, not %s", wish);
    bool plain = !isatty(STDOUT_FILENO) || (no != NULL && no[0] != '\0') || (dumb != NULL && !strcmp(dumb, "dumb"));
    c->screen = (struct screen){
        .out = stdout,
        .width = c->output == OUTPUT_TABLE ? terminal_width() : 0,
        .color = when == 1 || (when == 0 && !plain),
        .utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0,
        .headers = c->given.first[GLOBAL_NO_HEADERS] == NULL,
    };
    return 0;
}

/* ---- options ---- */

static int seconds_given(struct ctl *c, enum global which, double min, double max, uint64_t *ret_ns) {
    const char *text = c->given.first[which];
    char *end;
    if (text == NULL)
        return 0;
    double s = strtod(text, &end);
    if (end == text || *end != '\0' || !(s >= min && s <= max))
        return ctl_usage(c, "--%s takes seconds from %g to %g, not %s", global_options[which].name, min, max, text);
    *ret_ns = (uint64_t)(s * 1e9);
    return 0;
}

static int globals_set(struct ctl *c) {
    static const char *const formats[] = {"table", "wide", "json"};
    const char *const *given = c->given.first;
    uint64_t timeout_ns = 10000000000u;
    size_t format = OUTPUT_TABLE;
    if (given[GLOBAL_OUTPUT] != NULL && !one_of(given[GLOBAL_OUTPUT], formats, 3, &format))
        return ctl_usage(c, "--output takes table, wide or json, not %s", given[GLOBAL_OUTPUT]);
    c->output = (enum output)format;
    if (seconds_given(c, GLOBAL_WATCH, WATCH_MIN_S, WATCH_MAX_S, &c->watch_ns) != 0 ||
        seconds_given(c, GLOBAL_TIMEOUT, 0.01, WATCH_MAX_S, &timeout_ns) != 0)
        return -1;
    const char *socket = getenv("USHER_CONTROL_SOCKET");
    c->params = (struct client_params){
        .socket = given[GLOBAL_SOCKET] != NULL ? given[GLOBAL_SOCKET]
                  : socket != NULL             ? socket
                                               : SOCKET_DEFAULT,
        .address = given[GLOBAL_CONNECT],
        .ca = given[GLOBAL_CA],
        .cert = given[GLOBAL_CERT],
        .key = given[GLOBAL_KEY],
        .timeout_ms = (uint32_t)(timeout_ns / 1000000),
    };
    return screen_set(c);
}

static int arguments_check(struct ctl *c) {
    const struct command *m = c->command;
    if (c->given.arg_count < m->arg_min)
        return ctl_usage(c, "usherctl %s needs %s", m->name, m->args);
    if (c->given.arg_count > m->arg_max)
        return ctl_usage(c, "usherctl %s takes %s, not %s", m->name, m->args[0] != '\0' ? m->args : "no arguments",
                         c->given.args[m->arg_max]);
    return 0;
}

/* Options may stand before the command and behind it. */
static int command_line(struct ctl *c, int argc, char **argv) {
    char err[160];
    int used = 0;
    if (options_parse(global_options, NULL, argc - 1, argv + 1, 1, &used, &c->given, err, sizeof err) != 0)
        return ctl_usage(c, "%s", err);
    int at = 1 + used;
    if (at == argc)
        return 0;
    c->command = command_of(argc - at, argv + at, &used);
    if (c->command == NULL && command_is_group(argv[at])) {
        c->group = argv[at];
        if (at + 1 == argc || argv[at + 1][0] == '-')
            return options_parse(global_options, NULL, argc - at - 1, argv + at + 1, 0, &used, &c->given, err,
                                 sizeof err) == 0
                       ? 0
                       : ctl_usage(c, "%s", err);
    }
    if (c->command == NULL) {
        const char *second = c->group != NULL ? argv[at + 1] : "";
        (void)ctl_usage(c, "there is no command %s%s%s", argv[at], second[0] != '\0' ? " " : "", second);
        explain_nearest(argv[at], second, c->fault.hint, sizeof c->fault.hint);
        return -1;
    }
    at += used;
    if (options_parse(global_options, c->command->options, argc - at, argv + at, 0, &used, &c->given, err,
                      sizeof err) != 0)
        return ctl_usage(c, "%s", err);
    return 0;
}

/* ---- the run ---- */

static void fault_print(const struct ctl *c) {
    const struct fault *f = &c->fault;
    if (c->output == OUTPUT_JSON) {
        (void)fprintf(stderr, "{\"error\":{\"exit\":%d,\"code\":", f->exit);
        json_string(stderr, f->code);
        (void)fputs(",\"reason\":", stderr);
        json_string(stderr, f->reason);
        (void)fputs(",\"message\":", stderr);
        json_string(stderr, f->text);
        (void)fputs(",\"hint\":", stderr);
        json_string(stderr, f->hint);
        (void)fputs("}}\n", stderr);
        return;
    }
    (void)fprintf(stderr, "usherctl: %s\n", f->text);
    if (f->hint[0] != '\0')
        (void)fprintf(stderr, "  %s\n", f->hint);
}

/* One answer under the other in a pipe; on a terminal each takes the place of the last. */
static int watch(struct ctl *c) {
    bool terminal = isatty(STDOUT_FILENO) && c->output != OUTPUT_JSON;
    for (;;) {
        char clock[32];
        time_t now = time(NULL);
        struct tm tm;
        (void)strftime(clock, sizeof clock, "%H:%M:%S", localtime_r(&now, &tm));
        if (terminal)
            (void)printf("\033[H\033[2J%susherctl %s%s  every %g s  %s\n\n", tone_on(&c->screen, TONE_TITLE),
                         c->command->name, tone_off(&c->screen, TONE_TITLE), (double)c->watch_ns / 1e9, clock);
        if (c->command->run(c) != 0)
            return -1;
        if (fflush(stdout) != 0 || ferror(stdout))
            return 0;
        const struct timespec pause = {(time_t)(c->watch_ns / 1000000000u), (long)(c->watch_ns % 1000000000u)};
        (void)nanosleep(&pause, NULL);
        if (terminal)
            c->screen.width = terminal_width();
    }
}

static int run(struct ctl *c, int argc, char **argv) {
    if (command_line(c, argc, argv) != 0 || globals_set(c) != 0)
        return -1;
    if (c->given.first[GLOBAL_VERSION] != NULL) {
        (void)puts("usherctl " USHER_VERSION);
        return 0;
    }
    if (c->given.first[GLOBAL_HELP] != NULL) {
        explain_help(c->command, c->group, &c->screen);
        return 0;
    }
    if (c->command == NULL) {
        c->screen.out = stderr;
        explain_help(NULL, c->group, &c->screen);
        c->fault.exit = EXIT_USAGE;
        return -1;
    }
    if (arguments_check(c) != 0)
        return -1;
    return c->watch_ns > 0 && !c->command->own_watch ? watch(c) : c->command->run(c);
}

int main(int argc, char **argv) {
    static struct ctl c;
    (void)setlocale(LC_CTYPE, "");
    (void)signal(SIGPIPE, SIG_DFL); /* `usherctl ... | head` ends in silence */
    int error = run(&c, argc, argv);
    if (error != 0 && c.fault.text[0] != '\0') {
        (void)fflush(stdout);
        fault_print(&c);
    }
    client_close(c.client);
    if (fflush(stdout) != 0 && error == 0)
        return EXIT_FAILED;
    return error == 0 ? EXIT_OK : (int)c.fault.exit;
}
