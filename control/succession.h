/* SPDX-License-Identifier: Apache-2.0
 *
 * Another usherd takes the place of this one while programs are attached: it is tried beside, then this process becomes
 * it. What connections live in is handed on as after a crash (recovery.h), so programs notice a pause. Thread: control.
 */
#ifndef USHER_CONTROL_SUCCESSION_H
#define USHER_CONTROL_SUCCESSION_H

#include <stdbool.h>
#include <stddef.h>

struct usherd;

/* May the program at `path` take over? It is run with --try: reads the settings and loads the engines, no more. NULL:
 * the file that this process was started from, as it is now. Waits, some seconds at most. 0 with succession_end() due,
 * or -errno with a sentence; then nothing has changed. */
int succession_try(struct usherd *u, const char *path, char *err, size_t err_size);
/* Has the file that this process was started from been replaced? */
bool succession_wanted(const struct usherd *u);
/* After the event loop: workers stop, sessions are left without a farewell, and this process becomes the other. Returns
 * only when that failed, with workers and sessions as they were. */
void succession_end(struct usherd *u);

/* In every one, before anything else: notes what the service manager gave, and the word of an old one. */
void succession_begin(char **arguments);
/* The start is through; until here death has brought the old one back. */
void succession_through(struct usherd *u);
/* The start failed: becomes the old one again. Returns when there is none. */
void succession_back(void);
/* --try: 0, or 1 with the reason on stderr. */
int succession_rehearse(struct usherd *u);

#endif
