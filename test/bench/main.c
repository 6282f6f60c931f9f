/* SPDX-License-Identifier: Apache-2.0
 *
 * usher-bench: the kernel's way and Usher's way side by side. Reads the command line and walks the table of benches.
 * Exit status: 0 all figures are there (whether or not targets are met), 1 some are missing, 2 wrong use.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test/bench/benches.h"
#include "test/bench/report.h"
#include "test/bench/tick.h"

struct options {
    const char *name;
    bool json;
    uint32_t rounds;
    double seconds;
};

static int usage(FILE *out) {
    (void)fprintf(out, "usher-bench list                      what can be run\n"
                       "usher-bench run NAME|all [--json] [--rounds N] [--seconds S]\n"
                       "usher-bench engine-loop|echo-loop N   the inner loops of udp-engine-cost alone, for profilers\n"
                       "  --json      one object a line: bench, metric, unit, kernel, usher, ratio, limit\n"
                       "  --rounds    how often the sides take turns, 1 to 32\n"
                       "  --seconds   measuring time of each side in a round, 0.01 to 60\n"
                       "ratio is always 'times better than the kernel'; limit is a physical bound of this machine.\n"
                       "Needs root: every bench makes namespaces of its own and leaves nothing behind.\n");
    return out == stderr ? 2 : 0;
}

static int list(void) {
    for (size_t i = 0; i < bench_table_count; i++) {
        const struct bench *b = bench_table[i];
        (void)printf("%-16s %s\n%-16s   metrics:", b->name, b->what, "");
        for (uint32_t k = 0; k < b->metric_count; k++)
            (void)printf(" %s", b->metrics[k].name);
        (void)printf("\n");
    }
    return 0;
}

static int parse_number(const char *option, const char *text, double min, double max, double *ret_value) {
    char *end = NULL;
    double v = text == NULL ? NAN : strtod(text, &end);
    if (text == NULL || end == text || *end != '\0' || !(v >= min && v <= max)) {
        (void)fprintf(stderr, "usher-bench: %s needs a number from %g to %g, not '%s'\n", option, min, max,
                      text == NULL ? "" : text);
        return -1;
    }
    *ret_value = v;
    return 0;
}

static int parse(int argc, char **argv, struct options *ret_options) {
    struct options o = {0};
    for (int i = 2; i < argc; i++) {
        double v;
        if (strcmp(argv[i], "--json") == 0) {
            o.json = true;
        } else if (strcmp(argv[i], "--rounds") == 0) {
            if (parse_number("--rounds", argv[++i], 1, BENCH_ROUND_MAX, &v) != 0)
                return -1;
            o.rounds = (uint32_t)v;
        } else if (strcmp(argv[i], "--seconds") == 0) {
            if (parse_number("--seconds", argv[++i], 0.01, 60, &o.seconds) != 0)
                return -1;
        } else if (argv[i][0] != '-' && o.name == NULL) {
            o.name = argv[i];
        } else {
            (void)fprintf(stderr, "usher-bench: '%s' is not known here\n", argv[i]);
            return -1;
        }
    }
    *ret_options = o;
    return 0;
}

static int run_one(const struct bench *b, const struct options *o) {
    static struct bench_result result;
    uint32_t rounds = o->rounds != 0 ? o->rounds : b->rounds;
    double seconds = o->seconds > 0 ? o->seconds : b->seconds;
    int rc = bench_run(b, rounds, seconds, &result);
    if (o->json)
        report_json(stdout, b, &result);
    else
        report_table(stdout, b, &result, rounds, seconds);
    report_errors(stderr, b, &result);
    return rc;
}

static int run(const struct options *o) {
    int rc = 0;
    bool found = false;
    for (size_t i = 0; i < bench_table_count; i++) {
        if (strcmp(o->name, "all") != 0 && strcmp(o->name, bench_table[i]->name) != 0)
            continue;
        found = true;
        rc |= run_one(bench_table[i], o);
    }
    if (!found) {
        (void)fprintf(stderr, "usher-bench: no bench is called '%s'; 'usher-bench list' shows them\n", o->name);
        return 2;
    }
    return rc;
}

int main(int argc, char **argv) {
    struct options o;
    if (argc == 2 && strcmp(argv[1], "list") == 0)
        return list();
    if (argc == 3 && (strcmp(argv[1], "engine-loop") == 0 || strcmp(argv[1], "echo-loop") == 0))
        return bench_engine_loop((uint32_t)strtoul(argv[2], NULL, 10), argv[1][1] == 'c');
    if (argc == 2 && strcmp(argv[1], "--help") == 0)
        return usage(stdout);
    if (argc < 3 || strcmp(argv[1], "run") != 0 || parse(argc, argv, &o) != 0 || o.name == NULL)
        return usage(stderr);
    tick_init();
    return run(&o);
}
