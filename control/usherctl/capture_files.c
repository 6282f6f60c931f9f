/* SPDX-License-Identifier: Apache-2.0
 *
 * Where a capture is kept. Blocks are written at once, without a buffer of our own: whatever ends usherctl, what was
 * captured until then can be read.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/usherctl/blocks.h"
#include "control/usherctl/capture.h"

#define HEAD_MAX  16384u /* section header and interfaces */
#define PATH_SIZE 4096u

struct capture_files {
    struct capture_files_params params;
    int fd;
    uint32_t number; /* of the file that is open */
    uint64_t written;
    uint8_t head[HEAD_MAX];
    size_t head_len;
};

static void name_of(const struct capture_files *w, uint32_t number, char *ret_name) {
    if (w->params.file_bytes == 0)
        (void)snprintf(ret_name, PATH_SIZE, "%s", w->params.path);
    else
        (void)snprintf(ret_name, PATH_SIZE, "%s.%u", w->params.path, number);
}

static int file_open(struct capture_files *w, struct fault *f) {
    char name[PATH_SIZE];
    name_of(w, w->params.file_count != 0 ? w->number % w->params.file_count : w->number, name);
    w->written = 0;
    w->fd =
        strcmp(w->params.path, "-") == 0 ? STDOUT_FILENO : open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (w->fd >= 0)
        return 0;
    fault_set(f, EXIT_FAILED, "%.300s cannot be written: %s", name, strerror(errno));
    return -1;
}

static int write_all(struct capture_files *w, const uint8_t *bytes, size_t size, struct fault *f) {
    while (size > 0) {
        ssize_t n = write(w->fd, bytes, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            fault_set(f, EXIT_FAILED, "%.300s cannot be written: %s", w->params.path, strerror(errno));
            return -1;
        }
        bytes += n;
        size -= (size_t)n;
        w->written += (uint64_t)n;
    }
    return 0;
}

static int file_next(struct capture_files *w, struct fault *f) {
    (void)close(w->fd);
    w->number++;
    return file_open(w, f) == 0 ? write_all(w, w->head, w->head_len, f) : -1;
}

/* One block into a ring: what later files need is remembered, and no block is cut in two. */
static int block_write(struct capture_files *w, const struct block *b, struct fault *f) {
    bool is_head = b->type == BLOCK_SECTION || b->type == BLOCK_INTERFACE;
    if (b->type == BLOCK_SECTION) /* another usherd's */
        w->head_len = 0;
    if (is_head && w->head_len + b->size <= sizeof w->head) {
        memcpy(w->head + w->head_len, b->at, b->size);
        w->head_len += b->size;
    } else if (w->written > w->head_len && w->written + b->size > w->params.file_bytes && file_next(w, f) != 0) {
        return -1;
    }
    return write_all(w, b->at, b->size, f);
}

int capture_files_open(const struct capture_files_params *params, struct capture_files **ret_files, struct fault *f) {
    struct capture_files *w = calloc(1, sizeof *w);
    if (w == NULL) {
        fault_set(f, EXIT_FAILED, "no memory is left");
        return -1;
    }
    w->params = *params;
    if (file_open(w, f) != 0) {
        free(w);
        return -1;
    }
    *ret_files = w;
    return 0;
}

int capture_files_write(struct capture_files *w, const uint8_t *blocks, size_t size, struct fault *f) {
    struct block b;
    if (w->params.file_bytes == 0)
        return write_all(w, blocks, size, f);
    for (; block_first(blocks, size, &b); blocks += b.size, size -= b.size) {
        if (block_write(w, &b, f) != 0)
            return -1;
    }
    return 0;
}

void capture_files_close(struct capture_files *w) {
    if (w == NULL)
        return;
    if (w->fd != STDOUT_FILENO)
        (void)close(w->fd);
    free(w);
}
