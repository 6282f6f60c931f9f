/* SPDX-License-Identifier: Apache-2.0
 *
 * See describe.h.
 */
#include "control/capture/describe.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engines/wire.h"

struct text {
    char *at;
    size_t len, size;
};

static void say(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void say(struct text *t, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(t->at + t->len, t->size - t->len, fmt, args);
    va_end(args);
    if (n > 0)
        t->len = t->len + (size_t)n < t->size ? t->len + (size_t)n : t->size - 1;
}

/* A name of somebody else's: one word without surprises. */
static const char *plain(const char *name, char *ret_text, size_t size) {
    size_t n = 0;
    for (const unsigned char *c = (const unsigned char *)name; *c != '\0' && n + 4 < size; c++) {
        if (*c > ' ' && *c < 0x7f && *c != '%' && *c != '"' && *c != '=')
            ret_text[n++] = (char)*c;
        else
            n += (size_t)snprintf(ret_text + n, size - n, "%%%02X", *c);
    }
    ret_text[n] = '\0';
    return ret_text;
}

#define PLAIN_MAX   300
#define PLAIN(name) plain((name), (char[PLAIN_MAX]){0}, PLAIN_MAX)

/* Who judged: the engine of that name, or the host of them all. */
static void engine_of(const struct capture_record *r, char *ret_name, size_t size) {
    static const char *const engines[] = {"IP", "UDP", "TCP", "QOS", "PORT", "SESSION"};
    const char *reason = drop_reason_name((enum drop_reason)r->drop);
    const char *name = r->proto == PROTO_TCP     ? "tcp"
                       : r->proto == PROTO_UDP   ? "udp"
                       : r->proto == PROTO_FRAME ? "frames"
                                                 : "ip";
    if (r->drop == DROP_POLICY)
        name = "filter";
    else if (r->drop != DROP_NONE)
        name = "host";
    (void)snprintf(ret_name, size, "%s", name);
    for (size_t i = 0; r->drop != DROP_NONE && i < sizeof engines / sizeof engines[0]; i++) {
        size_t n = strlen(engines[i]);
        if (strncmp(reason, engines[i], n) != 0 || reason[n] != '_')
            continue;
        for (size_t c = 0; c < n && c + 1 < size; c++)
            ret_name[c] = (char)tolower(engines[i][c]);
        ret_name[n] = '\0';
    }
}

static void offload_words(struct text *t, const struct capture_record *r) {
    const char *between = " offload=";
    static const struct {
        uint8_t flag;
        const char *word;
    } words[] = {{CAPTURE_CSUM_OK, "csum-verified"}, {CAPTURE_CSUM_LATER, "csum-later"}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (!(r->flags & words[i].flag))
            continue;
        say(t, "%s%s", between, words[i].word);
        between = ",";
    }
    if (r->flags & CAPTURE_GSO) {
        say(t, "%sgso:%u", between, r->gso_size);
        between = ",";
    }
    if (between[0] == ' ')
        say(t, " offload=none");
}

static void owner_words(struct text *t, const struct description *d) {
    const struct owner *o = d->owner;
    if (o == NULL)
        return;
    say(t, " uid=%u", o->uid);
    if (d->user[0] != '\0')
        say(t, " user=%s", PLAIN(d->user));
    if (o->pid == 0)
        return;
    say(t, " pid=%u comm=%s exe=%s cgroup=%s", o->pid, PLAIN(o->comm), PLAIN(o->exe), PLAIN(o->cgroup));
}

void describe_words(const struct description *d, char *ret_text, size_t size) {
    static const char *const points[] = {
        [TAP_RX] = "in", [TAP_TX] = "out", [TAP_DROP] = "drop", [TAP_LOCAL] = "local", [TAP_MIRROR] = "mirror"};
    const struct capture_record *r = d->record;
    struct text t = {ret_text, 0, size};
    char engine[16];
    ret_text[0] = '\0';
    engine_of(r, engine, sizeof engine);
    bool kernel = r->flags & CAPTURE_KERNEL, dropped = r->drop != DROP_NONE;
    say(&t, "dir=%s point=%s verdict=%s engine=%s", r->flags & CAPTURE_OUT ? "out" : "in", points[r->point],
        dropped ? "drop" : "pass", kernel ? "kernel" : engine);
    if (dropped)
        say(&t, " reason=%s", drop_reason_name((enum drop_reason)r->drop));
    if (d->rule != NULL)
        say(&t, " rule=%s", PLAIN(d->rule));
    if (r->flags & CAPTURE_MADE_UP)
        say(&t, " headers=made-up");
    offload_words(&t, r);
    owner_words(&t, d);
}

static void who(struct text *t, const struct description *d) {
    const struct owner *o = d->owner;
    if (o->pid != 0)
        say(t, "%s, pid %u, ", PLAIN(o->comm), o->pid);
    else
        say(t, "a process that has ended, ");
    if (d->user[0] != '\0')
        say(t, "user %s (%u)", PLAIN(d->user), o->uid);
    else
        say(t, "uid %u", o->uid);
    if (o->exe[0] != '\0')
        say(t, ", %s", PLAIN(o->exe));
    if (o->cgroup[0] != '\0')
        say(t, ", cgroup %s", PLAIN(o->cgroup));
}

void describe_sentence(const struct description *d, char *ret_text, size_t size) {
    const struct capture_record *r = d->record;
    struct text t = {ret_text, 0, size};
    bool out = r->flags & CAPTURE_OUT;
    bool kernel = r->flags & CAPTURE_KERNEL;
    ret_text[0] = '\0';
    if (d->owner != NULL) {
        say(&t, "%s%s ", out ? "sent" : "for",
            !kernel ? (out ? " by" : "")
            : out   ? " past Usher by"
                    : " a kernel socket of");
        who(&t, d);
    } else if (kernel) {
        say(&t, out ? "sent by the kernel" : "for the kernel");
    } else {
        say(&t, out ? "sent by Usher itself" : "for no socket known here");
    }
    if (r->drop == DROP_NONE)
        return;
    say(&t, "; dropped: %s", drop_reason_text((enum drop_reason)r->drop));
    if (d->rule != NULL)
        say(&t, ", rule %s", PLAIN(d->rule));
}
