/* SPDX-License-Identifier: Apache-2.0
 *
 * The device of verbs.h as libibverbs has it. Private to verbs/. Control thread.
 */
#ifndef USHER_NICBACKEND_VERBS_LIBRARY_H
#define USHER_NICBACKEND_VERBS_LIBRARY_H

#include "nicbackend/verbs.h"

int verbs_library_open(const char *ifname, const struct nb_verbs_device **ret_device, void **ret_arg,
                       uint8_t *ret_port, struct nb_error *err);

#endif
