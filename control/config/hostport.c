/* SPDX-License-Identifier: Apache-2.0
 *
 * See hostport.h.
 */
#include "control/config/hostport.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool port_parse(const char *text, in_port_t *ret_port) {
    char *end;
    unsigned long port = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || port == 0 || port > 65535)
        return false;
    *ret_port = htons((uint16_t)port);
    return true;
}

bool hostport_parse(const char *text, struct hostport *ret_where) {
    char host[INET6_ADDRSTRLEN + 2];
    const char *colon = strrchr(text, ':');
    size_t n = colon != NULL ? (size_t)(colon - text) : 0;
    in_port_t port;
    if (colon == NULL || n >= sizeof host || !port_parse(colon + 1, &port))
        return false;
    (void)snprintf(host, sizeof host, "%.*s", (int)n, text);
    struct hostport w = {.size = 0};
    if (n > 2 && host[0] == '[' && host[n - 1] == ']') {
        host[n - 1] = '\0';
        w.v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = port};
        w.size = sizeof w.v6;
        if (inet_pton(AF_INET6, host + 1, &w.v6.sin6_addr) != 1)
            return false;
        w.loopback = IN6_IS_ADDR_LOOPBACK(&w.v6.sin6_addr);
    } else {
        w.v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = port};
        w.size = sizeof w.v4;
        if (inet_pton(AF_INET, host, &w.v4.sin_addr) != 1)
            return false;
        w.loopback = ntohl(w.v4.sin_addr.s_addr) >> 24 == 127;
    }
    *ret_where = w;
    return true;
}
