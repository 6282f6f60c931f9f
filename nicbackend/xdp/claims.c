/* SPDX-License-Identifier: Apache-2.0
 *
 * The claim table: kernel maps that all hooks of a daemon share, and the handing over of them to a successor. Thread:
 * control only. `claims` and `addrs` are truth and live in the kernel; `ports` is derived from `claims`. It attaches
 * nothing; see attach.c.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <netinet/in.h>

#include "nicbackend/xdp/claims_internal.h"

#define ADDR_MAX        4096u
#define CLAIM_MAX_LIMIT (1u << 22)

const char *const claims_map_names[CLAIMS_MAP_COUNT] = {"claims", "ports", "addrs", "frags"};
const char *const claims_hook_names[NB_HOOK_COUNT] = {"xdp-native", "xdp-generic", "tc"};
const char *const claims_attach_fd_names[ATTACH_FD_COUNT] = {"prog", "filter", "config", "counts", "xsks", "link"};

int nb_fail(struct nb_error *err, int error, const char *format, ...) {
    if (err != NULL) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
    }
    return error;
}

/* Mapped rather than malloced: half a megabyte of `exact` counters that are mostly never touched. */
static struct nb_claims *claims_alloc(void) {
    void *at = mmap(NULL, sizeof(struct nb_claims), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    struct nb_claims *c = at;
    for (uint32_t i = 0; i < CLAIMS_MAP_COUNT; i++)
        c->map[i] = -1;
    return c;
}

static int maps_create(struct nb_claims *c, uint32_t claim_max) {
    LIBBPF_OPTS(bpf_map_create_opts, lazy, .map_flags = BPF_F_NO_PREALLOC);
    const uint32_t key = sizeof(struct claim_key);
    c->map[CLAIMS_MAP_CLAIMS] = bpf_map_create(BPF_MAP_TYPE_HASH, "usher_claims", key, 4, claim_max, &lazy);
    if (c->map[CLAIMS_MAP_CLAIMS] < 0)
        return -errno;
    c->map[CLAIMS_MAP_PORTS] = bpf_map_create(BPF_MAP_TYPE_ARRAY, "usher_ports", 4, 8, CLAIM_PORT_WORDS, NULL);
    if (c->map[CLAIMS_MAP_PORTS] < 0)
        return -errno;
    c->map[CLAIMS_MAP_ADDRS] = bpf_map_create(BPF_MAP_TYPE_HASH, "usher_addrs", 16, 4, ADDR_MAX, &lazy);
    if (c->map[CLAIMS_MAP_ADDRS] < 0)
        return -errno;
    c->map[CLAIMS_MAP_FRAGS] =
        bpf_map_create(BPF_MAP_TYPE_LRU_HASH, "usher_frags", sizeof(struct claim_frag_key), 8, CLAIM_FRAG_MAX, NULL);
    return c->map[CLAIMS_MAP_FRAGS] < 0 ? -errno : 0;
}

static const char *why(int error) {
    if (error == -EPERM || error == -EACCES)
        return "it needs CAP_BPF and CAP_NET_ADMIN: run as root or grant them";
    if (error == -ENOSYS || error == -EINVAL)
        return "this kernel lacks BPF maps; Linux 6.1 or later is needed";
    return strerror(-error);
}

int nb_claims_create(uint32_t claim_max, struct nb_claims **ret_claims, struct nb_error *err) {
    if (claim_max == 0 || claim_max > CLAIM_MAX_LIMIT)
        return nb_fail(err, -EINVAL, "a claim table of %u entries is not possible: 1 to %u", claim_max,
                       CLAIM_MAX_LIMIT);
    libbpf_set_print(NULL); /* libraries do not log; the sentences in err say what libbpf's lines would */
    struct nb_claims *c = claims_alloc();
    if (c == NULL)
        return nb_fail(err, -ENOMEM, "no memory for the claim table");
    int error = maps_create(c, claim_max);
    if (error < 0) {
        nb_claims_destroy(c);
        return nb_fail(err, error, "cannot make the claim table's maps: %s", why(error));
    }
    *ret_claims = c;
    return 0;
}

void nb_claims_destroy(struct nb_claims *c) {
    if (c == NULL)
        return;
    while (c->attaches != NULL)
        nb_attach_destroy(c->attaches);
    for (uint32_t i = 0; i < CLAIMS_MAP_COUNT; i++) {
        if (c->map[i] >= 0)
            close(c->map[i]);
    }
    munmap(c, sizeof *c);
}

/* --- claims ---------------------------------------------------------------------------------------------------- */

static bool addr_is_zero(const uint8_t *b) {
    static const uint8_t zero[16];
    return memcmp(b, zero, sizeof zero) == 0;
}

static int key_make(const struct nb_claim *claim, struct claim_key *ret_key) {
    if (claim->port == 0 || (claim->proto != IPPROTO_UDP && claim->proto != IPPROTO_TCP))
        return -EINVAL;
    *ret_key = (struct claim_key){.port = htons(claim->port), .proto = claim->proto};
    memcpy(ret_key->addr, claim->addr.b, 16);
    return 0;
}

/* Makes the derived bit of one port say what `on` says. */
static int port_bit_set(struct nb_claims *c, bool is_tcp, uint16_t port, uint32_t bit, bool on) {
    uint32_t word = CLAIM_PORT_WORD(is_tcp, (uint32_t)port);
    uint64_t mask = (uint64_t)bit << CLAIM_PORT_SHIFT((uint32_t)port);
    uint64_t value = on ? c->ports[word] | mask : c->ports[word] & ~mask;
    if (value == c->ports[word])
        return 0;
    if (bpf_map_update_elem(c->map[CLAIMS_MAP_PORTS], &word, &value, BPF_ANY) < 0)
        return -errno;
    c->ports[word] = value;
    return 0;
}

/* Counts the claim in or out and sets the bit it is derived to. */
static int port_note(struct nb_claims *c, const struct claim_key *key, bool add) {
    bool is_tcp = key->proto == IPPROTO_TCP;
    uint16_t port = ntohs(key->port);
    if (addr_is_zero(key->addr))
        return port_bit_set(c, is_tcp, port, CLAIM_PORT_ANY, add);
    uint32_t *exact = &c->exact[is_tcp][port];
    *exact += add ? 1 : -1u;
    return port_bit_set(c, is_tcp, port, CLAIM_PORT_EXACT, *exact != 0);
}

int nb_claims_add(struct nb_claims *c, const struct nb_claim *claim) {
    struct claim_key key;
    int error = key_make(claim, &key);
    if (error < 0)
        return error;
    uint32_t value = 0;
    if (bpf_map_update_elem(c->map[CLAIMS_MAP_CLAIMS], &key, &value, BPF_NOEXIST) < 0)
        return errno == E2BIG ? -ENOSPC : -errno;
    return port_note(c, &key, true);
}

int nb_claims_del(struct nb_claims *c, const struct nb_claim *claim) {
    struct claim_key key;
    int error = key_make(claim, &key);
    if (error < 0)
        return error;
    if (bpf_map_delete_elem(c->map[CLAIMS_MAP_CLAIMS], &key) < 0)
        return -errno;
    return port_note(c, &key, false);
}

size_t nb_claims_list(const struct nb_claims *c, struct nb_claim *claims, size_t max) {
    struct claim_key key, *previous = NULL;
    size_t n = 0;
    while (bpf_map_get_next_key(c->map[CLAIMS_MAP_CLAIMS], previous, &key) == 0) {
        if (n < max) {
            claims[n] = (struct nb_claim){.port = ntohs(key.port), .proto = key.proto};
            memcpy(claims[n].addr.b, key.addr, 16);
        }
        n++;
        previous = &key;
    }
    return n;
}

int nb_claims_addr_add(struct nb_claims *c, const struct nb_addr *addr) {
    uint32_t value = 0;
    if (bpf_map_update_elem(c->map[CLAIMS_MAP_ADDRS], addr->b, &value, BPF_ANY) < 0)
        return errno == E2BIG ? -ENOSPC : -errno;
    return 0;
}

int nb_claims_addr_del(struct nb_claims *c, const struct nb_addr *addr) {
    return bpf_map_delete_elem(c->map[CLAIMS_MAP_ADDRS], addr->b) < 0 ? -errno : 0;
}

/* --- handing over ---------------------------------------------------------------------------------------------- */

static size_t fd_note(struct nb_fd *fds, size_t n, size_t max, int fd, const char *prefix, const char *name) {
    if (fd < 0)
        return n;
    if (n < max) {
        fds[n].fd = fd;
        snprintf(fds[n].name, sizeof fds[n].name, "%s%s", prefix, name);
    }
    return n + 1;
}

size_t nb_claims_fds(const struct nb_claims *c, struct nb_fd *fds, size_t max) {
    size_t n = 0;
    for (uint32_t i = 0; i < CLAIMS_MAP_COUNT; i++)
        n = fd_note(fds, n, max, c->map[i], "", claims_map_names[i]);
    for (const struct nb_attach *a = c->attaches; a != NULL; a = a->next) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "%u.%s.", a->config.ifindex, claims_hook_names[a->config.hook]);
        for (uint32_t i = 0; i < ATTACH_FD_COUNT; i++)
            n = fd_note(fds, n, max, a->fd[i], prefix, claims_attach_fd_names[i]);
    }
    return n;
}

static int name_find(const char *const *names, uint32_t count, const char *name) {
    for (uint32_t i = 0; i < count; i++) {
        if (strcmp(names[i], name) == 0)
            return (int)i;
    }
    return -1;
}

/* The attachment of a name such as "3.tc.link", made when it is the first part of it. NULL: not such a name. */
static struct nb_attach *adopt_attach(struct nb_claims *c, const char *name, int *ret_part) {
    unsigned ifindex;
    char hook_name[16], part_name[16];
    if (sscanf(name, "%u.%15[a-z-].%15[a-z]", &ifindex, hook_name, part_name) != 3)
        return NULL;
    int hook = name_find(claims_hook_names, NB_HOOK_COUNT, hook_name);
    *ret_part = name_find(claims_attach_fd_names, ATTACH_FD_COUNT, part_name);
    if (hook < 0 || *ret_part < 0)
        return NULL;
    struct nb_attach *a = nb_attach_find(c, ifindex, (enum nb_hook)hook);
    if (a == NULL && (a = nb_attach_alloc(c)) != NULL) {
        a->config.ifindex = ifindex;
        a->config.hook = (uint32_t)hook;
    }
    return a;
}

static int adopt_fd(struct nb_claims *c, const struct nb_fd *f, struct nb_error *err) {
    int part = name_find(claims_map_names, CLAIMS_MAP_COUNT, f->name);
    int *place = part >= 0 ? &c->map[part] : NULL;
    if (place == NULL) {
        struct nb_attach *a = adopt_attach(c, f->name, &part);
        place = a == NULL ? NULL : &a->fd[part];
    }
    if (place == NULL)
        return nb_fail(err, -EINVAL, "the predecessor left an fd named \"%s\", which means nothing here", f->name);
    if (*place >= 0)
        return nb_fail(err, -EINVAL, "the predecessor left two fds named \"%s\"", f->name);
    *place = f->fd;
    return 0;
}

static bool attach_is_whole(const struct nb_attach *a) {
    bool xdp = a->config.hook != NB_HOOK_TC;
    return a->fd[ATTACH_FD_PROG] >= 0 && a->fd[ATTACH_FD_COUNTS] >= 0 &&
           (a->fd[ATTACH_FD_LINK] >= 0 || a->config.clsact) && a->fd[xdp ? ATTACH_FD_XSKS : ATTACH_FD_FILTER] >= 0;
}

static int adopt_check(struct nb_claims *c, struct nb_error *err) {
    for (uint32_t i = 0; i < CLAIMS_MAP_COUNT; i++) {
        if (c->map[i] < 0)
            return nb_fail(err, -EINVAL, "the predecessor left no map \"%s\"", claims_map_names[i]);
    }
    for (struct nb_attach *a = c->attaches; a != NULL; a = a->next) {
        uint32_t zero = 0;
        struct claim_config config = {0};
        (void)bpf_map_lookup_elem(a->fd[ATTACH_FD_CONFIG], &zero, &config);
        if (config.abi != CLAIMS_ABI || config.ifindex != a->config.ifindex || config.hook != a->config.hook)
            return nb_fail(err, -EPROTO, "the predecessor's attachment to interface %u has layout %u, not %u",
                           a->config.ifindex, config.abi, CLAIMS_ABI);
        a->config = config;
        if (!attach_is_whole(a))
            return nb_fail(err, -EINVAL, "the predecessor's attachment to interface %u is not complete",
                           a->config.ifindex);
    }
    return 0;
}

/* Derives `ports` and `exact` from the claims anew: the predecessor may have died between its two steps. */
static int adopt_derive(struct nb_claims *c, struct nb_error *err) {
    for (uint32_t w = 0; w < CLAIM_PORT_WORDS; w++) {
        if (bpf_map_lookup_elem(c->map[CLAIMS_MAP_PORTS], &w, &c->ports[w]) < 0)
            return nb_fail(err, -errno, "cannot read the predecessor's port table: %s", strerror(errno));
    }
    uint64_t *want = calloc(CLAIM_PORT_WORDS, sizeof *want);
    if (want == NULL)
        return nb_fail(err, -ENOMEM, "no memory to read the predecessor's claims");
    struct claim_key key, *previous = NULL;
    while (bpf_map_get_next_key(c->map[CLAIMS_MAP_CLAIMS], previous, &key) == 0) {
        bool is_tcp = key.proto == IPPROTO_TCP, any = addr_is_zero(key.addr);
        uint32_t port = ntohs(key.port);
        want[CLAIM_PORT_WORD(is_tcp, port)] |= (any ? 1ull : 2ull) << CLAIM_PORT_SHIFT(port);
        c->exact[is_tcp][port] += !any;
        previous = &key;
    }
    int error = 0;
    for (uint32_t w = 0; w < CLAIM_PORT_WORDS && error == 0; w++) {
        if (want[w] != c->ports[w] && bpf_map_update_elem(c->map[CLAIMS_MAP_PORTS], &w, &want[w], BPF_ANY) < 0)
            error = nb_fail(err, -errno, "cannot write the port table: %s", strerror(errno));
        c->ports[w] = want[w];
    }
    free(want);
    return error;
}

/* Lets go of everything without closing or detaching: it is the caller's. */
static void adopt_abandon(struct nb_claims *c) {
    while (c->attaches != NULL) {
        struct nb_attach *next = c->attaches->next;
        free(c->attaches);
        c->attaches = next;
    }
    munmap(c, sizeof *c);
}

int nb_claims_adopt(const struct nb_fd *fds, size_t count, struct nb_claims **ret_claims, struct nb_error *err) {
    libbpf_set_print(NULL);
    struct nb_claims *c = claims_alloc();
    if (c == NULL)
        return nb_fail(err, -ENOMEM, "no memory for the claim table");
    int error = 0;
    for (size_t i = 0; i < count && error == 0; i++)
        error = adopt_fd(c, &fds[i], err);
    if (error == 0)
        error = adopt_check(c, err);
    if (error == 0)
        error = adopt_derive(c, err);
    if (error < 0) {
        adopt_abandon(c);
        return error;
    }
    *ret_claims = c;
    return 0;
}
