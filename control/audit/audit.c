/* SPDX-License-Identifier: Apache-2.0
 *
 * See audit.h. Every text may hold a caller's bytes (its certificate's name, what it asked for): control characters are
 * taken out, so that a record is one line and its fields are what they say.
 */
#include "control/audit/audit.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "control/log.h"
#include "control/rpc/rpc.h"

static void clean(char *text) {
    for (; *text != '\0'; text++) {
        if (iscntrl((unsigned char)*text))
            *text = '?';
    }
}

struct text {
    char bytes[320];
};

static struct text cleaned(const char *text) {
    struct text t;
    (void)snprintf(t.bytes, sizeof t.bytes, "%s", text);
    clean(t.bytes);
    return t;
}

static struct text from_of(const struct rpc_caller *c) {
    struct text t;
    if (c->tls)
        (void)snprintf(t.bytes, sizeof t.bytes, "tls %s", c->address);
    else
        (void)snprintf(t.bytes, sizeof t.bytes, "unix uid %u pid %u", c->uid, c->pid);
    return t;
}

static struct text result_of(const struct rpc_audit_record *r) {
    struct text t;
    if (r->code == RPC_OK)
        (void)snprintf(t.bytes, sizeof t.bytes, "OK");
    else
        (void)snprintf(t.bytes, sizeof t.bytes, "refused (%d): %s", (int)r->code, r->text);
    clean(t.bytes);
    return t;
}

void audit_write(void *arg, const struct rpc_audit_record *r) {
    struct text who = cleaned(r->caller->name), from = from_of(r->caller), target = cleaned(r->target),
                before = cleaned(r->before), after = cleaned(r->after), result = result_of(r);
    (void)arg;
    const struct log_field fields[] = {
        {"USHER_AUDIT_WHO", who.bytes},       {"USHER_AUDIT_ROLE", rpc_role_text(r->caller->role)},
        {"USHER_AUDIT_FROM", from.bytes},     {"USHER_AUDIT_METHOD", r->method},
        {"USHER_AUDIT_TARGET", target.bytes}, {"USHER_AUDIT_BEFORE", before.bytes},
        {"USHER_AUDIT_AFTER", after.bytes},   {"USHER_AUDIT_RESULT", result.bytes},
    };
    log_fields(LOG_LEVEL_INFO, "audit", fields, sizeof fields / sizeof fields[0],
               "%s (%s, %s) called %s: %s: before \"%s\", after \"%s\": %s", who.bytes, rpc_role_text(r->caller->role),
               from.bytes, r->method, target.bytes, before.bytes, after.bytes, result.bytes);
}
