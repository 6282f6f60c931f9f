/* SPDX-License-Identifier: Apache-2.0
 *
 * For tests only: a library whose constructor runs before all others, and lets the address sanitizer begin. Else some
 * library's constructor does, by an allocation under a lock of the C library that the sanitizer's beginning takes too
 * (p11-kit's newlocale(), and with it curl, wget, ssh), and the program hangs.
 */
#include <stdlib.h>

static void *volatile kept;

__attribute__((constructor)) static void begin(void) {
    kept = malloc(1);
    free(kept);
}
