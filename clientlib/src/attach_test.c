/* SPDX-License-Identifier: Apache-2.0
 *
 * Attaching: what is said when it fails, and that nothing a daemon could answer makes the library believe a number that
 * is out of bounds, leak or hang.
 */
#include <dirent.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "clientlib/src/testkit.h"

static int try_open(const char *path, struct usher_context **ret_ctx) {
    const struct usher_context_params p = {.socket_path = path, .label = "attach_test", .spin_us = -1};
    return usher_context_open(&p, ret_ctx);
}

static int count_fds(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

Test(attach, nobody_there) {
    struct usher_context *ctx = NULL;
    cr_assert_eq(try_open("/nonexistent/usher.sock", &ctx), -ENOENT);
    cr_assert(strstr(usher_strerror(), "/nonexistent/usher.sock"));
    cr_assert(strstr(usher_strerror(), "USHER_SOCKET"), "says what to do");
    cr_assert_null(ctx);
}

Test(attach, path_too_long) {
    char path[300];
    memset(path, 'a', sizeof(path) - 1);
    path[sizeof(path) - 1] = 0;
    struct usher_context *ctx;
    cr_assert_eq(try_open(path, &ctx), -ENAMETOOLONG);
}

Test(attach, socket_without_listener) {
    char dir[] = "/tmp/attach-test-XXXXXX";
    cr_assert(mkdtemp(dir));
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/s", dir);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    struct usher_context *ctx;
    cr_assert_eq(try_open(sa.sun_path, &ctx), -ECONNREFUSED);
    close(fd);
    unlink(sa.sun_path);
    rmdir(dir);
}

Test(attach, environment_names_the_socket) {
    struct fake *f = fake_start(NULL);
    struct usher_context *ctx;
    setenv("USHER_SOCKET", fake_path(f), 1);
    cr_assert_eq(usher_context_open(NULL, &ctx), 0, "%s", usher_strerror());
    cr_assert_geq(usher_fd(ctx), 0);
    usher_context_close(ctx);
    fake_stop(f);
}

Test(attach, no_fd_stays_behind) {
    struct fake *f = fake_start(NULL);
    struct usher_context *ctx;
    cr_assert_eq(try_open(fake_path(f), &ctx), 0);
    usher_context_close(ctx);
    int before = count_fds();
    for (int i = 0; i < 20; i++) {
        cr_assert_eq(try_open(fake_path(f), &ctx), 0);
        struct usher_socket *s = rig_socket(ctx);
        if (i % 2)
            usher_close(s);
        usher_context_close(ctx);
    }
    cr_assert_leq(count_fds(), before + 6, "the fake may hold its last session");
    usher_context_close(NULL);
    fake_stop(f);
}

/* ---- a header that lies ---- */

static const struct lie {
    size_t offset, size;
    uint64_t value;
} lies[] = {
#define LIE(field, value)                                                                                              \
    { offsetof(struct ush_header, field), sizeof(((struct ush_header *)0)->field), value }
    LIE(magic, 1),
    LIE(abi, USH_ABI_MAX + 1),
    LIE(abi, 0),
    LIE(sq_entries, 48),
    LIE(sq_entries, 0),
    LIE(cq_entries, UINT64_C(1) << 31),
    LIE(rx_cell_min, 0),
    LIE(rx_cell_min, 100),
    LIE(tx_size, 100),
    LIE(tx_size, UINT64_MAX),
    LIE(tx_off, UINT64_MAX - 63),
    LIE(rx_off, UINT64_C(1) << 40),
    LIE(rx_size, 64 << 20),
    LIE(rx_size, UINT64_C(1) << 33),
    LIE(socket_max, 0),
    LIE(socket_max, UINT32_MAX),
    LIE(set_stride, 64),
    LIE(set_stride, (UINT64_MAX / 2) & ~UINT64_C(63)),
    LIE(set_stride, (1 << 20) + 8),
    LIE(set_off, 4097),
    LIE(socket_off, UINT64_MAX - 7),
    LIE(total_size, 4096),
    LIE(total_size, UINT64_C(1) << 40),
#undef LIE
};

static void spoil(struct ush_header *h, uint32_t which) {
    memcpy((char *)h + lies[which].offset, &lies[which].value, lies[which].size); /* little endian */
}

Test(attach, a_header_that_lies_is_refused) {
    for (uint32_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        const struct fake_config c = {.spoil = spoil, .spoil_arg = i};
        struct fake *f = fake_start(&c);
        struct usher_context *ctx = NULL;
        cr_assert_eq(try_open(fake_path(f), &ctx), -EPROTO, "case %u", i);
        cr_assert_neq(usher_strerror()[0], 0);
        cr_assert_null(ctx);
        fake_stop(f);
    }
}

Test(attach, memory_that_could_shrink_is_refused) {
    const struct fake_config c = {.unsealed = true};
    struct fake *f = fake_start(&c);
    struct usher_context *ctx;
    cr_assert_eq(try_open(fake_path(f), &ctx), -EPROTO);
    fake_stop(f);
}

/* ---- answers to attach ---- */

Test(attach, bad_answers_to_attach_are_refused) {
    static const struct {
        enum fake_fault fault;
        int err;
    } cases[] = {
        {FAULT_DIE, -ECONNREFUSED}, {FAULT_ERROR, -ENOBUFS}, {FAULT_GARBAGE, -ECONNREFUSED},
        {FAULT_CUT, -ECONNREFUSED}, {FAULT_NO_FDS, -EPROTO}, {FAULT_STALE_ID, 0},
        {FAULT_MANY_FDS, 0},        {FAULT_LONG_TEXT, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct fake_config c = {.fault = cases[i].fault, .fault_at = FAKE_RPC_ATTACH};
        struct fake *f = fake_start(&c);
        struct usher_context *ctx = NULL;
        int fds = count_fds();
        int err = try_open(fake_path(f), &ctx);
        cr_assert_eq(err, cases[i].err, "case %zu: %d %s", i, err, usher_strerror());
        if (err == 0)
            usher_context_close(ctx);
        cr_assert_leq(count_fds(), fds + 5);
        fake_stop(f);
    }
}

/* ---- answers to open: the program's bind succeeded, so the kernel socket carries it ---- */

Test(attach, bad_answers_to_open_leave_the_socket_on_the_kernel) {
    static const enum fake_fault faults[] = {FAULT_DIE,    FAULT_ERROR,      FAULT_GARBAGE, FAULT_CUT,
                                             FAULT_NO_FDS, FAULT_BAD_HANDLE, FAULT_BAD_SET, FAULT_KERNEL};
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
        const struct fake_config c = {.fault = faults[i], .fault_at = FAKE_RPC_OPEN};
        struct rig r = rig_start(&c);
        struct usher_socket_info info;
        cr_assert_eq(usher_socket_info(r.sock, &info), 0);
        cr_assert_eq(info.accelerated, 0, "case %zu", i);
        cr_assert_neq(info.reason[0], 0, "case %zu says why", i);
        struct sockaddr_in self = rig_addr("127.0.0.1", rig_port(r.sock));
        char buf[16];
        cr_assert_eq(usher_sendto(r.sock, "hello", 5, (struct sockaddr *)&self, sizeof(self)), 5, "%s",
                     usher_strerror());
        cr_assert_eq(usher_recvfrom(r.sock, buf, sizeof(buf), NULL, NULL, SECOND), 5, "case %zu: %s", i,
                     usher_strerror());
        rig_stop(&r);
    }
}

Test(attach, odd_answers_to_open_do_no_harm) {
    static const enum fake_fault faults[] = {FAULT_STALE_ID, FAULT_MANY_FDS, FAULT_LONG_TEXT};
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
        const struct fake_config c = {.fault = faults[i], .fault_at = FAKE_RPC_OPEN};
        struct rig r = rig_start(&c);
        struct usher_socket_info info;
        cr_assert_eq(usher_socket_info(r.sock, &info), 0);
        char buf[8];
        if (faults[i] != FAULT_MANY_FDS) { /* two fds for one set: not believed */
            cr_assert_eq(info.accelerated, 1, "case %zu: %s", i, info.reason);
            cr_assert_eq(rig_send(r.sock, "abc", 3), 3);
            cr_assert_eq(usher_recvfrom(r.sock, buf, sizeof(buf), NULL, NULL, SECOND), 3);
        }
        rig_stop(&r);
    }
}
