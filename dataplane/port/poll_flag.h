/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether an fd has become readable, for the price of a load: a multishot io_uring poll whose pending work shows in a
 * flag of the mapped ring. For fds that can only be asked by a system call (taps). The io_uring belongs to the thread
 * that opened it.
 */
#ifndef USHER_DATAPLANE_PORT_POLL_FLAG_H
#define USHER_DATAPLANE_PORT_POLL_FLAG_H

#include <liburing.h>
#include <stdbool.h>

struct poll_flag {
    struct io_uring ring;
    int fd;
    bool open, raised;
    bool watching; /* the multishot poll is under way */
};

/* On the thread that will ask. Raised at first, since nobody knows. */
int poll_flag_open(struct poll_flag *f, int fd);
void poll_flag_close(struct poll_flag *f);

static inline bool poll_flag_pending(const struct poll_flag *f) {
    return f->raised || (IO_URING_READ_ONCE(*f->ring.sq.kflags) & IORING_SQ_TASKRUN);
}

/* Call when poll_flag_pending(), before reading the fd: takes note of what has happened so far. */
void poll_flag_take(struct poll_flag *f);
/* Call when the fd had nothing more (EAGAIN). What came in between raises the flag again. */
static inline void poll_flag_lower(struct poll_flag *f) { f->raised = !f->watching; }

#endif
