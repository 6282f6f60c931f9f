/* SPDX-License-Identifier: Apache-2.0
 *
 * See listener.h. Each function makes or finds one socket and keeps nothing.
 */
#include "control/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "control/config/hostport.h"

#define BACKLOG 64

static int fail(char *err, size_t err_size, int error, const char *what, const char *where, const char *todo) {
    (void)snprintf(err, err_size, "cannot %s %s: %s; %s", what, where, strerror(-error), todo);
    return error;
}

/* A path is free when nobody answers there any more. */
static int path_claim(const struct sockaddr_un *addr, int type) {
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    bool alive = connect(fd, (const struct sockaddr *)addr, sizeof *addr) == 0 || errno == EAGAIN;
    (void)close(fd);
    if (alive)
        return -EADDRINUSE;
    return unlink(addr->sun_path) == 0 || errno == ENOENT ? 0 : -errno;
}

static int path_own(const char *path, const char *group, uint32_t mode) {
    if (group[0] != '\0') {
        const struct group *g = getgrnam(group);
        if (g == NULL)
            return -ESRCH;
        if (chown(path, (uid_t)-1, g->gr_gid) != 0)
            return -errno;
    }
    return chmod(path, mode) == 0 ? 0 : -errno;
}

static int credentials_ask(int fd, bool wanted) {
    int one = 1;
    return !wanted || setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &one, sizeof one) == 0 ? 0 : -errno;
}

static int unix_prepare(int fd, const struct sockaddr_un *addr, const struct listener_params *p, char *err,
                        size_t err_size) {
    mode_t mask = umask(0777); /* nobody may connect before the rights are set */
    int error = credentials_ask(fd, p->credentials);
    if (error == 0 && bind(fd, (const struct sockaddr *)addr, sizeof *addr) != 0)
        error = -errno;
    (void)umask(mask);
    if (error != 0)
        return fail(err, err_size, error, "bind", p->path, "check that its folder exists and is writable");
    error = path_own(p->path, p->group, p->mode);
    if (error == -ESRCH) {
        (void)snprintf(err, err_size, "cannot give %s to group %s: there is no such group; make it, or change %s",
                       p->path, p->group, p->group_setting);
        return error;
    }
    if (error != 0)
        return fail(err, err_size, error, "set group and mode of", p->path, "check that usherd may");
    if (listen(fd, BACKLOG) != 0)
        return fail(err, err_size, -errno, "listen on", p->path, "see the system's log");
    return 0;
}

int listener_open_unix(const struct listener_params *params, int *ret_fd, char *err, size_t err_size) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    if (strlen(params->path) >= sizeof addr.sun_path)
        return fail(err, err_size, -ENAMETOOLONG, "listen on", params->path, "choose a shorter path");
    (void)snprintf(addr.sun_path, sizeof addr.sun_path, "%s", params->path);
    int error = path_claim(&addr, params->type);
    if (error == -EADDRINUSE)
        return fail(err, err_size, error, "listen on", params->path,
                    "another usherd serves there: stop it, or give this one its own run_dir");
    if (error != 0)
        return fail(err, err_size, error, "make room at", params->path, "check that its folder is writable");
    int fd = socket(AF_UNIX, params->type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fail(err, err_size, -errno, "make the socket for", params->path, "raise the limit of open files");
    error = unix_prepare(fd, &addr, params, err, err_size);
    if (error != 0) {
        (void)close(fd);
        return error;
    }
    *ret_fd = fd;
    return 0;
}

int listener_open_tcp(const char *where, int *ret_fd, char *err, size_t err_size) {
    struct hostport addr;
    if (!hostport_parse(where, &addr))
        return fail(err, err_size, -EINVAL, "listen on", where, "write it as ADDRESS:PORT");
    int fd = socket(addr.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fail(err, err_size, -errno, "make the socket for", where, "raise the limit of open files");
    int one = 1;
    int error = 0;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 || bind(fd, &addr.sa, addr.size) != 0 ||
        listen(fd, BACKLOG) != 0)
        error = -errno;
    if (error != 0) {
        (void)close(fd);
        return fail(err, err_size, error, "listen on", where, "choose another address or port");
    }
    *ret_fd = fd;
    return 0;
}

static bool fits(int fd, int type) {
    return sd_is_socket(fd, AF_UNSPEC, type, 1) > 0;
}

int listener_passed(const char *name, int type, bool credentials) {
    char **names = NULL;
    int found = -1;
    int n = sd_listen_fds_with_names(0, &names);
    for (int i = 0; i < n; i++) {
        int fd = SD_LISTEN_FDS_START + i;
        if (found < 0 && strcmp(names[i], name) == 0 && fits(fd, type))
            found = fd;
        free(names[i]);
    }
    free((void *)names);
    if (found < 0 || fcntl(found, F_SETFL, O_NONBLOCK) != 0 || credentials_ask(found, credentials) != 0)
        return -1;
    return found;
}
