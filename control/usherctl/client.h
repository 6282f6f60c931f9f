/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls to usherd over the gRPC core: one at a time, the caller waits. Errors come as sentences that say what to do.
 */
#ifndef USHER_CONTROL_USHERCTL_CLIENT_H
#define USHER_CONTROL_USHERCTL_CLIENT_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

/* How usherctl ends. Part of the manual: never renumbered. */
enum exit_code {
    EXIT_OK = 0,
    EXIT_FAILED = 1,      /* usherd refused, or something is wrong that has no code of its own */
    EXIT_USAGE = 2,       /* the command line */
    EXIT_UNREACHABLE = 3, /* usherd does not run, or nobody answers at that address */
    EXIT_DENIED = 4,      /* no right to connect, or the role is too low */
    EXIT_NOT_FOUND = 5,   /* no such session, socket, interface ... */
    EXIT_PRECONDITION = 6, /* not in this state: sessions are attached, the mode forbids it */
    EXIT_TIMEOUT = 7,
};

struct fault {
    enum exit_code exit;
    char code[24];   /* "NOT_FOUND" */
    char reason[64]; /* stable word of usherd's, may be empty */
    char text[512];  /* what happened, to what */
    char hint[384];  /* what to do; may be empty */
};

struct client;

struct client_params {
    const char *socket;  /* path of the control socket; unused with address */
    const char *address; /* HOST:PORT, by mutual TLS; NULL = the socket */
    const char *ca, *cert, *key; /* PEM files for it */
    uint32_t timeout_ms; /* of one call; streams: 0 = for ever */
};

int client_open(const struct client_params *params, struct client **ret_client, struct fault *ret_fault);
void client_close(struct client *c);

struct client_method {
    const char *path; /* "/usher.control.v1.Daemon/GetInfo" */
    const ProtobufCMessageDescriptor *answer;
};

/* 0 with *ret_answer for protobuf_c_message_free_unpacked(), or -1 with *ret_fault. */
int client_call(struct client *c, const struct client_method *m, const ProtobufCMessage *request,
                ProtobufCMessage **ret_answer, struct fault *ret_fault);
/* Calls fn with each message (which it does not keep) until the stream ends or fn says false. */
typedef bool client_stream_fn(void *arg, const ProtobufCMessage *message);
int client_stream(struct client *c, const struct client_method *m, const ProtobufCMessage *request, bool endless,
                  client_stream_fn *fn, void *arg, struct fault *ret_fault);

void fault_set(struct fault *f, enum exit_code exit, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
