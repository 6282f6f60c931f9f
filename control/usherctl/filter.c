/* SPDX-License-Identifier: Apache-2.0
 *
 * See filter.h.
 */
#include "control/usherctl/filter.h"

#include <ctype.h>
#include <pwd.h>
#include <string.h>

#define SESSION_OPTIONS                                                                                                \
    {"pid", 'p', "PID", NULL, "only of this process", NULL},                                                           \
        {"user", 'u', "USER", NULL, "only of this user (name or uid)", NULL},                                          \
        {"program", 'P', "NAME", NULL, "only of programs of this name", NULL},                                         \
        {"label", 0, "LABEL", NULL, "only of sessions with this label", NULL}, {                                       \
        "session", 's', "ID", NULL, "only of this session", NULL                                                       \
    }

#define STATES                                                                                                         \
    "unconnected listen syn-sent syn-received established fin-wait-1 fin-wait-2 close-wait closing last-ack "          \
    "time-wait closed"

/* In the order of the enums in filter.h. */
const struct option_def session_options[] = {SESSION_OPTIONS, {.name = NULL}};
const struct option_def socket_options[] = {
    SESSION_OPTIONS,
    {"tcp", 't', NULL, NULL, "only TCP", NULL},
    {"udp", 'U', NULL, NULL, "only UDP", NULL},
    {"listening", 'l', NULL, NULL, "only TCP sockets that listen", NULL},
    {"state", 0, "STATE[,STATE]", STATES, "only in these states", NULL},
    {"local", 0, "PREFIX", NULL, "only with a local address in this prefix (10.0.0.0/8, fd00::1)", NULL},
    {"peer", 0, "PREFIX", NULL, "only with a peer in this prefix", NULL},
    {"port", 0, "PORT", NULL, "only with this local port", NULL},
    {"peer-port", 0, "PORT", NULL, "only with this port of the peer", NULL},
    {"limit", 'n', "N", NULL, "at most so many", NULL},
    {.name = NULL}};

static bool number_given(struct ctl *c, const char *text, const char *what, uint64_t max, uint32_t *ret) {
    uint64_t n;
    if (text == NULL)
        return true;
    if (!ctl_number(c, text, what, max, &n))
        return false;
    *ret = (uint32_t)n;
    return true;
}

static char *text_given(const char *text) {
    return (char *)(uintptr_t)(text != NULL ? text : "");
}

static int user_given(struct ctl *c, const char *text, PB(SessionFilter) * ret) {
    uint64_t uid;
    if (text == NULL)
        return 0;
    const struct passwd *p = isdigit((unsigned char)text[0]) ? NULL : getpwnam(text);
    if (p != NULL)
        uid = p->pw_uid;
    else if (!ctl_number(c, text, "user of this host, and no uid", UINT32_MAX, &uid))
        return -1;
    ret->uid_is_case = USHER__CONTROL__V1__SESSION_FILTER__UID_IS_UID;
    ret->uid = (uint32_t)uid;
    return 0;
}

int filter_session(struct ctl *c, size_t first, PB(SessionFilter) * ret) {
    const char *const *given = c->given.second + first;
    uint64_t session = 0;
    if (!number_given(c, given[FILTER_PID], "process id", INT32_MAX, &ret->pid) ||
        user_given(c, given[FILTER_UID], ret) != 0)
        return -1;
    if (given[FILTER_SESSION] != NULL && !ctl_number(c, given[FILTER_SESSION], "session id", UINT64_MAX, &session))
        return -1;
    ret->session_id = session;
    ret->comm = text_given(given[FILTER_COMM]);
    ret->label = text_given(given[FILTER_LABEL]);
    return 0;
}

static bool state_named(const char *word, size_t n, PB(SocketState) * ret) {
    char name[48] = "SOCKET_STATE_";
    size_t at = strlen(name);
    if (n + at >= sizeof name)
        return false;
    for (size_t i = 0; i < n; i++)
        name[at + i] = word[i] == '-' ? '_' : (char)toupper((unsigned char)word[i]);
    name[at + n] = '\0';
    const ProtobufCEnumValue *v =
        protobuf_c_enum_descriptor_get_value_by_name(&usher__control__v1__socket_state__descriptor, name);
    if (v == NULL || v->value == 0)
        return false;
    *ret = (PB(SocketState))v->value;
    return true;
}

static int states_given(struct ctl *c, const char *text, struct socket_request *ret) {
    while (text != NULL && *text != '\0') {
        size_t n = strcspn(text, ",");
        if (ret->filter.n_states == SOCKET_STATE_MAX || !state_named(text, n, &ret->states[ret->filter.n_states]))
            return ctl_usage(c, "%.*s is no state; those are: " STATES, (int)n, text);
        ret->filter.n_states++;
        text += n + (text[n] == ',');
    }
    return 0;
}

int filter_sockets(struct ctl *c, struct socket_request *ret) {
    const char *const *given = c->given.second;
    usher__control__v1__list_sockets_request__init(&ret->list);
    usher__control__v1__socket_filter__init(&ret->filter);
    usher__control__v1__session_filter__init(&ret->session);
    ret->list.filter = &ret->filter;
    ret->filter.session = &ret->session;
    ret->filter.states = ret->states;
    if (filter_session(c, SESSION_OPTIONS_AT, &ret->session) != 0 ||
        states_given(c, given[FILTER_LISTENING] != NULL ? "listen" : given[FILTER_STATE], ret) != 0 ||
        !number_given(c, given[FILTER_PORT], "port", 65535, &ret->filter.local_port) ||
        !number_given(c, given[FILTER_PEER_PORT], "port", 65535, &ret->filter.remote_port) ||
        !number_given(c, given[FILTER_LIMIT], "number", UINT32_MAX, &ret->list.limit))
        return -1;
    bool tcp = given[FILTER_TCP] != NULL, udp = given[FILTER_UDP] != NULL;
    if (tcp != udp)
        ret->filter.protocol =
            tcp ? USHER__CONTROL__V1__PROTOCOL__PROTOCOL_TCP : USHER__CONTROL__V1__PROTOCOL__PROTOCOL_UDP;
    ret->filter.local_prefix = text_given(given[FILTER_LOCAL]);
    ret->filter.remote_prefix = text_given(given[FILTER_PEER]);
    return 0;
}
