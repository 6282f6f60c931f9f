/* SPDX-License-Identifier: Apache-2.0
 *
 * See client_status.h. google.rpc.Status is read by hand: three fields of it, of which two levels matter.
 */
#include "control/usherctl/client_status.h"

#include <stdio.h>
#include <string.h>

#include "control/usherctl/text.h"

/* clang-format off */
static const struct {
    const char *name;
    enum exit_code exit;
} codes[] = {
    [0] = {"OK", EXIT_OK},
    [1] = {"CANCELLED", EXIT_FAILED},
    [2] = {"UNKNOWN", EXIT_FAILED},
    [3] = {"INVALID_ARGUMENT", EXIT_USAGE},
    [4] = {"DEADLINE_EXCEEDED", EXIT_TIMEOUT},
    [5] = {"NOT_FOUND", EXIT_NOT_FOUND},
    [6] = {"ALREADY_EXISTS", EXIT_FAILED},
    [7] = {"PERMISSION_DENIED", EXIT_DENIED},
    [8] = {"RESOURCE_EXHAUSTED", EXIT_FAILED},
    [9] = {"FAILED_PRECONDITION", EXIT_PRECONDITION},
    [10] = {"ABORTED", EXIT_FAILED},
    [11] = {"OUT_OF_RANGE", EXIT_FAILED},
    [12] = {"UNIMPLEMENTED", EXIT_FAILED},
    [13] = {"INTERNAL", EXIT_FAILED},
    [14] = {"UNAVAILABLE", EXIT_UNREACHABLE},
    [15] = {"DATA_LOSS", EXIT_FAILED},
    [16] = {"UNAUTHENTICATED", EXIT_DENIED},
};
/* clang-format on */

struct bytes {
    const uint8_t *at;
    size_t left;
};

static bool take_varint(struct bytes *b, uint64_t *ret_value) {
    *ret_value = 0;
    for (unsigned shift = 0; shift < 64 && b->left > 0; shift += 7) {
        uint8_t byte = *b->at++;
        b->left--;
        *ret_value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return true;
    }
    return false;
}

/* The next field: its number, and its content when it has a length. False: the end, or nonsense. */
static bool take_field(struct bytes *b, uint64_t *ret_number, struct bytes *ret_content) {
    uint64_t key, size;
    *ret_content = (struct bytes){NULL, 0};
    if (!take_varint(b, &key))
        return false;
    *ret_number = key >> 3;
    if ((key & 7) == 0)
        return take_varint(b, &size);
    if ((key & 7) != 2 || !take_varint(b, &size) || size > b->left)
        return false;
    *ret_content = (struct bytes){b->at, (size_t)size};
    b->at += size;
    b->left -= (size_t)size;
    return true;
}

static bool find_field(struct bytes in, uint64_t wanted, struct bytes *ret_content) {
    uint64_t number;
    while (take_field(&in, &number, ret_content)) {
        if (number == wanted)
            return true;
    }
    return false;
}

static bool is_type(struct bytes url, const char *type) {
    size_t n = strlen(type);
    return url.left >= n && memcmp(url.at + url.left - n, type, n) == 0;
}

static void copy_text(struct bytes from, char *ret, size_t size) {
    char raw[128];
    size_t n = from.left < sizeof raw - 1 ? from.left : sizeof raw - 1;
    if (n > 0)
        memcpy(raw, from.at, n);
    raw[n] = '\0';
    text_clean(raw, ret, size);
}

/* ErrorInfo.reason, and the path of the first BadRequest.field_violations. */
static void details_read(const struct status_details *d, char *ret_reason, size_t reason_size, char *ret_field,
                         size_t field_size) {
    struct bytes status = {d->bytes, d->size}, detail, url, value, part;
    uint64_t number;
    while (d->size > 0 && take_field(&status, &number, &detail)) {
        if (number != 3 || !find_field(detail, 1, &url) || !find_field(detail, 2, &value))
            continue;
        if (is_type(url, "google.rpc.ErrorInfo") && find_field(value, 1, &part))
            copy_text(part, ret_reason, reason_size);
        else if (is_type(url, "google.rpc.BadRequest") && find_field(value, 1, &part) && find_field(part, 1, &part))
            copy_text(part, ret_field, field_size);
    }
}

static const char *hint_for(int code, bool local) {
    switch (code) {
    case 4:
        return "usherd is busy or stopped; try a longer --timeout";
    case 7:
        return "an administrator gives roles to users and groups under control.roles in usherd.yaml";
    case 8:
        return "wait a little, or ask for less at a time (limits: control in usherd.yaml)";
    case 12:
        return "usherd is older than usherctl; compare `usherd --version` and `usherctl --version`";
    case 14:
        return local ? "usherd closed the connection: it is stopping, or your user has no role (control.roles in "
                       "usherd.yaml); see `journalctl -u usherd`"
                     : "check the address, and that --cert was signed by the CA of control.tls.client_ca";
    case 16:
        return "the certificate carries no name that has a role (control.roles in usherd.yaml)";
    default:
        return "";
    }
}

void status_fault(int code, const char *text, const struct status_details *details, bool local,
                  struct fault *ret_fault) {
    bool known = code > 0 && code < (int)(sizeof codes / sizeof codes[0]);
    char clean[400], field[96] = "";
    text_clean(text, clean, sizeof clean);
    fault_set(ret_fault, known ? codes[code].exit : EXIT_FAILED, "%s", clean[0] != '\0' ? clean : "no word of why");
    (void)snprintf(ret_fault->code, sizeof ret_fault->code, "%s", known ? codes[code].name : "UNKNOWN");
    details_read(details, ret_fault->reason, sizeof ret_fault->reason, field, sizeof field);
    if (field[0] != '\0')
        (void)snprintf(ret_fault->text, sizeof ret_fault->text, "%s: %s", field, clean);
    (void)snprintf(ret_fault->hint, sizeof ret_fault->hint, "%s", hint_for(code, local));
}
