/* SPDX-License-Identifier: Apache-2.0
 *
 * The filters on threads of their own: what a role does passes, what it never does is refused.
 */
#include "control/confine.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CONFINED 0
#else
#define CONFINED 1
#endif

struct tried {
    int open_error, exec_error, connect_error, unshare_error, event_error, socket_error, map_error;
};

static int error_of(long result) {
    return result < 0 ? errno : 0;
}

static void *worker_main(void *arg) {
    struct tried *t = arg;
    char *const none[] = {NULL};
    struct sockaddr sa = {.sa_family = AF_UNIX};
    confine_worker();
    t->open_error = error_of(open("/dev/null", O_RDONLY));
    t->exec_error = error_of(execve("/nonexistent", none, none));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    t->socket_error = error_of(fd);
    t->connect_error = error_of(connect(fd, &sa, sizeof sa));
    t->unshare_error = error_of(unshare(CLONE_NEWNS));
    int event = eventfd(0, 0);
    t->event_error = error_of(eventfd_write(event, 1));
    t->map_error = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? errno : 0;
    close(event);
    close(fd);
    return NULL;
}

Test(confine, refuses_by_role) {
    struct tried t;
    pthread_t thread;
    if (!CONFINED) {
        printf("SKIPPED: builds with sanitizers have no filters\n");
        return;
    }
    cr_assert_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    cr_assert_eq(confine_process(), 0);
    cr_assert_eq(pthread_create(&thread, NULL, worker_main, &t), 0);
    pthread_join(thread, NULL);
    cr_expect_eq(t.open_error, EPERM);
    cr_expect_eq(t.exec_error, EPERM);
    cr_expect_eq(t.connect_error, EPERM);
    cr_expect_eq(t.unshare_error, EPERM, "what the process may not, its workers may not");
    cr_expect_eq(t.socket_error, 0);
    cr_expect_eq(t.event_error, 0);
    cr_expect_eq(t.map_error, 0);
    /* Other threads keep what workers lost. */
    int fd = open("/dev/null", O_RDONLY);
    cr_expect_geq(fd, 0);
    close(fd);
    cr_expect_eq(error_of(mount("x", "/nonexistent", "x", 0, NULL)), EPERM);
}
