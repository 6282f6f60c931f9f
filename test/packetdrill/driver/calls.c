/* SPDX-License-Identifier: Apache-2.0
 *
 * System calls by name. See calls.h. A call's arguments were read as values; each function here turns them into C.
 */
#include "test/packetdrill/driver/calls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>

#define BUF_MAX (1u << 20)

struct making {
    struct calls *c;
    const struct event *e;
    const struct value *args;
    size_t count;
    void *ifc_arg;
};

static _Noreturn void fail(const struct making *m, const char *what) {
    script_fail(m->c->script, m->e->line, "%s(): %s", m->e->call->name, what);
}

/* ---- arguments ---- */

static const struct value *arg(const struct making *m, size_t i) {
    if (i >= m->count)
        fail(m, "too few arguments");
    return &m->args[i];
}

static int64_t num(const struct making *m, size_t i) {
    const struct value *v = arg(m, i);
    if (v->kind == VALUE_LIST && v->count == 1)
        v = &v->items[0];
    if (v->kind != VALUE_INT)
        fail(m, "an argument that should be a number is none");
    return v->n;
}

static int live_fd(const struct making *m, int64_t fd) {
    return fd >= 0 && fd < CALL_FD_MAX && m->c->live[fd] != 0 ? m->c->live[fd] : -1;
}

static int fd_arg(const struct making *m) {
    return live_fd(m, num(m, 0));
}

static const struct value *field(const struct value *v, const char *name) {
    for (size_t i = 0; i < v->count; i++)
        if (v->items[i].kind == VALUE_FIELD && strcmp(v->items[i].text, name) == 0)
            return &v->items[i].items[0];
    return NULL;
}

static int64_t field_num(const struct making *m, const struct value *v, const char *name) {
    const struct value *f = field(v, name);
    if (f == NULL || f->kind != VALUE_INT)
        fail(m, "a structure lacks one of its numbers");
    return f->n;
}

static socklen_t name_of(const struct script *s, const struct ipaddr *a, uint16_t port, struct sockaddr_storage *ret) {
    memset(ret, 0, sizeof *ret);
    if (s->v6 || s->mapped) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret;
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(port);
        memcpy(&in6->sin6_addr, a->b, 16);
        return sizeof *in6;
    }
    struct sockaddr_in *in = (struct sockaddr_in *)ret;
    in->sin_family = AF_INET;
    in->sin_port = htons(port);
    memcpy(&in->sin_addr, &a->w[3], 4);
    return sizeof *in;
}

/* "..." is the flow's own address or that of its peer. */
static socklen_t address(const struct making *m, size_t i, bool remote, struct sockaddr_storage *ret) {
    const struct flow_test *f = m->c->flow;
    const struct value *v = arg(m, i);
    if (v->kind == VALUE_ELLIPSIS)
        return name_of(m->c->script, remote ? &f->remote : &f->local, 8080, ret);
    if (v->kind != VALUE_LIST)
        fail(m, "an argument that should be an address is none");
    const struct value *addr = field(v, "sin_addr"), *port = field(v, "sin_port");
    struct in_addr in = {0};
    if (field_num(m, v, "sa_family") == AF_UNSPEC) {
        memset(ret, 0, sizeof *ret);
        return sizeof(struct sockaddr_in);
    }
    if (addr == NULL || port == NULL || addr->kind != VALUE_STRING || inet_pton(AF_INET, addr->text, &in) != 1)
        fail(m, "an address that cannot be read");
    struct ipaddr a = ipaddr_from_v4(&in);
    return name_of(m->c->script, &a, (uint16_t)port->n, ret);
}

static uint8_t *buffer(const struct making *m, int64_t n) {
    if (n < 0 || n > BUF_MAX)
        fail(m, "more bytes than the driver carries");
    uint8_t *b = calloc(1, (size_t)n + 1);
    if (b == NULL)
        abort();
    return b;
}

/* ---- one function a call ---- */

#define IFC(m)  (m)->c->ifc
#define DATA(m) IFC(m)->userdata

static int64_t do_socket(struct making *m) {
    int domain = m->c->script->v6 || m->c->script->mapped ? AF_INET6 : AF_INET;
    if (arg(m, 0)->kind == VALUE_INT)
        domain = (int)num(m, 0);
    return IFC(m)->socket(DATA(m), domain, (int)num(m, 1), (int)num(m, 2));
}

static int64_t do_bind(struct making *m) {
    struct sockaddr_storage a;
    socklen_t len = address(m, 1, false, &a);
    return IFC(m)->bind(DATA(m), fd_arg(m), (struct sockaddr *)&a, len);
}

static int64_t do_listen(struct making *m) {
    return IFC(m)->listen(DATA(m), fd_arg(m), (int)num(m, 1));
}

static int64_t do_accept(struct making *m) {
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    return IFC(m)->accept(DATA(m), fd_arg(m), (struct sockaddr *)&a, &len);
}

static int64_t do_connect(struct making *m) {
    struct sockaddr_storage a;
    socklen_t len = address(m, 1, true, &a);
    return IFC(m)->connect(DATA(m), fd_arg(m), (struct sockaddr *)&a, len);
}

static int64_t do_read(struct making *m) {
    uint8_t *b = buffer(m, num(m, 2));
    int64_t n = IFC(m)->read(DATA(m), fd_arg(m), b, (size_t)num(m, 2));
    free(b);
    return n;
}

static int64_t do_recv(struct making *m) {
    uint8_t *b = buffer(m, num(m, 2));
    int64_t n = IFC(m)->recv(DATA(m), fd_arg(m), b, (size_t)num(m, 2), (int)num(m, 3));
    free(b);
    return n;
}

static int64_t do_write(struct making *m) {
    uint8_t *b = buffer(m, num(m, 2));
    int64_t n = IFC(m)->write(DATA(m), fd_arg(m), b, (size_t)num(m, 2));
    free(b);
    return n;
}

static int64_t do_send(struct making *m) {
    uint8_t *b = buffer(m, num(m, 2));
    int64_t n = IFC(m)->send(DATA(m), fd_arg(m), b, (size_t)num(m, 2), (int)num(m, 3));
    free(b);
    return n;
}

static int64_t do_sendto(struct making *m) {
    struct sockaddr_storage a;
    socklen_t len = address(m, 4, true, &a);
    uint8_t *b = buffer(m, num(m, 2));
    int64_t n = IFC(m)->sendto(DATA(m), fd_arg(m), b, (size_t)num(m, 2), (int)num(m, 3), (struct sockaddr *)&a, len);
    free(b);
    return n;
}

static int64_t do_fcntl(struct making *m) {
    if (num(m, 1) == F_SETFL)
        return IFC(m)->fcntl(DATA(m), fd_arg(m), F_SETFL, (long)num(m, 2));
    return IFC(m)->fcntl(DATA(m), fd_arg(m), (int)num(m, 1));
}

static int64_t do_ioctl(struct making *m) {
    int v = 0;
    int64_t rc = IFC(m)->ioctl(DATA(m), fd_arg(m), (unsigned long)num(m, 1), &v);
    if (rc == 0 && v != num(m, 2))
        script_fail(m->c->script, m->e->line, "ioctl() gives %d", v);
    return rc;
}

static int64_t do_close(struct making *m) {
    int live = fd_arg(m);
    m->c->live[num(m, 0)] = 0;
    return IFC(m)->close(DATA(m), live);
}

static int64_t do_shutdown(struct making *m) {
    return IFC(m)->shutdown(DATA(m), fd_arg(m), (int)num(m, 1));
}

/* What an option's value is in memory: a number, a name, or struct linger. */
static socklen_t option(const struct making *m, const struct value *v, void *ret, size_t size) {
    int n = 0;
    memset(ret, 0, size);
    if (v->kind == VALUE_STRING) {
        memcpy(ret, v->text, strnlen(v->text, size - 1));
        return (socklen_t)strlen(v->text);
    }
    if (v->kind == VALUE_LIST && field(v, "onoff") != NULL) {
        struct linger l = {(int)field_num(m, v, "onoff"), (int)field_num(m, v, "linger")};
        memcpy(ret, &l, sizeof l);
        return sizeof l;
    }
    if (v->kind == VALUE_LIST && v->count == 1)
        n = (int)v->items[0].n;
    memcpy(ret, &n, sizeof n);
    return sizeof n;
}

static int64_t do_setsockopt(struct making *m) {
    char v[64];
    socklen_t len = option(m, arg(m, 3), v, sizeof v);
    return IFC(m)->setsockopt(DATA(m), fd_arg(m), (int)num(m, 1), (int)num(m, 2), v, len);
}

static int64_t do_getsockopt(struct making *m) {
    char want[64], got[64] = "";
    socklen_t n = option(m, arg(m, 3), want, sizeof want), len = sizeof got;
    int64_t rc = IFC(m)->getsockopt(DATA(m), fd_arg(m), (int)num(m, 1), (int)num(m, 2), got, &len);
    int value;
    memcpy(&value, got, sizeof value);
    if (rc == 0 && (len < n || memcmp(want, got, n) != 0))
        script_fail(m->c->script, m->e->line, "getsockopt() gives %d", value);
    return rc;
}

static int64_t do_poll(struct making *m) {
    const struct value *list = arg(m, 0);
    struct pollfd fds[8];
    if (list->kind != VALUE_LIST || list->count > 8)
        fail(m, "an array of at most eight structures is wanted");
    for (size_t i = 0; i < list->count; i++)
        fds[i] = (struct pollfd){.fd = live_fd(m, field_num(m, &list->items[i], "fd")),
                                 .events = (short)field_num(m, &list->items[i], "events")};
    int64_t rc = IFC(m)->poll(DATA(m), fds, list->count, (int)num(m, 2));
    for (size_t i = 0; i < list->count; i++) {
        const struct value *want = field(&list->items[i], "revents");
        if (want != NULL && want->n != fds[i].revents)
            script_fail(m->c->script, m->e->line, "poll() gives revents %#x", fds[i].revents);
    }
    return rc;
}

static int64_t do_epoll_create(struct making *m) {
    return IFC(m)->epoll_create(DATA(m), (int)num(m, 0));
}

static int64_t do_epoll_ctl(struct making *m) {
    const struct value *v = arg(m, 3);
    int64_t fd = num(m, 2);
    struct epoll_event e = {.events = (uint32_t)field_num(m, v, "events"), .data.fd = (int)fd};
    return IFC(m)->epoll_ctl(DATA(m), fd_arg(m), (int)num(m, 1), live_fd(m, fd), &e);
}

static int64_t do_epoll_wait(struct making *m) {
    struct epoll_event got[8] = {{.events = 0}};
    const struct value *v = arg(m, 1);
    int64_t rc = IFC(m)->epoll_wait(DATA(m), fd_arg(m), got, 8, (int)num(m, 3));
    if (rc > 0 && got[0].events != (uint32_t)field_num(m, v, "events"))
        script_fail(m->c->script, m->e->line, "epoll_wait() gives events %#x", got[0].events);
    return rc;
}

static const struct {
    const char *name;
    int64_t (*make)(struct making *m);
    bool gives_fd;
} known[] = {
    {"socket", do_socket, true},
    {"bind", do_bind, false},
    {"listen", do_listen, false},
    {"accept", do_accept, true},
    {"connect", do_connect, false},
    {"read", do_read, false},
    {"recv", do_recv, false},
    {"write", do_write, false},
    {"send", do_send, false},
    {"sendto", do_sendto, false},
    {"fcntl", do_fcntl, false},
    {"ioctl", do_ioctl, false},
    {"close", do_close, false},
    {"shutdown", do_shutdown, false},
    {"setsockopt", do_setsockopt, false},
    {"getsockopt", do_getsockopt, false},
    {"poll", do_poll, false},
    {"epoll_create", do_epoll_create, true},
    {"epoll_ctl", do_epoll_ctl, false},
    {"epoll_wait", do_epoll_wait, false},
};

/* Only the errors that scripts speak of. */
static const struct {
    const char *name;
    int error;
} errors[] = {
    {"EAGAIN", EAGAIN},         {"EINPROGRESS", EINPROGRESS},
    {"ECONNRESET", ECONNRESET}, {"EPIPE", EPIPE},
    {"ETIMEDOUT", ETIMEDOUT},   {"ECONNREFUSED", ECONNREFUSED},
    {"ENOTCONN", ENOTCONN},     {"EALREADY", EALREADY},
    {"EISCONN", EISCONN},       {"EINVAL", EINVAL},
    {"EBADF", EBADF},           {"EHOSTUNREACH", EHOSTUNREACH},
    {"EADDRINUSE", EADDRINUSE}, {"EADDRNOTAVAIL", EADDRNOTAVAIL},
    {"EOPNOTSUPP", EOPNOTSUPP},
};

static int error_number(const struct making *m, const char *name) {
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        if (strcmp(errors[i].name, name) == 0)
            return errors[i].error;
    fail(m, "the error's name is not known; add it to calls.c");
}

static void judge(struct making *m, int64_t rc, int error, bool gives_fd) {
    const struct call *c = m->e->call;
    if (gives_fd && rc >= 0 && c->result >= 0 && c->result < CALL_FD_MAX) {
        m->c->live[c->result] = (int)rc;
        return;
    }
    if (!c->any_result && rc != c->result)
        script_fail(m->c->script, m->e->line, "%s() gives %lld (%s)", c->name, (long long)rc,
                    rc < 0 ? strerror(error) : "no error");
    if (c->error != NULL && error != error_number(m, c->error))
        script_fail(m->c->script, m->e->line, "%s() fails with %s", c->name, strerror(error));
}

void calls_make(struct calls *c, const struct event *e) {
    struct making m = {.c = c, .e = e, .args = e->call->args.items, .count = e->call->args.count};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(known[i].name, e->call->name) != 0)
            continue;
        errno = 0;
        int64_t rc = known[i].make(&m);
        judge(&m, rc, errno, known[i].gives_fd);
        return;
    }
    fail(&m, "the call is not known; add it to calls.c");
}
