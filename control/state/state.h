/* SPDX-License-Identifier: Apache-2.0
 *
 * The state file: names of things that stay in the kernel after usherd's fds are closed. One file per network namespace
 * in state_dir; a lock on it says that an usherd runs there. A line is on disk before the thing it names is made, so
 * a crash leaves at most a line too many, and undoing what is not there is no error.
 *
 * Thread: control.
 */
#ifndef USHER_CONTROL_STATE_STATE_H
#define USHER_CONTROL_STATE_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct state_file;

/* How to undo what a dead usherd noted; 0 = it was there and is gone. */
struct state_undo {
    int (*qdisc)(uint32_t ifindex);                          /* nb_cleanup_qdisc() in the daemon */
    int (*reserved)(const char *before, const char *after); /* reserved_undo() in the daemon */
};

/* Opens and locks the file of this namespace (made when missing) and undoes what a dead predecessor left. -EBUSY: an
 * usherd runs in this namespace. *ret_undone: how many things were undone. */
int state_open(const char *dir, uint64_t netns_cookie, const struct state_undo *undo, struct state_file **ret_state,
               uint32_t *ret_undone);
/* Unlocks; removes the file when nothing is noted. */
void state_close(struct state_file *s);

/* A clsact qdisc is about to be made on this interface. -errno: it is not on disk, so do not make it. */
int state_qdisc_note(struct state_file *s, uint32_t ifindex);
/* It is gone, or was not made after all. */
void state_qdisc_forget(struct state_file *s, uint32_t ifindex);

/* The kernel's list of reserved ports is about to become `after`. -errno: it is not on disk, so leave it alone. */
int state_reserved_note(struct state_file *s, const char *before, const char *after);
/* The list is as it was. */
void state_reserved_forget(struct state_file *s);
/* What is noted; false: nothing. Valid until the next change. */
bool state_reserved(const struct state_file *s, const char **ret_before, const char **ret_after);

#endif
