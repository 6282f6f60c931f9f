/* SPDX-License-Identifier: Apache-2.0
 *
 * The broker against a fake dataplane: real sockets, real processes, every request, every broken rule, every failing
 * step.
 */
#include "control/broker/broker.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/broker/claims.h"
#include "control/broker/fake_dataplane.h"
#include "control/identity/owner.h"
#include "control/log.h"
#include "proto/usher_shm.h"
#include "usher/session/v1/session.pb-c.h"

typedef Usher__Session__V1__Request Req;
typedef Usher__Session__V1__Response Resp;

static struct broker *broker;
static struct claim_table *claims;
static struct owner_table *owners;
static sd_event *event;
static char dir[] = "/tmp/usher-broker-XXXXXX", path[64];
static bool judge_says;
static int reply_fds[4];
static uint32_t reply_fd_count;

static bool judge(void *arg, const struct kernel_socket *s, const char *cgroup, char *reason, size_t size) {
    (void)arg;
    (void)cgroup;
    (void)s;
    (void)snprintf(reason, size, judge_says ? "packet on test0" : "no way");
    return judge_says;
}

static void how(void *arg, uint32_t ifindex, char *text, size_t size, char *why, size_t why_size) {
    (void)arg;
    (void)snprintf(text, size, "packet on test%u", ifindex);
    memset(why, 'w', why_size - 1); /* the longest there can be */
    why[why_size - 1] = '\0';
}

static void start(struct broker_limits limits) {
    char err[256];
    log_open(LOG_LEVEL_ERROR);
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/s", dir);
    judge_says = true;
    cr_assert_geq(sd_event_new(&event), 0);
    cr_assert_eq(claim_table_create(NULL, 64, &claims), 0);
    cr_assert_eq(owner_table_create(16, &owners), 0);
    struct broker_params p = {.event = event,
                              .claims = claims,
                              .owners = owners,
                              .path = path,
                              .group = "",
                              .mode = 0600,
                              .limits = limits,
                              .judge = judge,
                              .how = how};
    cr_assert_eq(netns_cookie_read(&p.netns_cookie), 0);
    cr_assert_eq(broker_create(&p, &broker, err, sizeof err), 0, "%s", err);
}

static void setup(void) {
    start((struct broker_limits){4, 3, 100, 100, 70, 77, 1 << 20, 1 << 20});
}

static void teardown(void) {
    broker_destroy(broker);
    cr_expect_eq(claim_table_count(claims), 0);
    claim_table_destroy(claims);
    cr_expect_eq(owner_table_count(owners), 0);
    owner_table_destroy(owners);
    sd_event_unref(event);
    cr_expect_eq(fake.live_sessions, 0);
    cr_expect_eq(fake.live_sockets, 0);
    cr_expect_eq(fake.live_claims, 0);
    cr_expect_eq(fake.live_groups, 0);
    cr_expect_eq(fake.live_quotas, 0);
    cr_expect_eq(access(path, F_OK), -1);
    cr_expect_eq(rmdir(dir), 0);
}

TestSuite(broker, .init = setup, .fini = teardown, .timeout = 30);

/* Runs the loop until nothing is left to do. */
static void turn(void) {
    for (int idle = 0; idle < 2;)
        idle = sd_event_run(event, 0) > 0 ? 0 : idle + 1;
}

static int dial(void) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    cr_assert_eq(connect(fd, (struct sockaddr *)&a, sizeof a), 0, "%s", strerror(errno));
    return fd;
}

static void transmit(int fd, const void *bytes, size_t size, const int *fds, uint32_t fd_count) {
    char control[CMSG_SPACE(16 * sizeof(int))] = {0};
    struct iovec iov = {(void *)bytes, size};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd_count > 0) {
        m.msg_control = control;
        m.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        h->cmsg_level = SOL_SOCKET;
        h->cmsg_type = SCM_RIGHTS;
        h->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(h), fds, fd_count * sizeof(int));
    }
    (void)sendmsg(fd, &m, MSG_NOSIGNAL);
}

static void replies_close(void) {
    while (reply_fd_count > 0)
        close(reply_fds[--reply_fd_count]);
}

/* The answer, or NULL when the daemon closed. Freed by the caller. */
static Resp *receive(int fd) {
    uint8_t bytes[4096];
    char control[CMSG_SPACE(4 * sizeof(int))];
    struct iovec iov = {bytes, sizeof bytes};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    replies_close();
    ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n <= 0)
        return NULL;
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    if (h != NULL) {
        reply_fd_count = (uint32_t)((h->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(reply_fds, CMSG_DATA(h), reply_fd_count * sizeof(int));
    }
    Resp *resp = usher__session__v1__response__unpack(NULL, (size_t)n, bytes);
    if (resp == NULL || resp->id != 0)
        return resp;
    cr_assert_eq(resp->error, ESHUTDOWN, "a farewell says that it is one");
    cr_assert_eq(recv(fd, bytes, sizeof bytes, MSG_DONTWAIT), 0, "and is the last word");
    usher__session__v1__response__free_unpacked(resp, NULL);
    return NULL;
}

static Resp *ask_with(int fd, Req *r, const int *fds, uint32_t fd_count) {
    uint8_t bytes[4096];
    static uint32_t id;
    r->id = ++id;
    size_t n = usher__session__v1__request__pack(r, bytes);
    transmit(fd, bytes, n, fds, fd_count);
    turn();
    Resp *resp = receive(fd);
    if (resp != NULL)
        cr_assert_eq(resp->id, id);
    return resp;
}

/* Asks, frees the answer, returns its errno; -1 = the daemon closed. */
static int ask(int fd, Req *r, int pass) {
    Resp *resp = ask_with(fd, r, &pass, pass >= 0 ? 1 : 0);
    if (resp == NULL)
        return -1;
    int error = resp->error;
    usher__session__v1__response__free_unpacked(resp, NULL);
    return error;
}

#define REQUEST(kind, KIND, Type, TYPE, ...)                                                                           \
    ({                                                                                                                 \
        static Usher__Session__V1__##Type body_;                                                                       \
        static Req req_;                                                                                               \
        body_ = (Usher__Session__V1__##Type)USHER__SESSION__V1__##TYPE##__INIT;                                        \
        req_ = (Req)USHER__SESSION__V1__REQUEST__INIT;                                                                 \
        req_.kind = &body_;                                                                                            \
        req_.body_case = USHER__SESSION__V1__REQUEST__BODY_##KIND;                                                     \
        Usher__Session__V1__##Type *b = &body_;                                                                        \
        (void)b;                                                                                                       \
        __VA_ARGS__;                                                                                                   \
        &req_;                                                                                                         \
    })
#define ATTACH()                                                                                                       \
    REQUEST(attach, ATTACH, AttachRequest, ATTACH_REQUEST, (b->abi_min = 1, b->abi_max = 9, b->label = (char *)"t"))
#define OPEN()    REQUEST(open, OPEN, OpenRequest, OPEN_REQUEST, )
#define UPDATE(h) REQUEST(update, UPDATE, UpdateRequest, UPDATE_REQUEST, b->handle = (h))
#define CLOSE(h)  REQUEST(close, CLOSE, CloseRequest, CLOSE_REQUEST, b->handle = (h))
#define REFRESH() REQUEST(refresh_owner, REFRESH_OWNER, RefreshOwnerRequest, REFRESH_OWNER_REQUEST, )
#define OPTION(h, o)                                                                                                   \
    REQUEST(set_option, SET_OPTION, SetOptionRequest, SET_OPTION_REQUEST, (b->handle = (h), b->option = (o)))
#define NEW_SQ(s)                                                                                                      \
    REQUEST(new_submission_ring, NEW_SUBMISSION_RING, NewSubmissionRingRequest, NEW_SUBMISSION_RING_REQUEST,           \
            b->set = (s))
#define GROUP(h, bytes, out)                                                                                           \
    REQUEST(group, GROUP, GroupRequest, GROUP_REQUEST,                                                                 \
            (b->handle = (h), b->group.data = (bytes), b->group.len = 16, b->leave = (out)))
#define LIST(a) REQUEST(list, LIST, ListRequest, LIST_REQUEST, b->after = (a))

static int udp(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

static int attached(void) {
    int fd = dial();
    cr_assert_eq(ask(fd, ATTACH(), -1), 0);
    cr_assert_eq(reply_fd_count, 2);
    replies_close();
    return fd;
}

static struct broker_stats stats(void) {
    struct broker_stats s;
    broker_stats_read(broker, &s);
    return s;
}

Test(broker, attach_open_close_in_order) {
    int fd = attached(), k = udp();
    fake_clear();
    cr_assert_eq(ask(fd, OPEN(), k), 0);
    cr_assert_eq(reply_fd_count, 1, "a new set brings its kick fd");
    cr_assert_str_eq(fake.trace, "open claim+");
    cr_assert_eq(ask(fd, CLOSE(0), -1), 0);
    cr_assert_str_eq(fake.trace, "open claim+ claim- close");
    cr_assert_eq(ask(fd, CLOSE(0), -1), EBADF);
    replies_close();
    close(k);
    close(fd);
    turn();
    cr_assert_str_eq(fake.trace, "open claim+ claim- close destroy");
    cr_assert_eq(stats().detached[DETACH_CLIENT_CLOSED], 1);
}

static int bound_tcp(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

/* A stream's port, and a listener's options. */
Test(broker, streams_bring_where_they_go_and_their_options) {
    static uint8_t peer[16] = {[10] = 0xff, 0xff, 192, 0, 2, 9};
    static struct ush_option options[17] = {{.option = USH_STREAM_TOS, .value = 8}};
    int fd = attached(), k = bound_tcp();
    Req *r = OPEN();
    fake_clear();
    cr_assert_eq(ask(fd, r, k), 0);
    cr_assert_str_eq(fake.trace, "", "without a peer it stays with the kernel");
    r->open->remote = (ProtobufCBinaryData){16, peer};
    r->open->remote_port = 80;
    cr_assert_eq(ask(fd, r, k), 0);
    cr_assert_str_eq(fake.trace, "open claim+");
    const struct session_socket_params *p = fake_opened(0);
    cr_assert(p->bound && p->flow.remote_port == 0 && p->flow.local_port != 0);
    cr_assert_eq(listen(k, 5), 0);
    r = OPEN();
    r->open->stream_options = (ProtobufCBinaryData){sizeof options[0], (uint8_t *)options};
    cr_assert_eq(ask(fd, r, k), 0);
    p = fake_opened(1);
    cr_assert(!p->bound && p->option_count == 1 && fake.option == USH_STREAM_TOS);
    replies_close();
    close(k);
    close(fd);
}

/* The port's last claim goes when its connections are held, one by one; so it is when the session ends. */
Test(broker, connections_outlive_their_listener) {
    int fd = attached(), k = bound_tcp();
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    cr_assert(listen(k, 5) == 0 && getsockname(k, (struct sockaddr *)&a, &len) == 0);
    fake.streams[0] = (struct session_port_flow){.flow = {.local_port = ntohs(a.sin_port)}, .lives = true};
    fake.stream_count = 1;
    for (int i = 0; i < 3; i++)
        cr_assert_eq(ask(fd, OPEN(), k), 0);
    replies_close();
    fake_clear();
    cr_assert_eq(ask(fd, CLOSE(0), -1), 0);
    cr_assert_str_eq(fake.trace, "close", "others have the port");
    fake_clear();
    close(fd);
    turn();
    cr_assert_str_eq(fake.trace, "destroy hold claim-");
    close(k);
}

Test(broker, an_open_of_the_wrong_shape_ends_the_session) {
    static uint8_t bytes[17 * sizeof(struct ush_option)];
    for (int i = 0; i < 4; i++) {
        int fd = attached(), k = bound_tcp();
        Req *r = OPEN();
        r->open->remote = (ProtobufCBinaryData){i == 0 ? 15 : i == 1 ? 16 : 0, bytes};
        r->open->remote_port = i == 0 ? 80 : 0;
        r->open->stream_options = (ProtobufCBinaryData){i == 2 ? 23 : i == 3 ? sizeof bytes : 0, bytes};
        cr_assert_eq(ask(fd, r, k), -1, "%d", i);
        close(k);
        close(fd);
        turn();
    }
    cr_assert_eq(stats().detached[DETACH_BAD_RPC], 4);
}

Test(broker, attach_bounds_what_it_gives) {
    int fd = dial();
    Req *r = ATTACH();
    r->attach->tx_bytes = UINT64_MAX;
    r->attach->rx_bytes = 1;
    r->attach->socket_max = UINT32_MAX;
    cr_assert_eq(ask(fd, r, -1), 0);
    cr_assert_eq(fake.params.tx_bytes, 1 << 20);
    cr_assert_eq(fake.params.rx_bytes, 65536);
    cr_assert_eq(fake.params.socket_max, 100);
    cr_assert_eq(ask(fd, ATTACH(), -1), EALREADY);
    replies_close();
    close(fd);
    fd = dial();
    r = ATTACH();
    r->attach->abi_min = r->attach->abi_max = 2;
    cr_assert_eq(ask(fd, r, -1), EPROTONOSUPPORT);
    close(fd);
}

Test(broker, nothing_before_attach) {
    int fd = dial(), k = udp();
    cr_assert_eq(ask(fd, OPEN(), k), ENOTCONN);
    cr_assert_eq(ask(fd, LIST(0), -1), ENOTCONN);
    cr_assert_eq(stats().extra_fds, 1);
    close(k);
    close(fd);
}

Test(broker, judged_sockets_stay_with_the_kernel) {
    int fd = attached(), k = udp(), s = socket(AF_INET, SOCK_STREAM, 0);
    judge_says = false;
    fake_clear();
    Resp *r = ask_with(fd, OPEN(), &k, 1);
    cr_assert(r->error == 0 && !r->socket->accelerated);
    cr_assert_str_eq(r->socket->reason, "no way");
    usher__session__v1__response__free_unpacked(r, NULL);
    r = ask_with(fd, OPEN(), &s, 1);
    cr_assert(r->error == 0 && !r->socket->accelerated);
    usher__session__v1__response__free_unpacked(r, NULL);
    cr_assert_str_eq(fake.trace, "");
    close(k);
    close(s);
    close(fd);
}

Test(broker, update_moves_the_claim_without_a_gap) {
    int fd = attached(), k = udp(), other = udp();
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(0x7f000001)};
    cr_assert_eq(ask(fd, OPEN(), k), 0);
    replies_close();
    fake_clear();
    cr_assert_eq(connect(k, (struct sockaddr *)&to, sizeof to), 0);
    cr_assert_eq(ask(fd, UPDATE(0), k), 0);
    cr_assert_str_eq(fake.trace, "update", "the same local address: the claim stays");
    cr_assert_eq(ask(fd, UPDATE(0), other), EINVAL, "another socket");
    cr_assert_eq(ask(fd, UPDATE(7), k), EBADF);
    cr_assert_eq(ask(fd, UPDATE(0), -1), EINVAL);
    judge_says = false;
    fake_clear();
    Resp *r = ask_with(fd, UPDATE(0), &k, 1);
    cr_assert(r->error == 0 && !r->socket->accelerated);
    usher__session__v1__response__free_unpacked(r, NULL);
    cr_assert_str_eq(fake.trace, "claim- close");
    close(k);
    close(other);
    close(fd);
}

Test(broker, every_failing_step_of_open_is_undone) {
    for (uint32_t n = 1; n <= 2; n++) {
        int fd = attached(), k = udp();
        fake_clear();
        fake.fail_at = n;
        fake.fail_with = -ENOSPC;
        cr_assert_eq(ask(fd, OPEN(), k), n == 1 ? ENOSPC : ENOBUFS);
        cr_assert_str_eq(fake.trace, n == 1 ? "open!" : "open claim+! close");
        cr_assert_eq(fake.live_sockets + fake.live_claims, 0);
        cr_assert_eq(ask(fd, OPEN(), k), 0, "and it works afterwards");
        replies_close();
        close(k);
        close(fd);
        turn();
    }
    int fd = dial();
    fake.fail_at = 1;
    fake.fail_with = -ENOMEM;
    cr_assert_eq(ask(fd, ATTACH(), -1), ENOMEM);
    cr_assert_eq(ask(fd, ATTACH(), -1), 0);
    replies_close();
    close(fd);
}

Test(broker, taken_address_is_no_error) {
    int fd = attached(), k = udp();
    fake.fail_at = 1;
    fake.fail_with = -EADDRINUSE;
    Resp *r = ask_with(fd, OPEN(), &k, 1);
    cr_assert(r->error == 0 && !r->socket->accelerated);
    usher__session__v1__response__free_unpacked(r, NULL);
    close(k);
    close(fd);
}

Test(broker, shared_ports_are_claimed_once) {
    int fd = attached(), k = udp(), again = fcntl(k, F_DUPFD_CLOEXEC, 0);
    cr_assert_eq(ask(fd, OPEN(), k), 0);
    fake_clear();
    cr_assert_eq(ask(fd, OPEN(), again), 0);
    cr_assert_str_eq(fake.trace, "open");
    cr_assert_eq(ask(fd, CLOSE(0), -1), 0);
    cr_assert_str_eq(fake.trace, "open close");
    cr_assert_eq(ask(fd, CLOSE(1), -1), 0);
    cr_assert_str_eq(fake.trace, "open close claim- close");
    replies_close();
    close(k);
    close(again);
    close(fd);
}

Test(broker, quotas) {
    int fds[4], k = udp();
    struct broker_limits l = {4, 3, 2, 100, 70, 77, 1 << 20, 1 << 20};
    broker_destroy(broker);
    claim_table_destroy(claims);
    owner_table_destroy(owners);
    sd_event_unref(event);
    rmdir(dir);
    memcpy(dir + strlen(dir) - 6, "XXXXXX", 6);
    start(l);
    for (int i = 0; i < 4; i++)
        fds[i] = attached();
    int fd = dial();
    cr_assert_eq(ask(fd, ATTACH(), -1), EMFILE);
    cr_assert_eq(ask(fds[0], OPEN(), k), 0);
    cr_assert_eq(ask(fds[0], OPEN(), k), 0);
    cr_assert_eq(ask(fds[0], OPEN(), k), EMFILE);
    replies_close();
    close(fds[1]);
    turn();
    cr_assert_eq(ask(fd, ATTACH(), -1), 0, "room again");
    replies_close();
    close(fds[0]);
    close(fds[2]);
    close(fds[3]);
    close(fd);
    close(k);
}

Test(broker, options_rings_lists_owner) {
    int fd = attached(), k[20];
    for (int i = 0; i < 20; i++) {
        k[i] = udp();
        cr_assert_eq(ask(fd, OPEN(), k[i]), 0);
    }
    cr_assert_eq(ask(fd, OPTION(3, 1), -1), 0);
    cr_assert_eq(ask(fd, OPTION(3, 99), -1), EINVAL);
    cr_assert_eq(ask(fd, OPTION(30, 1), -1), EBADF);
    cr_assert_eq(ask(fd, NEW_SQ(0), -1), 0);
    cr_assert_eq(ask(fd, NEW_SQ(16), -1), EINVAL);
    cr_assert_eq(ask(fd, NEW_SQ(UINT32_MAX), -1), EINVAL);
    cr_assert_eq(ask(fd, REFRESH(), -1), 0);
    Resp *r = ask_with(fd, LIST(0), NULL, 0);
    cr_assert(r->list->more && r->list->n_sockets == 16);
    for (size_t i = 0; i < r->list->n_sockets; i++) {
        cr_assert_str_eq(r->list->sockets[i]->port_kind, "packet on test0");
        cr_assert_eq(strlen(r->list->sockets[i]->why), 119);
    }
    usher__session__v1__response__free_unpacked(r, NULL);
    r = ask_with(fd, LIST(16), NULL, 0);
    cr_assert(!r->list->more && r->list->n_sockets == 3);
    usher__session__v1__response__free_unpacked(r, NULL);
    replies_close();
    for (int i = 0; i < 20; i++)
        close(k[i]);
    close(fd);
}

Test(broker, groups) {
    uint8_t group[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 224, 1, 2, 3}, one[16] = {0};
    int fd = attached(), k = udp();
    cr_assert_eq(ask(fd, OPEN(), k), 0);
    replies_close();
    cr_assert_eq(ask(fd, GROUP(0, group, false), -1), 0);
    cr_assert_eq(ask(fd, GROUP(0, group, false), -1), EADDRINUSE);
    cr_assert_eq(ask(fd, GROUP(0, one, false), -1), EINVAL);
    cr_assert_eq(ask(fd, GROUP(5, group, false), -1), EBADF);
    cr_assert_eq(ask(fd, GROUP(0, group, true), -1), 0);
    cr_assert_eq(ask(fd, GROUP(0, group, true), -1), EADDRNOTAVAIL);
    fake.fail_at = 2;
    fake.fail_with = -ENOSPC;
    cr_assert_eq(ask(fd, GROUP(0, group, false), -1), ENOSPC);
    cr_assert_eq(ask(fd, GROUP(0, group, false), -1), 0);
    fake_clear();
    cr_assert_eq(ask(fd, CLOSE(0), -1), 0);
    cr_assert_str_eq(fake.trace, "group- claim- close");
    close(k);
    close(fd);
}

Test(broker, garbage_ends_only_the_culprit) {
    int good = attached(), bad = attached(), pending = dial();
    transmit(bad, "\xff\xff\xff", 3, NULL, 0);
    turn();
    cr_assert_null(receive(bad));
    cr_assert_eq(stats().detached[DETACH_BAD_RPC], 1);
    static uint8_t large[8192];
    transmit(pending, large, sizeof large, NULL, 0);
    turn();
    cr_assert_eq(stats().connections, 1);
    cr_assert_eq(ask(good, LIST(0), -1), 0);
    close(good);
    close(bad);
    close(pending);
}

static uint32_t open_fds(void) {
    uint32_t n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

Test(broker, unexpected_fds_are_closed) {
    int fd = attached(), k = udp(), many[12];
    for (int i = 0; i < 12; i++)
        many[i] = k;
    uint32_t before = open_fds();
    Resp *r = ask_with(fd, LIST(0), many, 3);
    cr_assert_eq(r->error, 0);
    usher__session__v1__response__free_unpacked(r, NULL);
    cr_assert_eq(stats().extra_fds, 3);
    cr_assert_eq(open_fds(), before);
    r = ask_with(fd, LIST(0), many, 12);
    cr_assert_null(r, "a truncated list of fds ends the session");
    cr_assert_eq(stats().detached[DETACH_BAD_RPC], 1);
    close(k);
    close(fd);
}

Test(broker, a_forked_child_is_refused) {
    int fd = attached();
    pid_t child = fork();
    if (child == 0) {
        transmit(fd, "\x08\x05\x52\x00", 4, NULL, 0); /* id 5, refresh owner... of somebody else */
        _exit(0);
    }
    cr_assert_eq(waitpid(child, NULL, 0), child);
    turn();
    Resp *r = receive(fd);
    cr_assert_not_null(r);
    cr_assert_eq(r->error, EPERM);
    usher__session__v1__response__free_unpacked(r, NULL);
    cr_assert_eq(stats().bad_credentials, 1);
    cr_assert_eq(ask(fd, LIST(0), -1), 0, "the parent goes on");
    close(fd);
}

/* A child attaches and opens, says so, and then does what it is told. */
static pid_t child_client(int *ret_fd, int last_step) {
    int pair[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    pid_t child = fork();
    if (child == 0) {
        uint8_t bytes[256];
        int fd = dial(), k = udp();
        Req *r = ATTACH();
        r->id = 1;
        size_t n = usher__session__v1__request__pack(r, bytes);
        transmit(fd, bytes, n, NULL, 0);
        r = OPEN();
        r->id = 2;
        n = usher__session__v1__request__pack(r, bytes);
        transmit(fd, bytes, n, &k, 1);
        (void)!write(pair[1], "x", 1);
        (void)!read(pair[1], bytes, 1);
        if (last_step == 1) {
            (void)fcntl(fd, F_SETFD, 0);
            char number[16];
            snprintf(number, sizeof number, "%d", fd);
            execl("/bin/bash", "bash", "-c", "printf '\\x08\\x01\\x4a\\x00' >&$0; exec sleep 30", number, NULL);
        }
        pause();
        _exit(0);
    }
    char c;
    cr_assert_eq(read(pair[0], &c, 1), 1);
    turn();
    *ret_fd = pair[0];
    close(pair[1]);
    return child;
}

Test(broker, death_undoes_claims_first) {
    int pipe_fd;
    pid_t child = child_client(&pipe_fd, 0);
    cr_assert_eq(fake.live_claims, 1);
    fake_clear();
    cr_assert_eq(kill(child, SIGKILL), 0);
    for (int i = 0; i < 1000 && fake.live_sessions > 0; i++)
        (void)sd_event_run(event, 10000);
    cr_assert_str_eq(fake.trace, "claim- destroy");
    cr_assert_eq(stats().detached[DETACH_CLIENT_DIED] + stats().detached[DETACH_CLIENT_CLOSED], 1);
    waitpid(child, NULL, 0);
    close(pipe_fd);
}

Test(broker, exec_ends_the_session) {
    int pipe_fd;
    pid_t child = child_client(&pipe_fd, 1);
    cr_assert_eq(write(pipe_fd, "x", 1), 1);
    for (int i = 0; i < 1000 && fake.live_sessions > 0; i++)
        (void)sd_event_run(event, 10000);
    cr_assert_eq(stats().detached[DETACH_CLIENT_EXEC], 1);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(pipe_fd);
}

Test(broker, workers_find_a_cheat) {
    int fd = attached();
    fake.detached = fake.last;
    broker_reap(broker);
    cr_assert_eq(stats().detached[DETACH_BAD_OP], 1);
    cr_assert_null(receive(fd));
    cr_assert_eq(stats().sessions, 0);
    close(fd);
}

Test(broker, a_client_that_reads_no_answers_is_closed) {
    int fd = attached();
    uint8_t bytes[64];
    Req *r = LIST(0);
    r->id = 1;
    size_t n = usher__session__v1__request__pack(r, bytes);
    for (int i = 0; i < 100000 && stats().connections > 0; i++) {
        (void)send(fd, bytes, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)sd_event_run(event, 0);
    }
    cr_assert_eq(stats().connections, 0);
    cr_assert_eq(stats().slow_clients, 1);
    close(fd);
}

Test(broker, pending_connections_of_a_user_are_bounded) {
    int fds[32];
    for (int i = 0; i < 32; i++) {
        fds[i] = dial();
        turn();
    }
    cr_assert_eq(stats().connections, 16);
    cr_assert_eq(stats().refused, 16);
    for (int i = 0; i < 32; i++)
        close(fds[i]);
    turn();
    cr_assert_eq(stats().connections, 0);
}

Test(broker, the_path_is_guarded) {
    struct broker *second;
    char err[256];
    struct stat st;
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0600);
    struct broker_params p = {.event = event, .path = path, .group = "", .mode = 0600};
    cr_assert_eq(broker_create(&p, &second, err, sizeof err), -EADDRINUSE);
    cr_assert_not_null(strstr(err, "another usherd"));
    p.path = "/nonexistent/dir/s";
    cr_assert_lt(broker_create(&p, &second, err, sizeof err), 0);
}

/* ---- what an operator sees and does ---- */

Test(broker, sessions_are_listed_in_order_and_killed) {
    int fd[3], k = udp();
    struct broker_session at;
    for (int i = 0; i < 3; i++)
        fd[i] = attached();
    cr_assert_eq(ask(fd[1], OPEN(), k), 0);
    uint64_t id = 0, ids[3] = {0};
    for (int i = 0; i < 3; i++, id++) {
        cr_assert(broker_session_next(broker, id, &at));
        ids[i] = id = at.id;
        cr_assert_str_eq(at.label, "t");
        cr_assert_gt(at.attached_unix_ns, 1600000000ull * 1000000000u);
        cr_assert_eq(at.sockets, i == 1);
        cr_assert_eq(owner_get(owners, at.owner)->pid, (uint32_t)getpid());
    }
    cr_assert(ids[0] < ids[1] && ids[1] < ids[2]);
    cr_assert_not(broker_session_next(broker, id, &at));
    fake_clear();
    cr_assert_eq(broker_session_kill(broker, ids[1]), 0);
    cr_assert_str_eq(fake.trace, "claim- destroy", "the kernel has the port again first");
    cr_assert_eq(broker_session_kill(broker, ids[1]), -ENOENT);
    cr_assert_eq(stats().detached[DETACH_KILLED], 1);
    cr_assert_null(receive(fd[1]), "its connection is closed");
    cr_assert(broker_session_next(broker, ids[1], &at) && at.id == ids[2]);
    replies_close();
    close(k);
    for (int i = 0; i < 3; i++)
        close(fd[i]);
}

Test(broker, a_drained_broker_attaches_nobody) {
    int before = attached();
    broker_drain(broker, true);
    int fd = dial();
    cr_assert_eq(ask(fd, ATTACH(), -1), ESHUTDOWN);
    broker_drain(broker, false);
    cr_assert_eq(ask(fd, ATTACH(), -1), 0);
    replies_close();
    close(fd);
    close(before);
}

Test(broker, refusals_are_remembered) {
    static struct broker_refusal r[BROKER_REFUSALS];
    int fd = attached(), k = udp();
    cr_assert_eq(broker_refusals(broker, r, BROKER_REFUSALS), 0);
    judge_says = false;
    for (int i = 0; i < 3; i++)
        cr_assert_eq(ask(fd, OPEN(), k), 0);
    cr_assert_eq(broker_refusals(broker, r, BROKER_REFUSALS), 1, "equal ones are counted");
    cr_assert_eq(r[0].count, 3);
    cr_assert_str_eq(r[0].reason, "no way");
    cr_assert(r[0].flow.proto == IPPROTO_UDP && r[0].flow.local_port != 0 && r[0].pid == (uint32_t)getpid());
    close(k);
    for (uint32_t i = 0; i < BROKER_REFUSALS + 10; i++) {
        k = udp();
        cr_assert_eq(ask(fd, OPEN(), k), 0);
        close(k);
    }
    cr_assert_eq(broker_refusals(broker, r, BROKER_REFUSALS), BROKER_REFUSALS, "the latest stay");
    cr_assert_geq(r[BROKER_REFUSALS - 1].unix_ns, r[0].unix_ns);
    cr_assert_eq(broker_refusals(broker, r, 3), 3);
    close(fd);
}

/* Random requests with random fds: nothing leaks, nothing crashes, the rest is checked by teardown. */
Test(broker, random_requests, .timeout = 60) {
    unsigned seed = 42;
    int k[3] = {udp(), udp(), udp()};
    close(attached()); /* the loop makes its timerfd */
    turn();
    uint32_t before = open_fds();
    int fd = attached();
    for (int i = 0; i < 5000; i++) {
        uint8_t bytes[32], group[16] = {0xff, 2};
        uint32_t h = (uint32_t)rand_r(&seed) % 6;
        Req *all[] = {OPEN(), UPDATE(h), CLOSE(h), GROUP(h, group, h & 1), LIST(h), OPTION(h, h), REFRESH()};
        Req *r = all[(uint32_t)rand_r(&seed) % 7];
        r->id = 1;
        size_t n = usher__session__v1__request__pack(r, bytes);
        if (rand_r(&seed) % 50 == 0)
            bytes[(uint32_t)rand_r(&seed) % n] ^= (uint8_t)(1u << (rand_r(&seed) % 8));
        fake.fail_with = -ENOMEM;
        fake.fail_at = rand_r(&seed) % 10 == 0 ? 1 + (uint32_t)rand_r(&seed) % 3 : 0;
        transmit(fd, bytes, n, k, (uint32_t)rand_r(&seed) % 3);
        turn();
        fake.fail_at = 0;
        Resp *resp = receive(fd);
        if (resp != NULL) {
            usher__session__v1__response__free_unpacked(resp, NULL);
            continue;
        }
        close(fd);
        turn();
        fd = attached();
    }
    replies_close();
    close(fd);
    turn();
    cr_assert_eq(open_fds(), before);
    for (int i = 0; i < 3; i++)
        close(k[i]);
}
