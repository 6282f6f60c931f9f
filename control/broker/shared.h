/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams that several processes have a copy of: after fork(), over exec(), sent over a UNIX socket. Their kernel
 * socket's cookie names them; who passes a copy of it has proved possession. A stream is in one session at a time, or
 * parked here; who wants it while another has it makes usherd ask that one to park it.
 *
 * Every process that has a copy holds a reference; a copy on its way (a child to be, a program to be, a message) is a
 * promise that lasts SHARED_PROMISE_US. When neither is left a parked stream is closed, as the kernel closes a socket.
 *
 * Thread: control.
 */
#ifndef USHER_CONTROL_BROKER_SHARED_H
#define USHER_CONTROL_BROKER_SHARED_H

#include <systemd/sd-event.h>

#include "dataplane/session/session.h"

struct connection;
struct shared_table;

#define SHARED_PROMISE_US 30000000u

struct shared_put {
    struct session_stream stream;
    uint32_t copies; /* promised */
    bool keep;       /* who parks it keeps its own copy */
    bool shut;       /* shut down for sending */
    uint32_t unread; /* bytes that were received and not read ... */
    int unread_fd;   /* ... in this file, which is taken; -1 = none */
};

struct shared_got {
    uint32_t handle; /* of the session that has it now */
    struct session_socket made;
    uint32_t others; /* references and promises of others */
    bool shut;
    uint16_t local_port;
    uint32_t unread;
    int unread_fd; /* the caller's; -1 = none */
};

int shared_create(sd_event *event, struct runtime *rt, struct shared_table **ret_table);
void shared_destroy(struct shared_table *t);

/* The stream is parked. -EEXIST: another stream has this cookie; -ENOSPC. The stream is dropped then. */
int shared_put(struct shared_table *t, uint64_t cookie, struct connection *c, const struct shared_put *put);
/* Has this process a copy? */
bool shared_is_held_by(const struct shared_table *t, uint64_t cookie, pid_t pid);
/* What the session of `c` has under this handle. False: nothing that others have, or had, a copy of. */
bool shared_find_held(const struct shared_table *t, const struct connection *c, uint32_t handle, uint64_t *ret_cookie);
/* This process has a copy, and promises so many. -ENOENT: nobody has shared it. */
int shared_hold(struct shared_table *t, uint64_t cookie, struct connection *c, uint32_t copies);
/* Into the session of `c`. -ENOENT; -EALREADY: it is there; -EAGAIN: another has it, and is asked to park it. */
int shared_take(struct shared_table *t, uint64_t cookie, struct connection *c, struct session *session,
                struct shared_got *ret_got);
/* This process has no copy any more. ret_others: whether others have one; who has the stream itself parks it then, or
 * closes it. */
int shared_drop(struct shared_table *t, uint64_t cookie, struct connection *c, uint32_t *ret_others);
/* The process is gone. What its session has and others have copies of stays for them. Before session_destroy(). */
void shared_forget(struct shared_table *t, const struct connection *c);
uint32_t shared_count(const struct shared_table *t);

#endif
