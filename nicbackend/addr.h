/* SPDX-License-Identifier: Apache-2.0
 *
 * An address as every table of this room has it: sixteen bytes in network order, IPv4 in its v4-mapped form.
 */
#ifndef USHER_NICBACKEND_ADDR_H
#define USHER_NICBACKEND_ADDR_H

#include <stdint.h>

struct nb_addr {
    uint8_t b[16];
};

#endif
