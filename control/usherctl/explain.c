/* SPDX-License-Identifier: Apache-2.0
 *
 * Help, completion and the manual page: three ways to print the tables of commands.c.
 */
#include "control/usherctl/explain.h"

#include <ctype.h>
#include <string.h>

#include "control/usherctl/text.h"

const struct exit_text exit_texts[] = {
    {EXIT_OK, "done"},
    {EXIT_FAILED, "usherd refused, or doctor found a fault"},
    {EXIT_USAGE, "the command line or a value is wrong"},
    {EXIT_UNREACHABLE, "usherd does not run, or nobody answers at that address"},
    {EXIT_DENIED, "you may not connect, or your role is too low"},
    {EXIT_NOT_FOUND, "there is no such session, socket, interface or engine"},
    {EXIT_PRECONDITION, "not in this state: programs are attached, the mode forbids it"},
    {EXIT_TIMEOUT, "no answer in time"},
};
const size_t exit_text_count = sizeof exit_texts / sizeof exit_texts[0];

/* ---- help ---- */

static void wrapped(const struct screen *s, size_t indent, const char *text) {
    size_t room = (s->width >= 40 && s->width < 100 ? s->width : 100) - indent;
    while (*text != '\0') {
        size_t n = text_cut(text, room);
        if (text[n] != '\0') {
            while (n > 0 && text[n] != ' ')
                n--;
        }
        n = n > 0 ? n : text_cut(text, room);
        (void)fprintf(s->out, "%*s%.*s\n", (int)indent, "", (int)n, text);
        text += n;
        text += *text == ' ';
    }
}

static void option_lines(const struct screen *s, const struct option_def *o) {
    for (; o != NULL && o->name != NULL; o++) {
        char left[64];
        int n = o->letter != 0 ? snprintf(left, sizeof left, "  -%c, --%s", o->letter, o->name)
                               : snprintf(left, sizeof left, "      --%s", o->name);
        if (o->arg != NULL)
            (void)snprintf(left + n, sizeof left - (size_t)n, o->absent != NULL ? "[=%s]" : " %s", o->arg);
        (void)fprintf(s->out, "%-28s%s", left, strlen(left) >= 28 ? "\n" : "");
        size_t room = s->width >= 60 && s->width < 100 ? s->width - 28 : 72;
        const char *text = o->doc;
        bool first = strlen(left) < 28;
        while (*text != '\0') {
            size_t cut = text_cut(text, room);
            while (text[cut] != '\0' && cut > 0 && text[cut] != ' ')
                cut--;
            (void)fprintf(s->out, "%*s%.*s\n", first ? 0 : 28, "", (int)cut, text);
            text += cut;
            text += *text == ' ';
            first = false;
        }
    }
}

static void command_lines(const struct screen *s, const char *title, const char *role) {
    (void)fprintf(s->out, "\n%s%s%s\n", tone_on(s, TONE_TITLE), title, tone_off(s, TONE_TITLE));
    for (size_t i = 0; i < command_count; i++) {
        const struct command *m = &commands[i];
        char left[48];
        if (strcmp(m->role, role) != 0)
            continue;
        (void)snprintf(left, sizeof left, "%s %s", m->name, m->args);
        int over = strlen(left) < 28 ? 0 : 30; /* a long one has a line of its own */
        (void)fprintf(s->out, "  %-28s%s%*s%s\n", left, over ? "\n" : "", over, "", m->summary);
    }
}

static void help_group(const struct screen *s, const char *group) {
    char name[24];
    const char *rest;
    (void)fprintf(s->out, "usage: usherctl %s COMMAND [OPTIONS] [ARGUMENTS]\n\n", group);
    for (size_t i = 0; i < command_count; i++)
        if (command_split(&commands[i], name, &rest) && strcmp(name, group) == 0)
            (void)fprintf(s->out, "  %-10s%s\n", rest, commands[i].summary);
    (void)fprintf(s->out, "\n`usherctl %s COMMAND --help` and usherctl(1) say more.\n", group);
}

static void help_all(const struct screen *s) {
    (void)fprintf(s->out, "usage: usherctl [OPTIONS] COMMAND [OPTIONS] [ARGUMENTS]\n"
                          "Looks after usherd, the host networking dataplane.\n");
    command_lines(s, "To see (role viewer)", "viewer");
    command_lines(s, "To change (role operator)", "operator");
    command_lines(s, "To end (role admin)", "admin");
    command_lines(s, "Without usherd", "");
    (void)fprintf(s->out, "\n%sOptions%s\n", tone_on(s, TONE_TITLE), tone_off(s, TONE_TITLE));
    option_lines(s, global_options);
    (void)fprintf(s->out, "\n`usherctl COMMAND --help` and usherctl(1) say more.\n");
}

void explain_help(const struct command *m, const char *group, const struct screen *s) {
    if (m == NULL) {
        if (group != NULL)
            help_group(s, group);
        else
            help_all(s);
        return;
    }
    (void)fprintf(s->out, "usage: usherctl %s%s%s%s\n%s.\n\n", m->name, m->options != NULL ? " [OPTIONS]" : "",
                  m->args[0] != '\0' ? " " : "", m->args, m->summary);
    wrapped(s, 0, m->help);
    if (m->role[0] != '\0')
        (void)fprintf(s->out, "\nLeast role: %s\n", m->role);
    if (m->options != NULL) {
        (void)fprintf(s->out, "\n%sOptions%s\n", tone_on(s, TONE_TITLE), tone_off(s, TONE_TITLE));
        option_lines(s, m->options);
    }
    (void)fprintf(s->out, "\n%sOptions of every command%s\n", tone_on(s, TONE_TITLE), tone_off(s, TONE_TITLE));
    option_lines(s, global_options);
}

/* ---- the nearest command ---- */

/* Edit distance; words are short. */
static size_t distance(const char *a, const char *b) {
    size_t row[64], n = strlen(b);
    if (n >= 64)
        return 64;
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 1; a[i - 1] != '\0'; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            size_t step = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            row[j] = change < step ? change : step;
        }
    }
    return row[n];
}

void explain_nearest(const char *word, const char *second, char *ret_hint, size_t size) {
    const struct command *best = NULL;
    char given[64];
    (void)snprintf(given, sizeof given, "%s%s%s", word, second[0] != '\0' ? " " : "", second);
    size_t length = strlen(given), least = length < 5 ? 2 : 3;
    for (size_t i = 0; i < command_count; i++) {
        bool begins = length >= 2 && strncmp(commands[i].name, given, length) == 0;
        size_t d = begins ? 1 : distance(given, commands[i].name);
        if (d < least) {
            least = d;
            best = &commands[i];
        }
    }
    if (best != NULL)
        (void)snprintf(ret_hint, size, "did you mean `usherctl %s`?", best->name);
    else if (command_is_group(word))
        (void)snprintf(ret_hint, size, "see `usherctl %s --help`", word);
    else
        (void)snprintf(ret_hint, size, "see `usherctl --help`");
}

/* ---- completion: the words come from the tables, the shell's part is a few lines ---- */

static void words_line(FILE *out, const char *words) {
    (void)fprintf(out, "%s", strcmp(words, "FILE") == 0 ? "$(compgen -f -- \"$cur\")" : words);
}

static void bash_options(FILE *out, const struct option_def *o) {
    for (; o != NULL && o->name != NULL; o++)
        (void)fprintf(out, " --%s%s", o->name, o->absent != NULL ? "=" : "");
}

static void bash_values(FILE *out, const struct option_def *o, const char *indent) {
    for (; o != NULL && o->name != NULL; o++) {
        if (o->words == NULL)
            continue;
        (void)fprintf(out, "%s--%s", indent, o->name);
        if (o->letter != 0)
            (void)fprintf(out, "|-%c", o->letter);
        (void)fputs(") words=\"", out);
        words_line(out, o->words);
        (void)fputs("\" ;;\n", out);
    }
}

/* Calls `print` with each first word of a command, once. */
static void first_words(FILE *out, void (*print)(FILE *out, const char *word, const char *summary)) {
    char group[24], last[24] = "";
    const char *rest;
    for (size_t i = 0; i < command_count; i++) {
        bool of_group = command_split(&commands[i], group, &rest);
        if (of_group && strcmp(group, last) == 0)
            continue;
        print(out, of_group ? group : commands[i].name,
              of_group ? "More commands; see its --help" : commands[i].summary);
        (void)snprintf(last, sizeof last, "%s", of_group ? group : "");
    }
}

static void bash_word(FILE *out, const char *word, const char *summary) {
    (void)summary;
    (void)fprintf(out, " %s", word);
}

/* The second words of a group whose first command is `first`; NULL: it is no group's first. */
static bool group_begins(size_t i, char group[24]) {
    char before[24] = "";
    const char *rest;
    if (!command_split(&commands[i], group, &rest))
        return false;
    return i == 0 || !command_split(&commands[i - 1], before, &rest) || strcmp(before, group) != 0;
}

static void bash_groups(FILE *out) {
    char group[24], name[24];
    const char *rest;
    for (size_t i = 0; i < command_count; i++) {
        if (!group_begins(i, group))
            continue;
        (void)fprintf(out, "            %s) words+=\"", group);
        for (size_t k = i; k < command_count; k++)
            if (command_split(&commands[k], name, &rest) && strcmp(name, group) == 0)
                (void)fprintf(out, " %s", rest);
        (void)fputs("\" ;;\n", out);
    }
}

static void bash_names(FILE *out) {
    char group[24];
    for (size_t i = 0; i < command_count; i++) {
        if (group_begins(i, group))
            (void)fprintf(out, "            %s) command=%s ;;\n", group, group);
        (void)fprintf(out, "            \"%s\") command=\"%s\" ;;\n", commands[i].name, commands[i].name);
    }
}

static void completion_bash(FILE *out) {
    (void)fputs("# bash completion of usherctl\n_usherctl() {\n    local cur prev command=\"\" word words=\"\"\n"
                "    cur=${COMP_WORDS[COMP_CWORD]}\n    prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                "    for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n        case ${command:+$command }$word in\n",
                out);
    bash_names(out);
    (void)fputs("        esac\n    done\n    case $prev in\n", out);
    bash_values(out, global_options, "        ");
    (void)fputs("    esac\n    if [[ -z $words ]]; then\n        words=\"", out);
    bash_options(out, global_options);
    (void)fputs("\"\n        case $command in\n            \"\") words+=\"", out);
    first_words(out, bash_word);
    (void)fputs("\" ;;\n", out);
    bash_groups(out);
    for (size_t i = 0; i < command_count; i++) {
        const struct command *m = &commands[i];
        if (m->options == NULL && m->words == NULL)
            continue;
        (void)fprintf(out, "            \"%s\")\n                words+=\"", m->name);
        bash_options(out, m->options);
        (void)fputc(' ', out);
        words_line(out, m->words != NULL ? m->words : "");
        (void)fputs("\"\n                case $prev in\n", out);
        bash_values(out, m->options, "                    ");
        (void)fputs("                esac ;;\n", out);
    }
    (void)fputs("        esac\n    fi\n    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
                "    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace\n"
                "    return 0\n}\ncomplete -F _usherctl usherctl\n",
                out);
}

/* Quoted for zsh's and fish's single quotes. */
static void quoted(FILE *out, const char *text, const char *special) {
    for (; *text != '\0'; text++) {
        if (*text == '\'')
            (void)fputs("'\\''", out);
        else if (strchr(special, *text) != NULL)
            (void)fprintf(out, "\\%c", *text);
        else
            (void)fputc(*text, out);
    }
}

static void zsh_values(FILE *out, const char *words) {
    if (words == NULL)
        (void)fputs(": ", out);
    else if (strcmp(words, "FILE") == 0)
        (void)fputs(":_files", out);
    else
        (void)fprintf(out, ":(%s)", words);
}

static void zsh_options(FILE *out, const struct option_def *o, const char *indent) {
    for (; o != NULL && o->name != NULL; o++) {
        for (int form = 0; form < (o->letter != 0 ? 2 : 1); form++) {
            (void)fputs(indent, out);
            if (form == 0)
                (void)fprintf(out, "'--%s%s[", o->name, o->arg != NULL ? "=" : "");
            else
                (void)fprintf(out, "'-%c%s[", o->letter, o->arg != NULL ? "+" : "");
            quoted(out, o->doc, "[]:");
            (void)fputc(']', out);
            if (o->arg != NULL) {
                (void)fprintf(out, "%s%s", o->absent != NULL ? "::" : ":", o->name);
                zsh_values(out, o->words);
            }
            (void)fputs("' \\\n", out);
        }
    }
}

static void zsh_name(FILE *out, const char *word, const char *summary) {
    (void)fprintf(out, "        '%s:", word);
    quoted(out, summary, ":");
    (void)fputs("'\n", out);
}

static void zsh_arguments(FILE *out, const struct command *m) {
    (void)fputs("            _arguments -s \\\n", out);
    zsh_options(out, m->options, "                ");
    zsh_options(out, global_options, "                ");
    (void)fputs("                '1:argument", out);
    zsh_values(out, m->words);
    (void)fputs("' ;;\n", out);
}

/* A command of a group: its words are two, so they become one in front of its arguments. */
static void zsh_groups(FILE *out) {
    char group[24], name[24];
    const char *rest;
    for (size_t i = 0; i < command_count; i++) {
        if (!group_begins(i, group))
            continue;
        (void)fprintf(out,
                      "    if [[ $state == argument && $words[1] == %s ]]; then\n        if (( CURRENT == 2 )); "
                      "then\n            compadd",
                      group);
        for (size_t k = i; k < command_count; k++)
            if (command_split(&commands[k], name, &rest) && strcmp(name, group) == 0)
                (void)fprintf(out, " %s", rest);
        (void)fputs("\n            return\n        fi\n        words=(\"$words[1] $words[2]\" $words[3,-1])\n"
                    "        (( CURRENT-- ))\n    fi\n",
                    out);
    }
}

static void completion_zsh(FILE *out) {
    (void)fputs("#compdef usherctl\n_usherctl() {\n    local state\n    local -a names\n    names=(\n", out);
    first_words(out, zsh_name);
    (void)fputs("    )\n    _arguments -s -C \\\n", out);
    zsh_options(out, global_options, "        ");
    (void)fputs("        '1:command:->command' \\\n        '*::argument:->argument'\n", out);
    zsh_groups(out);
    (void)fputs(
        "    case $state in\n    command) _describe command names ;;\n    argument)\n        case $words[1] in\n", out);
    for (size_t i = 0; i < command_count; i++) {
        (void)fprintf(out, "        \"%s\")\n", commands[i].name);
        zsh_arguments(out, &commands[i]);
    }
    (void)fputs("        esac ;;\n    esac\n}\n_usherctl \"$@\"\n", out);
}

static void fish_option(FILE *out, const struct option_def *o, const char *when) {
    (void)fprintf(out, "complete -c usherctl %s -l %s", when, o->name);
    if (o->letter != 0)
        (void)fprintf(out, " -s %c", o->letter);
    if (o->arg != NULL && o->words != NULL && strcmp(o->words, "FILE") == 0)
        (void)fputs(" -r -F", out);
    else if (o->arg != NULL && o->absent == NULL)
        (void)fprintf(out, " -x%s%s%s", o->words != NULL ? " -a '" : "", o->words != NULL ? o->words : "",
                      o->words != NULL ? "'" : "");
    (void)fputs(" -d '", out);
    quoted(out, o->doc, "");
    (void)fputs("'\n", out);
}

static void fish_name(FILE *out, const char *word, const char *summary) {
    (void)fprintf(out, "complete -c usherctl -n __fish_use_subcommand -a %s -d '", word);
    quoted(out, summary, "");
    (void)fputs("'\n", out);
}

static void fish_command(FILE *out, const struct command *m) {
    char when[160], group[24];
    const char *rest;
    if (command_split(m, group, &rest)) {
        (void)fprintf(out, "complete -c usherctl -n '__fish_seen_subcommand_from %s' -a %s -d '", group, rest);
        quoted(out, m->summary, "");
        (void)fputs("'\n", out);
        (void)snprintf(when, sizeof when, "-n '__fish_seen_subcommand_from %s; and __fish_seen_subcommand_from %s'",
                       group, rest);
    } else {
        (void)snprintf(when, sizeof when, "-n '__fish_seen_subcommand_from %s'", m->name);
    }
    for (const struct option_def *o = m->options; o != NULL && o->name != NULL; o++)
        fish_option(out, o, when);
    if (m->words != NULL && strcmp(m->words, "FILE") == 0)
        (void)fprintf(out, "complete -c usherctl %s -F\n", when);
    else if (m->words != NULL)
        (void)fprintf(out, "complete -c usherctl %s -a '%s'\n", when, m->words);
}

static void completion_fish(FILE *out) {
    (void)fputs("# fish completion of usherctl\ncomplete -c usherctl -f\n", out);
    for (const struct option_def *o = global_options; o->name != NULL; o++)
        fish_option(out, o, "");
    first_words(out, fish_name);
    for (size_t i = 0; i < command_count; i++)
        fish_command(out, &commands[i]);
}

int run_completion(struct ctl *c) {
    static const struct {
        const char *shell;
        void (*print)(FILE *out);
    } shells[] = {{"bash", completion_bash}, {"zsh", completion_zsh}, {"fish", completion_fish}};
    for (size_t i = 0; i < sizeof shells / sizeof shells[0]; i++) {
        if (strcmp(c->given.args[0], shells[i].shell) == 0) {
            shells[i].print(c->screen.out);
            return 0;
        }
    }
    return ctl_usage(c, "%s is no shell usherctl knows; those are bash, zsh and fish", c->given.args[0]);
}

/* ---- the manual ---- */

/* A dash that begins a line or an option is a minus sign. */
static void roff(FILE *out, const char *text) {
    for (; *text != '\0'; text++) {
        if (*text == '-')
            (void)fputs("\\-", out);
        else if (*text == '\\')
            (void)fputs("\\e", out);
        else
            (void)fputc(*text, out);
    }
}

static void roff_options(FILE *out, const struct option_def *o) {
    for (; o != NULL && o->name != NULL; o++) {
        (void)fputs(".TP\n", out);
        if (o->letter != 0)
            (void)fprintf(out, "\\fB\\-%c\\fR, ", o->letter);
        (void)fputs("\\fB\\-\\-", out);
        roff(out, o->name);
        (void)fputs("\\fR", out);
        if (o->arg != NULL)
            (void)fprintf(out, o->absent != NULL ? "[=\\fI%s\\fR]" : " \\fI%s\\fR", o->arg);
        (void)fputc('\n', out);
        roff(out, o->doc);
        (void)fputs(".\n", out);
    }
}

int run_manual(struct ctl *c) {
    FILE *out = c->screen.out;
    (void)fputs(
        ".\\\" SPDX-License-Identifier: Apache-2.0\n.TH USHERCTL 1 \"\" \"usher\"\n.SH NAME\n"
        "usherctl \\- look after usherd, the host networking dataplane\n.SH SYNOPSIS\n.B usherctl\n"
        "[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]\n.SH DESCRIPTION\n.B usherctl\n"
        "asks usherd over its control socket, or another host's over mutual TLS, and shows the answer as a table "
        "that fits the\nterminal, or as JSON. What you may do depends on your role: viewers see, operators "
        "change, admins also stop usherd;\nroles are given to users and groups in\n.BR usherd.yaml (5).\n"
        ".SH COMMANDS\n",
        out);
    for (size_t i = 0; i < command_count; i++) {
        const struct command *m = &commands[i];
        (void)fputs(".TP\n\\fB", out);
        roff(out, m->name);
        (void)fprintf(out, "\\fR%s\\fI%s\\fR\n", m->args[0] != '\0' ? " " : "", m->args);
        roff(out, m->summary);
        (void)fputs(".\n", out);
        roff(out, m->help);
        (void)fprintf(out, "\n%s%s%s", m->role[0] != '\0' ? "Least role: " : "", m->role,
                      m->role[0] != '\0' ? ".\n" : "");
        if (m->options != NULL) {
            (void)fputs(".RS\n", out);
            roff_options(out, m->options);
            (void)fputs(".RE\n", out);
        }
    }
    (void)fputs(".SH OPTIONS\n", out);
    roff_options(out, global_options);
    (void)fputs(".SH EXIT STATUS\n", out);
    for (size_t i = 0; i < exit_text_count; i++)
        (void)fprintf(out, ".TP\n%d\n%s.\n", exit_texts[i].code, exit_texts[i].text);
    (void)fputs(
        ".SH ENVIRONMENT\n.TP\nUSHER_CONTROL_SOCKET\nThe control socket, where \\fB\\-\\-socket\\fR is not given.\n"
        ".TP\nNO_COLOR\nIf not empty: no colours.\n.TP\nCOLUMNS\nWidth of tables instead of the terminal's.\n"
        ".SH JSON\nNames are those of the API (usher.control.v1). Every field is there; numbers are numbers, also "
        "those of 64 bits; enums are\nwords in lower case; what is not set is null. With \\fB\\-\\-watch\\fR each "
        "answer is one line. Errors are an object on standard\nerror.\n"
        ".SH SEE ALSO\n.BR usherd (8),\n.BR usherd.yaml (5)\n",
        out);
    return 0;
}
