/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether an fd has become readable; see poll_flag.h.
 */
#include "dataplane/port/poll_flag.h"

#include <poll.h>

#define ENTRIES 8u

static void watch(struct poll_flag *f) {
    struct io_uring_sqe *sqe = io_uring_get_sqe(&f->ring);
    if (sqe == NULL)
        return;
    io_uring_prep_poll_multishot(sqe, f->fd, POLLIN);
    f->watching = true;
}

int poll_flag_open(struct poll_flag *f, int fd) {
    struct io_uring_params params = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                                              IORING_SETUP_TASKRUN_FLAG};
    *f = (struct poll_flag){.fd = fd};
    int error = io_uring_queue_init_params(ENTRIES, &f->ring, &params);
    if (error < 0)
        return error;
    f->open = f->raised = true;
    poll_flag_take(f);
    return 0;
}

void poll_flag_close(struct poll_flag *f) {
    if (f->open)
        io_uring_queue_exit(&f->ring);
    f->open = false;
}

void poll_flag_take(struct poll_flag *f) {
    struct io_uring_cqe *cqe;
    unsigned head, seen = 0;
    if (!f->watching)
        watch(f); /* the kernel ends a multishot poll after an error or an overflow */
    io_uring_submit_and_get_events(&f->ring);
    io_uring_for_each_cqe(&f->ring, head, cqe) {
        seen++;
        if (!(cqe->flags & IORING_CQE_F_MORE))
            f->watching = false;
    }
    io_uring_cq_advance(&f->ring, seen);
    f->raised = true;
}
