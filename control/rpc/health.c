/* SPDX-License-Identifier: Apache-2.0
 *
 * grpc.health.v1: service "" is usherd as a whole, the others are those of the table. Control thread.
 */
#include <stdio.h>
#include <string.h>

#include "control/rpc/rpc_internal.h"
#include "grpc/health/v1/health.pb-c.h"

typedef Grpc__Health__V1__HealthCheckRequest request_t;

enum {
    SERVING = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING,
    NOT_SERVING = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING,
    SERVICE_UNKNOWN = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN
};

static int status_of(const struct rpc_server *s, const char *service) {
    if (service[0] == '\0')
        return s->serving ? SERVING : NOT_SERVING;
    for (size_t i = 0; i < s->service_count; i++) {
        if (strcmp(s->services[i].name, service) == 0)
            return SERVING;
    }
    return SERVICE_UNKNOWN;
}

static void answer(struct rpc_call *c, int status) {
    Grpc__Health__V1__HealthCheckResponse r = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    r.status = (Grpc__Health__V1__HealthCheckResponse__ServingStatus)status;
    rpc_answer(c, &r.base);
}

static enum rpc_code check(struct rpc_call *c, void *arg, const void *request) {
    const request_t *r = request;
    (void)arg;
    int status = status_of(c->server, r->service);
    if (status == SERVICE_UNKNOWN)
        return rpc_fail(c, RPC_NOT_FOUND, "SERVICE_UNKNOWN", "service", "usherd has no service %.128s", r->service);
    answer(c, status);
    return RPC_OK;
}

struct watch {
    char service[128];
    int told; /* 0 = nothing yet */
};

static enum rpc_code watch_open(struct rpc_call *c, void *arg, const void *request, void *state) {
    const request_t *r = request;
    struct watch *w = state;
    (void)c;
    (void)arg;
    (void)snprintf(w->service, sizeof w->service, "%s", r->service);
    return RPC_OK;
}

static enum rpc_next watch_next(struct rpc_call *c, void *arg, void *state) {
    struct watch *w = state;
    int status = status_of(c->server, w->service);
    (void)arg;
    if (status == w->told)
        return RPC_NEXT_WAIT;
    w->told = status;
    answer(c, status);
    return RPC_NEXT_SENT;
}

const struct rpc_method rpc_health_methods[] = {
    {.name = "Check",
     .request = &grpc__health__v1__health_check_request__descriptor,
     .role = RPC_ROLE_VIEWER,
     .unary = check},
    {.name = "Watch",
     .request = &grpc__health__v1__health_check_request__descriptor,
     .role = RPC_ROLE_VIEWER,
     .open = watch_open,
     .next = watch_next,
     .state_size = sizeof(struct watch)},
};
const size_t rpc_health_method_count = sizeof rpc_health_methods / sizeof rpc_health_methods[0];
