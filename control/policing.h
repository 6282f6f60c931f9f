/* SPDX-License-Identifier: Apache-2.0
 *
 * usherd and its policy: which one is in force, how it is replaced, taken back and found again after a restart. Every
 * policy that comes into force is a revision of control/policy/history.h; the last one that was confirmed is in force
 * before the first interface comes, and every new owner is known to it before its first socket opens. Control thread.
 *
 * A change replaces the whole policy in every shard, between two bursts, before the call returns; a change that fails
 * leaves everything as it was. A change with a time to confirm goes back by itself when nobody confirms it.
 */
#ifndef USHER_CONTROL_POLICING_H
#define USHER_CONTROL_POLICING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct filter_count;
struct history;
struct owner;
struct policing;
struct policy;
struct usherd;

/* 0, or -errno with a sentence. */
int policing_begin(struct usherd *u, char *err, size_t err_size);
void policing_end(struct usherd *u);
/* Interfaces came or went. */
void policing_ports(struct usherd *u);
/* For the broker: an owner was seen, perhaps not for the first time. 0, or -errno: it may not have sockets. */
int policing_owner(void *usherd, uint32_t index, const struct owner *owner);
/* The policy in force, with all owners, into states of the filter engine that do not serve yet: see struct
 * runtime_upgrade.fill. */
int policing_again(void *usherd);
/* Reads the file of the setting `policy` again, and resolves the names of the policy in force anew. */
void policing_reload(struct usherd *u);

struct engine_event;
/* A rule's record of a packet becomes an event of the log. */
void policing_record(const struct usherd *u, const struct engine_event *ev);

/* ---- what is in force ---- */

/* NULL: there is none, everything passes. Valid until the next change. */
const struct policy *policing_policy(const struct policing *p);
uint64_t policing_revision(const struct policing *p); /* 0: there is none */
/* When it goes back by itself, in ns of CLOCK_REALTIME; 0: it stays. */
uint64_t policing_confirm_by(const struct policing *p);
struct history *policing_history(const struct policing *p);
/* What rules or named counters have counted since usherd began: a rule counts on in the next revision that has one of
 * its name. `ret_counts` has as many as the policy. */
int policing_counts(const struct policing *p, bool named, struct filter_count *ret_counts);

/* ---- changes ---- */

struct policing_error {
    char text[256];
};

struct policing_change {
    const char *by, *note;
    bool expects; /* that revision `expected` is in force: -ESTALE when another is */
    uint64_t expected;
    uint64_t confirm_ns; /* goes back by itself after so long; 0 = stays */
    bool partial;        /* also with rules that kernel sockets would not be judged by */
};

/* Takes the policy on success. -ENOTSUP: it has gaps (nb_cover_gaps()) and is not to be partial; -ESTALE; -EBUSY: a
 * change waits to be confirmed; -EFBIG: the filter engine has no room; -EIO and others: it could not be noted on
 * disk. */
int policing_apply(struct policing *p, struct policy *policy, const char *text, size_t size,
                   const struct policing_change *c, uint64_t *ret_revision, struct policing_error *err);
/* The same for a policy that is the one in force but for the members of its sets: these change in place, so that rules
 * count on and limits keep their tokens. It may have as many gaps as that one. *ret_in_place false: there was no room
 * for the members, or a name means something else by now, and the whole was replaced. */
int policing_edit(struct policing *p, struct policy *policy, const char *text, size_t size,
                  const struct policing_change *c, uint64_t *ret_revision, bool *ret_in_place,
                  struct policing_error *err);
/* -ENOENT: nothing waits. `revision` 0 = whichever waits. */
int policing_confirm(struct policing *p, uint64_t revision, struct policing_error *err);
/* Brings an earlier revision back; 0 = the one before, which also ends a wait. -ENOENT: there is none. */
int policing_rollback(struct policing *p, uint64_t revision, const struct policing_change *c, uint64_t *ret_revision,
                      struct policing_error *err);

#endif
