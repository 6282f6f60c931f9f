/* SPDX-License-Identifier: Apache-2.0
 *
 * `usherctl capture`: its options, and where packets go: lines on the screen, a file, or a ring of files.
 */
#ifndef USHER_CONTROL_USHERCTL_CAPTURE_H
#define USHER_CONTROL_USHERCTL_CAPTURE_H

#include "control/usherctl/ctl.h"

extern const struct option_def capture_options[];

/* A pcapng file, or a ring of them. Each file of a ring stands alone: it begins with the section's header and all
 * interfaces. */
struct capture_files;

struct capture_files_params {
    const char *path; /* "-" = standard output */
    uint64_t file_bytes; /* begin the next one after so many; 0 = never */
    uint32_t file_count; /* then overwrite the oldest of so many; 0 = keep all */
};

/* 0, or -1 with a sentence in *f. */
int capture_files_open(const struct capture_files_params *params, struct capture_files **ret_files, struct fault *f);
/* Whole blocks. */
int capture_files_write(struct capture_files *files, const uint8_t *blocks, size_t size, struct fault *f);
void capture_files_close(struct capture_files *files);

#endif
