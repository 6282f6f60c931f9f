/* SPDX-License-Identifier: Apache-2.0
 *
 * The HTTP side of metrics: GET /metrics on one listening socket, driven by the caller's event loop. Whoever reaches
 * the socket may read; that is why it is a loopback port or a UNIX socket. What a flood can cost is bounded: a few
 * connections at a time, and the text is made anew at most five times a second.
 *
 * Thread: control.
 */
#ifndef USHER_CONTROL_METRICS_SERVER_H
#define USHER_CONTROL_METRICS_SERVER_H

#include <stddef.h>
#include <sys/types.h>
#include <systemd/sd-event.h>

#include "control/metrics/families.h"

struct metrics_server;

struct metrics_params {
    sd_event *event;
    const char *listen; /* "127.0.0.1:9477", "[::1]:9477" or an absolute path; unused with fd */
    const char *group;  /* of a path; "" = leave */
    uint32_t mode;      /* of a path */
    int fd;             /* a listening socket that somebody passed; -1 = none. Taken on success */
    struct metrics_source source;
};

int metrics_server_create(const struct metrics_params *params, struct metrics_server **ret_server, char *err,
                          size_t err_size);
void metrics_server_destroy(struct metrics_server *s);
/* One connection that came by another way than the listener (the fuzzer's). Takes fd in any case. 0 or -errno. */
int metrics_server_adopt(struct metrics_server *s, int fd);

#endif
