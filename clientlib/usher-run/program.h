/* SPDX-License-Identifier: Apache-2.0
 *
 * What a program file is, as far as preloading goes: found along PATH, its interpreter followed if it is a script.
 */
#ifndef USHER_RUN_PROGRAM_H
#define USHER_RUN_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>

struct program {
    char path[4096];
    bool script;     /* its interpreter was looked at, `interpreter` */
    char interpreter[4096];
    bool elf, dynamic, go, setuid, other_class;
};

/* 0, or -errno; *ret is filled as far as it went. */
int program_find(const char *name, char *ret_path, size_t size);
int program_look(const char *path, struct program *ret);
/* Why it cannot run with its sockets on Usher; NULL: it can. `ret_note` may become a remark for one that can. */
const char *program_refusal(const struct program *p, const char **ret_note);

#endif
