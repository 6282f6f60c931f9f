/* SPDX-License-Identifier: Apache-2.0
 *
 * Places of the options that every command has.
 */
#ifndef USHER_CONTROL_USHERCTL_GLOBAL_H
#define USHER_CONTROL_USHERCTL_GLOBAL_H

#define SOCKET_DEFAULT "/run/usher/control.sock"

enum global {
    GLOBAL_SOCKET,
    GLOBAL_CONNECT,
    GLOBAL_CA,
    GLOBAL_CERT,
    GLOBAL_KEY,
    GLOBAL_OUTPUT,
    GLOBAL_WATCH,
    GLOBAL_NO_HEADERS,
    GLOBAL_COLOR,
    GLOBAL_TIMEOUT,
    GLOBAL_HELP,
    GLOBAL_VERSION,
    GLOBAL_COUNT
};

#endif
