/* SPDX-License-Identifier: Apache-2.0
 *
 * Prints what filter_cycles.h measures: `filter-cycles [rules]`.
 */
#include <stdlib.h>

#include "engines/filter/filter_cycles.h"

int main(int argc, char **argv) {
    struct filter_cycles c;
    filter_cycles(argc > 1 ? (uint32_t)atoi(argv[1]) : 10000, stdout, &c);
    return 0;
}
