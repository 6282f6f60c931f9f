/* SPDX-License-Identifier: Apache-2.0
 *
 * Formatting only. A figure that does not exist is null in JSON and a dash in the table; it is never a zero.
 */
#include "test/bench/report.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

static const char *const side_name[SIDE_COUNT] = {"kernel", "usher", "limit"};

void report_row_make(const struct bench_metric *m, uint32_t index, struct bench_result *result,
                     struct report_row *ret_row) {
    struct report_row row = {.ratio = NAN, .has_target = m->target_kind != TARGET_NONE};
    for (uint32_t side = 0; side < SIDE_COUNT; side++) {
        uint32_t n = result->count[index][side];
        row.value[side] = n == 0 ? NAN : bench_median(result->sample[index][side], n);
    }
    double kernel = row.value[SIDE_KERNEL], usher = row.value[SIDE_USHER];
    double good = m->better == BETTER_LOWER ? kernel : usher, bad = m->better == BETTER_LOWER ? usher : kernel;
    if (bad > 0 && good > 0)
        row.ratio = good / bad;
    if (m->target_kind == TARGET_RATIO)
        row.met = row.ratio >= m->target;
    else if (m->target_kind == TARGET_USHER)
        row.met = usher <= m->target;
    *ret_row = row;
}

static void json_number(FILE *out, const char *key, double v) {
    if (isfinite(v))
        (void)fprintf(out, ",\"%s\":%.6g", key, v);
    else
        (void)fprintf(out, ",\"%s\":null", key);
}

void report_json(FILE *out, const struct bench *b, struct bench_result *result) {
    for (uint32_t i = 0; i < b->metric_count; i++) {
        struct report_row row;
        report_row_make(&b->metrics[i], i, result, &row);
        (void)fprintf(out, "{\"bench\":\"%s\",\"metric\":\"%s\",\"unit\":\"%s\"", b->name, b->metrics[i].name,
                      b->metrics[i].unit);
        json_number(out, "kernel", row.value[SIDE_KERNEL]);
        json_number(out, "usher", row.value[SIDE_USHER]);
        json_number(out, "ratio", row.ratio);
        json_number(out, "limit", row.value[SIDE_LIMIT]);
        (void)fprintf(out, "}\n");
    }
    (void)fflush(out);
}

/* Four significant digits; millions and thousands get a letter so that columns stay narrow. */
static void cell(char *buf, size_t size, double v) {
    if (!isfinite(v))
        (void)snprintf(buf, size, "-");
    else if (fabs(v) >= 1e6)
        (void)snprintf(buf, size, "%.4gM", v / 1e6);
    else if (fabs(v) >= 1e4)
        (void)snprintf(buf, size, "%.4gk", v / 1e3);
    else
        (void)snprintf(buf, size, "%.4g", v);
}

static void target_cell(char *buf, size_t size, const struct bench_metric *m) {
    if (m->target_kind == TARGET_RATIO)
        (void)snprintf(buf, size, ">= %gx", m->target);
    else if (m->target_kind == TARGET_USHER)
        (void)snprintf(buf, size, "<= %g %s", m->target, m->unit);
    else
        buf[0] = '\0';
}

static const char *mark(const struct report_row *row, bool colour) {
    if (!row->has_target)
        return "";
    if (!isfinite(row->value[SIDE_USHER]))
        return "no figure";
    if (!colour)
        return row->met ? "met" : "MISSED";
    return row->met ? "\033[32mmet\033[0m" : "\033[31mMISSED\033[0m";
}

void report_table(FILE *out, const struct bench *b, struct bench_result *result, uint32_t rounds, double seconds) {
    bool colour = isatty(fileno(out)) != 0;
    (void)fprintf(out, "\n%s: %s\n", b->name, b->what);
    (void)fprintf(out, "  %-18s %-9s %10s %10s %8s %10s   %-12s %s\n", "metric", "unit", "kernel", "usher", "ratio",
                  "limit", "target", "");
    for (uint32_t i = 0; i < b->metric_count; i++) {
        struct report_row row;
        report_row_make(&b->metrics[i], i, result, &row);
        char value[SIDE_COUNT][24], ratio[24], target[32];
        for (uint32_t side = 0; side < SIDE_COUNT; side++)
            cell(value[side], sizeof(value[side]), row.value[side]);
        if (isfinite(row.ratio))
            (void)snprintf(ratio, sizeof(ratio), "%.3gx", row.ratio);
        else
            (void)snprintf(ratio, sizeof(ratio), "-");
        target_cell(target, sizeof(target), &b->metrics[i]);
        (void)fprintf(out, "  %-18s %-9s %10s %10s %8s %10s   %-12s %s\n", b->metrics[i].name, b->metrics[i].unit,
                      value[SIDE_KERNEL], value[SIDE_USHER], ratio, value[SIDE_LIMIT], target, mark(&row, colour));
    }
    (void)fprintf(out, "  medians of %u round%s of %g s a side%s%s\n", rounds, rounds == 1 ? "" : "s", seconds,
                  result->note[0] != '\0' ? "; " : "", result->note);
    (void)fflush(out);
}

void report_errors(FILE *out, const struct bench *b, const struct bench_result *result) {
    for (uint32_t side = 0; side < SIDE_COUNT; side++) {
        if (result->error[side][0] != '\0')
            (void)fprintf(out, "usher-bench: %s: %s side: %s\n", b->name, side_name[side], result->error[side]);
    }
}
