/* SPDX-License-Identifier: Apache-2.0
 *
 * Listening sockets of usherd: made at a path or a loopback address, or passed by systemd (socket activation). One
 * place, so that every door of the house is opened with the same care: a path in use is refused, a stale one replaced,
 * and nobody can connect before owner and mode are right.
 *
 * Thread: control.
 */
#ifndef USHER_CONTROL_LISTENER_H
#define USHER_CONTROL_LISTENER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct listener_params {
    const char *path;  /* absolute */
    const char *group; /* "" = leave */
    uint32_t mode;     /* permission bits */
    int type;          /* SOCK_STREAM, SOCK_SEQPACKET */
    bool credentials;  /* SO_PASSCRED, inherited by accepted sockets: not even the first message comes without them */
    const char *group_setting; /* its name in the settings, for messages */
};

/* 0 or -errno with a sentence that says what to do. The socket is non-blocking and close-on-exec. */
int listener_open_unix(const struct listener_params *params, int *ret_fd, char *err, size_t err_size);
/* `where` is 127.0.0.1:PORT or [::1]:PORT, or any other address of this host. */
int listener_open_tcp(const char *where, int *ret_fd, char *err, size_t err_size);
/* The listening socket that systemd passed under this name (FileDescriptorName= in the .socket unit), made ready like
 * one of ours; -1 when there is none. Whoever takes it does not remove its path at the end: it is systemd's. */
int listener_passed(const char *name, int type, bool credentials);

#endif
