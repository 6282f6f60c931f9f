/* SPDX-License-Identifier: Apache-2.0
 *
 * usherd's main: the command line, then one of five things: check the config, print its manual, try whether it
 * could take over, clean up after a dead usherd, or run. Running is usherd_begin(), the event loop, usherd_end().
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "control/log.h"
#include "control/succession.h"
#include "control/usherd.h"

#define CONFIG_DEFAULT "/etc/usher/usherd.yaml"

enum action {
    ACTION_RUN,
    ACTION_CHECK,
    ACTION_DOC,
    ACTION_CATALOG,
    ACTION_CLEANUP,
    ACTION_TRY,
    ACTION_HELP,
    ACTION_VERSION
};

struct options {
    enum action action;
    const char *config, *state_dir, *run_dir;
};

static const char usage[] =
    "usage: usherd [OPTIONS]\n"
    "The host networking dataplane: programs attach to it and exchange packets through shared memory.\n\n"
    "  --config FILE     settings (default " CONFIG_DEFAULT ", then conf.d/*.yaml beside it)\n"
    "  --check-config    check the settings, print them as understood, and end; exit 2 when they are wrong\n"
    "  --config-doc      print the manual page of the settings and end\n"
    "  --event-catalog   print the events that usherd logs as a catalog of the journal and end\n"
    "  --try             load the engines that the settings name, and end: could this program take over?\n"
    "  --cleanup         remove what a dead usherd left in this network namespace and end\n"
    "  --state-dir DIR   instead of the setting state_dir\n"
    "  --run-dir DIR     instead of the setting run_dir\n"
    "  --foreground      stay in the foreground (always so)\n"
    "  --version, --help\n\n"
    "Exit status: 0 ended in order, 1 could not start, 2 wrong settings or command line.\n";

static bool options_read(int argc, char **argv, struct options *o) {
    static const struct option list[] = {
        {"config", required_argument, NULL, 'c'},       {"check-config", no_argument, NULL, ACTION_CHECK},
        {"config-doc", no_argument, NULL, ACTION_DOC},  {"event-catalog", no_argument, NULL, ACTION_CATALOG},
        {"cleanup", no_argument, NULL, ACTION_CLEANUP}, {"try", no_argument, NULL, ACTION_TRY},
        {"state-dir", required_argument, NULL, 's'},    {"run-dir", required_argument, NULL, 'r'},
        {"foreground", no_argument, NULL, 'f'},         {"version", no_argument, NULL, ACTION_VERSION},
        {"help", no_argument, NULL, ACTION_HELP},       {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "", list, NULL)) != -1;) {
        if (c == '?')
            return false;
        if (c == 'c')
            o->config = optarg;
        else if (c == 's')
            o->state_dir = optarg;
        else if (c == 'r')
            o->run_dir = optarg;
        else if (c != 'f')
            o->action = (enum action)c;
    }
    return optind == argc;
}

static bool dir_override(const char *option, const char *path, char *ret_dir, size_t size) {
    if (path == NULL)
        return true;
    if (path[0] == '/' && strlen(path) < size) {
        (void)snprintf(ret_dir, size, "%s", path);
        return true;
    }
    (void)fprintf(stderr, "usherd: %s %s: must be an absolute path of at most %zu bytes\n", option, path, size - 1);
    return false;
}

/* Without --config, a missing file means the defaults. */
static bool config_read(const struct options *o, struct usherd *u) {
    static struct problems problems;
    const char *path = o->config != NULL ? o->config : CONFIG_DEFAULT;
    bool defaults = o->config == NULL && access(path, F_OK) != 0;
    int err = defaults ? config_parse(path, "", 0, &u->cfg, &problems) : config_load(path, &u->cfg, &problems);
    for (uint32_t i = 0; i < problems.count && i < PROBLEM_MAX; i++)
        (void)fprintf(stderr, "%s\n", problems.text[i]);
    if (problems.count > PROBLEM_MAX)
        (void)fprintf(stderr, "and %u more problems\n", problems.count - PROBLEM_MAX);
    (void)snprintf(u->config_path, sizeof u->config_path, "%s", path);
    u->config_default = o->config == NULL;
    return err == 0 && dir_override("--state-dir", o->state_dir, u->cfg.state_dir, sizeof u->cfg.state_dir) &&
           dir_override("--run-dir", o->run_dir, u->cfg.run_dir, sizeof u->cfg.run_dir);
}

static int run(struct usherd *u) {
    if (usherd_begin(u) != 0)
        return 1;
    succession_through(u);
    (void)sd_notifyf(0, "READY=1\nSTATUS=serving\nMAINPID=%d", (int)getpid());
    int err = sd_event_loop(u->event);
    if (u->successor[0] != '\0')
        succession_end(u); /* does not return, as a rule */
    (void)sd_notify(0, "STOPPING=1");
    log_info("stop", "sessions end, the kernel gets its ports back");
    usherd_end(u);
    return err < 0 ? 1 : 0;
}

static int act(int argc, char **argv) {
    static struct usherd usherd;
    struct options o = {0};
    if (!options_read(argc, argv, &o)) {
        (void)fputs(usage, stderr);
        return 2;
    }
    if (o.action == ACTION_HELP || o.action == ACTION_VERSION) {
        (void)fputs(o.action == ACTION_HELP ? usage : "usherd " USHER_VERSION "\n", stdout);
        return 0;
    }
    if (o.action == ACTION_DOC || o.action == ACTION_CATALOG) {
        (o.action == ACTION_DOC ? config_print_manual : log_catalog_print)(stdout);
        return 0;
    }
    if (!config_read(&o, &usherd))
        return 2;
    if (o.action == ACTION_CHECK) {
        config_print(&usherd.cfg, stdout);
        return 0;
    }
    log_open((enum log_level)usherd.cfg.log.level);
    if (readlink("/proc/self/exe", usherd.self, sizeof usherd.self - 1) < 0) {
        log_error("start", "/proc is not mounted (%s); mount it", strerror(errno));
        return 1;
    }
    usherd.arguments = argv;
    if (o.action == ACTION_TRY)
        return succession_rehearse(&usherd);
    if (o.action == ACTION_CLEANUP)
        return usherd_cleanup(&usherd) == 0 ? 0 : 1;
    return run(&usherd);
}

int main(int argc, char **argv) {
    succession_begin(argv);
    int status = act(argc, argv);
    if (status != 0)
        succession_back(); /* if it has come so far only because another one gave way */
    return status;
}
