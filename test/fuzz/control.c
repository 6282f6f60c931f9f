/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: one request of the control service, as a caller sends it. The first byte chooses the method. What the
 * guard lets through must unpack within the memory that unpacking may have, hold no text with a NUL, and pack again to
 * bytes that the guard lets through as well.
 */
#include <stdlib.h>
#include <string.h>

#include "control/rpc/rpc_internal.h"
#include "grpc/health/v1/health.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "test/fuzz/fuzz_input.h"
#include "usher/control/v1/counters.pb-c.h"
#include "usher/control/v1/daemon.pb-c.h"
#include "usher/control/v1/engines.pb-c.h"
#include "usher/control/v1/ports.pb-c.h"
#include "usher/control/v1/sessions.pb-c.h"
#include "usher/control/v1/workers.pb-c.h"

static const ProtobufCMessageDescriptor *const requests[] = {
    &usher__control__v1__list_sockets_request__descriptor,
    &usher__control__v1__list_sessions_request__descriptor,
    &usher__control__v1__kill_socket_request__descriptor,
    &usher__control__v1__kill_session_request__descriptor,
    &usher__control__v1__check_config_request__descriptor,
    &usher__control__v1__set_log_level_request__descriptor,
    &usher__control__v1__drain_request__descriptor,
    &usher__control__v1__shutdown_request__descriptor,
    &usher__control__v1__list_engines_request__descriptor,
    &usher__control__v1__list_ports_request__descriptor,
    &usher__control__v1__set_mode_request__descriptor,
    &usher__control__v1__move_shard_request__descriptor,
    &usher__control__v1__get_counters_request__descriptor,
    &usher__control__v1__watch_counters_request__descriptor,
    &usher__control__v1__watch_events_request__descriptor,
    &grpc__health__v1__health_check_request__descriptor,
    &grpc__reflection__v1__server_reflection_request__descriptor,
};

static void pack_again(struct rpc_scratch *m, const ProtobufCMessage *message, size_t given) {
    static uint8_t bytes[2 * RPC_MESSAGE_MAX];
    const char *why;
    size_t size = protobuf_c_message_get_packed_size(message);
    if (size > sizeof(bytes)) /* packing adds nothing that was not there */
        abort();
    if (protobuf_c_message_pack(message, bytes) != size)
        abort();
    rpc_scratch_reset(m);
    /* Longer than it came: numbers of a packed list have a tag each now, perhaps more of them than are allowed. */
    if (size <= given && rpc_message_unpack(m, message->descriptor, bytes, size, &why) == NULL)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct rpc_scratch scratch;
    const char *why = NULL;
    if (size == 0)
        return 0;
    if (scratch.base == NULL && rpc_scratch_init(&scratch) != 0)
        abort();
    rpc_scratch_reset(&scratch);
    const ProtobufCMessageDescriptor *d = requests[data[0] % (sizeof(requests) / sizeof(requests[0]))];
    ProtobufCMessage *message = rpc_message_unpack(&scratch, d, data + 1, size - 1, &why);
    if ((message == NULL) != (why != NULL) || scratch.used > RPC_SCRATCH_MAX)
        abort();
    if (message != NULL)
        pack_again(&scratch, message, size - 1);
    return 0;
}
