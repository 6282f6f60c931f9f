/* SPDX-License-Identifier: Apache-2.0
 *
 * A plain client of the control service, over the same gRPC core: bytes in, bytes out, no types. For tests and benches.
 *
 * Thread: one at a time for each client; calls block.
 */
#ifndef USHER_TEST_HARNESS_RPC_CLIENT_H
#define USHER_TEST_HARNESS_RPC_CLIENT_H

#include <stddef.h>
#include <stdint.h>

struct rpc_client;
struct rpc_client_stream;

struct rpc_client_answer {
    int code;      /* gRPC status */
    uint8_t *bytes; /* of the message, NULL = none; free() */
    size_t size;
    char text[256];    /* of an error */
    uint8_t details[512]; /* grpc-status-details-bin */
    size_t details_size;
};

/* `path` of the UNIX socket. */
struct rpc_client *rpc_client_open(const char *path);
void rpc_client_close(struct rpc_client *c);

/* Waits for the answer, at most timeout_ms. */
struct rpc_client_answer rpc_client_call(struct rpc_client *c, const char *method, const void *request, size_t size,
                                         int timeout_ms);

/* A server stream; timeout_ms of the whole, 0 = for ever. */
struct rpc_client_stream *rpc_client_stream_open(struct rpc_client *c, const char *method, const void *request,
                                                 size_t size, int timeout_ms);
/* The next message: bytes set; or the end: bytes NULL and code set. */
struct rpc_client_answer rpc_client_stream_next(struct rpc_client_stream *s);
/* Cancels it when it has not ended. */
void rpc_client_stream_close(struct rpc_client_stream *s);

#endif
