/* SPDX-License-Identifier: Apache-2.0
 *
 * Screens as they were approved, in golden/NAME.WIDTH. USHERCTL_GOLDEN=write makes them anew: look at them before a
 * commit. Tests only.
 */
#ifndef USHER_CONTROL_USHERCTL_GOLDEN_H
#define USHER_CONTROL_USHERCTL_GOLDEN_H

#include "control/usherctl/table.h"

typedef void draw_fn(const struct screen *s);

/* What draw() draws; the caller frees it. */
char *golden_draw(draw_fn *draw, size_t width, bool color);
/* Fails the test when it differs from the approved screen, or is wider than it. Width 0: no bound. */
void golden_check(const char *name, size_t width, draw_fn *draw);

#endif
