/* SPDX-License-Identifier: Apache-2.0
 *
 * The lists, and how a field becomes a cell. A test sees to it that every path names a field.
 */
#include "control/usherctl/lists.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "control/usherctl/ctl.h"
#include "control/usherctl/reflect.h"
#include "control/usherctl/text.h"

#define CELL_SIZE 1024

/* clang-format off */
#define L(title, rank) {title, false, rank, 0}
#define R(title, rank) {title, true, rank, 0}
#define FLEX(title, rank, min) {title, false, rank, min}

static const struct list_column worker_columns[] = {
    {R("WORKER", 0), "worker", SHOW_NUMBER},     {R("CORE", 0), "cpu", SHOW_CORE},
    {L("RUNS", 0), "running", SHOW_YES},         {L("SHARDS", 0), "shards", SHOW_LIST},
    {R("BUSY", 0), "busy_ns", SHOW_NS},          {R("SPIN", 0), "spin_ns", SHOW_NS},
    {R("P99 DELAY", 0), "delay_p99_ns", SHOW_NS}, {R("TURNS", 0), "turns", SHOW_COUNT},
    {R("BUSY TURNS", 1), "busy_turns", SHOW_COUNT}, {R("SLEEPS", 2), "sleeps", SHOW_COUNT},
    {R("WAKES", 3), "wakes", SHOW_COUNT},        {R("KICKS", 2), "kicks", SHOW_COUNT},
};
static const struct list_column shard_columns[] = {
    {R("SHARD", 0), "shard", SHOW_NUMBER},       {R("WORKER", 0), "worker", SHOW_NUMBER},
    {R("SESSIONS", 0), "sessions", SHOW_NUMBER}, {R("RX", 0), "rx_packets", SHOW_COUNT},
    {R("TX", 0), "tx_packets", SHOW_COUNT},      {R("LOCAL", 1), "local_packets", SHOW_COUNT},
    {R("TO PROG", 0), "to_session_packets", SHOW_COUNT}, {R("FROM PROG", 0), "from_session_packets", SHOW_COUNT},
    {R("CROSSED", 2), "cross_shard_packets", SHOW_COUNT}, {R("DROPPED", 0), "dropped_packets", SHOW_ALARM},
    {R("FREE 2K", 2), "small_buffers_free", SHOW_NUMBER}, {R("FREE 68K", 2), "large_buffers_free", SHOW_NUMBER},
};
static const struct list_column port_columns[] = {
    {L("INTERFACE", 0), "name", SHOW_TEXT},      {L("LINK", 0), "up", SHOW_UP},
    {L("KIND", 0), "kind", SHOW_TEXT},           {R("MTU", 2), "mtu", SHOW_NUMBER},
    {R("QUEUES", 2), "queues", SHOW_SIZE},       {L("MAC", 4), "mac", SHOW_TEXT},
    {FLEX("MODE", 0, 28), "mode", SHOW_TEXT},    {FLEX("WHY", 3, 30), "why", SHOW_TEXT},
};
static const struct list_column engine_columns[] = {
    {L("ENGINE", 0), "name", SHOW_TEXT},         {L("STAGE", 0), "stage", SHOW_WORD},
    {R("PROTOCOL", 1), "protocol", SHOW_NUMBER}, {R("ABI", 2), "abi", SHOW_NUMBER},
    {R("LAYOUT", 2), "layout_version", SHOW_NUMBER}, {R("STATE", 0), "state_bytes", SHOW_BYTES},
    {R("COUNTERS", 1), "counters", SHOW_SIZE},
};
static const struct list_column engine_counter_columns[] = {
    {L("COUNTER", 0), "name", SHOW_TEXT},        {R("VALUE", 0), "value", SHOW_NUMBER},
    {FLEX("MEANING", 1, 20), "help", SHOW_TEXT},
};
static const struct list_column session_columns[] = {
    {R("SESSION", 0), "session_id", SHOW_NUMBER}, {FLEX("PROGRAM", 0, 12), "owner", SHOW_OWNER},
    {R("UID", 0), "owner.uid", SHOW_NUMBER},     {FLEX("LABEL", 1, 8), "label", SHOW_TEXT},
    {R("SOCKETS", 0), "sockets", SHOW_NUMBER},   {R("AGE", 0), "attached_unix_ns", SHOW_AGE},
    {L("SHARDS", 2), "shards", SHOW_LIST},       {R("SEND MEM", 2), "tx_bytes", SHOW_BYTES},
    {R("RECV MEM", 2), "rx_bytes", SHOW_BYTES},  {FLEX("PATH", 3, 16), "owner.exe", SHOW_TEXT},
};
static const struct list_column socket_columns[] = {
    {L("PROTO", 0), "protocol", SHOW_WORD},      {L("STATE", 0), "state", SHOW_WORD},
    {FLEX("LOCAL", 0, 21), "local", SHOW_ENDPOINT}, {FLEX("PEER", 0, 21), "remote", SHOW_ENDPOINT},
    {FLEX("PROGRAM", 0, 12), "owner", SHOW_OWNER}, {R("RX", 1), "rx_bytes", SHOW_BYTES},
    {R("TX", 1), "tx_bytes", SHOW_BYTES},        {R("RECVQ", 2), "rx_queued_bytes", SHOW_BYTES},
    {R("SENDQ", 2), "tx_queued_bytes", SHOW_BYTES}, {R("DROPS", 3), "rx_dropped", SHOW_ALARM},
    {R("RTT", 2), "tcp.rtt_us", SHOW_US},        {R("RETR", 3), "tcp.retransmits", SHOW_ALARM},
    {R("SHARD", 4), "shard", SHOW_NUMBER},       {R("SESSION", 3), "session_id", SHOW_NUMBER},
    {R("HANDLE", 3), "handle", SHOW_NUMBER},     {FLEX("HOW", 4, 8), "how", SHOW_TEXT},
};
static const struct list_column refusal_columns[] = {
    {R("AGO", 0), "time_unix_ns", SHOW_AGE},     {FLEX("PROGRAM", 0, 12), "owner", SHOW_OWNER},
    {L("PROTO", 0), "protocol", SHOW_WORD},      {FLEX("LOCAL", 0, 21), "local", SHOW_ENDPOINT},
    {FLEX("PEER", 2, 21), "remote", SHOW_ENDPOINT}, {R("TIMES", 1), "count", SHOW_NUMBER},
    {FLEX("WHY IT STAYED WITH THE KERNEL", 0, 36), "reason", SHOW_TEXT},
};
static const struct list_column counter_columns[] = {
    {L("COUNTER", 0), "name", SHOW_TEXT},        {R("VALUE", 0), "value", SHOW_NUMBER},
    {FLEX("MEANING", 1, 20), "help", SHOW_TEXT},
};

#define COLUMNS(table) table, sizeof table / sizeof table[0]
const struct list list_workers = {"workers", &usher__control__v1__worker__descriptor, "no workers",
                                  COLUMNS(worker_columns)};
const struct list list_shards = {"shards", &usher__control__v1__shard__descriptor, "no shards",
                                 COLUMNS(shard_columns)};
const struct list list_ports = {"ports", &usher__control__v1__port__descriptor,
                                "no interface is run: `usherctl events --history 50` and `usherctl config` tell why",
                                COLUMNS(port_columns)};
const struct list list_engines = {"engines", &usher__control__v1__engine__descriptor, "no engines",
                                  COLUMNS(engine_columns)};
const struct list list_engine_counters = {"counters", &usher__control__v1__counter__descriptor, "it counts nothing",
                                          COLUMNS(engine_counter_columns)};
const struct list list_sessions = {"sessions", &usher__control__v1__session__descriptor, "no program is attached",
                                   COLUMNS(session_columns)};
const struct list list_sockets = {"sockets", &usher__control__v1__socket__descriptor,
                                  "no such socket is carried by usherd; `usherctl refusals` tells which stayed with "
                                  "the kernel, and why", COLUMNS(socket_columns)};
const struct list list_refusals = {"refusals", &usher__control__v1__refusal__descriptor,
                                   "no socket was refused", COLUMNS(refusal_columns)};
const struct list list_counters = {"counters", &usher__control__v1__named_counter__descriptor,
                                   "none of these counters has counted anything", COLUMNS(counter_columns)};
/* clang-format on */

/* ---- a field as a cell ---- */

static void endpoint_text(const ProtobufCMessage *m, const char *path, char *ret, size_t size) {
    char name[64];
    struct value address, port;
    (void)snprintf(name, sizeof name, "%s_address", path);
    bool found = reflect_find(m, name, &address);
    (void)snprintf(name, sizeof name, "%s_port", path);
    found = found && reflect_find(m, name, &port);
    const char *text = found ? reflect_text(&address, 0) : "";
    uint64_t number = found ? reflect_number(&port, 0) : 0;
    if (text[0] == '\0')
        (void)snprintf(ret, size, "*:*");
    else
        (void)snprintf(ret, size, strchr(text, ':') != NULL ? "[%s]:%" PRIu64 : "%s:%" PRIu64, text, number);
}

static void owner_text(const struct value *v, char *ret, size_t size) {
    ret[0] = '\0';
    if (v->count == 0)
        return;
    const PB(Owner) *o = (const PB(Owner) *)reflect_message(v, 0);
    (void)snprintf(ret, size, "%s/%u", o->comm != NULL ? o->comm : "", o->pid);
}

static void values_text(const struct value *v, char *ret, size_t size) {
    size_t used = 0;
    ret[0] = '\0';
    for (size_t i = 0; i < v->count && used < size; i++) {
        const char *comma = i > 0 ? "," : "";
        int n = v->field->type == PROTOBUF_C_TYPE_STRING
                    ? snprintf(ret + used, size - used, "%s%s", comma, reflect_text(v, i))
                    : snprintf(ret + used, size - used, "%s%" PRIu64, comma, reflect_number(v, i));
        used += (size_t)n;
    }
}

static void number_text(uint64_t n, enum show show, uint64_t now, char *ret, size_t size) {
    char text[TEXT_NUMBER_MAX] = "";
    switch (show) {
    case SHOW_COUNT:
    case SHOW_ALARM:
        text_count(n, text);
        break;
    case SHOW_BYTES:
        text_bytes(n, text);
        break;
    case SHOW_NS:
        text_duration(n, text);
        break;
    case SHOW_US:
        if (n > 0) /* 0: none was measured */
            text_duration(n * 1000, text);
        break;
    case SHOW_AGE:
        text_duration(now > n ? now - n : 0, text);
        break;
    default:
        (void)snprintf(text, sizeof text, "%" PRIu64, n);
    }
    (void)snprintf(ret, size, "%s", text);
}

void list_cell_text(const ProtobufCMessage *m, const char *path, enum show show, uint64_t now_unix_ns, char *ret,
                    size_t size) {
    struct value v;
    ret[0] = '\0';
    if (show == SHOW_ENDPOINT) {
        endpoint_text(m, path, ret, size);
        return;
    }
    if (!reflect_find(m, path, &v) || (v.count == 0 && show != SHOW_SIZE))
        return;
    if (show == SHOW_TEXT)
        (void)snprintf(ret, size, "%s", reflect_text(&v, 0));
    else if (show == SHOW_OWNER)
        owner_text(&v, ret, size);
    else if (show == SHOW_LIST)
        values_text(&v, ret, size);
    else if (show == SHOW_SIZE)
        (void)snprintf(ret, size, "%zu", v.count);
    else if (show == SHOW_WORD)
        reflect_enum_word(&v, 0, ret);
    else if (show == SHOW_YES || show == SHOW_UP)
        (void)snprintf(ret, size, "%s",
                       reflect_number(&v, 0) != 0 ? (show == SHOW_UP ? "up" : "yes")
                       : show == SHOW_UP          ? "down"
                                                  : "no");
    else if (show == SHOW_CORE && (int64_t)reflect_number(&v, 0) < 0)
        (void)snprintf(ret, size, "-");
    else
        number_text(reflect_number(&v, 0), show, now_unix_ns, ret, size);
}

static enum tone cell_tone(enum show show, const char *text) {
    if (show == SHOW_UP)
        return strcmp(text, "up") == 0 ? TONE_GOOD : TONE_BAD;
    return show == SHOW_ALARM && strcmp(text, "0") != 0 && text[0] != '\0' ? TONE_WARN : TONE_PLAIN;
}

/* ---- a list ---- */

struct list_view {
    const struct list *list;
    struct table_column heads[TABLE_COLUMN_MAX];
    struct table *table;
    uint64_t now_unix_ns;
    size_t rows;
};

struct list_view *list_begin(const struct list *l, uint64_t now_unix_ns) {
    struct list_view *v = calloc(1, sizeof *v);
    if (v == NULL)
        return NULL;
    v->list = l;
    v->now_unix_ns = now_unix_ns;
    for (size_t i = 0; i < l->column_count; i++)
        v->heads[i] = l->columns[i].head;
    v->table = table_create(v->heads, l->column_count);
    if (v->table == NULL) {
        free(v);
        return NULL;
    }
    return v;
}

void list_add(struct list_view *v, const ProtobufCMessage *answer) {
    struct value rows;
    char text[CELL_SIZE];
    if (!reflect_find(answer, v->list->rows, &rows))
        return;
    for (size_t i = 0; i < rows.count; i++) {
        const ProtobufCMessage *m = reflect_message(&rows, i);
        for (size_t c = 0; c < v->list->column_count; c++) {
            const struct list_column *col = &v->list->columns[c];
            list_cell_text(m, col->path, col->show, v->now_unix_ns, text, sizeof text);
            table_cell(v->table, text, cell_tone(col->show, text));
        }
    }
    v->rows += rows.count;
}

void list_end(struct list_view *v, const struct screen *s) {
    if (v->rows > 0)
        table_print(v->table, s);
    else if (s->headers)
        (void)fprintf(s->out, "%s%s%s\n", tone_on(s, TONE_DIM), v->list->empty, tone_off(s, TONE_DIM));
    table_destroy(v->table);
    free(v);
}

void list_print(const struct list *l, const ProtobufCMessage *answer, uint64_t now_unix_ns, const struct screen *s) {
    struct list_view *v = list_begin(l, now_unix_ns);
    if (v == NULL)
        return;
    list_add(v, answer);
    list_end(v, s);
}
