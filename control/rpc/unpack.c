/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes from a caller to a message. protobuf-c's unpack() knows no limit of depth, takes 64 bytes of memory for some
 * bytes of input, and lets NUL and wrong UTF-8 into strings. So the raw bytes are first walked along the generated
 * descriptors, which costs about an eighth of unpacking, and unpacking gets memory up to a limit only.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "control/rpc/guard.h"
#include "control/rpc/rpc_internal.h"

#define UNPACK_MAX   (4u << 20) /* memory that one request may take */
#define SCRATCH_KEEP (256u << 10)
#define ALIGN        16u

/* ---- scratch memory: reserved once, pages come as they are touched ---- */

int rpc_scratch_init(struct rpc_scratch *m) {
    void *p = mmap(NULL, RPC_SCRATCH_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return -errno;
    *m = (struct rpc_scratch){.base = p};
    return 0;
}

void rpc_scratch_fini(struct rpc_scratch *m) {
    if (m->base != NULL)
        (void)munmap(m->base, RPC_SCRATCH_MAX);
    m->base = NULL;
}

void rpc_scratch_reset(struct rpc_scratch *m) {
    if (m->used > SCRATCH_KEEP)
        (void)madvise(m->base + SCRATCH_KEEP, RPC_SCRATCH_MAX - SCRATCH_KEEP, MADV_DONTNEED);
    m->used = 0;
}

void *rpc_scratch_alloc(struct rpc_scratch *m, size_t size) {
    size_t limit = m->limit != 0 ? m->limit : RPC_SCRATCH_MAX;
    size_t rounded = (size + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (size > limit || rounded > limit - m->used)
        return NULL;
    void *p = m->base + m->used;
    m->used += rounded;
    return p;
}

static void *unpack_alloc(void *data, size_t size) {
    return rpc_scratch_alloc(data, size);
}

static void unpack_free(void *data, void *pointer) {
    (void)data;
    (void)pointer;
}

/* ---- to a message ---- */

ProtobufCMessage *rpc_message_unpack(struct rpc_scratch *m, const ProtobufCMessageDescriptor *d, const uint8_t *bytes,
                                     size_t size, const char **ret_why) {
    *ret_why = size > RPC_MESSAGE_MAX ? "it is too large" : rpc_guard_check(d, bytes, size);
    if (*ret_why != NULL)
        return NULL;
    ProtobufCAllocator allocator = {unpack_alloc, unpack_free, m};
    m->limit = UNPACK_MAX;
    ProtobufCMessage *message = protobuf_c_message_unpack(d, &allocator, size, bytes);
    m->limit = 0;
    if (message == NULL)
        *ret_why = "it is no valid protobuf message, or has too many parts";
    return message;
}
