/* SPDX-License-Identifier: Apache-2.0
 *
 * What both kinds of ends have in common: connections come from a free list, and are closed when a turn is over, so
 * that news of the same turn never finds one that is gone.
 */
#include "test/bench/tcp_end.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct tcp_end_ops *ops_of(const struct tcp_end *e) {
    return e->kind == TCP_KERNEL ? &tcp_end_kernel : &tcp_end_usher;
}

int tcp_end_fail(struct tcp_end *e, const char *what, int error) {
    if (e->error[0] == '\0')
        (void)snprintf(e->error, sizeof(e->error), "%s: %s%s%s", what, strerror(error < 0 ? -error : error),
                       e->kind == TCP_USHER ? "; " : "", e->kind == TCP_USHER ? usher_strerror() : "");
    return -1;
}

struct tcp_conn *tcp_conn_new(struct tcp_end *e) {
    struct tcp_conn *c = e->free;
    if (c == NULL)
        c = malloc(sizeof(*c));
    else
        e->free = c->next;
    if (c != NULL)
        *c = (struct tcp_conn){.fd = -1};
    return c;
}

void tcp_conn_free(struct tcp_end *e, struct tcp_conn *c) {
    c->next = e->free;
    e->free = c;
}

int tcp_end_open(struct tcp_end *e) {
    e->epoll = -1;
    e->buf = calloc(4, TCP_END_CHUNK);
    return e->buf == NULL ? tcp_end_fail(e, "out of memory", 0) : ops_of(e)->open(e);
}

void tcp_end_fini(struct tcp_end *e) {
    ops_of(e)->fini(e);
    free(e->buf);
    for (struct tcp_conn *c; (c = e->free) != NULL; free(c))
        e->free = c->next;
}

int tcp_end_listen(struct tcp_end *e, uint16_t port) {
    struct tcp_conn *c = tcp_conn_new(e);
    if (c == NULL)
        return tcp_end_fail(e, "out of memory", 0);
    c->listens = true;
    c->port = port;
    return ops_of(e)->listen(e, c);
}

struct tcp_conn *tcp_end_connect(struct tcp_end *e, uint16_t port) {
    struct tcp_conn *c = tcp_conn_new(e);
    if (c == NULL) {
        (void)tcp_end_fail(e, "out of memory", 0);
        return NULL;
    }
    c->port = port;
    if (ops_of(e)->connect(e, c) == 0)
        return c;
    tcp_conn_free(e, c);
    return NULL;
}

int tcp_end_turn(struct tcp_end *e, bool wait) {
    int rc = ops_of(e)->turn(e, wait);
    for (struct tcp_conn *c; (c = e->closing) != NULL;) {
        e->closing = c->next;
        ops_of(e)->close(e, c);
        tcp_conn_free(e, c);
    }
    return e->error[0] != '\0' ? -1 : rc;
}

int tcp_end_send(struct tcp_end *e, struct tcp_conn *c, uint32_t len) {
    return ops_of(e)->send(e, c, len);
}

int tcp_end_flush(struct tcp_end *e) {
    return ops_of(e)->flush(e);
}

int tcp_end_push(struct tcp_end *e, struct tcp_conn *c) {
    return ops_of(e)->push(e, c);
}

void tcp_end_close(struct tcp_end *e, struct tcp_conn *c) {
    if (c->closing)
        return;
    c->closing = true;
    c->next = e->closing;
    e->closing = c;
}
