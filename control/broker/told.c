/* SPDX-License-Identifier: Apache-2.0
 *
 * Tells whoever wants to know (broker_socket_fn) what becomes of sockets.
 */
#include "control/broker/broker_internal.h"

static void tell(const struct connection *c, const struct broker_socket *s, enum broker_socket_event event) {
    const struct broker_params *p = &c->broker->params;
    if (p->socket_event != NULL)
        p->socket_event(p->socket_arg, s, event);
}

static struct broker_socket of_kernel(const struct kernel_socket *s, uint32_t owner) {
    return (struct broker_socket){
        .flow = s->flow, .owner = owner, .ifindex = s->ifindex, .v6only = s->v6only, .listens = s->listening};
}

static struct broker_socket of_open(const struct open_socket *o) {
    return (struct broker_socket){
        .flow = o->claimed, .owner = o->owner, .ifindex = o->ifindex, .v6only = o->v6only, .listens = o->listens};
}

void told_comes(const struct connection *c, const struct kernel_socket *s, uint32_t owner) {
    const struct broker_socket told = of_kernel(s, owner);
    tell(c, &told, BROKER_SOCKET_COMES);
}

void told_comes_not(const struct connection *c, const struct kernel_socket *s, uint32_t owner) {
    const struct broker_socket told = of_kernel(s, owner);
    tell(c, &told, BROKER_SOCKET_GOES);
}

void told_lives(const struct connection *c, struct open_socket *o) {
    const struct broker_socket told = of_open(o);
    o->told = true;
    tell(c, &told, BROKER_SOCKET_LIVES);
}

void told_stays(const struct connection *c, struct open_socket *o, const struct kernel_socket *s) {
    const struct broker_socket told = of_open(o);
    told_comes_not(c, s, o->owner);
    tell(c, &told, BROKER_SOCKET_COMES);
    told_lives(c, o);
}

void told_goes(const struct connection *c, struct open_socket *o) {
    const struct broker_socket told = of_open(o);
    if (!o->told)
        return;
    o->told = false;
    tell(c, &told, BROKER_SOCKET_GOES);
}
