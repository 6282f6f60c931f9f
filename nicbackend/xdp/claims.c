/* SPDX-License-Identifier: Apache-2.0
 *
 * The claim table: kernel maps that all hooks of a daemon share, and the handing over of them to a successor. Thread:
 * control only. `claims` and `addrs` are truth and live in the kernel; `ports` is derived from `claims`. It attaches
 * nothing; see attach.c.
 */
#include <errno.h>
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

const char *const claims_map_names[CLAIMS_MAP_COUNT] = {"claims", "ports", "addrs", "frags", "kept", "held"};
const char *const claims_hook_names[NB_HOOK_COUNT] = {"xdp-native", "xdp-generic", "tc"};
const char *const claims_attach_fd_names[ATTACH_FD_COUNT] = {"prog", "filter", "config", "counts", "xsks", "link"};

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
    c->map[CLAIMS_MAP_PORTS] = bpf_map_create(BPF_MAP_TYPE_ARRAY, "usher_ports", 4, 8, CLAIM_PORT_WORDS + 1, NULL);
    if (c->map[CLAIMS_MAP_PORTS] < 0)
        return -errno;
    c->map[CLAIMS_MAP_ADDRS] = bpf_map_create(BPF_MAP_TYPE_HASH, "usher_addrs", 16, 4, ADDR_MAX, &lazy);
    if (c->map[CLAIMS_MAP_ADDRS] < 0)
        return -errno;
    c->map[CLAIMS_MAP_FRAGS] =
        bpf_map_create(BPF_MAP_TYPE_LRU_HASH, "usher_frags", sizeof(struct claim_frag_key), 8, CLAIM_FRAG_MAX, NULL);
    if (c->map[CLAIMS_MAP_FRAGS] < 0)
        return -errno;
    c->map[CLAIMS_MAP_KEPT] =
        bpf_map_create(BPF_MAP_TYPE_LRU_HASH, "usher_kept", sizeof(struct claim_kept_key), 4, CLAIM_KEPT_MAX, NULL);
    if (c->map[CLAIMS_MAP_KEPT] < 0)
        return -errno;
    c->map[CLAIMS_MAP_HELD] =
        bpf_map_create(BPF_MAP_TYPE_HASH, "usher_held", sizeof(struct claim_kept_key), 4, CLAIM_HELD_MAX, &lazy);
    return c->map[CLAIMS_MAP_HELD] < 0 ? -errno : 0;
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
    if (claim->port_last != 0 && (claim->port_last < claim->port || !addr_is_zero(claim->addr.b)))
        return -EINVAL;
    *ret_key = (struct claim_key){.port = htons(claim->port), .proto = claim->proto, .range = claim->port_last != 0};
    memcpy(ret_key->addr, claim->addr.b, 16);
    return 0;
}

/* What the bits of one port should be. */
static uint64_t bits_of(const struct nb_claims *c, bool is_tcp, uint32_t port) {
    uint64_t bits =
        (c->any[is_tcp][port] != 0 ? CLAIM_PORT_ANY : 0u) | (c->exact[is_tcp][port] != 0 ? CLAIM_PORT_EXACT : 0u);
    return bits << CLAIM_PORT_SHIFT(port);
}

/* Counts a claim in or out of one port; the word that the port's bits are in is then to be written. */
static void port_count(struct nb_claims *c, bool is_tcp, uint32_t port, bool any, bool add) {
    if (any)
        c->any[is_tcp][port] = (uint8_t)(c->any[is_tcp][port] + (add ? 1 : -1));
    else
        c->exact[is_tcp][port] += add ? 1 : -1u;
}

static int words_write(struct nb_claims *c, uint32_t *words, uint64_t *values, uint32_t count) {
    LIBBPF_OPTS(bpf_map_batch_opts, opts);
    uint32_t done = count;
    if (count > 1 && bpf_map_update_batch(c->map[CLAIMS_MAP_PORTS], words, values, &done, &opts) == 0)
        done = count;
    else
        done = 0; /* one, or a kernel without batches: one by one */
    for (; done < count; done++) {
        if (bpf_map_update_elem(c->map[CLAIMS_MAP_PORTS], &words[done], &values[done], BPF_ANY) < 0)
            return -errno;
    }
    for (uint32_t i = 0; i < count; i++)
        c->ports[words[i]] = values[i];
    return 0;
}

/* Makes the derived bits of these ports say what the counts say: one call of the kernel's for all of them. */
static int ports_derive(struct nb_claims *c, bool is_tcp, uint32_t first, uint32_t last) {
    uint32_t words[CLAIM_PORT_WORDS / 2], count = 0;
    uint64_t values[CLAIM_PORT_WORDS / 2];
    for (uint32_t port = first, end; port <= last; port = end) {
        uint32_t word = CLAIM_PORT_WORD(is_tcp, port);
        uint64_t value = c->ports[word];
        for (end = port; end <= last && CLAIM_PORT_WORD(is_tcp, end) == word; end++)
            value = (value & ~(3ull << CLAIM_PORT_SHIFT(end))) | bits_of(c, is_tcp, end);
        if (value == c->ports[word])
            continue;
        words[count] = word;
        values[count++] = value;
    }
    return words_write(c, words, values, count);
}

static int ports_note(struct nb_claims *c, const struct nb_claim *claim, bool add) {
    bool is_tcp = claim->proto == IPPROTO_TCP, any = addr_is_zero(claim->addr.b);
    uint32_t last = claim->port_last != 0 ? claim->port_last : claim->port;
    for (uint32_t port = claim->port; port <= last; port++)
        port_count(c, is_tcp, port, any, add);
    return ports_derive(c, is_tcp, claim->port, last);
}

int nb_claims_add(struct nb_claims *c, const struct nb_claim *claim) {
    struct claim_key key;
    int error = key_make(claim, &key);
    if (error < 0)
        return error;
    uint32_t value = claim->port_last;
    if (bpf_map_update_elem(c->map[CLAIMS_MAP_CLAIMS], &key, &value, BPF_NOEXIST) < 0)
        return errno == E2BIG ? -ENOSPC : -errno;
    return ports_note(c, claim, true);
}

int nb_claims_del(struct nb_claims *c, const struct nb_claim *claim) {
    struct claim_key key;
    uint32_t value;
    int error = key_make(claim, &key);
    if (error < 0)
        return error;
    if (bpf_map_lookup_elem(c->map[CLAIMS_MAP_CLAIMS], &key, &value) < 0 || value != claim->port_last)
        return -ENOENT;
    if (bpf_map_delete_elem(c->map[CLAIMS_MAP_CLAIMS], &key) < 0)
        return -errno;
    return ports_note(c, claim, false);
}

static void claim_read(const struct nb_claims *c, const struct claim_key *key, struct nb_claim *ret_claim) {
    uint32_t value = 0;
    *ret_claim = (struct nb_claim){.port = ntohs(key->port), .proto = key->proto};
    memcpy(ret_claim->addr.b, key->addr, 16);
    if (key->range && bpf_map_lookup_elem(c->map[CLAIMS_MAP_CLAIMS], key, &value) == 0)
        ret_claim->port_last = (uint16_t)value;
}

size_t nb_claims_list(const struct nb_claims *c, struct nb_claim *claims, size_t max) {
    struct claim_key key, *previous = NULL;
    size_t n = 0;
    while (bpf_map_get_next_key(c->map[CLAIMS_MAP_CLAIMS], previous, &key) == 0) {
        if (n < max)
            claim_read(c, &key, &claims[n]);
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

static int kept_write(struct nb_claims *c, uint64_t value) {
    uint32_t word = CLAIM_KEPT_WORD;
    if (bpf_map_update_elem(c->map[CLAIMS_MAP_PORTS], &word, &value, BPF_ANY) < 0)
        return -errno;
    c->kept = value;
    return 0;
}

int nb_claims_settle(struct nb_claims *c, uint16_t port) {
    if (port != 0 && (c->any[1][port] != 0 || c->exact[1][port] != 0))
        return -EBUSY;
    return kept_write(c, port != 0 ? CLAIM_SETTLES(port) : CLAIM_KEPT_SOME);
}

static struct claim_kept_key flow_key(const struct nb_flow *flow) {
    struct claim_kept_key key = {.local_port = htons(flow->local_port), .remote_port = htons(flow->remote_port)};
    memcpy(key.local, flow->local.b, 16);
    memcpy(key.remote, flow->remote.b, 16);
    return key;
}

int nb_claims_keep(struct nb_claims *c, const struct nb_flow *flow) {
    struct claim_kept_key key = flow_key(flow);
    uint32_t zero = 0;
    if (bpf_map_update_elem(c->map[CLAIMS_MAP_KEPT], &key, &zero, BPF_ANY) < 0)
        return -errno;
    return c->kept != 0 ? 0 : kept_write(c, CLAIM_KEPT_SOME);
}

int nb_claims_hold(struct nb_claims *c, const struct nb_flow *flow) {
    struct claim_kept_key key = flow_key(flow);
    uint32_t zero = 0;
    if (bpf_map_update_elem(c->map[CLAIMS_MAP_HELD], &key, &zero, BPF_NOEXIST) < 0)
        return errno == E2BIG ? -ENOSPC : -errno;
    port_count(c, true, flow->local_port, false, true);
    return ports_derive(c, true, flow->local_port, flow->local_port);
}

int nb_claims_let_go(struct nb_claims *c, const struct nb_flow *flow) {
    struct claim_kept_key key = flow_key(flow);
    if (bpf_map_delete_elem(c->map[CLAIMS_MAP_HELD], &key) < 0)
        return -errno;
    port_count(c, true, flow->local_port, false, false);
    return ports_derive(c, true, flow->local_port, flow->local_port);
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

/* Derives `ports` and the counts from the claims anew: the predecessor may have died between its two steps. */
static int adopt_derive(struct nb_claims *c, struct nb_error *err) {
    for (uint32_t w = 0; w < CLAIM_PORT_WORDS; w++) {
        if (bpf_map_lookup_elem(c->map[CLAIMS_MAP_PORTS], &w, &c->ports[w]) < 0)
            return nb_fail(err, -errno, "cannot read the predecessor's port table: %s", strerror(errno));
    }
    struct claim_key key, *previous = NULL;
    while (bpf_map_get_next_key(c->map[CLAIMS_MAP_CLAIMS], previous, &key) == 0) {
        struct nb_claim claim;
        claim_read(c, &key, &claim);
        bool any = addr_is_zero(key.addr);
        uint32_t last = claim.port_last != 0 ? claim.port_last : claim.port;
        for (uint32_t port = claim.port; port <= last; port++)
            port_count(c, key.proto == IPPROTO_TCP, port, any, true);
        previous = &key;
    }
    struct claim_kept_key flow, *before = NULL;
    while (bpf_map_get_next_key(c->map[CLAIMS_MAP_HELD], before, &flow) == 0) {
        port_count(c, true, ntohs(flow.local_port), false, true);
        before = &flow;
    }
    int error = ports_derive(c, false, 0, UINT16_MAX);
    if (error == 0)
        error = ports_derive(c, true, 0, UINT16_MAX);
    if (error == 0)
        error = kept_write(c, CLAIM_KEPT_SOME); /* the predecessor may have died while a port settled */
    return error == 0 ? 0 : nb_fail(err, error, "cannot write the port table: %s", strerror(-error));
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
