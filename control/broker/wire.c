/* SPDX-License-Identifier: Apache-2.0
 *
 * protobuf-c is generous: it accepts texts with NUL bytes, keeps unknown fields at 44 times their size and has no limit
 * on memory. So a walk over the raw bytes comes first, and unpacking takes its memory from a small block on the stack:
 * a message that wants more is refused.
 */
#include "control/broker/wire.h"

#include <errno.h>
#include <string.h>

#include "usher/session/v1/session.pb-c.h"

#define FIELD_COUNT_MAX 64
#define DEPTH_MAX       2 /* Request, its body */
#define UNPACK_MEMORY   4096

struct scratch {
    size_t used;
    _Alignas(16) uint8_t bytes[UNPACK_MEMORY];
};

static void *scratch_alloc(void *data, size_t size) {
    struct scratch *s = data;
    size = (size + 15) & ~(size_t)15;
    if (size > sizeof s->bytes - s->used)
        return NULL;
    void *p = s->bytes + s->used;
    s->used += size;
    return p;
}

static void scratch_free(void *data, void *p) {
    (void)data;
    (void)p;
}

struct cursor {
    const uint8_t *at, *end;
    uint32_t fields; /* still allowed, over all levels */
};

static bool varint(struct cursor *c, uint64_t *ret_value) {
    uint64_t v = 0;
    for (uint32_t shift = 0; shift < 64; shift += 7) {
        if (c->at == c->end)
            return false;
        uint8_t b = *c->at++;
        v |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80) {
            *ret_value = v;
            return true;
        }
    }
    return false;
}

/* One well-formed UTF-8 character without NUL; 0 = not one (RFC 3629 section 4). */
static size_t utf8_char(const uint8_t *p, size_t left) {
    static const struct {
        uint8_t mask, value, more;
        uint32_t least;
    } forms[] = {{0x80, 0x00, 0, 1}, {0xe0, 0xc0, 1, 0x80}, {0xf0, 0xe0, 2, 0x800}, {0xf8, 0xf0, 3, 0x10000}};
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        if ((p[0] & forms[i].mask) != forms[i].value)
            continue;
        uint32_t v = p[0] & (uint8_t)~forms[i].mask;
        if (left <= forms[i].more)
            return 0;
        for (uint32_t k = 1; k <= forms[i].more; k++) {
            if ((p[k] & 0xc0) != 0x80)
                return 0;
            v = v << 6 | (p[k] & 0x3f);
        }
        bool good = v >= forms[i].least && v <= 0x10ffff && !(v >= 0xd800 && v <= 0xdfff);
        return good ? forms[i].more + 1u : 0;
    }
    return 0;
}

static bool text_good(const uint8_t *p, size_t size) {
    while (size > 0) {
        size_t n = utf8_char(p, size);
        if (n == 0)
            return false;
        p += n;
        size -= n;
    }
    return true;
}

static bool walk(struct cursor *c, const ProtobufCMessageDescriptor *type, uint32_t depth);

/* A length-delimited field: a text is checked, a message is walked, bytes are left alone. */
static bool walk_block(struct cursor *c, const ProtobufCFieldDescriptor *f, uint32_t depth) {
    uint64_t size;
    if (!varint(c, &size) || size > (uint64_t)(c->end - c->at))
        return false;
    const uint8_t *p = c->at;
    c->at += size;
    if (f != NULL && f->type == PROTOBUF_C_TYPE_STRING)
        return text_good(p, (size_t)size);
    if (f == NULL || f->type != PROTOBUF_C_TYPE_MESSAGE)
        return true;
    struct cursor sub = {p, p + size, c->fields};
    bool good = depth < DEPTH_MAX && walk(&sub, f->descriptor, depth + 1);
    c->fields = sub.fields;
    return good;
}

static bool walk(struct cursor *c, const ProtobufCMessageDescriptor *type, uint32_t depth) {
    while (c->at < c->end) {
        uint64_t tag, skip;
        if (c->fields-- == 0 || !varint(c, &tag) || tag >> 3 == 0 || tag > UINT32_MAX)
            return false;
        const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field(type, (unsigned)(tag >> 3));
        uint32_t fixed = (tag & 7) == 1 ? 8 : (tag & 7) == 5 ? 4 : 0;
        if ((tag & 7) == 0 && !varint(c, &skip))
            return false;
        if ((tag & 7) == 2 && !walk_block(c, f, depth))
            return false;
        if ((tag & 7) == 3 || (tag & 7) == 4 || (tag & 7) > 5 || fixed > (size_t)(c->end - c->at))
            return false;
        c->at += fixed;
    }
    return true;
}

static int take_attach(const Usher__Session__V1__AttachRequest *m, struct request *r) {
    r->kind = REQUEST_ATTACH;
    r->attach.abi_min = m->abi_min;
    r->attach.abi_max = m->abi_max;
    r->attach.tx_bytes = m->tx_bytes;
    r->attach.rx_bytes = m->rx_bytes;
    r->attach.socket_max = m->socket_max;
    size_t n = strlen(m->label);
    if (n >= WIRE_LABEL_MAX)
        return -EBADMSG;
    memcpy(r->attach.label, m->label, n + 1);
    if (m->key.len != 0 && m->key.len != sizeof r->attach.key)
        return -EBADMSG;
    r->attach.back = m->key.len != 0;
    if (r->attach.back)
        memcpy(r->attach.key, m->key.data, m->key.len);
    return 0;
}

static int take_group(const Usher__Session__V1__GroupRequest *m, struct request *r) {
    r->kind = REQUEST_GROUP;
    r->handle = m->handle;
    r->group.ifindex = m->ifindex;
    r->group.leave = m->leave;
    if (m->group.len != 16)
        return -EBADMSG;
    r->group.group = ipaddr_from_v6(m->group.data);
    return 0;
}

static int take_option(const Usher__Session__V1__SetOptionRequest *m, struct request *r) {
    r->kind = REQUEST_SET_OPTION;
    r->handle = m->handle;
    r->option.option = (uint32_t)m->option;
    r->option.value = m->value;
    return 0;
}

static int take_open(const Usher__Session__V1__OpenRequest *m, struct request *r) {
    r->kind = REQUEST_OPEN;
    r->open.rx_quota = m->rx_quota;
    r->open.tx_limit = m->tx_limit;
    r->open.spread = m->spread;
    r->open.all_shards = m->all_shards;
    if ((m->remote.len != 0 && m->remote.len != 16) || m->remote_port > UINT16_MAX ||
        (m->remote_port != 0) != (m->remote.len != 0) || m->stream_options.len > sizeof r->open.options ||
        m->stream_options.len % sizeof r->open.options[0] != 0)
        return -EBADMSG;
    if (m->remote.len != 0)
        r->open.remote = ipaddr_from_v6(m->remote.data);
    r->open.remote_port = (uint16_t)m->remote_port;
    r->open.ifindex = m->ifindex;
    r->open.option_count = (uint32_t)(m->stream_options.len / sizeof r->open.options[0]);
    if (m->stream_options.len != 0)
        memcpy(r->open.options, m->stream_options.data, m->stream_options.len);
    return 0;
}

static int take_share(const Usher__Session__V1__ShareRequest *m, struct request *r) {
    r->kind = REQUEST_SHARE;
    r->handle = m->handle;
    r->share.action = (uint32_t)m->action;
    r->share.copies = m->copies;
    r->share.unread = m->unread;
    r->share.unread_at = m->unread_at;
    r->share.pid = m->pid;
    r->share.keep = m->keep;
    r->share.shut = m->shut;
    return 0;
}

static int take_simple(struct request *r, enum request_kind kind, uint32_t value) {
    r->kind = kind;
    r->handle = value; /* SET and AFTER have members of their own */
    if (kind == REQUEST_NEW_SQ)
        r->set = value;
    if (kind == REQUEST_LIST)
        r->after = value;
    return 0;
}

static int take(const Usher__Session__V1__Request *m, struct request *r) {
    /* An empty answer would be an empty packet, which the client could not tell from the end of the connection. */
    if (m->id == 0)
        return -EBADMSG;
    r->id = m->id;
    switch (m->body_case) {
    case USHER__SESSION__V1__REQUEST__BODY_ATTACH:
        return take_attach(m->attach, r);
    case USHER__SESSION__V1__REQUEST__BODY_OPEN:
        return take_open(m->open, r);
    case USHER__SESSION__V1__REQUEST__BODY_UPDATE:
        return take_simple(r, REQUEST_UPDATE, m->update->handle);
    case USHER__SESSION__V1__REQUEST__BODY_CLOSE:
        return take_simple(r, REQUEST_CLOSE, m->close->handle);
    case USHER__SESSION__V1__REQUEST__BODY_SET_OPTION:
        return take_option(m->set_option, r);
    case USHER__SESSION__V1__REQUEST__BODY_GROUP:
        return take_group(m->group, r);
    case USHER__SESSION__V1__REQUEST__BODY_NEW_SUBMISSION_RING:
        return take_simple(r, REQUEST_NEW_SQ, m->new_submission_ring->set);
    case USHER__SESSION__V1__REQUEST__BODY_REFRESH_OWNER:
        return take_simple(r, REQUEST_REFRESH_OWNER, 0);
    case USHER__SESSION__V1__REQUEST__BODY_LIST:
        return take_simple(r, REQUEST_LIST, m->list->after);
    case USHER__SESSION__V1__REQUEST__BODY_SHARE:
        return take_share(m->share, r);
    default:
        return -EBADMSG;
    }
}

int wire_decode(const uint8_t *bytes, size_t size, struct request *ret_request) {
    struct cursor c = {bytes, bytes + size, FIELD_COUNT_MAX};
    if (size > WIRE_MESSAGE_MAX || !walk(&c, &usher__session__v1__request__descriptor, 1))
        return -EBADMSG;
    struct scratch scratch;
    scratch.used = 0;
    ProtobufCAllocator allocator = {scratch_alloc, scratch_free, &scratch};
    const Usher__Session__V1__Request *m = usher__session__v1__request__unpack(&allocator, size, bytes);
    if (m == NULL)
        return -EBADMSG;
    struct request r = {0};
    int err = take(m, &r);
    if (err == 0)
        *ret_request = r;
    return err;
}

struct list_room {
    Usher__Session__V1__ListResponse list;
    Usher__Session__V1__SocketInfo info[WIRE_LIST_MAX], *pointers[WIRE_LIST_MAX];
};

static void fill_list(const struct response *r, struct list_room *room) {
    usher__session__v1__list_response__init(&room->list);
    for (uint32_t i = 0; i < r->list.count; i++) {
        const struct response_socket *s = &r->list.sockets[i];
        Usher__Session__V1__SocketInfo *info = &room->info[i];
        usher__session__v1__socket_info__init(info);
        info->handle = s->handle;
        info->proto = s->flow.proto;
        info->local.data = (uint8_t *)s->flow.local.b;
        info->remote.data = (uint8_t *)s->flow.remote.b;
        info->local.len = info->remote.len = 16;
        info->local_port = s->flow.local_port;
        info->remote_port = s->flow.remote_port;
        info->port_kind = (char *)s->port_kind;
        info->why = (char *)s->why;
        room->pointers[i] = info;
    }
    room->list.n_sockets = r->list.count;
    room->list.sockets = room->pointers;
    room->list.more = r->list.more;
}

size_t wire_encode(const struct response *r, uint8_t ret_bytes[WIRE_MESSAGE_MAX]) {
    Usher__Session__V1__Response m = USHER__SESSION__V1__RESPONSE__INIT;
    Usher__Session__V1__AttachResponse attach = USHER__SESSION__V1__ATTACH_RESPONSE__INIT;
    Usher__Session__V1__SocketResponse socket = USHER__SESSION__V1__SOCKET_RESPONSE__INIT;
    Usher__Session__V1__NewSubmissionRingResponse ring = USHER__SESSION__V1__NEW_SUBMISSION_RING_RESPONSE__INIT;
    struct list_room room;
    m.id = r->id;
    m.error = r->error;
    m.text = (char *)r->text;
    if (r->kind == RESPONSE_ATTACH) {
        attach.abi = r->attach.abi;
        attach.session_id = r->attach.session_id;
        attach.daemon_version = (char *)USHER_VERSION;
        attach.comeback_ms = r->attach.comeback_ms;
        attach.key.data = (uint8_t *)r->attach.key;
        attach.key.len = sizeof r->attach.key;
        m.attach = &attach;
        m.body_case = USHER__SESSION__V1__RESPONSE__BODY_ATTACH;
    } else if (r->kind == RESPONSE_SOCKET) {
        socket.handle = r->socket.handle;
        socket.set = r->socket.set;
        socket.more_sets = r->socket.more_sets;
        socket.accelerated = r->socket.accelerated;
        socket.reason = (char *)r->socket.reason;
        socket.rx_quota = r->socket.rx_quota;
        socket.tx_limit = r->socket.tx_limit;
        socket.others = r->socket.others;
        socket.shut = r->socket.shut;
        socket.unread = r->socket.unread;
        socket.local_port = r->socket.local_port;
        m.socket = &socket;
        m.body_case = USHER__SESSION__V1__RESPONSE__BODY_SOCKET;
    } else if (r->kind == RESPONSE_NEW_SQ) {
        ring.index = r->sq_index;
        m.new_submission_ring = &ring;
        m.body_case = USHER__SESSION__V1__RESPONSE__BODY_NEW_SUBMISSION_RING;
    } else if (r->kind == RESPONSE_LIST) {
        fill_list(r, &room);
        m.list = &room.list;
        m.body_case = USHER__SESSION__V1__RESPONSE__BODY_LIST;
    }
    if (usher__session__v1__response__get_packed_size(&m) > WIRE_MESSAGE_MAX)
        return 0;
    return usher__session__v1__response__pack(&m, ret_bytes);
}
