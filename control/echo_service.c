/* SPDX-License-Identifier: Apache-2.0
 *
 * Opens and closes the sockets of the echo service. Same order as for clients: dataplane's socket, then claim; claim
 * away, then socket.
 */
#include "control/echo_service.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/broker/claims.h"
#include "control/log.h"
#include "engines/echo/echo_cmd.h"
#include "engines/udp/udp_cmd.h"

#define SERVICE_MAX (CONFIG_ECHO_MAX + CONFIG_GENERATE_MAX)

struct service {
    struct flow flow;
    int fd;
    uint32_t shard, sock;
};

struct echo_service {
    struct runtime *rt;
    struct claim_table *claims;
    uint32_t udp, echo;
    struct service services[SERVICE_MAX];
    uint32_t count;
};

/* Reserves the port with the kernel; both IP versions where there is IPv6. */
static int port_reserve(uint16_t port) {
    struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0), off = 0, small = 1;
    const struct sockaddr *a = (const struct sockaddr *)&a6;
    socklen_t len = sizeof a6;
    if (fd < 0) {
        fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        a = (const struct sockaddr *)&a4;
        len = sizeof a4;
    } else {
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    }
    if (fd < 0)
        return -errno;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small); /* nobody reads it */
    if (bind(fd, a, len) == 0)
        return fd;
    int err = -errno;
    (void)close(fd);
    return err;
}

static int socket_open(struct echo_service *e, struct service *s) {
    struct engine_reply reply;
    struct udp_cmd_open cmd = {
        .cmd = {UDP_CMD_OPEN, sizeof cmd}, .flow = s->flow, .sink = SINK(SINK_ENGINE, e->echo, 0)};
    int err = runtime_command(e->rt, s->shard, e->udp, &cmd.cmd, &reply);
    s->sock = reply.value;
    return err;
}

static void socket_close(struct echo_service *e, const struct service *s) {
    struct udp_cmd_close cmd = {.cmd = {UDP_CMD_CLOSE, sizeof cmd}, .sock = s->sock};
    (void)runtime_command(e->rt, s->shard, e->udp, &cmd.cmd, NULL);
}

static int service_open(struct echo_service *e, uint16_t port, struct service **ret_service) {
    struct service *s = &e->services[e->count];
    *s = (struct service){.flow = {.local_port = port, .proto = IPPROTO_UDP}};
    s->shard = e->count % runtime_shard_count(e->rt);
    s->fd = port_reserve(port);
    if (s->fd < 0)
        return s->fd;
    int err = socket_open(e, s);
    if (err == 0) {
        err = runtime_steer(e->rt, &s->flow, s->shard, true);
        if (err == 0) {
            err = claim_take(e->claims, &s->flow, false);
            if (err != 0)
                (void)runtime_steer(e->rt, &s->flow, s->shard, false);
        }
        if (err != 0)
            socket_close(e, s);
    }
    if (err != 0) {
        (void)close(s->fd);
        return err;
    }
    e->count++;
    *ret_service = s;
    return 0;
}

static int loop_start(struct echo_service *e, const struct service *s, const struct config_generate *g) {
    struct echo_cmd_generate cmd = {
        .cmd = {ECHO_CMD_GENERATE, sizeof cmd},
        .sock = s->sock,
        .window = g->window,
        .size = g->size,
        .peer_port = (uint16_t)g->peer_port,
        .peer = g->peer.addr,
        .timeout_ns = g->timeout_ns,
    };
    return runtime_command(e->rt, s->shard, e->echo, &cmd.cmd, NULL);
}

static int services_open(struct echo_service *e, const struct config *cfg, uint32_t *ret_port) {
    struct service *s;
    int err = 0;
    for (uint32_t i = 0; i < cfg->echo.port_count && err == 0; i++) {
        *ret_port = cfg->echo.ports[i];
        err = service_open(e, (uint16_t)cfg->echo.ports[i], &s);
        if (err == 0)
            log_info("echo", "UDP port %u is echoed by shard %u", cfg->echo.ports[i], s->shard);
    }
    for (uint32_t i = 0; i < cfg->echo.generate_count && err == 0; i++) {
        *ret_port = cfg->echo.generate[i].port;
        err = service_open(e, (uint16_t)cfg->echo.generate[i].port, &s);
        if (err == 0)
            err = loop_start(e, s, &cfg->echo.generate[i]);
    }
    return err;
}

int echo_service_create(struct runtime *rt, const struct config *cfg, uint32_t udp_engine, uint32_t echo_engine,
                        struct claim_table *claims, struct echo_service **ret_echo, char *err, size_t err_size) {
    struct echo_service *e = calloc(1, sizeof *e);
    uint32_t port = 0;
    if (e == NULL)
        return -ENOMEM;
    e->rt = rt;
    e->claims = claims;
    e->udp = udp_engine;
    e->echo = echo_engine;
    int error = services_open(e, cfg, &port);
    if (error != 0) {
        (void)snprintf(err, err_size, "echo port %u cannot be opened: %s; choose another one under `echo`", port,
                       strerror(-error));
        echo_service_destroy(e);
        return error;
    }
    *ret_echo = e;
    return 0;
}

void echo_service_destroy(struct echo_service *e) {
    if (e == NULL)
        return;
    while (e->count > 0) {
        const struct service *s = &e->services[--e->count];
        claim_give(e->claims, &s->flow, false);
        (void)runtime_steer(e->rt, &s->flow, s->shard, false);
        socket_close(e, s);
        (void)close(s->fd);
    }
    free(e);
}
