/* SPDX-License-Identifier: Apache-2.0
 *
 * libmicrohttpd without threads: its epoll fd and its next timeout are sources of usherd's event loop. Accepting
 * is done here: libmicrohttpd stops to listen while it is full, and tells nobody when it should go on.
 */
#include "control/metrics/server.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/listener.h"
#include "control/log.h"

#define CONNECTIONS_MAX  16u
#define TIMEOUT_S        10u
#define CONNECTION_BYTES 16384u
#define TEXT_FRESH_US    200000u
#define ACCEPT_PAUSE_US  1000000u /* after accept() failed: no fds or no memory */

struct metrics_server {
    struct MHD_Daemon *http;
    sd_event *event;
    int listen_fd;
    sd_event_source *listen, *pause;
    sd_event_source *io, *timer;
    struct metrics_source source;
    struct MHD_Response *text; /* the last scrape's; libmicrohttpd counts its users */
    uint64_t text_at;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* to be removed at the end, "" = none */
};

static const char page[] =
    "<!doctype html><title>usherd</title><p>usherd " USHER_VERSION ": <a href=\"/metrics\">metrics</a></p>\n";

/* ---- answers ---- */

static struct MHD_Response *text_make(const struct metrics_server *s) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL)
        return NULL;
    metrics_write(out, &s->source);
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    struct MHD_Response *r = MHD_create_response_from_buffer(size, text, MHD_RESPMEM_MUST_FREE);
    if (r == NULL)
        free(text);
    else
        (void)MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    return r;
}

static struct MHD_Response *text_get(struct metrics_server *s) {
    uint64_t now = 0;
    (void)sd_event_now(s->event, CLOCK_MONOTONIC, &now);
    if (s->text != NULL && now - s->text_at < TEXT_FRESH_US)
        return s->text;
    if (s->text != NULL)
        MHD_destroy_response(s->text);
    s->text = text_make(s);
    s->text_at = now;
    return s->text;
}

static enum MHD_Result answer_plain(struct MHD_Connection *c, unsigned status, const char *text, const char *type) {
    struct MHD_Response *r =
        MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT);
    if (r == NULL)
        return MHD_NO;
    (void)MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        (void)MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    enum MHD_Result result = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return result;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *c, const char *url, const char *method,
                                  const char *version, const char *body, size_t *body_size, void **state) {
    struct metrics_server *s = arg;
    (void)version;
    (void)body;
    /* The first call comes with the head alone: an answer then ends a request whose body nobody wants. */
    if (*body_size > 0 || *state != NULL)
        return MHD_NO;
    *state = s;
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return answer_plain(c, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET is answered here\n", "text/plain");
    if (strcmp(url, "/") == 0)
        return answer_plain(c, MHD_HTTP_OK, page, "text/html");
    if (strcmp(url, "/metrics") != 0)
        return answer_plain(c, MHD_HTTP_NOT_FOUND, "nothing is here; ask for /metrics\n", "text/plain");
    struct MHD_Response *r = text_get(s);
    if (r == NULL)
        return answer_plain(c, MHD_HTTP_SERVICE_UNAVAILABLE, "no memory for the metrics\n", "text/plain");
    return MHD_queue_response(c, MHD_HTTP_OK, r);
}

/* ---- the loop ---- */

static int timer_set(struct metrics_server *s) {
    MHD_UNSIGNED_LONG_LONG ms;
    if (MHD_get_timeout(s->http, &ms) != MHD_YES)
        return sd_event_source_set_enabled(s->timer, SD_EVENT_OFF);
    int error = sd_event_source_set_time_relative(s->timer, ms * 1000);
    return error < 0 ? error : sd_event_source_set_enabled(s->timer, SD_EVENT_ONESHOT);
}

static int server_turn(struct metrics_server *s) {
    (void)MHD_run(s->http);
    return timer_set(s);
}

static int on_io(sd_event_source *source, int fd, uint32_t events, void *arg) {
    (void)source;
    (void)fd;
    (void)events;
    return server_turn(arg);
}

static int on_timer(sd_event_source *source, uint64_t when, void *arg) {
    (void)source;
    (void)when;
    return server_turn(arg);
}

static unsigned connection_count(const struct metrics_server *s) {
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->http, MHD_DAEMON_INFO_CURRENT_CONNECTIONS);
    return info != NULL ? info->num_connections : 0;
}

int metrics_server_adopt(struct metrics_server *s, int fd) {
    const struct sockaddr_un addr = {.sun_family = AF_UNIX}; /* nobody looks at it */
    if (connection_count(s) >= CONNECTIONS_MAX) {
        (void)close(fd);
        return -EMFILE;
    }
    if (MHD_add_connection(s->http, fd, (const struct sockaddr *)&addr, sizeof addr) != MHD_YES)
        return -EIO; /* and fd is closed */
    return server_turn(s);
}

static int on_pause(sd_event_source *source, uint64_t when, void *arg) {
    struct metrics_server *s = arg;
    (void)source;
    (void)when;
    return sd_event_source_set_enabled(s->listen, SD_EVENT_ON);
}

static int accept_pause(struct metrics_server *s) {
    log_warning("metrics.accept", "a reader of metrics cannot be served: %s", strerror(errno));
    (void)sd_event_source_set_enabled(s->listen, SD_EVENT_OFF);
    (void)sd_event_source_set_time_relative(s->pause, ACCEPT_PAUSE_US);
    return sd_event_source_set_enabled(s->pause, SD_EVENT_ONESHOT);
}

static int on_accept(sd_event_source *source, int fd, uint32_t events, void *arg) {
    struct metrics_server *s = arg;
    (void)source;
    (void)events;
    int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client >= 0)
        (void)metrics_server_adopt(s, client);
    else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
        return accept_pause(s);
    return 0;
}

static int loop_join(struct metrics_server *s) {
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->http, MHD_DAEMON_INFO_EPOLL_FD);
    if (info == NULL)
        return -EIO;
    int error = sd_event_add_io(s->event, &s->io, info->epoll_fd, EPOLLIN, on_io, s);
    if (error >= 0)
        error = sd_event_add_time(s->event, &s->timer, CLOCK_MONOTONIC, 0, 0, on_timer, s);
    if (error >= 0)
        error = sd_event_add_io(s->event, &s->listen, s->listen_fd, EPOLLIN, on_accept, s);
    if (error >= 0)
        error = sd_event_add_time(s->event, &s->pause, CLOCK_MONOTONIC, 0, 0, on_pause, s);
    if (error >= 0)
        error = sd_event_source_set_enabled(s->pause, SD_EVENT_OFF);
    return error;
}

/* ---- beginning and end ---- */

static void on_log(void *arg, const char *fmt, va_list args) {
    char text[256];
    (void)arg;
    (void)vsnprintf(text, sizeof text, fmt, args);
    log_debug("metrics.http", "%s", text);
}

static int socket_open(struct metrics_server *s, const struct metrics_params *p, char *err, size_t err_size) {
    if (p->fd >= 0) {
        s->listen_fd = p->fd;
        return 0;
    }
    if (p->listen[0] != '/')
        return listener_open_tcp(p->listen, &s->listen_fd, err, err_size);
    const struct listener_params lp = {
        .path = p->listen, .group = p->group, .mode = p->mode, .type = SOCK_STREAM, .group_setting = "metrics.group"};
    int error = listener_open_unix(&lp, &s->listen_fd, err, err_size);
    if (error == 0)
        (void)snprintf(s->path, sizeof s->path, "%s", p->listen);
    return error;
}

static int http_start(struct metrics_server *s) {
    s->http =
        MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_ITC | MHD_USE_ERROR_LOG | MHD_USE_NO_LISTEN_SOCKET, 0, NULL, NULL,
                         on_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL, MHD_OPTION_CONNECTION_LIMIT,
                         CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, TIMEOUT_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                         (size_t)CONNECTION_BYTES, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_END);
    return s->http != NULL ? loop_join(s) : -ENOMEM;
}

int metrics_server_create(const struct metrics_params *params, struct metrics_server **ret_server, char *err,
                          size_t err_size) {
    struct metrics_server *s = calloc(1, sizeof *s);
    if (s == NULL) {
        (void)snprintf(err, err_size, "no memory for the metrics");
        return -ENOMEM;
    }
    s->event = sd_event_ref(params->event);
    s->source = params->source;
    s->listen_fd = -1;
    int error = socket_open(s, params, err, err_size);
    if (error == 0) {
        error = http_start(s);
        if (error < 0)
            (void)snprintf(err, err_size, "the metrics' HTTP server cannot be started: %s", strerror(-error));
    }
    if (error < 0) {
        metrics_server_destroy(s);
        return error;
    }
    *ret_server = s;
    return 0;
}

void metrics_server_destroy(struct metrics_server *s) {
    if (s == NULL)
        return;
    (void)sd_event_source_disable_unref(s->pause);
    (void)sd_event_source_disable_unref(s->listen);
    (void)sd_event_source_disable_unref(s->timer);
    (void)sd_event_source_disable_unref(s->io);
    if (s->http != NULL)
        MHD_stop_daemon(s->http);
    if (s->listen_fd >= 0)
        (void)close(s->listen_fd);
    if (s->text != NULL)
        MHD_destroy_response(s->text);
    if (s->path[0] != '\0')
        (void)unlink(s->path);
    (void)sd_event_unref(s->event);
    free(s);
}
