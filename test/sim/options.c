/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of options.h at work: drawing, overruling, printing.
 */
#include "test/sim/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engines/check.h"
#include "test/sim/prng.h"

#define STREAM_OPTION 1

struct option_def {
    const char *name;
    bool fault;
    uint64_t none;
    uint64_t lo[2], hi[2]; /* mild, wild */
    const char *text;
};

static const struct option_def defs[SIM_OPTION_COUNT] = {
#define OPT(name, fault, none, mild_lo, mild_hi, wild_lo, wild_hi, text)                                               \
    {#name, fault, none, {mild_lo, wild_lo}, {mild_hi, wild_hi}, text},
    SIM_OPTIONS(OPT)
#undef OPT
};

static const char *const levels[] = {[SIM_NONE] = "none", [SIM_MILD] = "mild", [SIM_WILD] = "wild"};

void sim_options_draw(struct sim_options *o) {
    for (uint32_t i = 0; i < SIM_OPTION_COUNT; i++) {
        const struct option_def *d = &defs[i];
        struct prng p = prng_stream(o->seed, STREAM_OPTION + i);
        bool absent = d->fault && prng_chance(&p, PPM / 2);
        if (o->given[i])
            continue;
        uint32_t column = o->level == SIM_WILD;
        o->v[i] = o->level == SIM_NONE || absent ? d->none : prng_between(&p, d->lo[column], d->hi[column]);
    }
}

bool sim_options_set(struct sim_options *o, const char *assignment) {
    const char *equals = strchr(assignment, '=');
    if (equals == NULL)
        return false;
    for (uint32_t i = 0; i < SIM_OPTION_COUNT; i++) {
        if (strncmp(defs[i].name, assignment, (size_t)(equals - assignment)) != 0 ||
            defs[i].name[equals - assignment] != '\0')
            continue;
        char *end;
        errno = 0;
        uint64_t v = strtoull(equals + 1, &end, 0);
        if (errno != 0 || *end != '\0' || end == equals + 1)
            return false;
        o->v[i] = v;
        o->given[i] = true;
        return true;
    }
    return false;
}

int sim_level_parse(const char *text, enum sim_level *ret_level) {
    for (uint32_t i = 0; i < ARRAY_LEN(levels); i++) {
        if (strcmp(levels[i], text) == 0) {
            *ret_level = (enum sim_level)i;
            return 0;
        }
    }
    return -EINVAL;
}

void sim_options_print_command(const struct sim_options *o, FILE *to) {
    fprintf(to, "usher-sim --seed %llu --time %llums --faults %s", (unsigned long long)o->seed,
            (unsigned long long)o->time_ms, levels[o->level]);
    for (uint32_t i = 0; i < SIM_OPTION_COUNT; i++)
        if (o->given[i])
            fprintf(to, " --set %s=%llu", defs[i].name, (unsigned long long)o->v[i]);
    fprintf(to, " --engines %s\n", o->engines);
}

void sim_options_print(const struct sim_options *o, FILE *to) {
    for (uint32_t i = 0; i < SIM_OPTION_COUNT; i++)
        fprintf(to, "%s%s=%llu", i % 8 == 0 ? "  " : " ", defs[i].name, (unsigned long long)o->v[i]),
            i % 8 == 7 || i + 1 == SIM_OPTION_COUNT ? fputc('\n', to) : 0;
}

void sim_options_help(FILE *to) {
    for (uint32_t i = 0; i < SIM_OPTION_COUNT; i++) {
        const struct option_def *d = &defs[i];
        fprintf(to, "  %-16s %s (none %llu, mild %llu..%llu, wild %llu..%llu)\n", d->name, d->text,
                (unsigned long long)d->none, (unsigned long long)d->lo[0], (unsigned long long)d->hi[0],
                (unsigned long long)d->lo[1], (unsigned long long)d->hi[1]);
    }
}
