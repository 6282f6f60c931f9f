/* SPDX-License-Identifier: Apache-2.0
 *
 * usher-keeper: the program around hold.c. Started by usherd with a connection on an inherited fd; leaves usherd's
 * session at once, so that neither a terminal's signals nor usherd's end reach it. When all is let go it becomes the
 * command behind "--" (usherd --cleanup), which undoes what no fd holds; when hooks last, that command runs beside it.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/keeper/hold.h"

static const char usage[] =
    "usage: usher-keeper --fd N --socket PATH --grace-ms N [-- COMMAND ARGS...]\n"
    "Holds file descriptors for usherd, which starts it; see usher-keeper(8). Not meant to be run by hand.\n";

static bool number(const char *text, long most, long *ret_value) {
    char *end;
    errno = 0;
    long n = strtol(text, &end, 10);
    if (errno != 0 || *end != '\0' || end == text || n < 0 || n > most)
        return false;
    *ret_value = n;
    return true;
}

static bool options_read(int argc, char **argv, struct hold_params *p) {
    static const struct option options[] = {{"fd", required_argument, NULL, 'f'},
                                            {"socket", required_argument, NULL, 's'},
                                            {"grace-ms", required_argument, NULL, 'g'},
                                            {NULL, 0, NULL, 0}};
    long value;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 's')
            p->path = optarg;
        else if (c == 'f' && number(optarg, 1 << 20, &value))
            p->first = (int)value;
        else if (c == 'g' && number(optarg, 3600000, &value))
            p->grace_ns = (uint64_t)value * 1000000;
        else
            return false;
    }
    return p->path != NULL && p->first >= 0;
}

int main(int argc, char **argv) {
    struct hold_params params = {.first = -1, .grace_ns = 10000000000ull};
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        (void)printf("usher-keeper " USHER_VERSION "\n");
        return 0;
    }
    if (!options_read(argc, argv, &params)) {
        (void)fputs(usage, stderr);
        return 2;
    }
    (void)setsid();
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGHUP, SIG_IGN);
    params.cleanup = optind < argc ? &argv[optind] : NULL;
    int err = hold_run(&params);
    if (err != 0) {
        (void)fprintf(stderr, "usher-keeper: cannot listen on %s: %s; check that run_dir is writable\n", params.path,
                      strerror(-err));
        return 1;
    }
    if (optind < argc) {
        (void)execv(argv[optind], &argv[optind]);
        (void)fprintf(stderr, "usher-keeper: cannot run %s: %s\n", argv[optind], strerror(errno));
        return 1;
    }
    return 0;
}
