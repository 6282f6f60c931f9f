/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory of the rings in ring.h. Control thread only; the rings themselves are inline.
 */
#include "dataplane/core/ring.h"

#include <errno.h>
#include <stdlib.h>

int ring_init(struct ring *r, uint32_t entries) {
    uint32_t size = 2;
    while (size < entries)
        size *= 2;
    *r = (struct ring){.slot = calloc(size, sizeof(void *)), .mask = size - 1};
    return r->slot == NULL ? -ENOMEM : 0;
}

void ring_fini(struct ring *r) {
    free(r->slot);
    *r = (struct ring){.slot = NULL};
}
