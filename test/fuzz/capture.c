/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: what captures read that others wrote. The first byte chooses: a classic-BPF program and the frame it
 * runs over; a filter expression, whose program must pass our verifier; blocks of a capture file and the frames in
 * them, as usherctl shows them.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "control/capture/filter.h"
#include "control/usherctl/blocks.h"
#include "control/usherctl/dissect.h"
#include "dataplane/capture/program.h"
#include "test/fuzz/fuzz_input.h"

static struct program program;

/* The rest of the input as a frame in pieces; the first byte says where it is cut. */
static void run(const uint8_t *data, size_t size) {
    struct frame f = {.length = (uint32_t)size};
    uint32_t cut = size > 0 ? data[0] % (uint32_t)size : 0;
    f.piece[f.piece_count++] = (struct frame_piece){data, cut};
    f.piece[f.piece_count++] = (struct frame_piece){data + cut, (uint32_t)size - cut};
    f.head = f.piece[0].base;
    f.head_len = f.piece[0].len;
    (void)capture_program_run(&program, &f);
}

static void try_program(const uint8_t *data, size_t size) {
    struct sock_filter code[64];
    uint32_t at, count = size > 0 ? data[0] % 64u : 0;
    if (size < 1 + count * sizeof code[0])
        return;
    memcpy(code, data + 1, count * sizeof code[0]);
    if (capture_program_load(&program, code, count, &at) == 0)
        run(data + 1 + count * sizeof code[0], size - 1 - count * sizeof code[0]);
}

/* A word that libpcap does not know is a name for it to look up, which is not for a fuzzer to do. */
static bool is_word_known(const char *word, size_t n) {
    static const char *const words[] = {"tcp",       "udp",       "ip",        "ip6",     "arp",  "port",  "host",
                                        "net",       "src",       "dst",       "and",     "or",   "not",   "ether",
                                        "vlan",      "len",       "less",      "greater", "icmp", "icmp6", "proto",
                                        "portrange", "broadcast", "multicast", "mpls",    "x"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strlen(words[i]) == n && strncmp(words[i], word, n) == 0)
            return true;
    }
    return false;
}

static bool has_only_known_words(const char *text) {
    for (const char *c = text; *c != '\0';) {
        size_t n = 0;
        while (isalnum((unsigned char)c[n]) || c[n] == '_' || c[n] == '-' || (unsigned char)c[n] >= 0x80)
            n++;
        if (n > 0 && !isdigit((unsigned char)*c) && !is_word_known(c, n))
            return false;
        for (size_t i = 0; i < n; i++) {
            if (isdigit((unsigned char)*c) && isalpha((unsigned char)c[i]))
                return false; /* "1a" may be a name as well */
        }
        c += n > 0 ? n : 1;
    }
    return true;
}

static void try_expression(const uint8_t *data, size_t size) {
    char text[200], err[256];
    struct sock_filter *code;
    uint32_t count, at;
    size_t n = size < sizeof text - 1 ? size : sizeof text - 1;
    memcpy(text, data, n);
    text[n] = '\0';
    if (!has_only_known_words(text) || filter_expression_compile(text, &code, &count, err, sizeof err) != 0)
        return;
    if (capture_program_load(&program, code, count, &at) != 0)
        abort();
    free(code);
    run(data, size);
}

static void try_blocks(const uint8_t *data, size_t size) {
    struct block b;
    struct block_packet p;
    char text[300];
    for (; block_first(data, size, &b); data += b.size, size -= b.size) {
        block_option_text(&b, OPTION_COMMENT, text, sizeof text);
        if (!block_packet(&b, &p))
            continue;
        dissect(p.bytes, p.captured, p.length, text, sizeof text);
        if (memchr(text, '\0', sizeof text) == NULL)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static void (*const tries[])(const uint8_t *, size_t) = {try_program, try_expression, try_blocks};
    if (size == 0)
        return 0;
    tries[data[0] % 3](data + 1, size - 1);
    if (data[0] % 3 == 2) { /* the same bytes as a frame */
        char text[DISSECT_MAX];
        dissect(data + 1, (uint32_t)size - 1, (uint32_t)size - 1, text, sizeof text);
    }
    return 0;
}
