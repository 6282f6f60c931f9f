/* SPDX-License-Identifier: Apache-2.0
 *
 * See capture.h. Without -w each packet is a line: when, where, what, and whose it is.
 */
#include "control/usherctl/capture.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "control/usherctl/blocks.h"
#include "control/usherctl/dissect.h"
#include "control/usherctl/json.h"
#include "control/usherctl/text.h"
#include "usher/control/v1/capture.pb-c.h"

/* In the order of capture_options. */
enum {
    AT_INTERFACE,
    AT_WRITE,
    AT_SNAPLEN,
    AT_COUNT,
    AT_DURATION,
    AT_POINTS,
    AT_SAMPLE,
    AT_BUFFER,
    AT_FILE_SIZE,
    AT_FILES,
    AT_NO_KERNEL
};

const struct option_def capture_options[] = {
    {"interface", 'i', "NAME,...", NULL, "only what these interfaces receive, send or drop (default: everything)",
     NULL},
    {"write", 'w', "FILE", "FILE", "write pcapng into FILE instead of lines; - is standard output", NULL},
    {"snaplen", 's', "BYTES", NULL, "keep so much of each packet (default: all)", NULL},
    {"count", 'c', "N", NULL, "end after so many packets", NULL},
    {"duration", 'd', "SECONDS", NULL, "end after so long", NULL},
    {"at", 'a', "POINT,...", "in out drop local mirror",
     "look at packets only there (default: everywhere but mirror: what rules show)", NULL},
    {"sample", 0, "N", NULL, "keep one of N packets that match", NULL},
    {"buffer", 0, "MIB", NULL, "room in usherd for packets that wait to be read, for each shard (default 4)", NULL},
    {"file-size", 0, "MIB", NULL, "with -w: begin a new file, FILE.0, FILE.1 ..., after so much", NULL},
    {"files", 0, "N", NULL, "with --file-size: overwrite the oldest of N files", NULL},
    {"no-kernel", 0, NULL, NULL, "without what kernel sockets send past Usher or receive", NULL},
    {.name = NULL}};

#define NAMES_MAX     16u
#define POINT_MAX     5
#define AGAIN_WAIT_NS 30000000000ull /* for the next usherd */
#define AGAIN_NAP_NS  100000000

struct capture_run {
    struct ctl *ctl;
    struct capture_files *files; /* NULL: lines */
    char interface[BLOCK_INTERFACE_MAX][32];
    uint32_t interfaces;
    int error;
    bool noticed;
    uint64_t before[3];      /* packets, lost, seen: by the usherds before */
    uint64_t end_ns;         /* of --duration, 0 = none */
    uint64_t again_until_ns; /* usherd is being replaced: when to give up; 0 = it is not */
};

/* What the last part said; read when a signal ends usherctl. */
static volatile uint64_t packets, lost, seen;

static void summary(void) {
    (void)fprintf(stderr, "%llu packets captured, %llu looked at, %llu lost because they were not read in time\n",
                  (unsigned long long)packets, (unsigned long long)seen, (unsigned long long)lost);
}

/* ---- lines ---- */

static void line_json(const struct capture_run *k, const struct block_packet *p, const char *what,
                      const char *comment) {
    FILE *out = k->ctl->screen.out;
    (void)fprintf(out, "{\"time_unix_ns\":\"%llu\",\"interface\":", (unsigned long long)p->unix_ns);
    json_string(out, p->interface < k->interfaces ? k->interface[p->interface] : "");
    (void)fprintf(out, ",\"direction\":\"%s\",\"length\":%u,\"packet\":", p->out ? "out" : "in", p->length);
    json_string(out, what);
    (void)fputs(",\"owner\":", out);
    json_string(out, comment);
    (void)fputs("}\n", out);
}

static void line(const struct capture_run *k, const struct block *b, const struct block_packet *p) {
    char what[DISSECT_MAX], comment[1100], clean[1100], clock[16];
    const struct screen *s = &k->ctl->screen;
    time_t seconds = (time_t)(p->unix_ns / 1000000000u);
    struct tm tm;
    dissect(p->bytes, p->captured, p->length, what, sizeof what);
    block_option_text(b, OPTION_COMMENT, comment, sizeof comment);
    if (k->ctl->output == OUTPUT_JSON) {
        line_json(k, p, what, comment);
        return;
    }
    text_clean(comment, clean, sizeof clean);
    (void)strftime(clock, sizeof clock, "%H:%M:%S", localtime_r(&seconds, &tm));
    (void)fprintf(s->out, "%s%s.%06u%s %s %s %s  %s(%s)%s\n", tone_on(s, TONE_DIM), clock,
                  (unsigned)(p->unix_ns / 1000 % 1000000), tone_off(s, TONE_DIM),
                  p->interface < k->interfaces ? k->interface[p->interface] : "?", p->out ? "out" : "in", what,
                  tone_on(s, TONE_DIM), clean, tone_off(s, TONE_DIM));
}

static void lines(struct capture_run *k, const uint8_t *at, size_t size) {
    struct block b;
    struct block_packet p;
    for (; block_first(at, size, &b); at += b.size, size -= b.size) {
        if (b.type == BLOCK_INTERFACE && k->interfaces < BLOCK_INTERFACE_MAX) {
            char *name = k->interface[k->interfaces++];
            block_option_text(&b, OPTION_INTERFACE_NAME, name, sizeof k->interface[0]);
        } else if (block_packet(&b, &p)) {
            line(k, &b, &p);
        }
    }
    (void)fflush(k->ctl->screen.out);
}

static bool on_capture_part(void *arg, const ProtobufCMessage *message) {
    struct capture_run *k = arg;
    const PB(CapturePart) *part = (const PB(CapturePart) *)message;
    packets = k->before[0] + part->packets;
    lost = k->before[1] + part->lost;
    seen = k->before[2] + part->seen;
    k->again_until_ns = 0;
    if (part->notice[0] != '\0' && !k->noticed)
        (void)fprintf(stderr, "usherctl: %s\n", part->notice);
    k->noticed = true;
    if (k->files == NULL) {
        lines(k, part->pcapng.data, part->pcapng.len);
        return ferror(k->ctl->screen.out) == 0;
    }
    k->error = capture_files_write(k->files, part->pcapng.data, part->pcapng.len, &k->ctl->fault);
    return k->error == 0;
}

/* ---- the command line ---- */

/* "a,b" in place; returns how many. */
static size_t split(char *text, char **ret_names, size_t max) {
    size_t n = 0;
    char *rest = NULL;
    for (char *name = strtok_r(text, ",", &rest); name != NULL && n < max; name = strtok_r(NULL, ",", &rest))
        ret_names[n++] = name;
    return n;
}

static int points_given(struct ctl *c, PB(CapturePoint) * ret_points, size_t *ret_count) {
    static const char *const words[] = {[1] = "in", "out", "drop", "local", "mirror"};
    char text[64], *names[NAMES_MAX];
    (void)snprintf(text, sizeof text, "%s", c->given.second[AT_POINTS] != NULL ? c->given.second[AT_POINTS] : "");
    size_t n = split(text, names, POINT_MAX);
    for (size_t i = 0; i < n; i++) {
        size_t word = 1;
        while (word <= POINT_MAX && strcmp(words[word], names[i]) != 0)
            word++;
        if (word > POINT_MAX)
            return ctl_usage(c, "--at takes in, out, drop, local and mirror, not %s", names[i]);
        ret_points[i] = (PB(CapturePoint))word;
    }
    *ret_count = n;
    return 0;
}

static int number_given(struct ctl *c, int which, uint64_t max, uint64_t *ret_number) {
    const char *text = c->given.second[which];
    char what[64];
    (void)snprintf(what, sizeof what, "number up to %llu for --%s", (unsigned long long)max,
                   capture_options[which].name);
    return text == NULL || ctl_number(c, text, what, max, ret_number) ? 0 : -1;
}

struct numbers {
    uint64_t snaplen, count, duration_s, sample, buffer_mib, file_mib, files;
};

static int numbers_given(struct ctl *c, struct numbers *n) {
    *n = (struct numbers){0};
    if (number_given(c, AT_SNAPLEN, 262144, &n->snaplen) != 0 ||
        number_given(c, AT_COUNT, UINT64_MAX, &n->count) != 0 ||
        number_given(c, AT_DURATION, 4000000, &n->duration_s) != 0 ||
        number_given(c, AT_SAMPLE, UINT32_MAX, &n->sample) != 0 ||
        number_given(c, AT_BUFFER, 64, &n->buffer_mib) != 0 ||
        number_given(c, AT_FILE_SIZE, 1u << 20, &n->file_mib) != 0 || number_given(c, AT_FILES, 100000, &n->files) != 0)
        return -1;
    bool writes = c->given.second[AT_WRITE] != NULL;
    if (n->file_mib != 0 && (!writes || strcmp(c->given.second[AT_WRITE], "-") == 0))
        return ctl_usage(c, "--file-size needs the name of a file, by -w");
    return n->files != 0 && n->file_mib == 0 ? ctl_usage(c, "--files needs --file-size") : 0;
}

static void filter_join(const struct ctl *c, char *ret_filter, size_t size) {
    size_t len = 0;
    ret_filter[0] = '\0';
    for (size_t i = 0; i < c->given.arg_count && len < size; i++)
        len += (size_t)snprintf(ret_filter + len, size - len, "%s%s", i > 0 ? " " : "", c->given.args[i]);
}

/* ---- the run ---- */

/* Ctrl-C ends a capture in order: the summary is its last line. */
static void *signals_wait(void *arg) {
    int sig;
    (void)sigwait(arg, &sig);
    (void)fflush(stdout);
    summary();
    _exit(EXIT_OK);
}

static void signals_take(void) {
    static sigset_t set;
    pthread_t thread;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (pthread_create(&thread, NULL, signals_wait, &set) != 0)
        (void)pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static uint64_t left_ns(const struct capture_run *k) {
    uint64_t now = ctl_now_unix_ns();
    return k->end_ns > now ? k->end_ns - now : 0;
}

/* The stream has ended in error: shall it begin anew? When usherd was replaced, the next one begins a section of its
 * own in the same file. */
static bool goes_on(struct ctl *c, const struct numbers *n, struct capture_run *k) {
    const struct timespec nap = {.tv_nsec = AGAIN_NAP_NS};
    bool replaced = strcmp(c->fault.reason, "REPLACED") == 0;
    if (k->error != 0 || c->fault.exit != EXIT_UNREACHABLE || (!replaced && k->again_until_ns == 0) ||
        (n->count != 0 && packets >= n->count) || (k->end_ns != 0 && left_ns(k) == 0))
        return false;
    if (replaced) {
        (void)fprintf(stderr, "usherctl: usherd is being replaced; the capture goes on with the next one, without what "
                              "passes in between and what was not read yet\n");
        k->again_until_ns = ctl_now_unix_ns() + AGAIN_WAIT_NS;
        k->before[0] = packets;
        k->before[1] = lost;
        k->before[2] = seen;
        k->interfaces = 0;
    }
    client_close(c->client);
    c->client = NULL;
    (void)nanosleep(&nap, NULL);
    return ctl_now_unix_ns() < k->again_until_ns;
}

static int capture_start(struct ctl *c, const struct numbers *n, struct capture_run *k) {
    char filter[4200], faces[512], *names[NAMES_MAX];
    PB(CapturePoint) points[POINT_MAX];
    PB(StartCaptureRequest) q = USHER__CONTROL__V1__START_CAPTURE_REQUEST__INIT;
    filter_join(c, filter, sizeof filter);
    (void)snprintf(faces, sizeof faces, "%s",
                   c->given.second[AT_INTERFACE] != NULL ? c->given.second[AT_INTERFACE] : "");
    q.filter = filter;
    q.interfaces = names;
    q.n_interfaces = split(faces, names, NAMES_MAX);
    q.points = points;
    if (points_given(c, points, &q.n_points) != 0)
        return -1;
    q.snaplen = (uint32_t)n->snaplen;
    q.packets = n->count != 0 ? n->count - k->before[0] : 0;
    q.duration_ms = n->duration_s != 0 ? (uint32_t)(left_ns(k) / 1000000u) + 1 : 0;
    q.without_kernel = c->given.second[AT_NO_KERNEL] != NULL;
    q.sample = (uint32_t)n->sample;
    q.buffer_bytes = (uint32_t)n->buffer_mib << 20;
    c->watch_ns = 1; /* one JSON object a line */
    int error = ctl_stream(c, PB_METHOD(Capture, Start, capture_part), &q, true, on_capture_part, k);
    return k->error != 0 ? k->error : error;
}

int run_capture(struct ctl *c) {
    struct capture_run k = {.ctl = c};
    struct numbers n;
    if (numbers_given(c, &n) != 0)
        return -1;
    struct capture_files_params p = {c->given.second[AT_WRITE], n.file_mib << 20, (uint32_t)n.files};
    if (p.path != NULL && strcmp(p.path, "-") == 0 && isatty(STDOUT_FILENO))
        return ctl_usage(c, "packets are not shown on a terminal: give them to a program, as in | tcpdump -r -");
    if (p.path != NULL && capture_files_open(&p, &k.files, &c->fault) != 0)
        return -1;
    signals_take();
    k.end_ns = n.duration_s != 0 ? ctl_now_unix_ns() + n.duration_s * 1000000000u : 0;
    int error = capture_start(c, &n, &k);
    while (error != 0 && goes_on(c, &n, &k))
        error = capture_start(c, &n, &k);
    capture_files_close(k.files);
    if (error == 0)
        summary();
    return error;
}
