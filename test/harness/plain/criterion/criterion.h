/* SPDX-License-Identifier: Apache-2.0
 *
 * The part of Criterion's interface that the tests here use, written plainly: the packaged library cannot start in a
 * program built with the thread sanitizer (its arena wants addresses that the sanitizer keeps). Only that build has
 * this folder on its include path, see cmake/UsherTest.cmake; the same test sources compile against either.
 */
#ifndef USHER_TEST_PLAIN_CRITERION_H
#define USHER_TEST_PLAIN_CRITERION_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct plain_data {
    double timeout;
    int signal, exit_code;
    bool disabled;
    const char *description;
    void (*init)(void);
    void (*fini)(void);
    int pad;
};

struct plain_test {
    struct plain_test *next;
    const char *suite, *name;
    void (*run)(void); /* NULL: data of the whole suite */
    struct plain_data data;
};

void plain_register(struct plain_test *t);
void plain_failed(bool end, const char *file, int line, const char *what, const char *format, ...);
_Noreturn void plain_skip(const char *format, ...);

#define PLAIN_ENTRY(suite_, name_, run_, ...)                                                                          \
    __attribute__((constructor)) static void suite_##_##name_##_register(void) {                                       \
        static struct plain_test t = {0, #suite_, #name_, run_, {.pad = 0, ##__VA_ARGS__}};                            \
        plain_register(&t);                                                                                            \
    }

#define Test(suite_, name_, ...)                                                                                       \
    static void suite_##_##name_##_run(void);                                                                          \
    PLAIN_ENTRY(suite_, name_, suite_##_##name_##_run, ##__VA_ARGS__)                                                  \
    static void suite_##_##name_##_run(void)

#define TestSuite(suite_, ...) PLAIN_ENTRY(suite_, whole_suite, NULL, ##__VA_ARGS__)

#define PLAIN_CHECK(end, cond, what, ...)                                                                              \
    do {                                                                                                               \
        if (!(cond))                                                                                                   \
            plain_failed(end, __FILE__, __LINE__, what, "" __VA_ARGS__);                                               \
    } while (0)

#define cr_assert(c, ...)           PLAIN_CHECK(true, c, #c, __VA_ARGS__)
#define cr_assert_not(c, ...)       PLAIN_CHECK(true, !(c), "not " #c, __VA_ARGS__)
#define cr_assert_eq(a, b, ...)     PLAIN_CHECK(true, (a) == (b), #a " == " #b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...)    PLAIN_CHECK(true, (a) != (b), #a " != " #b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...)     PLAIN_CHECK(true, (a) < (b), #a " < " #b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...)    PLAIN_CHECK(true, (a) <= (b), #a " <= " #b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...)     PLAIN_CHECK(true, (a) > (b), #a " > " #b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...)    PLAIN_CHECK(true, (a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_assert_null(p, ...)      PLAIN_CHECK(true, (p) == NULL, #p " is NULL", __VA_ARGS__)
#define cr_assert_not_null(p, ...)  PLAIN_CHECK(true, (p) != NULL, #p " is not NULL", __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...) PLAIN_CHECK(true, strcmp(a, b) == 0, #a " is the text " #b, __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...) PLAIN_CHECK(true, strcmp(a, b) != 0, #a " is not the text " #b, __VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...) PLAIN_CHECK(true, memcmp(a, b, n) == 0, #a " has the bytes " #b, __VA_ARGS__)
#define cr_assert_arr_neq(a, b, n, ...) PLAIN_CHECK(true, memcmp(a, b, n) != 0, #a " is not " #b, __VA_ARGS__)
#define cr_assert_fail(...)         PLAIN_CHECK(true, false, "not reached", __VA_ARGS__)

#define cr_expect(c, ...)           PLAIN_CHECK(false, c, #c, __VA_ARGS__)
#define cr_expect_not(c, ...)       PLAIN_CHECK(false, !(c), "not " #c, __VA_ARGS__)
#define cr_expect_eq(a, b, ...)     PLAIN_CHECK(false, (a) == (b), #a " == " #b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...)    PLAIN_CHECK(false, (a) != (b), #a " != " #b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...)     PLAIN_CHECK(false, (a) < (b), #a " < " #b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...)    PLAIN_CHECK(false, (a) <= (b), #a " <= " #b, __VA_ARGS__)
#define cr_expect_gt(a, b, ...)     PLAIN_CHECK(false, (a) > (b), #a " > " #b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...)    PLAIN_CHECK(false, (a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_expect_null(p, ...)      PLAIN_CHECK(false, (p) == NULL, #p " is NULL", __VA_ARGS__)
#define cr_expect_not_null(p, ...)  PLAIN_CHECK(false, (p) != NULL, #p " is not NULL", __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...) PLAIN_CHECK(false, strcmp(a, b) == 0, #a " is the text " #b, __VA_ARGS__)
#define cr_expect_arr_eq(a, b, n, ...) PLAIN_CHECK(false, memcmp(a, b, n) == 0, #a " has the bytes " #b, __VA_ARGS__)
#define cr_fail(...)                PLAIN_CHECK(false, false, "failed", __VA_ARGS__)

#define cr_skip(...)      plain_skip("" __VA_ARGS__)
#define cr_skip_test(...) plain_skip("" __VA_ARGS__)
#define cr_log_info(...)  ((void)fprintf(stderr, "[----] " __VA_ARGS__))

#endif
