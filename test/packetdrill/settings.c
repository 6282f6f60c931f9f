/* SPDX-License-Identifier: Apache-2.0
 *
 * How the stack under test is set up: by --so_flags=NAME=VALUE,NAME=VALUE..., and with the flag `sysctl` by what the
 * kernel's own TCP of this network namespace is set to, so that public scripts, which set those, mean the same here.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "test/packetdrill/program.h"

#define FASTOPEN_FREE 0x200 /* of tcp_fastopen: a SYN may bring data without a cookie */

struct settings {
    long timestamps, sack, wscale, ecn, cookies, pacing, gso, mtu, rcvbuf, rcvbuf_max, fastopen, half_open,
        time_wait_ms;
    long sysctl;
    uint64_t fastopen_key[2];
    char cc[TCP_CC_NAME_MAX];
};

struct setting {
    const char *name;
    size_t offset;
    const char *path; /* under /proc/sys/net/ipv4; NULL = none */
    int column;
};

#define SETTING(name, path, column)                                                                                    \
    { #name, offsetof(struct settings, name), path, column }

static const struct setting known[] = {
    SETTING(timestamps, "tcp_timestamps", 0),
    SETTING(sack, "tcp_sack", 0),
    SETTING(wscale, "tcp_window_scaling", 0),
    SETTING(ecn, "tcp_ecn", 0),
    SETTING(fastopen, "tcp_fastopen", 0),
    SETTING(rcvbuf, "tcp_rmem", 1),
    SETTING(rcvbuf_max, "tcp_rmem", 2),
    SETTING(cookies, NULL, 0),
    SETTING(pacing, NULL, 0),
    SETTING(gso, NULL, 0),
    SETTING(mtu, NULL, 0),
    SETTING(half_open, NULL, 0),
    SETTING(time_wait_ms, NULL, 0),
    SETTING(sysctl, NULL, 0),
};

static size_t read_sysctl(const char *name, char *text, size_t size) {
    char path[128];
    snprintf(path, sizeof path, "/proc/sys/net/ipv4/%s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, size - 1);
    if (fd >= 0)
        close(fd);
    n = n > 0 ? n : 0;
    text[n] = '\0';
    return (size_t)n;
}

/* Four words of 32 bits, the first of them the lower half of the first one of 64. */
static void read_fastopen_key(struct settings *s) {
    char text[128];
    unsigned w[4];
    (void)read_sysctl("tcp_fastopen_key", text, sizeof text);
    if (sscanf(text, "%x-%x-%x-%x", &w[0], &w[1], &w[2], &w[3]) != 4)
        return;
    s->fastopen_key[0] = (uint64_t)w[1] << 32 | w[0];
    s->fastopen_key[1] = (uint64_t)w[3] << 32 | w[2];
}

static void follow_kernel(struct settings *s) {
    char text[128];
    for (uint32_t i = 0; i < ARRAY_LEN(known); i++) {
        if (known[i].path == NULL || read_sysctl(known[i].path, text, sizeof text) == 0)
            continue;
        char *at = text;
        long v = 0;
        for (int c = 0; c <= known[i].column; c++)
            v = strtol(at, &at, 0);
        memcpy((uint8_t *)s + known[i].offset, &v, sizeof v);
    }
    size_t n = read_sysctl("tcp_congestion_control", text, sizeof text);
    if (n > 1 && n < sizeof s->cc) {
        memset(s->cc, 0, sizeof s->cc);
        memcpy(s->cc, text, n - 1); /* without the end of the line */
    }
    read_fastopen_key(s);
    s->rcvbuf /= 2; /* Linux keeps half of it for its own overhead */
}

static void take_flag(struct settings *s, char *flag) {
    char *value = strchr(flag, '=');
    if (value != NULL)
        *value++ = '\0';
    if (strcmp(flag, "cc") == 0 && value != NULL) {
        memset(s->cc, 0, sizeof s->cc);
        memcpy(s->cc, value, strnlen(value, sizeof s->cc - 1));
        return;
    }
    for (uint32_t i = 0; i < ARRAY_LEN(known); i++) {
        if (strcmp(flag, known[i].name) != 0)
            continue;
        long v = value != NULL ? strtol(value, NULL, 0) : 1;
        memcpy((uint8_t *)s + known[i].offset, &v, sizeof v);
        if (known[i].offset == offsetof(struct settings, sysctl))
            follow_kernel(s);
        return;
    }
    fprintf(stderr, "libusher-packetdrill: the flag \"%s\" is not known; settings.c lists them\n", flag);
}

void program_settings(struct program *p, const char *flags) {
    struct settings s = {.timestamps = 1,
                         .sack = 1,
                         .wscale = 1,
                         .ecn = 2,
                         .mtu = 1500,
                         .gso = 1,
                         .rcvbuf = 65535,
                         .rcvbuf_max = 15 << 20,
                         .fastopen = 3,
                         .cc = "cubic"};
    char text[256] = "", *save = NULL;
    if (flags != NULL)
        snprintf(text, sizeof text, "%s", flags);
    for (char *flag = strtok_r(text, ",", &save); flag != NULL; flag = strtok_r(NULL, ",", &save))
        take_flag(&s, flag);
    struct tcp_config *c = &p->config.tcp;
    p->config.mtu = (uint16_t)s.mtu;
    p->fastopen_mode = (uint32_t)s.fastopen;
    *c = (struct tcp_config){.conn_max = 256,
                             .listener_max = 16,
                             .half_open_max = s.half_open > 0 ? (uint32_t)s.half_open : 64,
                             .time_wait_max = 64,
                             .item_max = 16384,
                             .segment_max = 16384,
                             .port_low = 32768,
                             .port_high = 60999,
                             .rcvbuf = (uint32_t)s.rcvbuf,
                             .rcvbuf_max = (uint32_t)s.rcvbuf_max,
                             .time_wait_ms = (uint32_t)s.time_wait_ms,
                             .fastopen_key = {s.fastopen_key[0], s.fastopen_key[1]}};
    c->flags = (s.timestamps ? 0u : TCP_CONFIG_NO_TIMESTAMPS) | (s.sack ? 0u : TCP_CONFIG_NO_SACK) |
               (s.wscale ? 0u : TCP_CONFIG_NO_WSCALE) | (s.ecn == 1 ? TCP_CONFIG_ECN : 0u) |
               (s.ecn == 0 ? TCP_CONFIG_NO_ECN : 0u) | (s.cookies ? TCP_CONFIG_COOKIES_ALWAYS : 0u) |
               (s.fastopen & FASTOPEN_FREE ? TCP_CONFIG_FASTOPEN_FREE : 0u) | (s.pacing ? 0u : TCP_CONFIG_NO_PACING) |
               (s.gso ? 0u : TCP_CONFIG_NO_GSO);
    memcpy(c->congestion, s.cc, sizeof c->congestion);
}
