/* SPDX-License-Identifier: Apache-2.0
 *
 * The engines ip, udp and tcp as one small host in virtual time, with one interface that carries bare IP packets. What
 * leaves is queued with the time it left; what comes up goes to the program's side (struct stack_app). Every call is
 * followed by the engines' own checks. One thread at a time; test code: CHECK on everything that must hold.
 */
#ifndef USHER_TEST_PACKETDRILL_STACK_H
#define USHER_TEST_PACKETDRILL_STACK_H

#include "engines/ip/ip_cmd.h"
#include "engines/tcp/tcp_cmd.h"
#include "engines/udp/udp_cmd.h"

#define STACK_EPOCH       (1000 * NS_PER_SEC) /* the clock never stands at 0 */
#define STACK_PACKET_MAX  66000u
#define STACK_REGION_SIZE (64u << 20)

enum stack_engine { STACK_IP, STACK_UDP, STACK_TCP, STACK_ENGINES };

struct stack_app {
    void *arg;
    void (*deliver)(void *arg, const struct pkt *p);
    void (*notice)(void *arg, const struct notice *n);
};

struct stack_config {
    struct tcp_config tcp;
    uint16_t mtu;
};

struct stack;

struct stack *stack_create(const struct stack_config *cfg, ns_t now, const struct stack_app *app);
void stack_destroy(struct stack *s);

ns_t stack_now(const struct stack *s);
ns_t stack_deadline(const struct stack *s); /* when a timer is due; NS_NEVER */
/* Runs every timer up to `to`; the clock then stands there. Stops early, at the first one that sends a packet, when
 * `until_sent`. */
void stack_advance(struct stack *s, ns_t to, bool until_sent);

/* An address of this host, on the interface. Known ones are no error. */
void stack_address(struct stack *s, const struct ipaddr *addr);
void stack_receive(struct stack *s, const void *packet, size_t len);
/* The oldest packet that left; its length, 0 = none. */
size_t stack_sent(struct stack *s, void *packet, size_t size, ns_t *ret_at);
bool stack_has_sent(const struct stack *s);

struct engine_reply stack_command(struct stack *s, enum stack_engine engine, const void *cmd);
/* Sends bytes that lie in the region, or a datagram. */
struct stack_send {
    uint32_t sock;
    uint64_t sink;
    uint32_t offset, len; /* in the region */
    uint16_t flags;       /* PKT_MORE, PKT_URGENT */
    struct ipaddr remote; /* datagrams */
    uint16_t remote_port;
};
void stack_send_stream(struct stack *s, const struct stack_send *send);
int stack_send_datagram(struct stack *s, const struct stack_send *send, const void *data);
void stack_credit(struct stack *s, const struct engine_credit *credit);
uint8_t *stack_region(struct stack *s);

#endif
