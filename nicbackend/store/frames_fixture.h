/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames for backends that judge real ones. Tests only.
 */
#ifndef USHER_NICBACKEND_STORE_FRAMES_FIXTURE_H
#define USHER_NICBACKEND_STORE_FRAMES_FIXTURE_H

#include "nicbackend/ir/view.h"

struct frame {
    uint8_t b[256];
    uint32_t len;
};

/* The frame of a view, of the toy world: what is not IP is ARP. */
struct frame frame_of(const struct nb_view *v);
/* Of any kind: both versions, extension headers, tags, fragments, lies in the headers, frames that end early. */
struct frame frame_some(uint64_t *rng);

#endif
