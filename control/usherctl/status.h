/* SPDX-License-Identifier: Apache-2.0
 *
 * The daemon's state on the screen. Pure.
 */
#ifndef USHER_CONTROL_USHERCTL_STATUS_H
#define USHER_CONTROL_USHERCTL_STATUS_H

#include "control/usherctl/ctl.h"

void status_print(const struct screen *s, const PB(GetInfoResponse) * info, uint64_t now_unix_ns);

#endif
