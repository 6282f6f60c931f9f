/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: usherd's YAML. What is refused names a problem; what is accepted prints as YAML that is accepted again
 * and means the same.
 */
#include <stdio.h>
#include <stdlib.h>

#include "control/config/config.h"
#include "control/config/schema.h"
#include "test/fuzz/fuzz_input.h"

static char *printed(const struct config *cfg, size_t *ret_size) {
    char *text = NULL;
    FILE *f = open_memstream(&text, ret_size);
    if (f == NULL)
        abort();
    config_print(cfg, f);
    fclose(f);
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct config cfg, again;
    static struct problems problems;
    problems = (struct problems){0};
    if (config_parse("fuzz.yaml", (const char *)data, size, &cfg, &problems) != 0) {
        if (problems.count == 0)
            abort();
        return 0;
    }
    size_t first_size, second_size;
    char *first = printed(&cfg, &first_size);
    problems = (struct problems){0};
    if (config_parse("printed.yaml", first, first_size, &again, &problems) != 0) {
        fprintf(stderr, "fuzz: what was printed is refused: %s\n%s\n", problems.text[0], first);
        abort();
    }
    char *second = printed(&again, &second_size);
    if (first_size != second_size || memcmp(first, second, first_size) != 0)
        abort();
    free(first);
    free(second);
    return 0;
}
