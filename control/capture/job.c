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
#include "engines/wire.h"

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
    struct sock_filter *code;
    char error[256];

    /* the thread's */
    struct pcapng fill;
    uint64_t packets, deadline, wall_minus_monotonic;
    uint32_t interface[PORT_SLOT_MAX + 1], interface_count;
    struct known known[KNOWN_MAX];
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

static void record_write(struct job *j, const struct capture_record *r) {
    char sentence[PCAPNG_TEXT_MAX], words[PCAPNG_TEXT_MAX];
    const struct known *k = owner_find(j, r->owner);
    struct description d = {
        .record = r, .owner = k != NULL ? &k->owner : NULL, .user = k != NULL ? k->user : "", .rule = rule_find(j, r)};
    describe_sentence(&d, sentence, sizeof sentence);
    describe_words(&d, words, sizeof words);
    struct pcapng_packet p = {
        .interface = interface_of(j, r),
        .direction = r->flags & CAPTURE_OUT ? PCAPNG_OUT : PCAPNG_IN,
        .unix_ns = r->time_ns + j->wall_minus_monotonic,
        .captured = r->captured,
        .length = r->length,
        .bytes = capture_bytes(r),
        .comment = sentence,
        .custom = words,
    };
    pcapng_packet(&j->fill, &p);
    j->packets++;
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
static uint32_t part_fill(struct job *j) {
    uint32_t n = 0;
    const struct capture_record *r;
    clock_follow(j);
    for (uint32_t i = 0; i < KNOWN_MAX; i++)
        j->known[i].index = 0; /* an index may have another owner by now */
    while (j->fill.len < PART_BYTES && (j->packets_max == 0 || j->packets < j->packets_max) &&
           (r = capture_next(j->capture)) != NULL) {
        record_write(j, r);
        capture_release(j->capture, r);
        n++;
    }
    return n;
}

static void statistics_write(struct job *j) {
    struct capture_counts n;
    capture_counts(j->capture, &n);
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
    struct capture_counts n;
    if (j->fill.len == 0)
        return true;
    capture_counts(j->capture, &n);
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
    struct pollfd p[] = {{.fd = j->stop_fd, .events = POLLIN}, {.fd = capture_fd(j->capture), .events = POLLIN}};
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
    (void)poll(p, 2, left_ms > INT32_MAX ? -1 : (int)left_ms);
    capture_wake(j->capture);
    return !(p[0].revents & POLLIN);
}

static void records_run(struct job *j) {
    pcapng_section(&j->fill, "usherd " USHER_VERSION);
    j->deadline = j->duration_ns == 0 ? UINT64_MAX : clock_ns(CLOCK_MONOTONIC) + j->duration_ns;
    bool going = part_hand_over(j);
    while (going) {
        uint32_t n = part_fill(j);
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
    j->fill = (struct pcapng){malloc(PART_SIZE), 0, PART_SIZE};
    j->ready = (struct pcapng){malloc(PART_SIZE), 0, PART_SIZE};
    j->news_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    j->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    bool good = j->expression != NULL && j->fill.data != NULL && j->ready.data != NULL && j->news_fd >= 0 &&
                j->stop_fd >= 0 && names_copy(&j->names, p->names) == 0;
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

int job_begin(struct job *j) {
    uint32_t at;
    int error = capture_open(j->host, &j->params, &j->capture, &at);
    if (error != 0)
        return error;
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
