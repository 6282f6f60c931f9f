/* SPDX-License-Identifier: Apache-2.0
 *
 * Single values of a policy file: addresses, numbers, users, words. Control thread; users' names are looked up as the
 * system does.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/policy/policy_internal.h"

static bool address(const char *text, struct nb_addr *ret, uint32_t *ret_bits) {
    uint8_t v4[4];
    if (inet_pton(AF_INET, text, v4) == 1) {
        *ret = nb_addr_from_v4(v4);
        *ret_bits = 32;
        return true;
    }
    *ret_bits = 128;
    return inet_pton(AF_INET6, text, ret->b) == 1;
}

static bool number(const char *text, uint32_t max, uint32_t *ret) {
    char *end;
    errno = 0;
    unsigned long v = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || v > max)
        return false;
    *ret = (uint32_t)v;
    return true;
}

/* Cuts `text` at the mark; false: there is none, or it is too long. */
static bool cut(const char *text, char mark, char *ret_left, size_t size, const char **ret_right) {
    const char *at = strchr(text, mark);
    if (at == NULL || (size_t)(at - text) >= size)
        return false;
    memcpy(ret_left, text, (size_t)(at - text));
    ret_left[at - text] = '\0';
    *ret_right = at + 1;
    return true;
}

static bool prefix(const char *left, const char *right, struct nb_addr_range *r) {
    uint32_t bits, len;
    if (!address(left, &r->lo, &bits) || !number(right, bits, &len))
        return false;
    len += 128 - bits;
    r->hi = r->lo;
    for (uint32_t i = len; i < 128; i++) {
        r->lo.b[i / 8] &= (uint8_t) ~(0x80 >> i % 8);
        r->hi.b[i / 8] |= (uint8_t)(0x80 >> i % 8);
    }
    return true;
}

bool policy_read_addr(const char *text, struct nb_addr_range *r, char *why) {
    char left[64];
    const char *right;
    uint32_t a, b;
    (void)snprintf(why, WHY_SIZE, "'%.60s' is no address; write 10.0.0.1, 10.0.0.0/8, fd00::/8 or 10.0.0.1-10.0.0.9",
                   text);
    if (cut(text, '/', left, sizeof left, &right))
        return prefix(left, right, r);
    if (cut(text, '-', left, sizeof left, &right))
        return address(left, &r->lo, &a) && address(right, &r->hi, &b) && a == b && memcmp(&r->lo, &r->hi, 16) <= 0;
    if (!address(text, &r->lo, &a))
        return false;
    r->hi = r->lo;
    return true;
}

bool policy_read_range(const char *text, uint32_t max, struct nb_range *r, char *why) {
    char left[16];
    const char *right;
    (void)snprintf(why, WHY_SIZE, "'%.60s' is no number or range; write a number up to %u, or two as 1-9", text, max);
    if (cut(text, '-', left, sizeof left, &right))
        return number(left, max, &r->lo) && number(right, max, &r->hi) && r->lo <= r->hi;
    if (!number(text, max, &r->lo))
        return false;
    r->hi = r->lo;
    return true;
}

bool policy_read_id(const char *text, bool group, struct nb_range *r, bool *ret_absent, char *why) {
    *ret_absent = false;
    if (policy_read_range(text, UINT32_MAX - 1, r, why))
        return true;
    const struct passwd *user = group ? NULL : getpwnam(text);
    const struct group *of = group ? getgrnam(text) : NULL;
    if (user == NULL && of == NULL) {
        (void)snprintf(why, WHY_SIZE, "no %s '%.60s' on this host; use a number if it will exist later",
                       group ? "group" : "user", text);
        *ret_absent = true;
        return false;
    }
    r->lo = r->hi = user != NULL ? user->pw_uid : of->gr_gid;
    return true;
}

bool policy_read_member(const char *field, const char *text, struct nb_addr_range *addr, struct nb_range *range,
                        bool *ret_absent, char *why) {
    *ret_absent = false;
    if (strcmp(field, "addresses") == 0)
        return policy_read_addr(text, addr, why);
    if (strcmp(field, "ports") == 0)
        return policy_read_range(text, 65535, range, why);
    return policy_read_id(text, strcmp(field, "groups") == 0, range, ret_absent, why);
}

bool policy_read_amount(const char *text, uint64_t *ret, bool *ret_bytes, char *why) {
    static const struct {
        const char *suffix;
        uint64_t times;
        bool bytes;
    } units[] = {{"", 1, false},         {"B", 1, true},         {"k", 1000, false},    {"M", 1000000, false},
                 {"kB", 1000, true},     {"KB", 1000, true},     {"MB", 1000000, true}, {"GB", 1000000000, true},
                 {"KiB", 1 << 10, true}, {"MiB", 1 << 20, true}, {"GiB", 1 << 30, true}};
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    size_t size = strlen(end);
    if (size >= 2 && strcmp(end + size - 2, "/s") == 0)
        size -= 2;
    (void)snprintf(why, WHY_SIZE, "'%.40s' is no amount; write 100, 5k, 64KB or 1MiB, of a rate with /s behind it",
                   text);
    if (text[0] < '0' || text[0] > '9' || errno != 0 || n == 0)
        return false;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (strlen(units[i].suffix) == size && strncmp(end, units[i].suffix, size) == 0) {
            *ret_bytes = units[i].bytes;
            return !__builtin_mul_overflow(n, units[i].times, ret);
        }
    return false;
}

bool policy_read_word(const char *text, const char *const *words, uint32_t *ret_index, char *why) {
    int n = snprintf(why, WHY_SIZE, "'%.40s' is not one of", text);
    for (uint32_t i = 0; words[i] != NULL; i++) {
        if (strcmp(words[i], text) == 0) {
            *ret_index = i;
            return true;
        }
        if (n > 0 && n < WHY_SIZE)
            n += snprintf(why + n, (size_t)(WHY_SIZE - n), "%s %s", i > 0 ? "," : "", words[i]);
    }
    return false;
}
