/* SPDX-License-Identifier: Apache-2.0
 *
 * One value of the config: from text, to text, and what is allowed. Both directions stand side by side, because the
 * printed form must parse to the same value again.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "control/config/schema.h"

struct suffix {
    const char *text;
    uint64_t factor;
};

/* Largest first: printing takes the first that divides the value. */
static const struct suffix size_suffixes[] = {{"G", 1ull << 30}, {"M", 1ull << 20}, {"K", 1ull << 10}, {"", 1}, {0}};
static const struct suffix rate_suffixes[] = {{"G", 1000000000}, {"M", 1000000}, {"k", 1000}, {"", 1}, {0}};
static const struct suffix time_suffixes[] = {{"s", 1000000000}, {"ms", 1000000}, {"us", 1000}, {"ns", 1}, {0}};
static const struct suffix no_suffixes[] = {{"", 1}, {0}};

static const struct suffix *suffixes_of(enum field_type type) {
    switch (type) {
    case FIELD_SIZE:
        return size_suffixes;
    case FIELD_RATE:
        return rate_suffixes;
    case FIELD_DURATION:
        return time_suffixes;
    default:
        return no_suffixes;
    }
}

/* Digits and one suffix, nothing else: no sign, no space, no octal, no "12x". */
static bool number_parse(const char *text, const struct suffix *suffixes, uint64_t *ret_value) {
    if (!isdigit((unsigned char)text[0]))
        return false;
    char *end;
    errno = 0;
    uint64_t n = strtoull(text, &end, 10);
    if (errno != 0)
        return false;
    for (const struct suffix *s = suffixes; s->text != NULL; s++) {
        if (strcmp(end, s->text) == 0)
            return !__builtin_mul_overflow(n, s->factor, ret_value);
    }
    return false;
}

static void number_print(uint64_t value, const struct suffix *suffixes, char *text, size_t size) {
    const struct suffix *s = suffixes;
    bool plain_zero = value == 0 && suffixes != time_suffixes; /* a time keeps its unit even then */
    while (s->factor > 1 && (value % s->factor != 0 || plain_zero))
        s++;
    (void)snprintf(text, size, "%" PRIu64 "%s", value / s->factor, s->text);
}

static bool parse_number(const struct field *f, const char *text, void *at) {
    uint64_t n;
    if (!number_parse(text, suffixes_of(f->type), &n) || n < f->min || n > f->max)
        return false;
    if (f->type == FIELD_U32)
        *(uint32_t *)at = (uint32_t)n;
    else
        *(uint64_t *)at = n;
    return true;
}

static bool parse_bool(const char *text, void *at) {
    static const struct {
        const char *text;
        bool value;
    } words[] = {{"yes", true}, {"no", false}, {"true", true}, {"false", false}, {"on", true}, {"off", false}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(text, words[i].text) == 0) {
            *(bool *)at = words[i].value;
            return true;
        }
    }
    return false;
}

static bool parse_choice(const struct field *f, const char *text, void *at) {
    for (uint32_t i = 0; f->choices[i] != NULL; i++) {
        if (strcmp(text, f->choices[i]) == 0) {
            *(uint32_t *)at = i;
            return true;
        }
    }
    return false;
}

static bool parse_text(const struct field *f, const char *text, void *at) {
    size_t n = strlen(text);
    if (n < f->min || n >= f->size)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (iscntrl((unsigned char)text[i]))
            return false;
    }
    memset(at, 0, f->size);
    memcpy(at, text, n);
    return true;
}

static bool parse_octal(const struct field *f, const char *text, void *at) {
    char *end;
    unsigned long n = strtoul(text, &end, 8);
    if (!isdigit((unsigned char)text[0]) || *end != '\0' || n > f->max)
        return false;
    *(uint32_t *)at = (uint32_t)n;
    return true;
}

static bool parse_cpus(const char *text, void *at) {
    uint64_t mask = 0;
    if (strcmp(text, "all") != 0) {
        for (const char *p = text;; p++) {
            char *end;
            if (!isdigit((unsigned char)*p))
                return false;
            unsigned long a = strtoul(p, &end, 10), b = a;
            if (*end == '-' && isdigit((unsigned char)end[1]))
                b = strtoul(end + 1, &end, 10);
            if (a > b || b > 63 || (*end != ',' && *end != '\0'))
                return false;
            for (unsigned long i = a; i <= b; i++)
                mask |= 1ull << i;
            if (*end == '\0')
                break;
            p = end;
        }
    }
    *(uint64_t *)at = mask;
    return true;
}

static bool parse_prefix(const char *text, bool host, void *at) {
    char copy[64];
    uint8_t raw[16];
    size_t n = strlen(text);
    if (n >= sizeof copy)
        return false;
    memcpy(copy, text, n + 1);
    char *slash = strchr(copy, '/');
    if (host == (slash != NULL))
        return false;
    uint64_t len = 128;
    if (slash != NULL) {
        *slash = '\0';
        if (!number_parse(slash + 1, no_suffixes, &len))
            return false;
    }
    struct config_prefix *p = at;
    if (inet_pton(AF_INET, copy, raw) == 1 && (host || len <= 32)) {
        *p = (struct config_prefix){ipaddr_from_v4(raw), host ? 128 : 96 + (uint32_t)len};
        return true;
    }
    if (inet_pton(AF_INET6, copy, raw) == 1 && len <= 128) {
        *p = (struct config_prefix){ipaddr_from_v6(raw), (uint32_t)len};
        return !ipaddr_is_v4(&p->addr);
    }
    return false;
}

static bool parse_mac(const char *text, void *at) {
    struct config_mac *m = at;
    if (strcmp(text, "auto") == 0) {
        *m = (struct config_mac){0};
        return true;
    }
    unsigned b[6];
    int used = 0;
    if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &used) != 6 ||
        text[used] != '\0' || used != 17 || (b[0] & 1) != 0)
        return false;
    for (int i = 0; i < 6; i++)
        m->b[i] = (uint8_t)b[i];
    m->given = true;
    return true;
}

static bool value_parse(const struct field *f, const char *text, bool plain, void *at) {
    switch (f->type) {
    case FIELD_BOOL:
        return plain && parse_bool(text, at);
    case FIELD_U32:
    case FIELD_SIZE:
    case FIELD_RATE:
    case FIELD_SEED:
    case FIELD_DURATION:
        return plain && parse_number(f, text, at);
    case FIELD_CHOICE:
        return parse_choice(f, text, at);
    case FIELD_TEXT:
        return parse_text(f, text, at);
    case FIELD_OCTAL:
        return parse_octal(f, text, at);
    case FIELD_CPUS:
        return parse_cpus(text, at);
    case FIELD_PREFIX:
        return parse_prefix(text, false, at);
    case FIELD_HOST:
        return parse_prefix(text, true, at);
    case FIELD_MAC:
        return parse_mac(text, at);
    case FIELD_TREE:
    case FIELD_SECTION:
        break;
    }
    return false;
}

bool scalar_parse(const struct field *f, const char *text, bool plain, void *at, char *why, size_t why_size) {
    if (value_parse(f, text, plain, at))
        return true;
    char allowed[256];
    scalar_allowed(f, allowed, sizeof allowed);
    (void)snprintf(why, why_size, "\"%.60s\" is not allowed; it must be %s", text, allowed);
    return false;
}

static void allowed_number(const struct field *f, char *text, size_t size) {
    char low[32], high[32], example[96] = "";
    const struct suffix *s = suffixes_of(f->type);
    number_print(f->min, s, low, sizeof low);
    number_print(f->max, s, high, sizeof high);
    if (f->type == FIELD_SIZE)
        (void)snprintf(example, sizeof example, ", with K, M or G behind it where wanted");
    if (f->type == FIELD_RATE)
        (void)snprintf(example, sizeof example, ", with k, M or G (powers of ten) behind it where wanted");
    if (f->type == FIELD_DURATION)
        (void)snprintf(example, sizeof example, ", with its unit: s, ms, us or ns");
    (void)snprintf(text, size, "a whole number from %s to %s%s%s%s", low, high, f->unit != NULL ? " " : "",
                   f->unit != NULL ? f->unit : "", example);
}

static void allowed_choice(const struct field *f, char *text, size_t size) {
    size_t n = (size_t)snprintf(text, size, "one of ");
    for (uint32_t i = 0; f->choices[i] != NULL && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%s%s", i > 0 ? ", " : "", f->choices[i]);
}

void scalar_allowed(const struct field *f, char *text, size_t size) {
    switch (f->type) {
    case FIELD_BOOL:
        (void)snprintf(text, size, "yes or no");
        return;
    case FIELD_CHOICE:
        allowed_choice(f, text, size);
        return;
    case FIELD_TEXT:
        (void)snprintf(text, size, "a text of %u to %zu printable bytes", (unsigned)f->min, f->size - 1);
        return;
    case FIELD_OCTAL:
        (void)snprintf(text, size, "permission bits in octal, as 0660");
        return;
    case FIELD_CPUS:
        (void)snprintf(text, size, "\"all\", or core numbers below 64 as 0-3,6");
        return;
    case FIELD_PREFIX:
        (void)snprintf(text, size, "an address with its prefix length, as 192.0.2.1/24 or 2001:db8::1/64");
        return;
    case FIELD_HOST:
        (void)snprintf(text, size, "an address, as 192.0.2.1 or 2001:db8::1");
        return;
    case FIELD_MAC:
        (void)snprintf(text, size, "\"auto\", or a unicast MAC address as 02:00:00:00:00:01");
        return;
    case FIELD_TREE:
    case FIELD_SECTION:
        (void)snprintf(text, size, "a section");
        return;
    default:
        allowed_number(f, text, size);
    }
}

static void print_cpus(uint64_t mask, char *text, size_t size) {
    size_t n = 0;
    if (mask == 0)
        (void)snprintf(text, size, "all");
    for (uint32_t a = 0; a < 64 && n < size; a++) {
        if (!(mask >> a & 1))
            continue;
        uint32_t b = a;
        while (b < 63 && (mask >> (b + 1) & 1))
            b++;
        n += (size_t)snprintf(text + n, size - n, a == b ? "%s%u" : "%s%u-%u", n > 0 ? "," : "", a, b);
        a = b;
    }
}

static void print_prefix(const struct config_prefix *p, bool host, char *text, size_t size) {
    char addr[INET6_ADDRSTRLEN];
    bool v4 = ipaddr_is_v4(&p->addr);
    (void)inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? &p->addr.b[12] : p->addr.b, addr, sizeof addr);
    if (host)
        (void)snprintf(text, size, "%s", addr);
    else
        (void)snprintf(text, size, "%s/%u", addr, v4 ? p->len - 96 : p->len);
}

/* Always in quotes, so that no text can be taken for something else. */
static void print_text(const char *from, char *text, size_t size) {
    size_t n = 0;
    text[n++] = '"';
    for (; *from != '\0' && n + 4 < size; from++) {
        if (*from == '"' || *from == '\\')
            text[n++] = '\\';
        text[n++] = *from;
    }
    text[n++] = '"';
    text[n] = '\0';
}

void scalar_print(const struct field *f, const void *at, char *text, size_t size) {
    const struct config_mac *mac = at;
    switch (f->type) {
    case FIELD_BOOL:
        (void)snprintf(text, size, "%s", *(const bool *)at ? "yes" : "no");
        return;
    case FIELD_U32:
        (void)snprintf(text, size, "%u", *(const uint32_t *)at);
        return;
    case FIELD_SIZE:
    case FIELD_RATE:
    case FIELD_SEED:
    case FIELD_DURATION:
        number_print(*(const uint64_t *)at, suffixes_of(f->type), text, size);
        return;
    case FIELD_CHOICE:
        (void)snprintf(text, size, "%s", f->choices[*(const uint32_t *)at]);
        return;
    case FIELD_TEXT:
        print_text(at, text, size);
        return;
    case FIELD_OCTAL:
        (void)snprintf(text, size, "%04o", *(const uint32_t *)at);
        return;
    case FIELD_CPUS:
        print_cpus(*(const uint64_t *)at, text, size);
        return;
    case FIELD_PREFIX:
    case FIELD_HOST:
        print_prefix(at, f->type == FIELD_HOST, text, size);
        return;
    case FIELD_MAC:
        (void)snprintf(text, size, "auto");
        if (mac->given)
            (void)snprintf(text, size, "\"%02x:%02x:%02x:%02x:%02x:%02x\"", mac->b[0], mac->b[1], mac->b[2], mac->b[3],
                           mac->b[4], mac->b[5]);
        return;
    case FIELD_TREE:
    case FIELD_SECTION:
        return;
    }
}
