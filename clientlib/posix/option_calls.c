/* SPDX-License-Identifier: Apache-2.0
 *
 * setsockopt and getsockopt, by the table of options.def. The kernel's socket has every option as well: it judges the
 * value, and it answers when the program asks.
 */
#include <linux/udp.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/time.h>

#include "clientlib/posix/posix.h"

enum fate { KERNEL, USHER, OWN, SPARE };

static const struct {
    int level, name;
    uint8_t stream, dgram;
    const char *text;
} table[] = {
#define OPTION(level, name, stream, dgram) {level, name, stream, dgram, #name},
#include "clientlib/posix/options.def"
#undef OPTION
};

static enum fate fate_of(const struct posix_sock *s, int level, int name, const char **ret_text) {
    *ret_text = "an option that is not in its table";
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (table[i].level == level && table[i].name == name) {
            *ret_text = table[i].text;
            return s->stream ? table[i].stream : table[i].dgram;
        }
    return KERNEL;
}

/* ---- what the library does itself ---- */

static int64_t timeout_of(const void *value, socklen_t len) {
    struct timeval tv;
    if (len < sizeof(tv) || !posix_copy(&tv, value, sizeof(tv)) || tv.tv_sec < 0 || (!tv.tv_sec && !tv.tv_usec))
        return tv.tv_sec < 0 && len >= sizeof(tv) ? 0 : -1;
    return (int64_t)tv.tv_sec * 1000000000 + (int64_t)tv.tv_usec * 1000;
}

static uint32_t control_of(int level, int name) {
    static const struct {
        int level, name;
        uint32_t bit;
    } rows[] = {
        {SOL_SOCKET, SO_TIMESTAMP, CONTROL_TIMESTAMP},      {SOL_SOCKET, SO_TIMESTAMPNS, CONTROL_TIMESTAMPNS},
        {IPPROTO_IP, IP_PKTINFO, CONTROL_PKTINFO},          {IPPROTO_IP, IP_RECVTOS, CONTROL_TOS},
        {IPPROTO_IPV6, IPV6_RECVPKTINFO, CONTROL_PKTINFO6}, {IPPROTO_IPV6, IPV6_RECVTCLASS, CONTROL_TCLASS},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (rows[i].level == level && rows[i].name == name)
            return rows[i].bit;
    return 0;
}

/* The kernel has taken it, so the value is good. */
static void set_own(struct posix_sock *s, int level, int name, const void *value, socklen_t len) {
    int on = 0;
    if (level == SOL_SOCKET && name == SO_RCVTIMEO) {
        s->rcv_timeout_ns = timeout_of(value, len);
        return;
    }
    if (level == SOL_SOCKET && name == SO_SNDTIMEO) {
        s->snd_timeout_ns = timeout_of(value, len);
        return;
    }
    if (!posix_copy(&on, value, len < sizeof(on) ? len : sizeof(on)))
        return;
    uint32_t bit = control_of(level, name);
    if (bit)
        s->control = on ? s->control | bit : s->control & ~bit;
    else
        s->rcvlowat = on;
}

/* ---- what usherd does ---- */

static void remember(struct posix_sock *s, int level, int name, const void *value, socklen_t len) {
    struct posix_option *o = NULL;
    if (!s->options && !(s->options = calloc(POSIX_OPTIONS, sizeof(*s->options))))
        return;
    for (uint32_t i = 0; i < s->option_count && !o; i++)
        if (s->options[i].level == level && s->options[i].name == name)
            o = &s->options[i];
    if (!o && s->option_count < POSIX_OPTIONS)
        o = &s->options[s->option_count++];
    if (!o || len > sizeof(o->value) || !posix_copy(o->value, value, len))
        return;
    o->level = level;
    o->name = name;
    o->len = len;
}

void posix_option_replay(struct posix_sock *s) {
    for (uint32_t i = 0; i < s->option_count; i++) {
        const struct posix_option *o = &s->options[i];
        (void)usher_setsockopt(s->us, o->level, o->name, o->value, o->len);
    }
}

static int set_usher(struct posix_sock *s, int level, int name, const void *value, socklen_t len) {
    uint8_t copy[256];
    if (len > sizeof(copy))
        return posix_real.setsockopt(s->fd, level, name, value, len) < 0 ? -errno : 0;
    if (!posix_copy(copy, value, len))
        return -EFAULT;
    if (level == IPPROTO_IP && len > 0 && len < sizeof(int)) { /* the kernel reads a byte */
        memset(copy + 1, 0, sizeof(int) - 1);
        len = sizeof(int);
    }
    int err = s->us ? usher_setsockopt(s->us, level, name, copy, len)
              : posix_real.setsockopt(s->fd, level, name, value, len) < 0 ? -errno
                                                                          : 0;
    if (err == -ENOPROTOOPT && s->us)
        err = posix_real.setsockopt(s->fd, level, name, value, len) < 0 ? -errno : 0;
    if (err == -EAGAIN)
        err = 0; /* the kernel's socket has it, and usherd's ring was full: a hint is lost */
    if (!err && s->stream)
        remember(s, level, name, value, len);
    return err;
}

static int set_kernel(struct posix_sock *s, int level, int name, const void *value, socklen_t len, const char *text) {
    if (posix_real.setsockopt(s->fd, level, name, value, len) < 0)
        return -errno;
    if (s->o.state != POSIX_FRESH && s->o.state != POSIX_DEAD)
        return -EOPNOTSUPP; /* the kernel's half has it now, which carries nothing */
    snprintf(s->why, sizeof(s->why), "it has %s", text);
    return 0;
}

int POSIX_CALL setsockopt(int fd, int level, int name, const void *value, socklen_t len) {
    struct posix_sock *s = posix_enter(fd);
    const char *text;
    int err = 0;
    if (!s) {
        if (posix_is_frames(fd))
            posix_frames_option(fd, level, name);
        return posix_real.setsockopt(fd, level, name, value, len);
    }
    enum fate fate = fate_of(s, level, name, &text);
    if (fate == USHER)
        err = set_usher(s, level, name, value, len);
    else if (fate == KERNEL)
        err = set_kernel(s, level, name, value, len, text);
    else if (posix_real.setsockopt(fd, level, name, value, len) < 0)
        err = -errno;
    else if (fate == OWN)
        set_own(s, level, name, value, len);
    posix_unlock();
    return err ? posix_errno(err) : 0;
}

static int give_int(void *value, socklen_t *len, int what) {
    socklen_t room;
    if (!posix_copy(&room, len, sizeof(room)))
        return -EFAULT;
    if ((int)room < 0)
        return -EINVAL;
    room = room < sizeof(what) ? room : sizeof(what);
    return posix_copy(value, &what, room) && posix_copy(len, &room, sizeof(room)) ? 0 : -EFAULT;
}

/* What only usherd's engine knows. 1: not of these. */
static int ask_engine(struct posix_sock *s, int level, int name, void *value, socklen_t *len) {
    uint8_t answer[512];
    socklen_t room, got;
    if (s->o.state != POSIX_OPEN || level != IPPROTO_TCP ||
        (name != TCP_INFO && name != TCP_MAXSEG && name != TCP_CONGESTION))
        return 1;
    if (!posix_copy(&room, len, sizeof(room)))
        return -EFAULT;
    if ((int)room < 0)
        return -EINVAL;
    got = room < sizeof(answer) ? room : sizeof(answer);
    int err = usher_getsockopt(s->us, level, name, answer, &got);
    if (err)
        return 1;
    return posix_copy(value, answer, got) && posix_copy(len, &got, sizeof(got)) ? 0 : -EFAULT;
}

int POSIX_CALL getsockopt(int fd, int level, int name, void *value, socklen_t *len) {
    struct posix_sock *s = posix_enter(fd);
    if (!s)
        return posix_real.getsockopt(fd, level, name, value, len);
    if (s->o.state != POSIX_FRESH && s->us)
        posix_pump(false);
    bool own = level == SOL_SOCKET && name == SO_ERROR && s->o.kind == POSIX_SOCK && (s->us || s->error);
    int err = own ? give_int(value, len, posix_sock_take_error(s)) : ask_engine(s, level, name, value, len);
    posix_unlock();
    if (err == 1)
        return posix_real.getsockopt(fd, level, name, value, len);
    return err ? posix_errno(err) : 0;
}
