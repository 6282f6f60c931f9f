/* SPDX-License-Identifier: Apache-2.0
 *
 * A packetdrill script as a list of events, and how it is read. The language is packetdrill's without commands and
 * `%{ }%` blocks, one flow at a time. Everything is allocated once and lives as long as the process; a script that
 * cannot be read ends it with a sentence.
 */
#ifndef USHER_TEST_PACKETDRILL_DRIVER_SCRIPT_H
#define USHER_TEST_PACKETDRILL_DRIVER_SCRIPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OPTS_MAX 40

enum value_kind { VALUE_ELLIPSIS, VALUE_INT, VALUE_STRING, VALUE_LIST, VALUE_FIELD };

/* An argument of a call: a number, a string, a list in [] or {}, or NAME=value inside one. */
struct value {
    enum value_kind kind;
    int64_t n;
    char *text; /* string, or the field's name */
    struct value *items;
    size_t count;
};

struct call {
    char *name;
    struct value args; /* a list */
    int64_t result;
    bool any_result;
    char *error; /* the name of an errno, NULL = none */
    bool blocks;
    int64_t end_us;
};

enum icmp_kind { ICMP_NONE, ICMP_UNREACHABLE, ICMP_TOO_BIG };

struct segment {
    bool inbound;
    uint8_t flags;
    uint32_t seq, len;
    bool has_ack, has_win, has_tos, any_opts;
    uint32_t ack;
    uint16_t win, urg;
    uint8_t tos, tos_mask;
    uint8_t opts[OPTS_MAX]; /* as on the wire, with the script's numbers */
    uint32_t opts_len;
    enum icmp_kind icmp;
    uint32_t icmp_code, icmp_mtu;
};

enum time_kind { TIME_ABSOLUTE, TIME_RELATIVE, TIME_ANY };

struct event {
    struct event *next;
    int line;
    enum time_kind time;
    bool range;
    int64_t from_us, to_us; /* made absolute when the event's turn comes */
    struct call *call;      /* or */
    struct segment *segment;
};

struct script {
    const char *path;
    struct event *events;
    bool v6, mapped;
    int64_t tolerance_us;
    const char *so_flags, *local_ip, *remote_ip;
};

void script_read(const char *path, struct script *ret_script);
/* The number behind a name of <sys/socket.h> and its kin; false: not known. */
bool symbol_find(const char *name, int64_t *ret_n);
_Noreturn void script_fail(const struct script *s, int line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
