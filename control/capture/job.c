/* SPDX-License-Identifier: Apache-2.0
 *
 * See job.h. Two buffers change hands under one lock: the thread fills one while control sends the other.
 */
#include "control/capture/job.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "control/capture/describe.h"
#include "control/capture/filter.h"
#include "control/capture/pcapng.h"
#include "control/identity/sockets.h"
#include "dataplane/capture/program.h"
#include "engines/wire.h"
#include "nicbackend/claims.h"
#include "nicbackend/watch.h"

#define PART_BYTES   (192u << 10) /* a part is sent when it has so many, or when there is nothing to add */
#define PART_SIZE    (PART_BYTES + CAPTURE_SNAP_MAX + PCAPNG_PACKET_EXTRA + (PORT_SLOT_MAX + 1) * 512u)
#define KNOWN_MAX    64u /* owners remembered while a part is filled */
#define GATHER_MS    1   /* after a part: lets packets gather, so that workers ring at most so often */
#define USER_MAX     64
#define CLOCK_SET_NS (1 * NS_PER_MS)
#define NOWHERE      PORT_SLOT_MAX /* the interface of what has none */
#define NOT_WRITTEN  UINT32_MAX

struct known {
    uint32_t index; /* 0 = empty */
    bool found;
    struct owner owner;
    char user[USER_MAX];
};

struct job {
    /* set before the thread begins */
    struct capture_host *host;
    struct owner_table *owners;
    struct capture_params params;
    struct job_names names;
    struct job_watch watching;
    bool sharded;
    char *expression;
    uint64_t packets_max, duration_ns;
    pthread_t thread;
    int news_fd, stop_fd;

    /* under the lock */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum job_state state;
    bool stop;           /* control wants the thread to end */
    bool orphan;         /* control has left: the thread frees everything */
    bool finished;       /* the thread is about to return */
    struct pcapng ready; /* len > 0: control's, until job_part_done() */
    struct job_part part;

    /* control's until job_begin(), then the thread's */
    struct capture *capture;
    struct nb_watch *watch; /* NULL = none */
    struct sock_filter *code;
    char error[256];
    char notice[300];

    /* the thread's */
    struct pcapng fill;
    uint64_t packets, deadline, wall_minus_monotonic;
    uint32_t interface[PORT_SLOT_MAX + 1], interface_count;
    struct known known[KNOWN_MAX];
    struct program program; /* for the kernel's packets; the taps have one of their own */
    struct socket_table *sockets;
    uint8_t *tagged; /* a frame whose tag was put back */
    uint64_t kernel_seen;
    uint32_t kernel_skip;
    uint32_t last_uid;
    char last_user[USER_MAX];
};

static uint64_t clock_ns(clockid_t clock) {
    struct timespec t;
    (void)clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * NS_PER_SEC + (uint64_t)t.tv_nsec;
}

/* ---- names ---- */

static void user_find(uint32_t uid, char *ret_name) {
    char buffer[1024];
    struct passwd entry, *found = NULL;
    ret_name[0] = '\0';
    if (getpwuid_r(uid, &entry, buffer, sizeof buffer, &found) == 0 && found != NULL)
        (void)snprintf(ret_name, USER_MAX, "%s", found->pw_name);
}

static const struct known *owner_find(struct job *j, uint32_t index) {
    struct known *k = &j->known[index % KNOWN_MAX];
    if (index == 0)
        return NULL;
    if (k->index != index) {
        uint32_t uid = k->index != 0 ? k->owner.uid : UINT32_MAX;
        k->index = index;
        k->found = owner_copy(j->owners, index, &k->owner);
        if (k->found && k->owner.uid != uid)
            user_find(k->owner.uid, k->user);
    }
    return k->found ? k : NULL;
}

static const char *rule_find(const struct job *j, const struct capture_record *r) {
    return r->drop == DROP_POLICY && r->rule < j->names.rule_count ? j->names.rule[r->rule] : NULL;
}

/* ---- blocks ---- */

/* The number of the record's interface in the file; it is written when it is first needed. */
static uint32_t interface_of(struct job *j, const struct capture_record *r) {
    uint32_t slot = r->point == TAP_LOCAL || r->port >= PORT_SLOT_MAX ? NOWHERE : r->port;
    if (j->interface[slot] != NOT_WRITTEN)
        return j->interface[slot];
    char name[16] = "usher";
    if (slot != NOWHERE && j->names.port[slot][0] != '\0')
        (void)snprintf(name, sizeof name, "%s", j->names.port[slot]);
    else if (slot != NOWHERE)
        (void)snprintf(name, sizeof name, "port%u", slot);
    pcapng_interface(&j->fill, name, slot == NOWHERE ? "between programs of this host" : "", j->params.snaplen);
    return j->interface[slot] = j->interface_count++;
}

static void packet_write(struct job *j, const struct capture_record *r, const uint8_t *bytes, const struct owner *owner,
                         const char *user) {
    char sentence[PCAPNG_TEXT_MAX], words[PCAPNG_TEXT_MAX];
    struct description d = {.record = r, .owner = owner, .user = user, .rule = rule_find(j, r)};
    describe_sentence(&d, sentence, sizeof sentence);
    describe_words(&d, words, sizeof words);
    struct pcapng_packet p = {
        .interface = interface_of(j, r),
        .direction = r->flags & CAPTURE_OUT ? PCAPNG_OUT : PCAPNG_IN,
        .unix_ns = r->time_ns + j->wall_minus_monotonic,
        .captured = r->captured,
        .length = r->length,
        .bytes = bytes,
        .comment = sentence,
        .custom = words,
    };
    pcapng_packet(&j->fill, &p);
    j->packets++;
}

static bool part_has_room(const struct job *j) {
    return j->fill.len < PART_BYTES && (j->packets_max == 0 || j->packets < j->packets_max);
}

/* ---- packets of the kernel's own stack ---- */

static const char *user_of(struct job *j, uint32_t uid) {
    if (j->last_user[0] == '\0' || j->last_uid != uid)
        user_find(uid, j->last_user);
    j->last_uid = uid;
    return j->last_user;
}

/* *gone is filled for a sender of whom nothing but the uid is known any more. */
static const struct owner *kernel_owner(struct job *j, const struct nb_watch_packet *p, const struct frame *f,
                                        struct owner *gone) {
    struct flow flow;
    if (p->out && p->cookie == 0)
        return NULL;
    const struct owner *o = p->out ? socket_by_cookie(j->sockets, p->cookie) : NULL;
    if (o != NULL)
        return o;
    *gone = (struct owner){.uid = p->uid};
    uint32_t head = p->has_vlan ? 2 : ETH_LEN; /* of the piece behind the tag only its type */
    const struct frame_piece *piece = &f->piece[f->piece_count - 1];
    if (piece->len <= head || frame_flow(piece->base + head, piece->len - head, &flow) == 0)
        return p->out ? gone : NULL;
    if (p->out) /* a connection that is not accepted yet is its listener's */
        flow = (struct flow){flow.remote, flow.local, flow.remote_port, flow.local_port, flow.proto, {0, 0, 0}};
    o = flow.local_port != 0 ? socket_by_flow(j->sockets, &flow) : NULL;
    return o == NULL && p->out ? gone : o;
}

static uint16_t slot_of(const struct job *j, uint32_t ifindex) {
    uint16_t slot = 0;
    while (slot < PORT_SLOT_MAX && j->watching.ifindex[slot] != ifindex)
        slot++;
    return slot;
}

static void kernel_write(struct job *j, const struct nb_watch_packet *p, const struct frame *f, uint32_t wanted) {
    struct owner gone;
    uint32_t captured = p->captured + (p->has_vlan ? VLAN_LEN : 0);
    captured = captured < j->params.snaplen ? captured : j->params.snaplen;
    struct capture_record r = {
        .captured = captured < wanted ? captured : wanted,
        .length = f->length,
        .time_ns = p->time_ns,
        .port = slot_of(j, p->ifindex),
        .gso_size = p->gso_size,
        .point = p->out ? TAP_TX : TAP_RX,
        .flags = (uint8_t)(CAPTURE_KERNEL | (p->out ? CAPTURE_OUT : 0) | (p->gso_size != 0 ? CAPTURE_GSO : 0)),
    };
    const uint8_t *bytes = p->bytes;
    if (p->has_vlan && frame_read(f, 0, j->tagged, r.captured))
        bytes = j->tagged;
    const struct owner *o = kernel_owner(j, p, f, &gone);
    packet_write(j, &r, bytes, o, o != NULL ? user_of(j, o->uid) : "");
}

static bool kernel_sampled(struct job *j) {
    if (j->kernel_skip > 0) {
        j->kernel_skip--;
        return false;
    }
    j->kernel_skip = j->params.sample > 1 ? j->params.sample - 1 : 0;
    return true;
}

static bool on_kernel_packet(void *arg, const struct nb_watch_packet *p) {
    struct job *j = arg;
    struct frame f;
    j->kernel_seen++;
    frame_of_bytes(&f, p->bytes, p->captured, p->has_vlan ? &p->vlan : NULL);
    f.length = p->length + (p->has_vlan ? VLAN_LEN : 0);
    uint32_t wanted = f.piece_count > 0 ? capture_program_run(&j->program, &f) : 0;
    if (wanted > 0 && kernel_sampled(j))
        kernel_write(j, p, &f, wanted);
    return part_has_room(j);
}

static void record_write(struct job *j, const struct capture_record *r) {
    const struct known *k = owner_find(j, r->owner);
    const uint8_t *bytes = capture_bytes(r);
    const struct owner *o = k != NULL ? &k->owner : NULL;
    struct flow flow;
    bool asks = o == NULL && j->sharded && r->point == TAP_RX && r->captured > ETH_LEN;
    if (asks && frame_flow(bytes + ETH_LEN, r->captured - ETH_LEN, &flow) != 0 && flow.local_port != 0)
        o = socket_by_flow(j->sockets, &flow);
    packet_write(j, r, bytes, o, k != NULL ? k->user : o != NULL ? user_of(j, o->uid) : "");
}

static struct capture_counts counts_of(const struct job *j) {
    struct capture_counts n;
    capture_counts(j->capture, &n);
    n.seen += j->kernel_seen;
    n.lost += j->watch != NULL ? nb_watch_lost(j->watch) : 0;
    return n;
}

static bool is_over(const struct job *j) {
    return (j->packets_max != 0 && j->packets >= j->packets_max) || clock_ns(CLOCK_MONOTONIC) >= j->deadline;
}

/* The two readings are apart by a moment each time: only a wall clock that was set makes times jump. */
static void clock_follow(struct job *j) {
    uint64_t offset = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_MONOTONIC), change = offset - j->wall_minus_monotonic;
    if (change + CLOCK_SET_NS > 2 * CLOCK_SET_NS)
        j->wall_minus_monotonic = offset;
}

/* Fills a part. Returns how many records went in. */
static uint64_t part_fill(struct job *j) {
    const struct capture_record *r;
    clock_follow(j);
    for (uint32_t i = 0; i < KNOWN_MAX; i++)
        j->known[i].index = 0; /* an index may have another owner by now */
    uint64_t before = j->packets;
    while (part_has_room(j) && (r = capture_next(j->capture)) != NULL) {
        record_write(j, r);
        capture_release(j->capture, r);
    }
    if (j->watch != NULL && part_has_room(j))
        nb_watch_read(j->watch, on_kernel_packet, j);
    return j->packets - before;
}

static void statistics_write(struct job *j) {
    struct capture_counts n = counts_of(j);
    if (j->interface_count == 0)
        return;
    struct pcapng_statistics s = {
        .interface = 0, .unix_ns = clock_ns(CLOCK_REALTIME), .received = n.seen, .dropped = n.lost};
    pcapng_statistics(&j->fill, &s);
}

/* ---- between the threads ---- */

static void news(struct job *j) {
    (void)eventfd_write(j->news_fd, 1);
}

static void state_set(struct job *j, enum job_state state) {
    (void)pthread_mutex_lock(&j->lock);
    j->state = state;
    (void)pthread_mutex_unlock(&j->lock);
    news(j);
}

/* Gives what is filled to control, once it has sent what it had. False: the job is to stop. */
static bool part_hand_over(struct job *j) {
    if (j->fill.len == 0)
        return true;
    struct capture_counts n = counts_of(j);
    (void)pthread_mutex_lock(&j->lock);
    while (j->ready.len > 0 && !j->stop)
        (void)pthread_cond_wait(&j->changed, &j->lock);
    bool stop = j->stop;
    if (!stop) {
        struct pcapng full = j->fill;
        j->fill = j->ready;
        j->ready = full;
        j->part = (struct job_part){full.data, full.len, j->packets, n.lost, n.seen};
    }
    (void)pthread_mutex_unlock(&j->lock);
    if (!stop)
        news(j);
    return !stop;
}

/* Until there may be records. False: the job is to stop. */
static bool records_wait(struct job *j) {
    struct pollfd p[] = {{.fd = j->stop_fd, .events = POLLIN},
                         {.fd = capture_fd(j->capture), .events = POLLIN},
                         {.fd = j->watch != NULL ? nb_watch_fd(j->watch) : -1, .events = POLLIN}};
    if (poll(p, 1, GATHER_MS) > 0)
        return false;
    if (capture_sleep(j->capture)) {
        capture_wake(j->capture);
        return true;
    }
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    uint64_t left_ms = j->deadline == UINT64_MAX ? UINT64_MAX
                       : j->deadline > now       ? (j->deadline - now) / 1000000 + 1
                                                 : 0;
    (void)poll(p, 3, left_ms > INT32_MAX ? -1 : (int)left_ms);
    capture_wake(j->capture);
    return !(p[0].revents & POLLIN);
}

static void records_run(struct job *j) {
    pcapng_section(&j->fill, "usherd " USHER_VERSION);
    j->deadline = j->duration_ns == 0 ? UINT64_MAX : clock_ns(CLOCK_MONOTONIC) + j->duration_ns;
    bool going = part_hand_over(j);
    while (going) {
        uint64_t n = part_fill(j);
        if (is_over(j))
            break;
        going = part_hand_over(j);
        if (going && n == 0)
            going = records_wait(j);
    }
    if (!going)
        return;
    (void)part_fill(j);
    statistics_write(j);
    if (part_hand_over(j))
        state_set(j, JOB_ENDED);
}

static bool begun_wait(struct job *j) {
    (void)pthread_mutex_lock(&j->lock);
    while (j->state != JOB_RUNNING && !j->stop)
        (void)pthread_cond_wait(&j->changed, &j->lock);
    bool run = !j->stop;
    (void)pthread_mutex_unlock(&j->lock);
    return run;
}

static void job_free(struct job *j) {
    capture_close(j->capture);
    nb_watch_destroy(j->watch);
    socket_table_destroy(j->sockets);
    free(j->tagged);
    (void)pthread_mutex_destroy(&j->lock);
    (void)pthread_cond_destroy(&j->changed);
    if (j->news_fd >= 0)
        close(j->news_fd);
    if (j->stop_fd >= 0)
        close(j->stop_fd);
    free(j->ready.data);
    free(j->fill.data);
    free(j->names.rule);
    free(j->expression);
    free(j->code);
    free(j);
}

static void *thread_run(void *arg) {
    struct job *j = arg;
    int error = filter_expression_compile(j->expression, &j->code, &j->params.count, j->error, sizeof j->error);
    j->params.code = j->code;
    if (error == -ENOMEM)
        (void)snprintf(j->error, sizeof j->error, "no memory is left to compile the filter");
    (void)pthread_mutex_lock(&j->lock);
    j->state = error == 0 ? JOB_COMPILED : JOB_FAILED;
    bool orphan = j->orphan;
    (void)pthread_mutex_unlock(&j->lock);
    if (orphan) {
        job_free(j); /* no capture was opened: nothing here is control's */
        return NULL;
    }
    news(j);
    if (error == 0 && begun_wait(j))
        records_run(j);
    return NULL;
}

/* ---- control ---- */

static int names_copy(struct job_names *to, const struct job_names *from) {
    *to = *from;
    to->rule = NULL;
    if (from->rule_count == 0)
        return 0;
    to->rule = calloc(from->rule_count, sizeof *to->rule);
    if (to->rule == NULL)
        return -ENOMEM;
    memcpy(to->rule, from->rule, from->rule_count * sizeof *to->rule);
    return 0;
}

static int memory_make(struct job *j, const struct job_params *p) {
    j->expression = strdup(p->expression);
    j->tagged = malloc(CAPTURE_SNAP_MAX);
    j->fill = (struct pcapng){malloc(PART_SIZE), 0, PART_SIZE};
    j->ready = (struct pcapng){malloc(PART_SIZE), 0, PART_SIZE};
    j->news_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    j->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    bool good = j->expression != NULL && j->tagged != NULL && socket_table_create(&j->sockets) == 0 &&
                j->fill.data != NULL && j->ready.data != NULL && j->news_fd >= 0 && j->stop_fd >= 0 &&
                names_copy(&j->names, p->names) == 0;
    return good ? 0 : -ENOMEM;
}

int job_create(const struct job_params *p, struct job **ret_job) {
    struct job *j = calloc(1, sizeof *j);
    if (j == NULL)
        return -ENOMEM;
    j->host = p->host;
    j->owners = p->owners;
    j->params = p->capture;
    j->params.limit = p->packets;
    j->params.snaplen = p->capture.snaplen != 0 ? p->capture.snaplen : CAPTURE_SNAP_MAX;
    j->watching = *p->watch;
    j->sharded = p->sharded;
    j->packets_max = p->packets;
    j->duration_ns = p->duration_ns;
    j->news_fd = j->stop_fd = -1;
    for (uint32_t i = 0; i <= PORT_SLOT_MAX; i++)
        j->interface[i] = NOT_WRITTEN;
    (void)pthread_mutex_init(&j->lock, NULL);
    (void)pthread_cond_init(&j->changed, NULL);
    int error = memory_make(j, p);
    if (error == 0)
        error = -pthread_create(&j->thread, NULL, thread_run, j);
    if (error != 0) {
        job_free(j);
        return error;
    }
    *ret_job = j;
    return 0;
}

void job_destroy(struct job *j) {
    if (j == NULL)
        return;
    (void)pthread_mutex_lock(&j->lock);
    j->stop = true;
    j->orphan = j->state == JOB_COMPILING;
    bool orphan = j->orphan;
    if (orphan)
        (void)pthread_detach(j->thread);
    (void)pthread_cond_broadcast(&j->changed);
    (void)eventfd_write(j->stop_fd, 1);
    (void)pthread_mutex_unlock(&j->lock);
    if (orphan)
        return;
    (void)pthread_join(j->thread, NULL);
    job_free(j);
}

int job_fd(const struct job *j) {
    return j->news_fd;
}

enum job_state job_look(struct job *j) {
    eventfd_t ignored;
    (void)eventfd_read(j->news_fd, &ignored);
    (void)pthread_mutex_lock(&j->lock);
    enum job_state state = j->state;
    (void)pthread_mutex_unlock(&j->lock);
    return state;
}

const char *job_error(const struct job *j) {
    return j->error;
}

/* Not to see the kernel's packets is no reason not to capture. */
static void watch_begin(struct job *j) {
    const struct job_watch *w = &j->watching;
    struct nb_error err = {""};
    int error = 0;
    for (uint32_t slot = 0; slot < PORT_SLOT_MAX && error == 0; slot++) {
        if (w->ifindex[slot] == 0)
            continue;
        if (j->watch == NULL)
            error = nb_watch_create(j->params.snaplen, w->own, w->own_count, &j->watch, &err);
        if (error == 0)
            error = nb_watch_add(j->watch, w->ifindex[slot], w->in, w->out, &err);
    }
    if (error == 0)
        return;
    nb_watch_destroy(j->watch);
    j->watch = NULL;
    (void)snprintf(j->notice, sizeof j->notice, "packets of kernel sockets are not shown: %s", err.text);
}

const char *job_notice(const struct job *j) {
    return j->notice;
}

int job_begin(struct job *j) {
    uint32_t at;
    int error = capture_program_load(&j->program, j->params.code, j->params.count, &at);
    if (error == 0)
        error = capture_open(j->host, &j->params, &j->capture, &at);
    if (error != 0)
        return error;
    watch_begin(j);
    (void)pthread_mutex_lock(&j->lock);
    j->state = JOB_RUNNING;
    (void)pthread_cond_broadcast(&j->changed);
    (void)pthread_mutex_unlock(&j->lock);
    return 0;
}

bool job_part(struct job *j, struct job_part *ret_part) {
    (void)pthread_mutex_lock(&j->lock);
    bool is_ready = j->ready.len > 0;
    *ret_part = j->part;
    (void)pthread_mutex_unlock(&j->lock);
    return is_ready;
}

void job_part_done(struct job *j) {
    (void)pthread_mutex_lock(&j->lock);
    j->ready.len = 0;
    (void)pthread_cond_broadcast(&j->changed);
    (void)pthread_mutex_unlock(&j->lock);
}
