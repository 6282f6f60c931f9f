/* SPDX-License-Identifier: Apache-2.0
 *
 * The TCP side. The core would have to run all the time to listen, and takes no accepted TCP descriptor for TLS: so
 * we listen, and carry the bytes of each connection to a UNIX socket of the core's, whose TLS it is. The bytes stay the
 * peer's: we see nothing but ciphertext. The near end of that UNIX connection has a name of ours, by which the core
 * tells at each call which TCP connection it came by; a stranger that connects there is not known by name.
 *
 * Certificates are looked at while the core runs and taken over when their files changed; the core asks for them at
 * each handshake, on a thread of its own.
 *
 * Thread: control, except on_handshake().
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grpc/grpc_security.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/listener.h"
#include "control/log.h"
#include "control/rpc/rpc_internal.h"

#define PEM_MAX         (256u << 10)
#define RELAY_BYTES     16384u
#define ACCEPT_PER_TURN 16

/* Bytes on their way from one end to the other. */
struct pipe_half {
    uint8_t bytes[RELAY_BYTES];
    size_t at, end;
    bool eof, shut;
};

struct rpc_relay {
    struct rpc_relay *next;
    struct rpc_server *server;
    int fd[2]; /* the peer, the core */
    sd_event_source *io[2];
    struct pipe_half half[2]; /* half[i] is read from fd[i] */
    struct rpc_connection *connection;
};

struct pems {
    char *certificate, *key, *client_ca;
};

/* What tells that a file was replaced or written anew. */
struct file_mark {
    struct timespec mtime;
    uint64_t ino, size;
};

struct rpc_tls_side {
    int listen_fd;
    pthread_mutex_t lock; /* of what the core's threads read as well */
    struct pems pems;
    uint32_t generation, told; /* of pems: what there is, what the core has */
    struct file_mark mark[3];  /* of the files when they were last looked at */
    sd_event_source *listen_io;
    char name[40]; /* abstract, of the core's socket */
    uint64_t next_relay;
    struct rpc_relay *relays;
};

/* ---- relays ---- */

static void relay_end(struct rpc_relay *r) {
    struct rpc_relay **link = &r->server->tls->relays;
    while (*link != r)
        link = &(*link)->next;
    *link = r->next;
    for (int i = 0; i < 2; i++) {
        sd_event_source_disable_unref(r->io[i]);
        (void)close(r->fd[i]);
    }
    if (r->connection != NULL)
        rpc_peer_remove(r->server, r->connection);
    free(r);
}

/* Reads when empty, writes what is there. False: the connection broke. */
static bool half_move(struct pipe_half *h, int from, int to) {
    if (h->at == h->end && !h->eof) {
        ssize_t n = recv(from, h->bytes, sizeof h->bytes, MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return false;
        h->eof = n == 0;
        h->at = 0;
        h->end = n > 0 ? (size_t)n : 0;
    }
    if (h->at < h->end) {
        ssize_t n = send(to, h->bytes + h->at, h->end - h->at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return false;
        h->at += n > 0 ? (size_t)n : 0;
    }
    if (h->eof && h->at == h->end && !h->shut) {
        (void)shutdown(to, SHUT_WR);
        h->shut = true;
    }
    return true;
}

static bool relay_move(struct rpc_relay *r) {
    for (int i = 0; i < 2; i++) {
        if (!half_move(&r->half[i], r->fd[i], r->fd[!i]))
            return false;
    }
    for (int i = 0; i < 2; i++) {
        const struct pipe_half *in = &r->half[i], *out = &r->half[!i];
        uint32_t want = (in->at == in->end && !in->eof ? EPOLLIN : 0u) | (out->at < out->end ? EPOLLOUT : 0u);
        if (sd_event_source_set_io_events(r->io[i], want) < 0)
            return false;
    }
    return !(r->half[0].shut && r->half[1].shut);
}

static int on_relay(sd_event_source *source, int fd, uint32_t events, void *arg) {
    struct rpc_relay *r = arg;
    (void)source;
    (void)fd;
    /* A hang-up is told whether asked for or not: when nothing is left to move, it is the end. */
    bool broken = (events & (EPOLLERR | EPOLLHUP)) != 0 && (events & (EPOLLIN | EPOLLOUT)) == 0;
    if (!relay_move(r) || broken)
        relay_end(r);
    return 0;
}

static socklen_t abstract(struct sockaddr_un *addr, const char *name) {
    *addr = (struct sockaddr_un){.sun_family = AF_UNIX};
    size_t n = strlen(name);
    memcpy(addr->sun_path + 1, name, n);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n);
}

/* The inner connection, with a name of its own. */
static int inner_connect(struct rpc_server *s, const char *name) {
    struct sockaddr_un near_end, core;
    socklen_t near_size = abstract(&near_end, name), core_size = abstract(&core, s->tls->name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (bind(fd, (struct sockaddr *)&near_end, near_size) == 0 && connect(fd, (struct sockaddr *)&core, core_size) == 0)
        return fd;
    int error = -errno;
    (void)close(fd);
    return error;
}

static void address_text(const struct sockaddr_storage *a, char *ret_text, size_t size) {
    char host[INET6_ADDRSTRLEN] = "?";
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)a;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)a;
    if (a->ss_family == AF_INET)
        (void)inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
    else
        (void)inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
    bool bare = a->ss_family == AF_INET;
    (void)snprintf(ret_text, size, bare ? "%s:%u" : "[%s]:%u", host, ntohs(bare ? v4->sin_port : v6->sin6_port));
}

static int relay_watch(struct rpc_relay *r) {
    int error = 0;
    for (int i = 0; i < 2 && error >= 0; i++)
        error = sd_event_add_io(r->server->params.event, &r->io[i], r->fd[i], EPOLLIN, on_relay, r);
    return error;
}

/* Takes fd. */
static void relay_begin(struct rpc_server *s, int fd, const struct sockaddr_storage *from) {
    struct rpc_caller caller = {.tls = true};
    char name[64], peer[80];
    address_text(from, caller.address, sizeof caller.address);
    (void)snprintf(name, sizeof name, "%s-%llu", s->tls->name, (unsigned long long)s->tls->next_relay++);
    (void)snprintf(peer, sizeof peer, "unix-abstract:%s", name);
    struct rpc_relay *r = calloc(1, sizeof *r);
    int inner = r != NULL && rpc_core_start(s) == 0 ? inner_connect(s, name) : -ENOMEM;
    struct rpc_connection *conn = inner >= 0 ? rpc_peer_add(s, peer, &caller) : NULL;
    if (conn == NULL) {
        log_warning("control.refuse", "a connection from %s was refused: %s", caller.address,
                    inner < 0 ? strerror(-inner) : "there are too many; raise control.connections");
        (void)close(fd);
        if (inner >= 0)
            (void)close(inner);
        free(r);
        return;
    }
    r->server = s;
    r->fd[0] = fd;
    r->fd[1] = inner;
    r->connection = conn;
    conn->relay = r;
    r->next = s->tls->relays;
    s->tls->relays = r;
    if (relay_watch(r) < 0)
        relay_end(r);
}

static int on_accept(sd_event_source *source, int fd, uint32_t events, void *arg) {
    struct rpc_server *s = arg;
    (void)source;
    (void)events;
    for (int i = 0; i < ACCEPT_PER_TURN; i++) {
        struct sockaddr_storage from = {0};
        socklen_t size = sizeof from;
        int client = accept4(fd, (struct sockaddr *)&from, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (client < 0)
            return 0;
        relay_begin(s, client, &from);
    }
    return 0;
}

void rpc_tls_drop(struct rpc_server *s) {
    while (s->tls != NULL && s->tls->relays != NULL)
        relay_end(s->tls->relays);
}

/* ---- certificates ---- */

static int pem_read(const char *path, char **ret_text) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    char *text = malloc(PEM_MAX + 1);
    ssize_t n = text != NULL ? read(fd, text, PEM_MAX) : -1;
    int error = text == NULL ? -ENOMEM : n < 0 ? -errno : n == PEM_MAX ? -EFBIG : 0;
    (void)close(fd);
    if (error == 0) {
        text[n] = '\0';
        error = strstr(text, "-----BEGIN ") != NULL ? 0 : -EBADMSG;
    }
    if (error != 0) {
        free(text);
        return error;
    }
    *ret_text = text;
    return 0;
}

static void pems_free(struct pems *p) {
    if (p->key != NULL)
        explicit_bzero(p->key, strlen(p->key));
    free(p->certificate);
    free(p->key);
    free(p->client_ca);
}

static int pems_read(const struct rpc_tls *tls, struct pems *ret_pems, const char **ret_path) {
    *ret_pems = (struct pems){0};
    *ret_path = tls->certificate;
    int error = pem_read(tls->certificate, &ret_pems->certificate);
    if (error == 0)
        error = pem_read(*ret_path = tls->key, &ret_pems->key);
    if (error == 0)
        error = pem_read(*ret_path = tls->client_ca, &ret_pems->client_ca);
    if (error != 0)
        pems_free(ret_pems);
    return error;
}

/* True when a file is not as it was the last time. One that cannot be seen now is none: it may just be replaced. */
static bool files_changed(struct rpc_tls_side *t, const struct rpc_tls *tls) {
    const char *const paths[] = {tls->certificate, tls->key, tls->client_ca};
    bool changed = false;
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        struct stat st;
        if (stat(paths[i], &st) != 0)
            return false;
        const struct file_mark mark = {st.st_mtim, st.st_ino, (uint64_t)st.st_size};
        changed = changed || mark.mtime.tv_sec != t->mark[i].mtime.tv_sec ||
                  mark.mtime.tv_nsec != t->mark[i].mtime.tv_nsec || mark.ino != t->mark[i].ino ||
                  mark.size != t->mark[i].size;
        t->mark[i] = mark;
    }
    return changed;
}

/* Takes over what the files hold now. On failure what there was stays. */
static int pems_renew(struct rpc_server *s, const char **ret_path) {
    struct rpc_tls_side *t = s->tls;
    struct pems fresh;
    int error = pems_read(s->params.tls, &fresh, ret_path);
    if (error != 0)
        return error;
    (void)pthread_mutex_lock(&t->lock);
    struct pems old = t->pems;
    t->pems = fresh;
    t->generation++;
    (void)pthread_mutex_unlock(&t->lock);
    pems_free(&old);
    return 0;
}

void rpc_tls_refresh(struct rpc_server *s) {
    const char *path;
    if (s->tls == NULL || !files_changed(s->tls, s->params.tls))
        return;
    int error = pems_renew(s, &path);
    if (error == 0)
        log_info("control.tls", "the certificates changed; new connections see the new ones");
    else
        log_warning("control.tls", "%s changed and cannot be read: %s; the old certificates stay in use", path,
                    strerror(-error));
}

/* On a thread of the core's. */
static grpc_ssl_certificate_config_reload_status on_handshake(void *arg, grpc_ssl_server_certificate_config **config) {
    struct rpc_tls_side *t = arg;
    grpc_ssl_certificate_config_reload_status status = GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    (void)pthread_mutex_lock(&t->lock);
    if (t->told != t->generation) {
        grpc_ssl_pem_key_cert_pair pair = {t->pems.key, t->pems.certificate};
        *config = grpc_ssl_server_certificate_config_create(t->pems.client_ca, &pair, 1);
        t->told = t->generation;
        status = *config != NULL ? GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW : GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_FAIL;
    }
    (void)pthread_mutex_unlock(&t->lock);
    return status;
}

int rpc_tls_door(struct rpc_server *s, grpc_server *server) {
    char address[64];
    const char *path;
    struct rpc_tls_side *t = s->tls;
    (void)files_changed(t, s->params.tls);
    int error = pems_renew(s, &path); /* a new server of the core's knows nothing of the last one's */
    if (error != 0)
        return error;
    (void)snprintf(address, sizeof address, "unix-abstract:%s", t->name);
    grpc_ssl_server_credentials_options *options = grpc_ssl_server_credentials_create_options_using_config_fetcher(
        GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY, on_handshake, t);
    grpc_server_credentials *creds = grpc_ssl_server_credentials_create_with_options(options);
    if (creds == NULL)
        return -EBADMSG;
    int port = grpc_server_add_http2_port(server, address, creds);
    grpc_server_credentials_release(creds);
    return port != 0 ? 0 : -EBADMSG;
}

/* ---- life ---- */

int rpc_tls_create(struct rpc_server *s, char *err, size_t err_size) {
    struct pems pems;
    const char *path;
    uint64_t token;
    s->tls = calloc(1, sizeof *s->tls);
    if (s->tls == NULL || getrandom(&token, sizeof token, 0) != sizeof token) {
        free(s->tls);
        s->tls = NULL;
        (void)snprintf(err, err_size, "no memory for the TLS side of the control service");
        return -ENOMEM;
    }
    s->tls->listen_fd = -1;
    (void)pthread_mutex_init(&s->tls->lock, NULL);
    (void)snprintf(s->tls->name, sizeof s->tls->name, "usher-%016llx", (unsigned long long)token);
    int error = pems_read(s->params.tls, &pems, &path); /* now, so that a wrong path is told at the start */
    if (error != 0) {
        (void)snprintf(err, err_size, "cannot read %s: %s; control.tls must name PEM files that usherd may read", path,
                       strerror(-error));
        return error;
    }
    pems_free(&pems);
    error = listener_open_tcp(s->params.tls->address, &s->tls->listen_fd, err, err_size);
    return error == 0 ? sd_event_add_io(s->params.event, &s->tls->listen_io, s->tls->listen_fd, EPOLLIN, on_accept, s)
                      : error;
}

void rpc_tls_destroy(struct rpc_server *s) {
    if (s->tls == NULL)
        return;
    rpc_tls_drop(s);
    sd_event_source_disable_unref(s->tls->listen_io);
    if (s->tls->listen_fd >= 0)
        (void)close(s->tls->listen_fd);
    pems_free(&s->tls->pems);
    (void)pthread_mutex_destroy(&s->tls->lock);
    free(s->tls);
    s->tls = NULL;
}
