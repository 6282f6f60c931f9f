/* SPDX-License-Identifier: Apache-2.0
 *
 * The sender of stamps. Ends when it is killed.
 */
#include "test/bench/wake.h"

#include <arpa/inet.h>
#include <sched.h>
#include <sys/socket.h>
#include <time.h>

#include "test/bench/sandbox.h"
#include "test/bench/tick.h"

#define PAUSE_NS (500 * 1000)

static int stamp_loop(struct proc_shared *s, void *arg) {
    (void)s;
    const struct wake_job *job = arg;
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(job->port)};
    (void)inet_pton(AF_INET, SANDBOX_ADDR, &sa.sin_addr);
    if (setns(job->peer_netns, CLONE_NEWNET) != 0)
        return 1;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa)) != 0)
        return 1;
    struct wake_stamp stamp = {0};
    struct timespec pause = {.tv_nsec = PAUSE_NS};
    for (;;) {
        (void)nanosleep(&pause, NULL);
        stamp.number++;
        stamp.tick = tick_now();
        (void)send(fd, &stamp, sizeof(stamp), 0);
    }
}

pid_t wake_sender_spawn(struct proc_shared *s, struct wake_job *job) {
    return proc_spawn(job->core, stamp_loop, s, job);
}
