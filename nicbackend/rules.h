/* SPDX-License-Identifier: Apache-2.0
 *
 * The `xdp` backend: a NIC made of BPF, on every machine. One table of rules for an interface, and the hooks that judge
 * by it: XDP (native or generic), tc ingress, and the filter of a packet socket. A change of rules is a change of map
 * entries; no program is loaded. The rules are gone when the last hook is: it fails open, to software.
 *
 * Thread: control only. Every call returns 0 or -errno and fills `err` with a sentence for people.
 */
#ifndef USHER_NICBACKEND_RULES_H
#define USHER_NICBACKEND_RULES_H

#include "nicbackend/backend.h"

struct nb_rules;

int nb_rules_create(struct nb_rules **ret_rules, struct nb_error *err);
/* For nb_store_create(); its destroy() is nb_rules_destroy(). */
struct nb_backend *nb_rules_backend(struct nb_rules *r);
void nb_rules_destroy(struct nb_rules *r);

enum nb_rules_hook { NB_RULES_XDP_NATIVE, NB_RULES_XDP_GENERIC, NB_RULES_TC, NB_RULES_HOOK_COUNT };

/* -EBUSY when another XDP program is there; -EOPNOTSUPP when the driver cannot; -EEXIST when this hook is ours. */
int nb_rules_attach(struct nb_rules *r, uint32_t ifindex, enum nb_rules_hook hook, struct nb_error *err);
void nb_rules_detach(struct nb_rules *r, enum nb_rules_hook hook);
/* "native XDP link", "tcx link", "clsact filter"; NULL when the hook is not attached. Static text. */
const char *nb_rules_mode(const struct nb_rules *r, enum nb_rules_hook hook);
/* A socket filter that drops by the rules, then asks `next_fd`, the same socket filter at every call. It counts
 * nothing: the packet meets the tc hook as well. The caller's to close; when `r` has gone it takes nothing any more. */
int nb_rules_filter(struct nb_rules *r, int next_fd, int *ret_prog_fd, struct nb_error *err);
/* The filters of packet sockets on this interface (nb_attach_socket_filter) are to ask the rules first; NULL: no more.
 * Borrows `r` until then. -ENOSPC. */
struct nb_claims;
int nb_rules_before_claims(struct nb_rules *r, struct nb_claims *claims, uint32_t ifindex);
/* For tests and benches: a program of the table that is attached nowhere. The caller's to close. */
int nb_rules_program(struct nb_rules *r, const char *name, int *ret_prog_fd, struct nb_error *err);

#endif
