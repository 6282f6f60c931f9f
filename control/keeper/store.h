/* SPDX-License-Identifier: Apache-2.0
 *
 * Where usherd puts the fds that must outlive it: systemd's fd store, usher-keeper, or nowhere. The same calls for all.
 *
 * Thread: control.
 */
#ifndef USHER_CONTROL_KEEPER_STORE_H
#define USHER_CONTROL_KEEPER_STORE_H

#include <stddef.h>

#include "control/keeper/hold.h"

struct store;

enum store_kind { STORE_NONE, STORE_SYSTEMD, STORE_KEEPER };

struct store_params {
    enum store_kind kind;
    const char *socket;  /* KEEPER: where it listens */
    const char *program; /* KEEPER: path of usher-keeper */
    uint64_t grace_ns;
    const char *const *cleanup; /* KEEPER: NULL-ended command it becomes at its end; NULL = none */
};

struct store_fd {
    int fd;
    char name[KEEPER_NAME_MAX];
};

/* Finds or starts the store and asks it for what a predecessor left; those fds are the caller's. -EBUSY: another
 * usherd lives there. */
int store_open(const struct store_params *params, struct store **ret_store, struct store_fd *ret_fds, size_t max,
               size_t *ret_count);
/* orderly: everything is let go. Else the store holds on, as after a crash. */
void store_close(struct store *s, bool orderly);
int store_put(struct store *s, const struct store_fd *fds, size_t count);
int store_drop(struct store *s, const char *name);
/* Ends a keeper that no usherd uses any more; nothing when there is none at `socket`. */
void store_finish(const char *socket);
/* Readable or hung up when the keeper died; -1 when there is none to watch. */
int store_watch_fd(const struct store *s);
/* "systemd's fd store", "usher-keeper, pid 17": for reports. */
const char *store_text(const struct store *s);

#endif
