/* SPDX-License-Identifier: Apache-2.0
 *
 * Sockets in the columns of ss(8). Pure.
 */
#ifndef USHER_CONTROL_USHERCTL_SS_H
#define USHER_CONTROL_USHERCTL_SS_H

#include "control/usherctl/ctl.h"

/* Places in the command's option table. */
enum { SS_TCP, SS_UDP, SS_LISTENING, SS_ALL, SS_PROCESSES, SS_INFO, SS_EXTENDED, SS_NUMERIC, SS_IPV4, SS_IPV6 };
extern const struct option_def ss_options[];

struct ss_wish {
    bool listening, all; /* neither: what is connected */
    bool processes, info, extended, v4, v6;
};

struct ss_view;
struct ss_view *ss_begin(const struct ss_wish *w);
void ss_add(struct ss_view *v, const PB(ListSocketsResponse) * part);
void ss_end(struct ss_view *v, const struct screen *s);

#endif
