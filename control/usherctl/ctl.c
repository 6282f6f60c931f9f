/* SPDX-License-Identifier: Apache-2.0
 *
 * What all commands share: calls, faults, JSON. See ctl.h.
 */
#include "control/usherctl/ctl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

#include "control/usherctl/json.h"

static int connected(struct ctl *c) {
    return c->client != NULL ? 0 : client_open(&c->params, &c->client, &c->fault);
}

void *ctl_call(struct ctl *c, struct client_method m, const void *request) {
    ProtobufCMessage *answer;
    if (connected(c) != 0 || client_call(c->client, &m, request, &answer, &c->fault) != 0)
        return NULL;
    return answer;
}

void ctl_free(void *answer) {
    if (answer != NULL)
        protobuf_c_message_free_unpacked(answer, NULL);
}

int ctl_stream(struct ctl *c, struct client_method m, const void *request, bool endless, client_stream_fn *fn,
               void *arg) {
    if (connected(c) != 0)
        return -1;
    return client_stream(c->client, &m, request, endless, fn, arg, &c->fault);
}

int ctl_usage(struct ctl *c, const char *fmt, ...) {
    va_list args;
    char text[256];
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    fault_set(&c->fault, EXIT_USAGE, "%s", text);
    (void)snprintf(c->fault.hint, sizeof c->fault.hint, "see `usherctl %s%s--help`",
                   c->command != NULL ? c->command->name : "", c->command != NULL ? " " : "");
    return -1;
}

bool ctl_number(struct ctl *c, const char *text, const char *what, uint64_t max, uint64_t *ret_number) {
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || n > max) {
        (void)ctl_usage(c, "%s is no %s", text, what);
        return false;
    }
    *ret_number = n;
    return true;
}

void ctl_json(const struct ctl *c, const void *message) {
    json_write(c->screen.out, message, c->watch_ns == 0);
    (void)fflush(c->screen.out);
}

uint64_t ctl_now_unix_ns(void) {
    struct timespec ts;
    (void)clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}
