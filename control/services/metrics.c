/* SPDX-License-Identifier: Apache-2.0
 *
 * The control service's own families. Labels are names of the .proto files and status codes, all of them bounded; what
 * never happened has no line. Control thread.
 */
#include "control/metrics/exposition.h"
#include "control/services/service_internal.h"

static void write_one(FILE *out, const char *name, enum metric_type type, const char *help, uint64_t value) {
    exposition_family(out, name, type, help);
    exposition_count(out, name, NULL, value);
}

/* service, method, then room for one more. */
static void method_labels(const struct rpc_method_stats *m, struct label labels[4]) {
    labels[0] = (struct label){"service", m->service};
    labels[1] = (struct label){"method", m->method};
    labels[2] = labels[3] = (struct label){NULL, NULL};
}

static void write_calls(FILE *out, const struct rpc_server *rpc) {
    struct rpc_method_stats m;
    struct label labels[4];
    exposition_family(out, "usher_control_calls_total", METRIC_COUNTER,
                      "Calls of the control service that ended, by method and status; both empty: of methods there are "
                      "not.");
    for (uint32_t i = 0; rpc_server_method_stats(rpc, i, &m); i++) {
        method_labels(&m, labels);
        for (uint32_t code = 0; code < RPC_CODE_COUNT; code++) {
            labels[2] = (struct label){"code", rpc_code_text(code)};
            if (m.ended[code] > 0)
                exposition_count(out, "usher_control_calls_total", labels, m.ended[code]);
        }
    }
    exposition_family(out, "usher_control_streams", METRIC_GAUGE, "Streams of the control service that are open.");
    for (uint32_t i = 1; rpc_server_method_stats(rpc, i, &m); i++) {
        method_labels(&m, labels);
        if (m.is_stream)
            exposition_count(out, "usher_control_streams", labels, m.streams);
    }
}

void service_metrics_write(const struct service *s, FILE *out) {
    struct rpc_stats st;
    rpc_server_stats(s->rpc, &st);
    write_calls(out, s->rpc);
    write_one(out, "usher_control_calls", METRIC_GAUGE, "Calls and streams under way.", st.calls_now);
    write_one(out, "usher_control_connections", METRIC_GAUGE, "Connections of operators.", st.connections_now);
    write_one(out, "usher_control_connections_total", METRIC_COUNTER, "Connections that were accepted.",
              st.connections);
    exposition_family(out, "usher_control_refused_total", METRIC_COUNTER,
                      "What was refused: connections without a role or beyond limits, calls that the role does not "
                      "allow, calls beyond limits, requests that cannot be read.");
    const struct {
        const char *what;
        uint64_t count;
    } refused[] = {{"connection", st.refused_connections},
                   {"role", st.denied_calls},
                   {"limit", st.limited_calls},
                   {"malformed", st.malformed_requests}};
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        const struct label labels[] = {{"what", refused[i].what}, {NULL, NULL}};
        exposition_count(out, "usher_control_refused_total", labels, refused[i].count);
    }
    write_one(out, "usher_control_sent_bytes_total", METRIC_COUNTER, "Bytes of answers.", st.bytes_sent);
    write_one(out, "usher_control_core_running", METRIC_GAUGE, "1 while the gRPC core runs.", st.core_running);
}
