/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks of a pcapng file (draft-ietf-opsawg-pcapng), written into a buffer of the caller's: section header, interface,
 * packet with comment and custom option, statistics. Native byte order, times in nanoseconds since 1970, all interfaces
 * Ethernet. Pure; any thread.
 */
#ifndef USHER_CONTROL_CAPTURE_PCAPNG_H
#define USHER_CONTROL_CAPTURE_PCAPNG_H

#include <stddef.h>
#include <stdint.h>

#define PCAPNG_TEXT_MAX     1024u /* of one option; longer ones are cut */
#define PCAPNG_PACKET_EXTRA (2 * PCAPNG_TEXT_MAX + 128u) /* bytes of a packet's block besides its data, at most */
/* Usher has no Private Enterprise Number of its own: this one is reserved for examples (RFC 5612). */
#define PCAPNG_ENTERPRISE 32473u

struct pcapng {
    uint8_t *data;
    size_t len, size; /* the caller sees to it that a block fits: CHECK */
};

enum pcapng_direction { PCAPNG_UNKNOWN, PCAPNG_IN, PCAPNG_OUT };

struct pcapng_packet {
    uint32_t interface; /* in the order in which they were written */
    enum pcapng_direction direction;
    uint64_t unix_ns;
    uint32_t captured, length;
    const uint8_t *bytes;
    const char *comment; /* NULL = none */
    const char *custom;  /* text of the custom option (2988); NULL = none */
};

struct pcapng_statistics {
    uint32_t interface;
    uint64_t unix_ns, received, dropped;
};

void pcapng_section(struct pcapng *out, const char *application);
void pcapng_interface(struct pcapng *out, const char *name, const char *description, uint32_t snaplen);
void pcapng_packet(struct pcapng *out, const struct pcapng_packet *p);
void pcapng_statistics(struct pcapng *out, const struct pcapng_statistics *s);

#endif
