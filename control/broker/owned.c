/* SPDX-License-Identifier: Apache-2.0
 *
 * Whose a session is, which may change: the owner that is stamped on what it opens from now on. Control thread.
 */
#include <errno.h>

#include "control/broker/broker_internal.h"

int connection_owner_read(struct connection *c, struct owner *ret_owner, uint32_t *ret_index) {
    int err = owner_read(c->pid, c->pidfd, ret_owner);
    const struct broker_params *p = &c->broker->params;
    uint32_t index;
    if (err == 0)
        err = owner_intern(p->owners, ret_owner, &index);
    if (err != 0)
        return err;
    err = p->owner_seen != NULL ? p->owner_seen(p->owner_arg, index, ret_owner) : 0;
    if (err != 0) {
        owner_release(p->owners, index);
        return err == -ERANGE ? -ENOSPC : err;
    }
    *ret_index = index;
    return 0;
}

/* Streams are stamped by workers, without asking: those before keep their owner's entry in use. */
bool connection_owner_set(struct connection *c, uint32_t index) {
    struct owner_table *owners = c->broker->params.owners;
    if (index == c->owner || c->owner_count == OWNERS_MAX) {
        owner_release(owners, index);
        return index == c->owner;
    }
    c->owners_before[c->owner_count++] = c->owner;
    c->owner = index;
    session_owner_set(c->session, index);
    return true;
}

bool connection_owner_follow(struct connection *c) {
    struct owner now;
    const struct owner *was = owner_get(c->broker->params.owners, c->owner);
    uint32_t index;
    if (owner_read(c->pid, c->pidfd, &now) != 0)
        return true; /* it ends; so will the session */
    if (was != NULL && owner_same_rights(was, &now))
        return true;
    return connection_owner_read(c, &now, &index) == 0 && connection_owner_set(c, index);
}
