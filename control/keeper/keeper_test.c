/* SPDX-License-Identifier: Apache-2.0
 *
 * The real usher-keeper and usherd's side of it: fds outlive their daemon, reach a successor, and end in time.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/keeper/store.h"

#define MANY 600

static char dir[] = "/tmp/usher-keeper-XXXXXX", path[64], mark[64];
static const char *cleanup[] = {"/usr/bin/touch", mark, NULL};
static struct store_fd fds[KEEPER_FD_MAX];

static void setup(void) {
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/keeper.sock", dir);
    snprintf(mark, sizeof mark, "%s/mark", dir);
}

static void wait_cleanup(void) {
    for (int i = 0; i < 1000 && access(mark, F_OK) != 0; i++)
        poll(NULL, 0, 10);
    cr_assert_eq(unlink(mark), 0);
}

/* The keeper has let go when its socket is away and its last command has run. */
static void wait_end(void) {
    wait_cleanup();
    cr_assert_eq(access(path, F_OK), -1);
}

static void teardown(void) {
    cr_expect_eq(rmdir(dir), 0);
}

TestSuite(keeper, .init = setup, .fini = teardown, .timeout = 30);

static struct store *open_store(uint64_t grace_ms, size_t *ret_count) {
    struct store *s;
    struct store_params p = {STORE_KEEPER, path, KEEPER_PROGRAM, grace_ms * 1000000, cleanup};
    cr_assert_eq(store_open(&p, &s, fds, KEEPER_FD_MAX, ret_count), 0);
    return s;
}

static void put(struct store *s, const char *name, const char *content) {
    struct store_fd f = {.fd = memfd_create("t", MFD_CLOEXEC)};
    snprintf(f.name, sizeof f.name, "%s", name);
    cr_assert_eq(write(f.fd, content, strlen(content)), (ssize_t)strlen(content));
    cr_assert_eq(store_put(s, &f, 1), 0);
    close(f.fd);
}

/* Content of the named fd among those a store gave; all are closed. */
static void content_of(size_t count, const char *name, char *ret_text, size_t size) {
    ret_text[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        if (strcmp(fds[i].name, name) == 0) {
            ssize_t n = pread(fds[i].fd, ret_text, size - 1, 0);
            ret_text[n > 0 ? n : 0] = '\0';
        }
        close(fds[i].fd);
    }
}

Test(keeper, orderly_stop_lets_go) {
    size_t n;
    struct store *s = open_store(60000, &n);
    cr_assert_eq(n, 0);
    put(s, "a", "1");
    store_close(s, true);
    wait_end();
}

Test(keeper, a_successor_gets_everything) {
    size_t n;
    char text[16];
    struct store *s = open_store(60000, &n);
    put(s, "a", "old");
    put(s, "a", "new");
    put(s, "b", "gone");
    cr_assert_eq(store_drop(s, "b"), 0);
    store_close(s, false);
    s = open_store(60000, &n);
    cr_assert_eq(n, 1);
    content_of(n, "a", text, sizeof text);
    cr_assert_str_eq(text, "new");
    store_close(s, false);
    s = open_store(60000, &n);
    cr_assert_eq(n, 1, "still there for the next one");
    content_of(n, "a", text, sizeof text);
    store_close(s, true);
    wait_end();
}

Test(keeper, many_fds_in_batches) {
    size_t n;
    char text[16];
    struct store_fd *many = calloc(MANY, sizeof *many);
    struct store *s = open_store(60000, &n);
    int fd = memfd_create("t", MFD_CLOEXEC);
    cr_assert_eq(write(fd, "x", 1), 1);
    for (int i = 0; i < MANY; i++) {
        many[i].fd = fd;
        snprintf(many[i].name, sizeof many[i].name, "fd.%d", i);
    }
    cr_assert_eq(store_put(s, many, MANY), 0);
    store_close(s, false);
    s = open_store(60000, &n);
    cr_assert_eq(n, MANY);
    content_of(n, "fd.599", text, sizeof text);
    cr_assert_str_eq(text, "x");
    store_close(s, true);
    wait_end();
    close(fd);
    free(many);
}

Test(keeper, killed_daemon_then_grace_ends) {
    size_t n;
    int pipes[2];
    cr_assert_eq(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        struct store *s = open_store(300, &n);
        struct store_fd f = {.fd = pipes[1], .name = "pipe"};
        (void)store_put(s, &f, 1);
        raise(SIGKILL);
    }
    close(pipes[1]);
    cr_assert_eq(waitpid(child, NULL, 0), child);
    struct pollfd p = {.fd = pipes[0], .events = POLLIN};
    cr_assert_eq(poll(&p, 1, 0), 0, "the keeper holds the other end");
    cr_assert_eq(poll(&p, 1, 10000), 1, "and lets go when nobody comes");
    wait_end();
    close(pipes[0]);
}

/* What forbids outlives the grace; what else was held, and what no fd holds, does not. A successor finds it. */
Test(keeper, what_forbids_lasts_beyond_the_grace) {
    size_t n;
    char text[16];
    struct store *s = open_store(1, &n);
    put(s, "claims", "1");
    put(s, "cover.usher_in", "2");
    store_close(s, false);
    wait_cleanup();
    s = open_store(60000, &n);
    cr_assert_eq(n, 1);
    content_of(n, "cover.usher_in", text, sizeof text);
    cr_assert_str_eq(text, "2");
    store_close(s, true);
    wait_end();
}

static int dial(void) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

Test(keeper, one_daemon_at_a_time) {
    size_t n;
    struct store *s = open_store(60000, &n), *second;
    struct store_params p = {STORE_KEEPER, path, KEEPER_PROGRAM, 1000000000, cleanup};
    cr_assert_eq(store_open(&p, &second, fds, KEEPER_FD_MAX, &n), -EBUSY);
    put(s, "a", "1");
    store_close(s, true);
    wait_end();
}

Test(keeper, garbage_is_a_crash_and_no_more) {
    size_t n;
    char text[16];
    struct store *s = open_store(60000, &n);
    put(s, "a", "1");
    store_close(s, false);
    int fd = dial();
    cr_assert_eq(send(fd, "garbage", 7, 0), 7);
    cr_assert_eq(recv(fd, text, sizeof text, 0), 0, "hung up");
    close(fd);
    fd = dial();
    static struct keeper_message m = {.version = KEEPER_VERSION, .op = KEEPER_PUT, .count = 2};
    cr_assert_eq(keeper_send(fd, &m, NULL), 0); /* without fds, and without names */
    cr_assert_eq(recv(fd, text, sizeof text, 0), 0);
    close(fd);
    s = open_store(60000, &n);
    cr_assert_eq(n, 1);
    content_of(n, "a", text, sizeof text);
    cr_assert_str_eq(text, "1");
    store_close(s, true);
    wait_end();
}

Test(keeper, missing_program_is_an_error) {
    struct store *s;
    size_t n;
    struct store_params p = {STORE_KEEPER, path, "/nonexistent/usher-keeper", 1000000000, cleanup};
    cr_assert_eq(store_open(&p, &s, fds, KEEPER_FD_MAX, &n), -ENOENT);
}

/* What systemd would see on its notification socket. */
Test(store, systemd_store_speaks_its_protocol) {
    char text[256], control[CMSG_SPACE(sizeof(int))];
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "/tmp/usher-notify-%d", getpid());
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    setenv("NOTIFY_SOCKET", a.sun_path, 1);
    struct store *s;
    size_t n;
    struct store_params p = {.kind = STORE_SYSTEMD};
    cr_assert_eq(store_open(&p, &s, fds, KEEPER_FD_MAX, &n), 0);
    put(s, "3.tc.link", "x");
    struct iovec iov = {text, sizeof text - 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t size = recvmsg(fd, &m, 0);
    cr_assert_gt(size, 0);
    text[size] = '\0';
    cr_assert_str_eq(text, "FDSTOREREMOVE=1\nFDNAME=3.tc.link");
    m.msg_controllen = sizeof control;
    size = recvmsg(fd, &m, 0);
    text[size] = '\0';
    cr_assert_str_eq(text, "FDSTORE=1\nFDPOLL=0\nFDNAME=3.tc.link");
    cr_assert_not_null(CMSG_FIRSTHDR(&m));
    store_close(s, true);
    size = recv(fd, text, sizeof text - 1, 0);
    text[size] = '\0';
    cr_assert_str_eq(text, "FDSTOREREMOVE=1\nFDNAME=3.tc.link");
    unlink(a.sun_path);
    close(fd);
}
