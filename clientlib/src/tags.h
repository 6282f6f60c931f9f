/* SPDX-License-Identifier: Apache-2.0
 *
 * Who is who in the context's epoll set: small numbers for the session's own fds, else the address of the socket.
 */
#ifndef USHER_CLIENTLIB_TAGS_H
#define USHER_CLIENTLIB_TAGS_H

enum client_tag { TAG_NONE = 0, TAG_WAKE, TAG_SESSION, TAG_TIMER, TAG_COUNT };

#endif
