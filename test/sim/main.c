/* SPDX-License-Identifier: Apache-2.0
 *
 * usher-sim: runs seeds. Prints every option a seed decides, the hashes of what happened, and for a failure the one
 * command that repeats it.
 */
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test/sim/model.h"

static struct sim_options running; /* for the crash handler */

/* A failed CHECK is a trap instruction: say how to repeat it, then die of it. */
static void crashed(int signal_number) {
    fprintf(stdout, "CRASHED (%s)\nReplay: ", strsignal(signal_number));
    sim_options_print_command(&running, stdout);
    fflush(stdout);
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static void usage(FILE *to) {
    fprintf(to, "usage: usher-sim [--seed N] [--count K] [--time 60s|500ms] [--hosts N] [--faults none|mild|wild]\n"
                "                 [--set OPTION=VALUE]... [--engines DIR] [--verify] [--quiet] [--verbose]\n"
                "\n"
                "Runs K seeds from N on. --verify runs each one twice, without and with engine upgrades, and compares\n"
                "what the applications saw. The seed decides these options; --set overrules them:\n");
    sim_options_help(to);
}

static bool parse_time(const char *text, uint64_t *ret_ms) {
    char *end;
    uint64_t v = strtoull(text, &end, 10);
    if (strcmp(end, "s") == 0)
        v *= 1000;
    else if (strcmp(end, "ms") != 0)
        return false;
    *ret_ms = v;
    return end != text && v < 1000000000;
}

struct arguments {
    struct sim_options options;
    uint64_t count;
    bool verify, quiet;
    char engines[512];
};

/* The instrumented modules lie beside the program, in sim-engines. */
static void default_engines(struct arguments *a) {
    char self[400];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n < 0 ? 0 : n] = '\0';
    char *slash = strrchr(self, '/');
    if (slash != NULL)
        *slash = '\0';
    snprintf(a->engines, sizeof a->engines, "%s/../lib/sim-engines", self);
    a->options.engines = a->engines;
}

static bool parse_one(struct arguments *a, int option, const char *value) {
    char hosts[64];
    switch (option) {
    case 's':
        a->options.seed = strtoull(value, NULL, 0);
        return true;
    case 'c':
        a->count = strtoull(value, NULL, 0);
        return a->count > 0;
    case 't':
        return parse_time(value, &a->options.time_ms);
    case 'h':
        snprintf(hosts, sizeof hosts, "hosts=%s", value);
        return sim_options_set(&a->options, hosts);
    case 'f':
        return sim_level_parse(value, &a->options.level) == 0;
    case 'o':
        return sim_options_set(&a->options, value);
    case 'e':
        a->options.engines = value;
        return true;
    case 'V':
        a->verify = true;
        return true;
    case 'q':
        a->quiet = true;
        return true;
    case 'v':
        a->options.verbose = true;
        return true;
    default:
        return false;
    }
}

static bool parse(int argc, char **argv, struct arguments *a) {
    static const struct option table[] = {{"seed", required_argument, NULL, 's'},
                                          {"count", required_argument, NULL, 'c'},
                                          {"time", required_argument, NULL, 't'},
                                          {"hosts", required_argument, NULL, 'h'},
                                          {"faults", required_argument, NULL, 'f'},
                                          {"set", required_argument, NULL, 'o'},
                                          {"engines", required_argument, NULL, 'e'},
                                          {"verify", no_argument, NULL, 'V'},
                                          {"quiet", no_argument, NULL, 'q'},
                                          {"verbose", no_argument, NULL, 'v'},
                                          {NULL, 0, NULL, 0}};
    for (int option; (option = getopt_long(argc, argv, "", table, NULL)) != -1;) {
        if (!parse_one(a, option, optarg)) {
            if (option != '?' && optarg != NULL)
                fprintf(stderr, "usher-sim: `%s` is not understood there; see below\n", optarg);
            return false;
        }
    }
    return optind == argc;
}

static void report(const struct sim_options *o, const struct model_result *r) {
    const struct model_stats *s = &r->stats;
    printf(
        "seed %llu app %016llx wire %016llx: %llu sent, %llu delivered, %llu answered, %llu frames, %llu drops, %llu "
        "notices, %llu upgrades, %llu deaths\n",
        (unsigned long long)o->seed, (unsigned long long)r->app_hash, (unsigned long long)r->wire_hash,
        (unsigned long long)s->sent, (unsigned long long)s->delivered, (unsigned long long)s->answered,
        (unsigned long long)r->frames, (unsigned long long)r->drops, (unsigned long long)s->notices,
        (unsigned long long)r->upgrades, (unsigned long long)r->deaths);
}

/* What all seeds together have seen: faults that never strike test nothing. */
static struct model_result total;

static void add_up(const struct model_result *r) {
    total.stats.sent += r->stats.sent;
    total.stats.delivered += r->stats.delivered;
    total.stats.bounced += r->stats.bounced;
    total.stats.notices += r->stats.notices;
    total.stats.collisions += r->stats.collisions;
    total.frames += r->frames;
    total.deaths += r->deaths;
    total.upgrades += r->upgrades;
    for (uint32_t i = 0; i < DROP_COUNT; i++)
        total.drop[i] += r->drop[i];
}

static void print_total(void) {
    static const char *const names[DROP_COUNT] = {
#define DROP(name, text) #name,
#include "engines/drops.def"
#undef DROP
    };
    printf("all: %llu sent, %llu delivered, %llu bounced, %llu frames, %llu notices, %llu collisions, %llu upgrades, "
           "%llu deaths; drops:",
           (unsigned long long)total.stats.sent, (unsigned long long)total.stats.delivered,
           (unsigned long long)total.stats.bounced, (unsigned long long)total.frames,
           (unsigned long long)total.stats.notices, (unsigned long long)total.stats.collisions,
           (unsigned long long)total.upgrades, (unsigned long long)total.deaths);
    for (uint32_t i = 0; i < DROP_COUNT; i++)
        if (total.drop[i] > 0)
            printf(" %s %llu", names[i], (unsigned long long)total.drop[i]);
    putchar('\n');
}

/* One run and what to say about it. */
static bool run(const struct sim_options *o, struct model_result *ret_result) {
    running = *o;
    model_run(o, ret_result);
    add_up(ret_result);
    if (ret_result->failed) {
        printf("FAILED %s\nReplay: ", ret_result->failure);
        sim_options_print_command(o, stdout);
    }
    return !ret_result->failed;
}

/* The same seed without upgrades: applications must see the same. Deaths are left out: where a count of stores ends
 * depends on the code that makes them. */
static bool verify(const struct sim_options *options) {
    struct sim_options o = *options;
    struct model_result without, with;
    sim_options_set(&o, "kills=0");
    sim_options_set(&o, "upgrades=0");
    bool good = run(&o, &without);
    o.v[SIM_upgrades] = options->v[SIM_upgrades] > 0 ? options->v[SIM_upgrades] : 20;
    good = run(&o, &with) && good;
    report(&o, &with);
    if (good && without.app_hash != with.app_hash) {
        printf("FAILED: with upgrades the applications see something else: app %016llx, without %016llx\nReplay: ",
               (unsigned long long)with.app_hash, (unsigned long long)without.app_hash);
        sim_options_print_command(&o, stdout);
        good = false;
    }
    return good;
}

static bool run_seed(const struct arguments *a, const struct sim_options *o) {
    if (!a->quiet) {
        sim_options_print_command(o, stdout);
        sim_options_print(o, stdout);
        fflush(stdout);
    }
    if (a->verify)
        return verify(o);
    struct model_result r;
    bool good = run(o, &r);
    report(o, &r);
    return good;
}

int main(int argc, char **argv) {
    static const int signals[] = {SIGILL, SIGTRAP, SIGSEGV, SIGBUS, SIGFPE, SIGABRT};
    struct arguments a = {.options = {.seed = 1, .time_ms = 10000, .level = SIM_MILD}, .count = 1};
    default_engines(&a);
    if (!parse(argc, argv, &a)) {
        usage(stderr);
        return 2;
    }
    const char *more = getenv("USHER_SIM_SEEDS"); /* for long test runs */
    if (more != NULL && a.count > 1)
        a.count = strtoull(more, NULL, 10);
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        signal(signals[i], crashed);
    uint64_t failed = 0;
    for (uint64_t i = 0; i < a.count; i++) {
        struct sim_options o = a.options;
        o.seed += i;
        sim_options_draw(&o);
        failed += !run_seed(&a, &o);
        fflush(stdout);
    }
    if (a.count > 1)
        print_total();
    if (failed > 0)
        printf("%llu of %llu seeds failed\n", (unsigned long long)failed, (unsigned long long)a.count);
    return failed > 0 ? 1 : 0;
}
