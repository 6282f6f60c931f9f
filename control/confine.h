/* SPDX-License-Identifier: Apache-2.0
 *
 * What usherd's threads may ask of the kernel, by role: seccomp filters that refuse (EPERM) what the role never does.
 * The unit's SystemCallFilter= does the same from outside where systemd runs usherd; this holds everywhere.
 */
#ifndef USHER_CONTROL_CONFINE_H
#define USHER_CONTROL_CONFINE_H

/* The calling thread and those it makes, also programs it starts: nobody here mounts, traces, loads modules, enters
 * namespaces or sets clocks. After no_new_privs was set. 0 or -errno. */
int confine_process(void);
/* The calling thread, a worker, on top: it opens no files, changes none, starts and signals no processes, connects and
 * listens nowhere. It says nothing when the kernel refuses: the process's own filter holds all the same. */
void confine_worker(void);

#endif
