/* SPDX-License-Identifier: Apache-2.0
 *
 * The door between protobuf and usherd: bytes of the session socket to plain structs and back. No protobuf type is seen
 * outside wire.c. The bytes are hostile: size, number of fields, texts and memory are bounded before and while they are
 * unpacked; nothing is allocated from the heap.
 *
 * Thread: any.
 */
#ifndef USHER_CONTROL_BROKER_WIRE_H
#define USHER_CONTROL_BROKER_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engines/check.h"
#include "engines/ipaddr.h"
#include "proto/usher_shm.h"

#define WIRE_MESSAGE_MAX 4096
#define WIRE_LABEL_MAX   64
#define WIRE_LIST_MAX    16 /* sockets in one ListResponse */
#define WIRE_OPTION_MAX  16 /* stream options in one OpenRequest */

enum request_kind {
    REQUEST_ATTACH,
    REQUEST_OPEN,
    REQUEST_UPDATE,
    REQUEST_CLOSE,
    REQUEST_SET_OPTION,
    REQUEST_GROUP,
    REQUEST_NEW_SQ,
    REQUEST_REFRESH_OWNER,
    REQUEST_LIST,
    REQUEST_SHARE,
    REQUEST_COUNT
};

struct request {
    uint32_t id;
    enum request_kind kind;
    uint32_t handle; /* UPDATE, CLOSE, SET_OPTION, GROUP, SHARE */
    union {
        struct {
            uint32_t abi_min, abi_max, socket_max;
            uint64_t tx_bytes, rx_bytes;
            char label[WIRE_LABEL_MAX];
            bool back; /* with `key` and two fds */
            uint8_t key[16];
        } attach;
        struct {
            uint32_t rx_quota, tx_limit, spread;
            struct ipaddr remote; /* with remote_port */
            uint16_t remote_port; /* 0 = none */
            bool all_shards;
            uint32_t ifindex;     /* of a packet socket, when it is not where that is bound */
            uint32_t option_count;
            struct ush_option options[WIRE_OPTION_MAX];
        } open;
        struct {
            uint32_t option;
            int64_t value;
        } option;
        struct {
            struct ipaddr group;
            uint32_t ifindex;
            bool leave;
        } group;
        struct {
            uint32_t action; /* ShareRequest.Action */
            uint32_t copies, unread, unread_at, pid;
            bool keep, shut;
        } share;
        uint32_t set;   /* NEW_SQ */
        uint32_t after; /* LIST */
    };
};

enum response_kind { RESPONSE_PLAIN, RESPONSE_ATTACH, RESPONSE_SOCKET, RESPONSE_NEW_SQ, RESPONSE_LIST };

struct response_socket {
    uint32_t handle;
    struct flow flow;
    char port_kind[40]; /* cut to what a message of WIRE_LIST_MAX sockets can hold */
    char why[120];
};

struct response {
    uint32_t id;
    int error; /* a positive errno, 0 = done */
    char text[256];
    enum response_kind kind;
    union {
        struct {
            uint32_t abi;
            uint64_t session_id;
            uint32_t comeback_ms;
            uint8_t key[16];
        } attach;
        struct {
            uint32_t handle, set, more_sets, rx_quota, tx_limit;
            uint32_t others, unread, local_port;
            bool accelerated, shut;
            char reason[160];
        } socket;
        uint32_t sq_index;
        struct {
            struct response_socket sockets[WIRE_LIST_MAX];
            uint32_t count;
            bool more;
        } list;
    };
};

/* 0, or -EBADMSG when the bytes are no valid request. */
int wire_decode(const uint8_t *bytes, size_t size, struct request *ret_request);
/* Bytes written; at most WIRE_MESSAGE_MAX, whatever the response holds. */
size_t wire_encode(const struct response *response, uint8_t ret_bytes[WIRE_MESSAGE_MAX]);

#endif
