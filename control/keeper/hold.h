/* SPDX-License-Identifier: Apache-2.0
 *
 * What usher-keeper does, apart from being a program: it holds file descriptors by name for one usherd at a time. When
 * that one dies, it holds on for the grace period; a successor that says hello gets copies of all of them, else it
 * lets go. What forbids something (names with KEEPER_LASTING) it holds on to until a successor or `usherd --cleanup`
 * comes: a rule must not fall open because usherd cannot start. An fd is the only state: nothing is on disk.
 *
 * The bytes on the socket are this file's: one message a packet, struct keeper_message, fds beside it, names in it.
 * Same machine, same user, both of one build or of a neighbouring one: `version` is checked.
 */
#ifndef USHER_CONTROL_KEEPER_HOLD_H
#define USHER_CONTROL_KEEPER_HOLD_H

#include <stdbool.h>
#include <stdint.h>

#define KEEPER_VERSION   1u
#define KEEPER_NAME_MAX  48
#define KEEPER_FD_MAX    4096 /* held in all */
#define KEEPER_LASTING   "cover." /* the policy's hooks on kernel sockets begin so, see nicbackend/cover.h */
#define KEEPER_BATCH_MAX 253  /* the kernel's limit of fds in one message */

enum keeper_op {
    KEEPER_HELLO = 1, /* usherd: here I am; grace_ns holds from now on. Answered by FDS until `more` is 0 */
    KEEPER_FDS,       /* keeper: `count` fds with their names */
    KEEPER_PUT,       /* usherd: hold these (a name that is held already is replaced) */
    KEEPER_DROP,      /* usherd: let go of these names */
    KEEPER_BYE,       /* usherd: orderly stop, let go of everything and end */
    KEEPER_BUSY,      /* keeper: another usherd lives */
};

struct keeper_message {
    uint32_t version, op, count, more;
    uint64_t grace_ns;
    char names[KEEPER_BATCH_MAX][KEEPER_NAME_MAX];
};

/* Sends with fds (count of m) or without. 0 or -errno. Waits for room; both sides read promptly. */
int keeper_send(int fd, const struct keeper_message *m, const int *fds);
/* Receives into m; `ret_fds` has room for KEEPER_BATCH_MAX, *ret_fd_count of them were received (all for the caller to
 * close). 1 = a message, 0 = the other side is gone, -errno; a malformed message is -EPROTO. */
int keeper_receive(int fd, struct keeper_message *m, int *ret_fds, uint32_t *ret_fd_count);

struct hold_params {
    const char *path;     /* listens here for successors; NULL = nobody can succeed */
    int first;            /* connection to the usherd that started us, -1 = none; taken */
    uint64_t grace_ns;    /* until the first hello says otherwise */
    char *const *cleanup; /* runs when a grace period ends and something lasts, and may not end us; NULL = nothing */
};

/* Holds until an orderly stop, or until a grace period ends and nothing lasts; then all fds are closed and the path
 * removed. 0, or -errno when it could not begin. */
int hold_run(const struct hold_params *params);

#endif
