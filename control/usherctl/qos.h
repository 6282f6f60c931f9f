/* SPDX-License-Identifier: Apache-2.0
 *
 * Classes as a tree with their rates. Pure.
 */
#ifndef USHER_CONTROL_USHERCTL_QOS_H
#define USHER_CONTROL_USHERCTL_QOS_H

#include "control/usherctl/ctl.h"
#include "usher/control/v1/qos.pb-c.h"

/* Rates are those between `before` and `now`; a class that `before` has not, or NULL: none is known. */
void qos_print(const struct screen *s, const PB(ListClassesResponse) * before, const PB(ListClassesResponse) * now);

#endif
