/* SPDX-License-Identifier: Apache-2.0
 *
 * Classic BPF, as libpcap makes it of a filter expression: a verifier and an interpreter over a frame that may lie in
 * pieces. A program that the verifier took ends (jumps only go forward), reads nothing but the frame and its own
 * sixteen words, and writes nothing but those words; a load beyond the frame ends it with "no match", as in the kernel.
 *
 * Any thread; pure. Cost: about one cycle an instruction besides the loads.
 */
#ifndef USHER_DATAPLANE_CAPTURE_PROGRAM_H
#define USHER_DATAPLANE_CAPTURE_PROGRAM_H

#include <linux/filter.h>

#include "dataplane/capture/frame.h"

#define PROGRAM_MAX 4096u /* instructions */

struct program_step {
    uint8_t op; /* enum program_op in program.c: dense, so that the interpreter's switch is one table */
    uint8_t jt, jf;
    uint8_t pad;
    uint32_t k;
};

enum program_shape { SHAPE_IP4, SHAPE_IP6, SHAPE_COUNT };

struct program {
    uint32_t count;
    /* By version and by the protocol in the IP header: whether any frame of that shape could match. What the program
     * does with all other bytes is left open, so this errs on one side only. */
    bool possible[SHAPE_COUNT][256];
    struct program_step step[PROGRAM_MAX];
};

/* Takes `count` instructions after having judged each of them; none at all means: everything matches. 0, or -EINVAL
 * with the number of the one that is wrong in *ret_at. */
int capture_program_load(struct program *p, const struct sock_filter *code, uint32_t count, uint32_t *ret_at);

/* False: it certainly does not match. A few cycles, where running the program costs dozens. `head` has at least
 * SHAPE_BYTES bytes from the Ethernet header on. */
#define SHAPE_BYTES 24u
static inline bool capture_program_may_match(const struct program *p, const uint8_t *head) {
    uint16_t type = be16_load(head + 12);
    if (LIKELY(type == ETHERTYPE_IP4))
        return p->possible[SHAPE_IP4][head[23]];
    return type != ETHERTYPE_IP6 || p->possible[SHAPE_IP6][head[20]];
}

/* What the program returns: how many bytes of the frame are wanted, 0 = no match. */
uint32_t capture_program_run(const struct program *p, const struct frame *f);

#endif
