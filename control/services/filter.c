/* SPDX-License-Identifier: Apache-2.0
 *
 * See filter.h.
 */
#include "control/services/filter.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/services/service_internal.h"
#include "usher/control/v1/sessions.pb-c.h"

/* ---- prefixes ---- */

static bool length_parse(const char *text, uint32_t bits, uint32_t *ret_len) {
    char *end;
    if (text[0] < '0' || text[0] > '9')
        return false;
    unsigned long n = strtoul(text, &end, 10);
    if (*end != '\0' || n > bits)
        return false;
    *ret_len = 128 - bits + (uint32_t)n;
    return true;
}

bool filter_prefix_parse(const char *text, struct filter_prefix *ret_prefix) {
    char host[INET6_ADDRSTRLEN];
    uint8_t bytes[16];
    const char *slash = strchr(text, '/');
    size_t n = slash != NULL ? (size_t)(slash - text) : strlen(text);
    *ret_prefix = (struct filter_prefix){.len = 0};
    if (text[0] == '\0')
        return true;
    if (n >= sizeof host)
        return false;
    memcpy(host, text, n);
    host[n] = '\0';
    bool v4 = inet_pton(AF_INET, host, bytes) == 1;
    if (!v4 && inet_pton(AF_INET6, host, bytes) != 1)
        return false;
    ret_prefix->addr = v4 ? ipaddr_from_v4(bytes) : ipaddr_from_v6(bytes);
    ret_prefix->len = 128;
    return slash == NULL || length_parse(slash + 1, v4 ? 32 : 128, &ret_prefix->len);
}

bool filter_prefix_fits(const struct filter_prefix *p, const struct ipaddr *a) {
    uint32_t whole = p->len / 8, rest = p->len % 8;
    if (memcmp(p->addr.b, a->b, whole) != 0)
        return false;
    return rest == 0 || ((p->addr.b[whole] ^ a->b[whole]) & (0xff00u >> rest) & 0xff) == 0;
}

/* ---- from messages ---- */

static enum rpc_code text_read(struct rpc_call *c, const char *text, const char *field, char *ret_text, size_t size) {
    if (strlen(text) >= size)
        return rpc_fail(c, RPC_INVALID_ARGUMENT, "TOO_LONG", field, "%s is longer than any can be; shorten it", field);
    (void)snprintf(ret_text, size, "%s", text);
    return RPC_OK;
}

enum rpc_code filter_session_read(struct rpc_call *c, const void *message, struct filter_session *ret_filter) {
    const PB(SessionFilter) *m = message;
    *ret_filter = (struct filter_session){.session_id = 0};
    if (m == NULL)
        return RPC_OK;
    ret_filter->session_id = m->session_id;
    ret_filter->pid = m->pid;
    ret_filter->by_uid = m->uid_is_case == USHER__CONTROL__V1__SESSION_FILTER__UID_IS_UID;
    ret_filter->uid = ret_filter->by_uid ? m->uid : 0;
    enum rpc_code code = text_read(c, m->comm, "filter.comm", ret_filter->comm, sizeof ret_filter->comm);
    return code != RPC_OK ? code : text_read(c, m->label, "filter.label", ret_filter->label, sizeof ret_filter->label);
}

static enum rpc_code prefix_read(struct rpc_call *c, const char *text, const char *field,
                                 struct filter_prefix *ret_prefix) {
    if (filter_prefix_parse(text, ret_prefix))
        return RPC_OK;
    return rpc_fail(c, RPC_INVALID_ARGUMENT, "NO_PREFIX", field,
                    "\"%.48s\" is no address and no prefix; write it as 10.0.0.1, 10.0.0.0/8 or fd00::/8", text);
}

static enum rpc_code port_read(struct rpc_call *c, uint32_t port, const char *field, uint16_t *ret_port) {
    *ret_port = (uint16_t)port;
    if (port <= UINT16_MAX)
        return RPC_OK;
    return rpc_fail(c, RPC_INVALID_ARGUMENT, "OUT_OF_RANGE", field, "%u is no port; ports end at 65535", port);
}

static enum rpc_code states_read(struct rpc_call *c, const PB(SocketFilter) * m, uint32_t *ret_states) {
    *ret_states = 0;
    for (size_t i = 0; i < m->n_states; i++) {
        int state = (int)m->states[i];
        if (state < 1 || state > USHER__CONTROL__V1__SOCKET_STATE__SOCKET_STATE_CLOSED)
            return rpc_fail(c, RPC_INVALID_ARGUMENT, "STATE_UNKNOWN", "filter.states",
                            "%d is no state of a socket; see SocketState", state);
        *ret_states |= 1u << state;
    }
    return RPC_OK;
}

enum rpc_code filter_socket_read(struct rpc_call *c, const void *message, struct filter_socket *ret_filter) {
    const PB(SocketFilter) *m = message;
    *ret_filter = (struct filter_socket){.proto = 0};
    if (m == NULL)
        return RPC_OK;
    if (m->protocol != 0 && m->protocol != USHER__CONTROL__V1__PROTOCOL__PROTOCOL_TCP &&
        m->protocol != USHER__CONTROL__V1__PROTOCOL__PROTOCOL_UDP &&
        m->protocol != USHER__CONTROL__V1__PROTOCOL__PROTOCOL_FRAME)
        return rpc_fail(c, RPC_INVALID_ARGUMENT, "PROTOCOL_UNKNOWN", "filter.protocol",
                        "%d is no protocol that usherd carries; give 6 (TCP), 17 (UDP) or 255 (frames)",
                        (int)m->protocol);
    ret_filter->proto = (uint8_t)m->protocol; /* the engines' numbers */
    enum rpc_code code = filter_session_read(c, m->session, &ret_filter->session);
    if (code == RPC_OK)
        code = states_read(c, m, &ret_filter->states);
    if (code == RPC_OK)
        code = prefix_read(c, m->local_prefix, "filter.local_prefix", &ret_filter->local);
    if (code == RPC_OK)
        code = prefix_read(c, m->remote_prefix, "filter.remote_prefix", &ret_filter->remote);
    if (code == RPC_OK)
        code = port_read(c, m->local_port, "filter.local_port", &ret_filter->local_port);
    if (code == RPC_OK)
        code = port_read(c, m->remote_port, "filter.remote_port", &ret_filter->remote_port);
    return code;
}

/* ---- fitting ---- */

bool filter_session_fits(const struct filter_session *f, uint64_t id, const char *label, const struct owner *o) {
    if ((f->session_id != 0 && f->session_id != id) || (f->label[0] != '\0' && strcmp(f->label, label) != 0))
        return false;
    if (f->pid == 0 && !f->by_uid && f->comm[0] == '\0')
        return true;
    return o != NULL && (f->pid == 0 || f->pid == o->pid) && (!f->by_uid || f->uid == o->uid) &&
           (f->comm[0] == '\0' || strcmp(f->comm, o->comm) == 0);
}

bool filter_socket_fits(const struct filter_socket *f, const struct session_snap *snap, uint32_t state) {
    const struct flow *flow = &snap->flow;
    return (f->proto == 0 || f->proto == flow->proto) && (f->states == 0 || (f->states >> state & 1)) &&
           (f->local_port == 0 || f->local_port == flow->local_port) &&
           (f->remote_port == 0 || f->remote_port == flow->remote_port) &&
           filter_prefix_fits(&f->local, &flow->local) && filter_prefix_fits(&f->remote, &flow->remote);
}
