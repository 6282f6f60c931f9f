/* SPDX-License-Identifier: Apache-2.0
 *
 * The audit record of a change. Journal fields, besides USHER_EVENT=audit: USHER_AUDIT_WHO, _ROLE, _FROM (uid and
 * pid, or the peer's address), _METHOD, _TARGET, _BEFORE, _AFTER, _RESULT ("OK" or the error). Thread: control.
 */
#ifndef USHER_CONTROL_AUDIT_AUDIT_H
#define USHER_CONTROL_AUDIT_AUDIT_H

struct rpc_audit_record;

/* As struct rpc_params wants it; arg is not used. */
void audit_write(void *arg, const struct rpc_audit_record *r);

#endif
