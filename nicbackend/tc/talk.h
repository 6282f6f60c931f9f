/* SPDX-License-Identifier: Apache-2.0
 *
 * One exchange with rtnetlink: a request, what comes back, and the kernel's own words when it refuses. Control thread.
 */
#ifndef USHER_NICBACKEND_TC_TALK_H
#define USHER_NICBACKEND_TC_TALK_H

#include <netlink/msg.h>
#include <netlink/socket.h>

#include "nicbackend/error.h"

struct nb_talk;

int nb_talk_open(struct nb_talk **ret_talk, struct nb_error *err);
void nb_talk_close(struct nb_talk *t);

typedef void (*nb_talk_fn)(void *arg, const struct nlmsghdr *answer);

/* Sends `request` and frees it; NULL is -ENOMEM. `fn` (or NULL) gets every answer but the acknowledgement. 0, or the
 * kernel's -errno with "`what`: its words", or -ETIMEDOUT when it does not answer for five seconds. */
int nb_talk(struct nb_talk *t, struct nl_msg *request, const char *what, nb_talk_fn fn, void *arg,
            struct nb_error *err);

#endif
