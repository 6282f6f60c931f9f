/* SPDX-License-Identifier: Apache-2.0
 *
 * The text format, the families of a real runtime (judged by promtool as well), and the HTTP server as a peer sees it.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/metrics/exposition.h"
#include "control/metrics/server.h"
#include "dataplane/core/test_kit.h"

#define TURN_US 20000

static struct kit k;
static struct broker *no_broker;
static sd_event *event;
static struct metrics_server *server;
static char path[64], answer[1 << 18];

static char *written(const struct metrics_source *src) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    metrics_write(out, src);
    fclose(out);
    return text;
}

/* ---- the format ---- */

Test(exposition, escapes_what_the_format_cannot_hold) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    const struct label labels[] = {{"a", "plain"}, {"b", "q\"b\\n\n"}, {NULL, NULL}};
    exposition_family(out, "x_total", METRIC_COUNTER, "back\\slash and\nline, \"quotes\" stay");
    exposition_count(out, "x_total", labels, UINT64_MAX);
    exposition_seconds(out, "y_seconds", NULL, 1000000001);
    fclose(out);
    cr_assert_str_eq(text, "# HELP x_total back\\\\slash and\\nline, \"quotes\" stay\n# TYPE x_total counter\n"
                           "x_total{a=\"plain\",b=\"q\\\"b\\\\n\\n\"} 18446744073709551615\n"
                           "y_seconds 1.000000001\n");
    free(text);
}

/* ---- families ---- */

static struct metrics_source source_open(void) {
    kit_open(&k, NULL);
    kit_tcp(&k, 16);
    static const uint32_t seven = 7;
    return (struct metrics_source){.rt = k.rt, .broker = &no_broker, .sessions_max = &seven};
}

Test(families, show_what_happened) {
    struct metrics_source src = source_open();
    struct kit_client client;
    kit_attach(&k, &client, 1000);
    char *text = written(&src);
    static const char *const lines[] = {
        "\nusher_build_info{version=\"" USHER_VERSION "\"} 1\n",
        "\nusher_worker_running{worker=\"0\"} 0\n",
        "\nusher_shard_sessions{shard=\"0\"} 1\n",
        "\nusher_dropped_packets_total{reason=\"UDP_NO_SOCKET\"} 0\n",
        "\nusher_tcp_connections 0\n",
        "\nusher_udp_rx_packets_total 0\n",
        "\nusher_sessions_limit 7\n",
        "\nusher_sessions_detached_total{reason=\"unknown submission\"} 0\n",
        "\n# TYPE process_cpu_seconds_total counter\n",
    };
    for (size_t i = 0; i < ARRAY_LEN(lines); i++)
        cr_expect_not_null(strstr(text, lines[i]), "missing:%s in:\n%s", lines[i], text);
    free(text);
    kit_detach(&k, &client);
    kit_close(&k);
}

/* promtool knows the conventions: units, suffixes, HELP and TYPE. */
Test(families, please_promtool) {
    if (system("command -v promtool >/dev/null 2>&1") != 0) {
        printf("SKIPPED: promtool is not installed; tools/install-deps installs it\n");
        return;
    }
    struct metrics_source src = source_open();
    char *text = written(&src);
    FILE *tool = popen("promtool check metrics 2>&1", "w");
    cr_assert_not_null(tool);
    cr_assert_eq(fwrite(text, 1, strlen(text), tool), strlen(text));
    cr_assert_eq(pclose(tool), 0, "promtool finds fault");
    free(text);
    kit_close(&k);
}

/* ---- HTTP ---- */

static void server_open(void) {
    char err[256] = "";
    struct metrics_source src = source_open();
    snprintf(path, sizeof path, "/tmp/usher-metrics-%d.sock", getpid());
    cr_assert_geq(sd_event_new(&event), 0);
    const struct metrics_params p = {
        .event = event, .listen = path, .group = "", .mode = 0600, .fd = -1, .source = src};
    cr_assert_eq(metrics_server_create(&p, &server, err, sizeof err), 0, "%s", err);
}

static void server_close(void) {
    metrics_server_destroy(server);
    cr_expect_eq(access(path, F_OK), -1, "the socket's path stays behind");
    sd_event_unref(event);
    kit_close(&k);
}

TestSuite(http, .init = server_open, .fini = server_close, .timeout = 20);

static int dial(void) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&a, sizeof a), 0, "%s", strerror(errno));
    return fd;
}

/* Sends the request, runs the loop, and gives the whole answer until the server closes. */
static const char *ask(const char *request) {
    int fd = dial();
    size_t got = 0;
    cr_assert_eq(send(fd, request, strlen(request), MSG_NOSIGNAL), (ssize_t)strlen(request));
    for (int turn = 0; turn < 200; turn++) {
        sd_event_run(event, TURN_US);
        ssize_t n = recv(fd, answer + got, sizeof answer - 1 - got, MSG_DONTWAIT);
        if (n == 0)
            break;
        got += n > 0 ? (size_t)n : 0;
    }
    answer[got] = '\0';
    close(fd);
    return answer;
}

#define GET(url) "GET " url " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

Test(http, gives_metrics) {
    struct stat st;
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0600);
    const char *text = ask(GET("/metrics"));
    cr_expect_eq(strncmp(text, "HTTP/1.1 200 ", 13), 0, "%s", text);
    cr_expect_not_null(strstr(text, "Content-Type: text/plain; version=0.0.4"));
    cr_expect_not_null(strstr(text, "\nusher_worker_turns_total{worker=\"0\"} "));
    cr_expect_not_null(strstr(ask(GET("/")), "/metrics"));
}

Test(http, refuses_the_rest) {
    cr_expect_eq(strncmp(ask(GET("/metrics/../x")), "HTTP/1.1 404 ", 13), 0, "%s", answer);
    const char *text = ask("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc");
    cr_expect_eq(strncmp(text, "HTTP/1.1 405 ", 13), 0, "%s", text);
    cr_expect_not_null(strstr(text, "Allow: GET, HEAD"));
    text = ask("HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    cr_expect_eq(strncmp(text, "HTTP/1.1 200 ", 13), 0, "%s", text);
    cr_expect_null(strstr(text, "usher_build_info{"));
    text = ask("nonsense\r\n\r\n");
    cr_expect_null(strstr(text, " 200 "), "%s", text);
}

/* Peers that say nothing take a place, and others are served as long as one is free; none of them costs a turn. */
Test(http, bounds_silent_peers) {
    int silent[40];
    for (size_t i = 0; i < ARRAY_LEN(silent); i++) {
        silent[i] = dial();
        sd_event_run(event, 0);
    }
    for (int i = 0; i < 50; i++)
        sd_event_run(event, 0);
    for (size_t i = 0; i < ARRAY_LEN(silent); i++)
        close(silent[i]);
    for (int i = 0; i < 50; i++)
        sd_event_run(event, 0);
    cr_expect_eq(strncmp(ask(GET("/metrics")), "HTTP/1.1 200 ", 13), 0, "%s", answer);
}

/* A scrape that follows at once gets the same text: a flood does not make usherd read its counters all day. */
Test(http, makes_the_text_once_for_a_flood) {
    static char first[sizeof answer];
    snprintf(first, sizeof first, "%s", strstr(ask(GET("/metrics")), "\r\n\r\n"));
    struct kit_client client;
    kit_attach(&k, &client, 1001);
    cr_expect_str_eq(strstr(ask(GET("/metrics")), "\r\n\r\n"), first);
    kit_detach(&k, &client);
}
