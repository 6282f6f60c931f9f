/* SPDX-License-Identifier: Apache-2.0
 *
 * See args.h.
 */
#include "args.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <usher/usher.h>

static _Noreturn void usage_error(const char *what, const char *text) {
    fprintf(stderr, "%s: %s\n", what, text);
    exit(2);
}

long args_number(const char *option, const char *text, long min, long max) {
    char *end;
    long v = strtol(text, &end, 10);
    if (*text && !*end && v >= min && v <= max)
        return v;
    fprintf(stderr, "%s: %s is not a number from %ld to %ld\n", option, text, min, max);
    exit(2);
}

socklen_t args_address(const char *text, struct sockaddr_storage *ret_addr) {
    char host[64] = "";
    const char *colon = strrchr(text, ':');
    if (!colon || (size_t)(colon - text) >= sizeof(host))
        usage_error(text, "an address is host:port, as 192.0.2.1:7 or [2001:db8::1]:7");
    memcpy(host, text, (size_t)(colon - text));
    in_port_t port = htons((uint16_t)args_number("port", colon + 1, 0, 65535));
    memset(ret_addr, 0, sizeof(*ret_addr));
    if (host[0] == '[') {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret_addr;
        char *bracket = strchr(host, ']');
        if (!bracket || bracket[1])
            usage_error(text, "an IPv6 address ends with ]");
        *bracket = 0;
        in6->sin6_family = AF_INET6;
        in6->sin6_port = port;
        if (inet_pton(AF_INET6, host + 1, &in6->sin6_addr) != 1)
            usage_error(text, "not an IPv6 address");
        return sizeof(*in6);
    }
    struct sockaddr_in *in = (struct sockaddr_in *)ret_addr;
    in->sin_family = AF_INET;
    in->sin_port = port;
    if (host[0] && inet_pton(AF_INET, host, &in->sin_addr) != 1)
        usage_error(text, "not an IPv4 address");
    return sizeof(*in);
}

int args_check(int rc, const char *what) {
    if (rc >= 0)
        return rc;
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, usher_strerror());
    exit(1);
}
