/* SPDX-License-Identifier: Apache-2.0
 *
 * "ADDRESS:PORT" as it stands in the settings: 127.0.0.1:9477, [::1]:9477. Never a name to be looked up.
 */
#ifndef USHER_CONTROL_CONFIG_HOSTPORT_H
#define USHER_CONTROL_CONFIG_HOSTPORT_H

#include <netinet/in.h>
#include <stdbool.h>

struct hostport {
    union {
        struct sockaddr sa;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    };
    socklen_t size;
    bool loopback;
};

bool hostport_parse(const char *text, struct hostport *ret_where);

#endif
