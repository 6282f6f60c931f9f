/* SPDX-License-Identifier: Apache-2.0
 *
 * See golden.h.
 */
#include "control/usherctl/golden.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/usherctl/text.h"

#define SCREEN_MAX 65536

char *golden_draw(draw_fn *draw, size_t width, bool color) {
    char *text = NULL;
    size_t size = 0;
    const struct screen s = {open_memstream(&text, &size), width, color, true, true};
    draw(&s);
    fclose(s.out);
    return text;
}

static void width_check(const char *path, const char *text, size_t width) {
    for (const char *line = text; *line != '\0' && width > 0;) {
        char copy[1024];
        size_t n = strcspn(line, "\n");
        snprintf(copy, sizeof copy, "%.*s", (int)n, line);
        cr_expect(text_columns(copy) <= width, "%s: wider than the screen: %s", path, copy);
        line += n + (line[n] == '\n');
    }
}

void golden_check(const char *name, size_t width, draw_fn *draw) {
    static char wanted[SCREEN_MAX];
    char path[512];
    char *text = golden_draw(draw, width, false);
    snprintf(path, sizeof path, GOLDEN_DIR "/%s.%zu", name, width);
    if (getenv("USHERCTL_GOLDEN") != NULL) {
        FILE *f = fopen(path, "w");
        cr_assert_not_null(f);
        fputs(text, f);
        fclose(f);
    }
    FILE *f = fopen(path, "r");
    cr_assert_not_null(f, "%s is missing; USHERCTL_GOLDEN=write makes it", path);
    wanted[fread(wanted, 1, sizeof wanted - 1, f)] = '\0';
    fclose(f);
    cr_expect(strcmp(text, wanted) == 0, "%s looks different:\n%s", path, text);
    width_check(path, text, width);
    free(text);
}
