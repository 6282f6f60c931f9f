/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: one message of the session socket, as a client sends it, through usherd's decoder.
 */
#include <stdlib.h>

#include "control/broker/wire.h"
#include "test/fuzz/fuzz_input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct request r;
    memset(&r, 0xa5, sizeof r);
    int rc = wire_decode(data, size, &r);
    if (rc > 0 || (rc == 0 && (unsigned)r.kind >= REQUEST_COUNT))
        abort();
    if (rc == 0 && r.kind == REQUEST_ATTACH && memchr(r.attach.label, 0, sizeof r.attach.label) == NULL)
        abort();
    return 0;
}
