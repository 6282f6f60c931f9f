/* SPDX-License-Identifier: Apache-2.0
 *
 * See pcapng.h. A block is opened, filled, and closed by writing its length at both ends.
 */
#include "control/capture/pcapng.h"

#include <string.h>

#include "engines/check.h"

enum block { BLOCK_SECTION = 0x0a0d0d0a, BLOCK_INTERFACE = 1, BLOCK_STATISTICS = 5, BLOCK_PACKET = 6 };

enum option {
    OPTION_END = 0,
    OPTION_COMMENT = 1,
    OPTION_CUSTOM_TEXT = 2988,
    SECTION_APPLICATION = 4,
    INTERFACE_NAME = 2,
    INTERFACE_DESCRIPTION = 3,
    INTERFACE_RESOLUTION = 9,
    STATISTICS_RECEIVED = 4,
    STATISTICS_DROPPED = 5,
    PACKET_FLAGS = 2,
};

#define BYTE_ORDER_MAGIC  0x1a2b3c4du
#define LINKTYPE_ETHERNET 1u
#define NANOSECONDS       9 /* 10^-9 */

static void put(struct pcapng *out, const void *bytes, size_t n) {
    CHECK(n <= out->size - out->len);
    if (n > 0)
        memcpy(out->data + out->len, bytes, n);
    out->len += n;
}

static void put16(struct pcapng *out, uint16_t v) {
    put(out, &v, sizeof v);
}

static void put32(struct pcapng *out, uint32_t v) {
    put(out, &v, sizeof v);
}

static void pad(struct pcapng *out) {
    static const uint8_t zero[4];
    put(out, zero, -out->len & 3);
}

static size_t block_open(struct pcapng *out, enum block type) {
    size_t at = out->len;
    put32(out, (uint32_t)type);
    put32(out, 0);
    return at;
}

static void block_close(struct pcapng *out, size_t at) {
    uint32_t length = (uint32_t)(out->len - at + 4);
    put32(out, length);
    memcpy(out->data + at + 4, &length, sizeof length);
}

static void option(struct pcapng *out, enum option code, const void *value, size_t n) {
    put16(out, (uint16_t)code);
    put16(out, (uint16_t)n);
    put(out, value, n);
    pad(out);
}

static void option_text(struct pcapng *out, enum option code, const char *text) {
    if (text != NULL && text[0] != '\0')
        option(out, code, text, strnlen(text, PCAPNG_TEXT_MAX));
}

static void option_custom(struct pcapng *out, const char *text) {
    if (text == NULL || text[0] == '\0')
        return;
    size_t n = strnlen(text, PCAPNG_TEXT_MAX);
    put16(out, OPTION_CUSTOM_TEXT);
    put16(out, (uint16_t)(n + 4));
    put32(out, PCAPNG_ENTERPRISE);
    put(out, text, n);
    pad(out);
}

static void options_end(struct pcapng *out) {
    put32(out, OPTION_END);
}

static void put_time(struct pcapng *out, uint64_t unix_ns) {
    put32(out, (uint32_t)(unix_ns >> 32));
    put32(out, (uint32_t)unix_ns);
}

/* ---- blocks ---- */

void pcapng_section(struct pcapng *out, const char *application) {
    static const int64_t unknown_length = -1;
    size_t at = block_open(out, BLOCK_SECTION);
    put32(out, BYTE_ORDER_MAGIC);
    put16(out, 1); /* version 1.0 */
    put16(out, 0);
    put(out, &unknown_length, sizeof unknown_length);
    option_text(out, SECTION_APPLICATION, application);
    options_end(out);
    block_close(out, at);
}

void pcapng_interface(struct pcapng *out, const char *name, const char *description, uint32_t snaplen) {
    static const uint8_t resolution = NANOSECONDS;
    size_t at = block_open(out, BLOCK_INTERFACE);
    put16(out, LINKTYPE_ETHERNET);
    put16(out, 0);
    put32(out, snaplen);
    option_text(out, INTERFACE_NAME, name);
    option_text(out, INTERFACE_DESCRIPTION, description);
    option(out, INTERFACE_RESOLUTION, &resolution, sizeof resolution);
    options_end(out);
    block_close(out, at);
}

void pcapng_packet(struct pcapng *out, const struct pcapng_packet *p) {
    uint32_t flags = (uint32_t)p->direction;
    size_t at = block_open(out, BLOCK_PACKET);
    put32(out, p->interface);
    put_time(out, p->unix_ns);
    put32(out, p->captured);
    put32(out, p->length);
    put(out, p->bytes, p->captured);
    pad(out);
    option(out, PACKET_FLAGS, &flags, sizeof flags);
    option_text(out, OPTION_COMMENT, p->comment);
    option_custom(out, p->custom);
    options_end(out);
    block_close(out, at);
}

void pcapng_statistics(struct pcapng *out, const struct pcapng_statistics *s) {
    size_t at = block_open(out, BLOCK_STATISTICS);
    put32(out, s->interface);
    put_time(out, s->unix_ns);
    option(out, STATISTICS_RECEIVED, &s->received, sizeof s->received);
    option(out, STATISTICS_DROPPED, &s->dropped, sizeof s->dropped);
    options_end(out);
    block_close(out, at);
}
