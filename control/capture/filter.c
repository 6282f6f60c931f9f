/* SPDX-License-Identifier: Apache-2.0
 *
 * See filter.h.
 */
#include "control/capture/filter.h"

#include <errno.h>
#include <pcap/pcap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/capture/capture.h"
#include "dataplane/capture/program.h"

STATIC_ASSERT(sizeof(struct bpf_insn) == sizeof(struct sock_filter), "libpcap and the kernel speak of the same thing");

static int compile(pcap_t *dead, const char *expression, struct sock_filter **ret_code, uint32_t *ret_count, char *err,
                   size_t err_size) {
    struct bpf_program program;
    if (pcap_compile(dead, &program, expression, 1, PCAP_NETMASK_UNKNOWN) != 0) {
        (void)snprintf(err, err_size, "the filter is no expression of pcap-filter(7): %s", pcap_geterr(dead));
        return -EINVAL;
    }
    int error = 0;
    if (program.bf_len > PROGRAM_MAX) {
        (void)snprintf(err, err_size,
                       "the filter is %u instructions long, more than the %u that are possible; ask for less",
                       program.bf_len, PROGRAM_MAX);
        error = -EINVAL;
    } else if ((*ret_code = malloc(program.bf_len * sizeof **ret_code)) == NULL) {
        error = -ENOMEM;
    } else {
        memcpy(*ret_code, program.bf_insns, program.bf_len * sizeof **ret_code);
        *ret_count = program.bf_len;
    }
    pcap_freecode(&program);
    return error;
}

int filter_expression_compile(const char *expression, struct sock_filter **ret_code, uint32_t *ret_count, char *err,
                              size_t err_size) {
    *ret_code = NULL;
    *ret_count = 0;
    if (strlen(expression) > FILTER_EXPRESSION_MAX) {
        (void)snprintf(err, err_size, "the filter has more than %u bytes; ask for less", FILTER_EXPRESSION_MAX);
        return -EINVAL;
    }
    if (expression[strspn(expression, " \t\n")] == '\0')
        return 0;
    pcap_t *dead = pcap_open_dead(DLT_EN10MB, (int)CAPTURE_SNAP_MAX);
    if (dead == NULL)
        return -ENOMEM;
    int error = compile(dead, expression, ret_code, ret_count, err, err_size);
    pcap_close(dead);
    return error;
}
