/* SPDX-License-Identifier: Apache-2.0
 *
 * A module that tools/check-engine must refuse: it has a writable global and allocates memory.
 */
#include <stdlib.h>

#include "engines/engine.h"

__attribute__((visibility("default"))) extern void *usher_engine;
void *usher_engine = &usher_engine;

__attribute__((visibility("default"))) void *bad_grow(size_t n);
void *bad_grow(size_t n) {
    return usher_engine = realloc(usher_engine, n);
}
