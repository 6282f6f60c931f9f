/* SPDX-License-Identifier: Apache-2.0
 *
 * A chained hash by cookie. Who refers to a stream is a short list: a server that forks has two.
 */
#include "control/broker/shared.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "control/broker/broker_internal.h"

#define BUCKETS    1024u
#define SHARED_MAX 65536u
#define LOOK_USEC  1000000u

struct shared {
    struct shared *next;
    uint64_t cookie;
    struct session_stream stream; /* while parked */
    struct connection *holder;    /* else who has it, under `handle` */
    uint32_t handle;
    bool parked, shut;
    uint32_t unread;
    int unread_fd;
    uint32_t ref_count, ref_room;
    struct connection **refs;
    uint32_t copies;
    uint64_t copies_until_us;
};

struct shared_table {
    sd_event *event;
    struct runtime *rt;
    sd_event_source *timer;
    struct shared *bucket[BUCKETS];
    uint32_t count;
};

static struct shared **link_of(const struct shared_table *t, uint64_t cookie) {
    struct shared **link = (struct shared **)&t->bucket[cookie % BUCKETS];
    while (*link != NULL && (*link)->cookie != cookie)
        link = &(*link)->next;
    return link;
}

/* ---- references ---- */

static uint32_t ref_find(const struct shared *s, const struct connection *c) {
    uint32_t i = 0;
    while (i < s->ref_count && s->refs[i] != c)
        i++;
    return i;
}

static int ref_add(struct shared *s, struct connection *c) {
    if (ref_find(s, c) < s->ref_count)
        return 0;
    if (s->ref_count == s->ref_room) {
        uint32_t room = s->ref_room != 0 ? s->ref_room * 2 : 2;
        struct connection **more = realloc(s->refs, room * sizeof(struct connection *));
        if (more == NULL)
            return -ENOMEM;
        s->refs = more;
        s->ref_room = room;
    }
    s->refs[s->ref_count++] = c;
    s->copies -= s->copies > 0; /* the promised one, most likely */
    return 0;
}

static void ref_remove(struct shared *s, const struct connection *c) {
    uint32_t i = ref_find(s, c);
    if (i < s->ref_count)
        s->refs[i] = s->refs[--s->ref_count];
}

static uint32_t others(const struct shared *s, const struct connection *c) {
    return s->ref_count - (ref_find(s, c) < s->ref_count) + s->copies;
}

/* ---- entries ---- */

static void entry_free(struct shared_table *t, struct shared **link) {
    struct shared *s = *link;
    *link = s->next;
    if (s->unread_fd >= 0)
        (void)close(s->unread_fd);
    free(s->refs);
    free(s);
    t->count--;
}

/* Nobody has a copy, nobody will: as if the last one had closed it. */
static void entry_check(struct shared_table *t, struct shared **link) {
    struct shared *s = *link;
    if (s->ref_count > 0 || s->copies > 0)
        return;
    if (s->parked)
        session_stream_drop(t->rt, &s->stream, s->unread > 0);
    entry_free(t, link);
}

static uint64_t now_us(const struct shared_table *t) {
    uint64_t now = 0;
    (void)sd_event_now(t->event, CLOCK_MONOTONIC, &now);
    return now;
}

static int on_timer(sd_event_source *source, uint64_t usec, void *arg) {
    struct shared_table *t = arg;
    for (uint32_t b = 0; b < BUCKETS; b++) {
        for (struct shared **link = &t->bucket[b]; *link != NULL;) {
            struct shared *s = *link;
            if (s->copies > 0 && usec >= s->copies_until_us)
                s->copies = 0;
            entry_check(t, link);
            if (*link == s)
                link = &s->next;
        }
    }
    (void)sd_event_source_set_time_relative(source, LOOK_USEC);
    return sd_event_source_set_enabled(source, t->count > 0 ? SD_EVENT_ONESHOT : SD_EVENT_OFF);
}

int shared_create(sd_event *event, struct runtime *rt, struct shared_table **ret_table) {
    struct shared_table *t = calloc(1, sizeof *t);
    if (t == NULL)
        return -ENOMEM;
    *t = (struct shared_table){.event = event, .rt = rt};
    int err = sd_event_add_time_relative(event, &t->timer, CLOCK_MONOTONIC, LOOK_USEC, 0, on_timer, t);
    if (err >= 0)
        err = sd_event_source_set_enabled(t->timer, SD_EVENT_OFF);
    if (err < 0) {
        shared_destroy(t);
        return err;
    }
    *ret_table = t;
    return 0;
}

void shared_destroy(struct shared_table *t) {
    if (t == NULL)
        return;
    for (uint32_t b = 0; b < BUCKETS; b++) {
        while (t->bucket[b] != NULL)
            entry_free(t, &t->bucket[b]);
    }
    sd_event_source_disable_unref(t->timer);
    free(t);
}

static struct shared *entry_new(struct shared_table *t, uint64_t cookie, struct shared **link) {
    struct shared *s = t->count < SHARED_MAX ? calloc(1, sizeof *s) : NULL;
    if (s == NULL)
        return NULL;
    *s = (struct shared){.cookie = cookie, .unread_fd = -1};
    *link = s;
    t->count++;
    (void)sd_event_source_set_time_relative(t->timer, LOOK_USEC);
    (void)sd_event_source_set_enabled(t->timer, SD_EVENT_ONESHOT);
    return s;
}

static void promise(const struct shared_table *t, struct shared *s, uint32_t copies) {
    s->copies += copies;
    if (copies > 0)
        s->copies_until_us = now_us(t) + SHARED_PROMISE_US;
}

/* ---- what processes do ---- */

static int put_refuse(struct shared_table *t, const struct shared_put *put, int error) {
    session_stream_drop(t->rt, &put->stream, true);
    if (put->unread_fd >= 0)
        (void)close(put->unread_fd);
    return error;
}

int shared_put(struct shared_table *t, uint64_t cookie, struct connection *c, const struct shared_put *put) {
    struct shared **link = link_of(t, cookie), *s = *link;
    if (s != NULL && (s->parked || s->holder != c))
        return put_refuse(t, put, -EEXIST);
    if (s == NULL && (s = entry_new(t, cookie, link)) == NULL)
        return put_refuse(t, put, -ENOSPC);
    s->stream = put->stream;
    s->parked = true;
    s->holder = NULL;
    s->shut = put->shut;
    s->unread = put->unread;
    s->unread_fd = put->unread_fd;
    ref_remove(s, c);
    int err = put->keep ? ref_add(s, c) : 0;
    promise(t, s, put->copies);
    entry_check(t, link);
    return err;
}

bool shared_is_held_by(const struct shared_table *t, uint64_t cookie, pid_t pid) {
    const struct shared *s = *link_of(t, cookie);
    for (uint32_t i = 0; s != NULL && i < s->ref_count; i++) {
        if (s->refs[i]->pid == pid)
            return true;
    }
    return false;
}

/* Rare: a process says it at its end. */
bool shared_find_held(const struct shared_table *t, const struct connection *c, uint32_t handle, uint64_t *ret_cookie) {
    for (uint32_t b = 0; b < BUCKETS; b++) {
        for (const struct shared *s = t->bucket[b]; s != NULL; s = s->next) {
            if (s->parked || s->holder != c || s->handle != handle)
                continue;
            *ret_cookie = s->cookie;
            return true;
        }
    }
    return false;
}

int shared_hold(struct shared_table *t, uint64_t cookie, struct connection *c, uint32_t copies) {
    struct shared *s = *link_of(t, cookie);
    int err = s != NULL ? ref_add(s, c) : -ENOENT;
    if (err == 0)
        promise(t, s, copies);
    return err;
}

int shared_take(struct shared_table *t, uint64_t cookie, struct connection *c, struct session *session,
                struct shared_got *ret_got) {
    struct shared **link = link_of(t, cookie), *s = *link;
    if (s == NULL)
        return -ENOENT;
    if (!s->parked && s->holder == c)
        return -EALREADY;
    if (!s->parked) {
        session_stream_recall(s->holder->session, s->handle);
        return -EAGAIN;
    }
    struct session_socket made;
    int err = ref_add(s, c);
    if (err == 0)
        err = session_stream_adopt(session, &s->stream, &made);
    if (err == -ENOENT)
        entry_free(t, link);
    if (err != 0)
        return err;
    s->parked = false;
    s->holder = c;
    s->handle = made.handle;
    *ret_got = (struct shared_got){.made = made,
                                   .others = others(s, c),
                                   .shut = s->shut,
                                   .local_port = s->stream.flow.local_port,
                                   .unread = s->unread,
                                   .unread_fd = s->unread_fd};
    s->unread = 0;
    s->unread_fd = -1;
    return 0;
}

int shared_drop(struct shared_table *t, uint64_t cookie, struct connection *c, uint32_t *ret_others) {
    struct shared **link = link_of(t, cookie), *s = *link;
    *ret_others = 0;
    if (s == NULL)
        return -ENOENT;
    *ret_others = others(s, c);
    if (!s->parked && s->holder == c) {
        if (*ret_others == 0)
            entry_free(t, link); /* it is this session's alone */
        return 0;
    }
    ref_remove(s, c);
    entry_check(t, link);
    return 0;
}

/* Its session ends, and with it the stream, unless others have copies. */
static void holder_gone(struct shared_table *t, struct shared **link) {
    struct shared *s = *link;
    bool stays = others(s, NULL) > 0 && session_stream_leave(s->holder->session, s->handle, &s->stream) == 0;
    if (!stays) {
        entry_free(t, link);
        return;
    }
    s->parked = true;
    s->holder = NULL;
}

void shared_forget(struct shared_table *t, const struct connection *c) {
    for (uint32_t b = 0; b < BUCKETS && t->count > 0; b++) {
        for (struct shared **link = &t->bucket[b]; *link != NULL;) {
            struct shared *s = *link;
            ref_remove(s, c);
            if (!s->parked && s->holder == c)
                holder_gone(t, link);
            else
                entry_check(t, link);
            if (*link == s)
                link = &s->next;
        }
    }
}

uint32_t shared_count(const struct shared_table *t) {
    return t->count;
}
