/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: the metrics' HTTP server, fed one connection whose bytes arrive in pieces. It must answer or close, and
 * go on serving.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/metrics/server.h"
#include "test/fuzz/fuzz_input.h"

#define PIECES_MAX 8

static struct broker *no_broker;
static sd_event *loop;
static struct metrics_server *server;

static void open_once(void) {
    char err[256], path[64];
    const struct runtime_config rc = {.shard_count = 1, .small_packets = 256, .large_packets = 16, .session_max = 1};
    struct runtime_error re;
    struct runtime *rt;
    (void)snprintf(path, sizeof path, "/tmp/usher-fuzz-http-%d", getpid());
    if (runtime_create(&rc, &rt, &re) != 0 || sd_event_new(&loop) < 0)
        abort();
    static const uint32_t one = 1;
    const struct metrics_params p = {.event = loop,
                                     .listen = path,
                                     .group = "",
                                     .mode = 0600,
                                     .fd = -1,
                                     .source = {.rt = rt, .broker = &no_broker, .sessions_max = &one}};
    if (metrics_server_create(&p, &server, err, sizeof err) != 0)
        abort();
    (void)unlink(path);
}

static void drain(int fd) {
    char answer[4096];
    (void)sd_event_run(loop, 0);
    while (recv(fd, answer, sizeof answer, MSG_DONTWAIT) > 0)
        (void)sd_event_run(loop, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input in = {data, size};
    int pair[2];
    if (server == NULL)
        open_once();
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) != 0)
        abort();
    if (metrics_server_adopt(server, pair[0]) != 0)
        abort(); /* earlier connections were not let go */
    for (int i = 0; i < PIECES_MAX && in.left > 0; i++) {
        size_t got;
        size_t want = i + 1 < PIECES_MAX ? (size_t)fuzz_u8(&in) * 8 : in.left;
        const uint8_t *piece = fuzz_bytes(&in, want, &got);
        (void)send(pair[1], piece, got, MSG_NOSIGNAL);
        drain(pair[1]);
    }
    (void)shutdown(pair[1], SHUT_WR);
    drain(pair[1]);
    (void)close(pair[1]);
    for (int i = 0; i < 4; i++)
        (void)sd_event_run(loop, 0);
    return 0;
}
