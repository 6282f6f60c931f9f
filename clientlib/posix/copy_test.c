/* SPDX-License-Identifier: Apache-2.0
 *
 * Copies to and from memory that the program names: pieces, bounds, and pointers that are bad.
 */
#include <criterion/criterion.h>
#include <limits.h>
#include <sys/mman.h>

#include "clientlib/posix/posix.h"

__thread struct posix_thread posix_thread;

/* As signal.c does it, for this test's one thread. */
static void on_fault(int number) {
    (void)number;
    if (!posix_thread.copying)
        abort();
    siglongjmp(posix_thread.fault, 1);
}

void posix_signal_install(void) {
    const struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_NODEFER};
    (void)sigaction(SIGSEGV, &action, NULL);
}

__attribute__((unused)) static uint8_t *forbidden(void) {
    void *at = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(at, MAP_FAILED);
    return at;
}

Test(copy, a_bad_pointer_ends_the_copy) {
    char good[8] = "1234567";
    cr_assert(posix_copy(good, "abc", 4));
#ifndef __SANITIZE_THREAD__ /* whose own memcpy() no jump may leave */
    cr_assert_not(posix_copy(good, forbidden(), 8));
    cr_assert_not(posix_copy(forbidden(), good, 8));
#endif
    cr_assert_not(posix_copy(good, NULL, 8));
    cr_assert(posix_copy(NULL, NULL, 0), "no byte, no fault");
    cr_assert_str_eq(good, "abc");
}

Test(copy, pieces_are_filled_and_read_in_order) {
    char a[3], b[5], back[16] = "";
    struct iovec given[4] = {{a, 3}, {NULL, 0}, {b, 5}, {NULL, 0}}, room[4];
    struct posix_iov v;
    cr_assert_eq(posix_iov_init(&v, room, 4, given, 4), 0);
    cr_assert_eq(posix_iov_left(&v), 8);
    cr_assert(posix_iov_put(&v, "ab", 2));
    cr_assert(posix_iov_put(&v, "cdefgh", 6));
    cr_assert_eq(posix_iov_left(&v), 0);
    cr_assert(memcmp(a, "abc", 3) == 0 && memcmp(b, "defgh", 5) == 0);
    cr_assert_eq(posix_iov_init(&v, room, 4, given, 4), 0);
    cr_assert(posix_iov_get(&v, back, 4) && posix_iov_get(&v, back + 4, 4));
    cr_assert_str_eq(back, "abcdefgh");
}

Test(copy, what_the_kernel_refuses_is_refused) {
    struct iovec given[3] = {{NULL, (size_t)SSIZE_MAX + 1}}, room[2];
    struct posix_iov v;
    cr_assert_eq(posix_iov_init(&v, room, 2, given, 1), -EINVAL);
    cr_assert_eq(posix_iov_init(&v, room, 2, given, 3), -EMSGSIZE);
    cr_assert_eq(posix_iov_init(&v, room, 2, (struct iovec *)(void *)forbidden(), 1), -EFAULT);
    given[0].iov_len = given[1].iov_len = INT_MAX;
    cr_assert_eq(posix_iov_init(&v, room, 2, given, 2), 0);
    cr_assert_eq(posix_iov_left(&v), (size_t)INT_MAX, "cut where the kernel cuts");
}

Test(copy, a_bad_piece_is_no_more_than_a_fault) {
    char a[4];
    struct iovec given[2] = {{a, 4}, {forbidden(), 4}}, room[2];
    struct posix_iov v;
    cr_assert_eq(posix_iov_init(&v, room, 2, given, 2), 0);
    cr_assert_not(posix_iov_put(&v, "12345678", 8));
    cr_assert_eq(posix_iov_left(&v), 4, "what went before is counted");
    cr_assert(memcmp(a, "1234", 4) == 0);
}

Test(copy, addresses_are_cut_to_their_room) {
    struct sockaddr_storage from = {.ss_family = AF_INET6}, to = {.ss_family = 0};
    socklen_t room = sizeof(sa_family_t), bad = (socklen_t)-1;
    cr_assert_eq(posix_give_addr(&from, 28, NULL, NULL), 0);
    cr_assert_eq(posix_give_addr(&from, 28, (struct sockaddr *)&to, &room), 0);
    cr_assert(room == 28 && to.ss_family == AF_INET6);
    cr_assert_eq(posix_give_addr(&from, 28, (struct sockaddr *)&to, &bad), -EINVAL);
    cr_assert_eq(posix_give_addr(&from, 28, (struct sockaddr *)&to, NULL), -EFAULT);
}
