/* SPDX-License-Identifier: Apache-2.0
 *
 * See talk.h.
 */
#include "nicbackend/tc/talk.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <linux/netlink.h>
#include <netlink/netlink.h>

#define ANSWER_LIMIT_S 5

struct nb_talk {
    struct nl_sock *sock;
    /* of the exchange that is on */
    nb_talk_fn fn;
    void *arg;
    uint32_t seq; /* what belongs to another one came too late for it */
    bool done;
    int error;
    char words[128];
};

static int on_valid(struct nl_msg *msg, void *arg) {
    struct nb_talk *t = arg;
    if (t->fn != NULL && nlmsg_hdr(msg)->nlmsg_seq == t->seq)
        t->fn(t->arg, nlmsg_hdr(msg));
    return NL_OK;
}

static int on_end(struct nl_msg *msg, void *arg) {
    struct nb_talk *t = arg;
    t->done = nlmsg_hdr(msg)->nlmsg_seq == t->seq;
    return t->done ? NL_STOP : NL_OK;
}

/* The kernel's sentence stands behind the error, and behind the request unless that was left out. */
static void words_read(struct nb_talk *t, const struct nlmsghdr *h, const struct nlmsgerr *e) {
    size_t before = sizeof *e + ((h->nlmsg_flags & NLM_F_CAPPED) == 0 ? e->msg.nlmsg_len - sizeof e->msg : 0);
    size_t size = h->nlmsg_len - NLMSG_HDRLEN;
    if ((h->nlmsg_flags & NLM_F_ACK_TLVS) == 0 || NLMSG_ALIGN(before) >= size)
        return;
    const struct nlattr *tlvs = (const struct nlattr *)(const void *)((const char *)e + NLMSG_ALIGN(before));
    const struct nlattr *msg = nla_find(tlvs, (int)(size - NLMSG_ALIGN(before)), NLMSGERR_ATTR_MSG);
    if (msg != NULL)
        (void)nla_strlcpy(t->words, msg, sizeof t->words);
}

static int on_error(struct sockaddr_nl *from, struct nlmsgerr *e, void *arg) {
    struct nb_talk *t = arg;
    (void)from;
    if (e->msg.nlmsg_seq != t->seq)
        return NL_SKIP;
    t->error = e->error;
    t->done = true;
    words_read(t, (const struct nlmsghdr *)(const void *)((const char *)e - NLMSG_HDRLEN), e);
    return NL_STOP;
}

int nb_talk_open(struct nb_talk **ret, struct nb_error *err) {
    const struct timeval limit = {.tv_sec = ANSWER_LIMIT_S};
    const int on = 1;
    struct nb_talk *t = calloc(1, sizeof *t);
    if (t != NULL)
        t->sock = nl_socket_alloc();
    if (t == NULL || t->sock == NULL) {
        free(t);
        return nb_fail(err, -ENOMEM, "no memory for a netlink socket");
    }
    if (nl_connect(t->sock, NETLINK_ROUTE) < 0 ||
        setsockopt(nl_socket_get_fd(t->sock), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0) {
        nb_talk_close(t);
        return nb_fail(err, -EIO, "cannot open a netlink socket: %s", strerror(errno));
    }
    (void)setsockopt(nl_socket_get_fd(t->sock), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on); /* words are a luxury */
    (void)nl_socket_set_buffer_size(t->sock, 1 << 20, 0);
    nl_socket_disable_seq_check(t->sock); /* echoes come before acknowledgements */
    (void)nl_socket_modify_cb(t->sock, NL_CB_VALID, NL_CB_CUSTOM, on_valid, t);
    (void)nl_socket_modify_cb(t->sock, NL_CB_FINISH, NL_CB_CUSTOM, on_end, t);
    (void)nl_socket_modify_cb(t->sock, NL_CB_ACK, NL_CB_CUSTOM, on_end, t);
    (void)nl_socket_modify_err_cb(t->sock, NL_CB_CUSTOM, on_error, t);
    *ret = t;
    return 0;
}

void nb_talk_close(struct nb_talk *t) {
    if (t != NULL)
        nl_socket_free(t->sock);
    free(t);
}

static int result_of(const struct nb_talk *t, const char *what, struct nb_error *err) {
    if (t->error == 0)
        return 0;
    if (t->words[0] != '\0')
        return nb_fail(err, t->error, "%s: %s (%s)", what, t->words, strerror(-t->error));
    return nb_fail(err, t->error, "%s: %s", what, strerror(-t->error));
}

int nb_talk(struct nb_talk *t, struct nl_msg *request, const char *what, nb_talk_fn fn, void *arg,
            struct nb_error *err) {
    if (request == NULL)
        return nb_fail(err, -ENOMEM, "%s: no memory for the request", what);
    t->fn = fn;
    t->arg = arg;
    t->done = false;
    t->error = 0;
    t->words[0] = '\0';
    int sent = nl_send_auto(t->sock, request);
    t->seq = nlmsg_hdr(request)->nlmsg_seq;
    nlmsg_free(request);
    if (sent < 0)
        return nb_fail(err, -EIO, "%s: the request cannot be sent: %s", what, nl_geterror(sent));
    while (!t->done) {
        int got = nl_recvmsgs_default(t->sock);
        if (got == -NLE_AGAIN || got == -NLE_INTR)
            return nb_fail(err, -ETIMEDOUT, "%s: the kernel did not answer within %d s", what, ANSWER_LIMIT_S);
        if (got == -NLE_DUMP_INTR) /* somebody changed what was listed: the caller asks again */
            return nb_fail(err, -EAGAIN, "%s: the list changed meanwhile", what);
        if (got < 0 && !t->done)
            return nb_fail(err, -EIO, "%s: %s", what, nl_geterror(got));
    }
    return result_of(t, what, err);
}
