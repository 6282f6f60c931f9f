/* SPDX-License-Identifier: Apache-2.0
 *
 * The wire encoding by itself; that it means the same as the generated code is shown by every test with the fake
 * daemon, which uses the generated code.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clientlib/src/pb.h"
#include "usher/session/v1/session.pb-c.h"

Test(pb, writes_what_the_generated_code_reads) {
    uint8_t body[128], buf[256];
    struct pb_writer b = {body, body + sizeof(body), false}, w = {buf, buf + sizeof(buf), false};
    pb_put_uint(&b, 1, 1);
    pb_put_uint(&b, 3, UINT64_C(1) << 40);
    pb_put_uint(&b, 5, 0);
    pb_put_bytes(&b, 6, "label", 5);
    pb_put_uint(&w, 1, 300);
    pb_put_bytes(&w, 2, body, (size_t)(b.at - body));
    cr_assert_not(w.overflow || b.overflow);
    Usher__Session__V1__Request *q = usher__session__v1__request__unpack(NULL, (size_t)(w.at - buf), buf);
    cr_assert(q);
    cr_assert_eq(q->id, 300);
    cr_assert_eq(q->body_case, USHER__SESSION__V1__REQUEST__BODY_ATTACH);
    cr_assert_eq(q->attach->tx_bytes, UINT64_C(1) << 40);
    cr_assert_str_eq(q->attach->label, "label");
    usher__session__v1__request__free_unpacked(q, NULL);
}

Test(pb, negative_values_take_ten_bytes_and_come_back) {
    uint8_t buf[32];
    struct pb_writer w = {buf, buf + sizeof(buf), false};
    pb_put_uint(&w, 3, (uint64_t)INT64_C(-5));
    cr_assert_eq(w.at - buf, 11);
    struct pb_reader r = {buf, w.at};
    struct pb_field f;
    cr_assert_eq(pb_next(&r, &f), 1);
    cr_assert_eq((int64_t)f.value, -5);
    cr_assert_eq(pb_next(&r, &f), 0);
}

Test(pb, overflow_is_noticed_and_nothing_is_written_beyond) {
    uint8_t buf[8] = {0};
    struct pb_writer w = {buf, buf + 4, false};
    pb_put_bytes(&w, 1, "0123456789", 10);
    cr_assert(w.overflow);
    cr_assert_eq(buf[4], 0);
}

Test(pb, malformed_input_ends_the_walk) {
    static const struct {
        const char *bytes;
        size_t len;
    } cases[] = {
        {"\x08", 1},                                          /* key without value */
        {"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 11}, /* endless varint */
        {"\x12\x05gap", 5},                                   /* longer than the message */
        {"\x0b", 1},                                          /* group */
        {"\x00\x01", 2},                                      /* field 0 */
        {"\x0d\x01", 2},                                      /* cut fixed32 */
        {"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 10},     /* length near 2^63 */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const uint8_t *p = (const uint8_t *)cases[i].bytes;
        struct pb_reader r = {p, p + cases[i].len};
        struct pb_field f;
        cr_assert_eq(pb_next(&r, &f), -EPROTO, "case %zu", i);
    }
}

Test(pb, random_bytes_never_read_beyond_the_end) {
    unsigned seed = 99;
    for (int i = 0; i < 20000; i++) {
        size_t len = (size_t)rand_r(&seed) % 64;
        uint8_t *p = malloc(len ? len : 1); /* exact, so that the address sanitizer sees one byte too many */
        for (size_t k = 0; k < len; k++)
            p[k] = (uint8_t)rand_r(&seed);
        struct pb_reader r = {p, p + len};
        struct pb_field f;
        char text[16];
        while (pb_next(&r, &f) == 1)
            if (f.is_bytes)
                pb_text(&f, text, sizeof(text));
        free(p);
    }
}

Test(pb, text_is_cut_and_cleaned) {
    char text[6];
    struct pb_field f = {.is_bytes = true,
                         .data = (const uint8_t *)"a\nb\x7f"
                                                  "cdefg",
                         .len = 9};
    pb_text(&f, text, sizeof(text));
    cr_assert_str_eq(text, "a?b?c");
}
