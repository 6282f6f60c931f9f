/* SPDX-License-Identifier: Apache-2.0
 *
 * usherctl about itself: help, the nearest command to a mistyped one. Made from the tables of commands.c.
 */
#ifndef USHER_CONTROL_USHERCTL_EXPLAIN_H
#define USHER_CONTROL_USHERCTL_EXPLAIN_H

#include "control/usherctl/ctl.h"

/* Of one command; NULL: of a group's, or (NULL) of all. */
void explain_help(const struct command *m, const char *group, const struct screen *s);
/* "did you mean workers?", or where the list of commands is. `second` "" = there was one word. */
void explain_nearest(const char *word, const char *second, char *ret_hint, size_t size);

struct exit_text {
    enum exit_code code;
    const char *text;
};
extern const struct exit_text exit_texts[];
extern const size_t exit_text_count;

#endif
