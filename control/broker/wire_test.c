/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests from hostile bytes, responses that always fit.
 */
#include "control/broker/wire.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "usher/session/v1/session.pb-c.h"

static uint8_t bytes[65536];

static size_t pack_attach(const char *label, uint32_t id) {
    Usher__Session__V1__AttachRequest a = USHER__SESSION__V1__ATTACH_REQUEST__INIT;
    Usher__Session__V1__Request r = USHER__SESSION__V1__REQUEST__INIT;
    a.abi_min = 1;
    a.abi_max = 3;
    a.tx_bytes = 1ull << 40;
    a.label = (char *)label;
    r.id = id;
    r.attach = &a;
    r.body_case = USHER__SESSION__V1__REQUEST__BODY_ATTACH;
    return usher__session__v1__request__pack(&r, bytes);
}

Test(wire, attach_arrives) {
    struct request r;
    size_t n = pack_attach("web \xc3\xa9", 77);
    cr_assert_eq(wire_decode(bytes, n, &r), 0);
    cr_assert(r.id == 77 && r.kind == REQUEST_ATTACH && r.attach.abi_max == 3 && r.attach.tx_bytes == 1ull << 40);
    cr_assert_str_eq(r.attach.label, "web \xc3\xa9");
}

Test(wire, bad_texts_are_refused) {
    struct request r;
    const char *bad[] = {"\xff",
                         "\xc3",
                         "\xc0\x80",
                         "\xed\xa0\x80",
                         "\xf4\x90\x80\x80",
                         "\xe0\x80\x80",
                         "0123456789012345678901234567890123456789012345678901234567890123"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        size_t n = pack_attach(bad[i], 1);
        cr_expect_eq(wire_decode(bytes, n, &r), -EBADMSG, "text %zu", i);
    }
    size_t n = pack_attach("abc", 1);
    uint8_t *b = memchr(bytes, 'b', n);
    *b = '\0';
    cr_expect_eq(wire_decode(bytes, n, &r), -EBADMSG, "embedded NUL");
}

Test(wire, malformed_requests_are_refused) {
    struct request r;
    static const struct {
        const char *bytes;
        size_t size;
    } bad[] = {
        {"", 0},                                                  /* no body */
        {"\x08", 1},                                              /* cut */
        {"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12}, /* varint too long */
        {"\x12\x05\x08", 3},                                      /* attach longer than the message */
        {"\x0b\x0c", 2},                                          /* a group */
        {"\x10\x01", 2},             /* attach as a number: unknown wire type for it, and no body */
        {"\x00\x00", 2},             /* field 0 */
        {"\x3a\x06\x1a\x04zzzz", 8}, /* a group address of four bytes */
        {"\xfa\x01\x00", 3},         /* an unknown body */
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_expect_eq(wire_decode((const uint8_t *)bad[i].bytes, bad[i].size, &r), -EBADMSG, "case %zu", i);
}

Test(wire, floods_of_fields_are_refused) {
    struct request r;
    for (size_t i = 0; i < WIRE_MESSAGE_MAX; i += 2)
        memcpy(bytes + i, "\x78\x01", 2); /* unknown field 15 */
    cr_expect_eq(wire_decode(bytes, WIRE_MESSAGE_MAX, &r), -EBADMSG);
    cr_expect_eq(wire_decode(bytes, pack_attach("a", 0), &r), -EBADMSG, "id 0");
    size_t n = pack_attach("a", 1);
    cr_expect_eq(wire_decode(bytes, WIRE_MESSAGE_MAX + 1, &r), -EBADMSG);
    /* A few unknown fields are a newer client's and are fine. */
    memcpy(bytes + n, "\x78\x01\x78\x02", 4);
    cr_expect_eq(wire_decode(bytes, n + 4, &r), 0);
}

Test(wire, random_bytes_never_break_it, .timeout = 60) {
    struct request r;
    unsigned seed = 7;
    for (int round = 0; round < 200000; round++) {
        size_t n = pack_attach("label", 5);
        for (int k = 0; k < 2; k++)
            bytes[(size_t)rand_r(&seed) % n] = (uint8_t)rand_r(&seed);
        size_t cut = (size_t)rand_r(&seed) % (n + 1);
        if (wire_decode(bytes, cut, &r) == 0)
            cr_assert_lt(r.kind, REQUEST_COUNT);
    }
}

Test(wire, responses_come_back_whole) {
    struct response r = {.id = 9, .error = EMFILE, .kind = RESPONSE_SOCKET, .text = "full"};
    r.socket.handle = 3;
    r.socket.accelerated = true;
    (void)snprintf(r.socket.reason, sizeof r.socket.reason, "packet on veth0");
    size_t n = wire_encode(&r, bytes);
    Usher__Session__V1__Response *m = usher__session__v1__response__unpack(NULL, n, bytes);
    cr_assert_not_null(m);
    cr_assert(m->id == 9 && m->error == EMFILE && m->socket->handle == 3 && m->socket->accelerated);
    cr_assert_str_eq(m->socket->reason, "packet on veth0");
    usher__session__v1__response__free_unpacked(m, NULL);
}

Test(wire, the_longest_list_fits) {
    struct response r = {.kind = RESPONSE_LIST};
    r.list.count = WIRE_LIST_MAX;
    r.list.more = true;
    for (uint32_t i = 0; i < WIRE_LIST_MAX; i++) {
        struct response_socket *s = &r.list.sockets[i];
        *s = (struct response_socket){UINT32_MAX, {.local_port = 65535, .remote_port = 65535, .proto = 255}, "", ""};
        memset(s->port_kind, 'k', sizeof s->port_kind - 1);
        memset(s->why, 'w', sizeof s->why - 1);
    }
    size_t n = wire_encode(&r, bytes);
    cr_assert(n > 0 && n <= WIRE_MESSAGE_MAX);
    Usher__Session__V1__Response *m = usher__session__v1__response__unpack(NULL, n, bytes);
    cr_assert_eq(m->list->n_sockets, WIRE_LIST_MAX);
    cr_assert(m->list->more);
    usher__session__v1__response__free_unpacked(m, NULL);
}
