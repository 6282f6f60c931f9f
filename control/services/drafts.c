/* SPDX-License-Identifier: Apache-2.0
 *
 * See drafts.h.
 */
#include "control/services/drafts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/policy/finder.h"
#include "control/rpc/rpc.h"

static uint64_t key_of(const struct rpc_caller *who) {
    return finder_hash_text(who->name) ^ (who->tls ? UINT64_MAX : who->uid);
}

void draft_end(struct draft *d) {
    policy_destroy(d->policy);
    free(d->problems);
    free(d->text);
    *d = (struct draft){.id = 0};
}

void drafts_free(struct drafts *d) {
    for (uint32_t i = 0; i < DRAFT_MAX; i++)
        draft_end(&d->v[i]);
}

static struct draft *room_make(struct drafts *d, uint64_t key) {
    struct draft *oldest = &d->v[0], *own = NULL;
    uint32_t mine = 0;
    for (uint32_t i = 0; i < DRAFT_MAX; i++) {
        struct draft *at = &d->v[i];
        oldest = at->id < oldest->id ? at : oldest;
        if (at->id == 0 || at->key != key)
            continue;
        mine++;
        own = own == NULL || at->id < own->id ? at : own;
    }
    return mine >= DRAFT_MAX / 2 ? own : oldest;
}

struct draft *draft_begin(struct drafts *d, const struct rpc_caller *who, const char *name) {
    uint64_t key = key_of(who);
    struct draft *at = room_make(d, key);
    draft_end(at);
    at->id = ++d->last;
    at->key = key;
    (void)snprintf(at->name, sizeof at->name, "%s", name[0] != '\0' ? name : "policy");
    return at;
}

struct draft *draft_find(struct drafts *d, const struct rpc_caller *who, uint64_t id) {
    for (uint32_t i = 0; i < DRAFT_MAX && id != 0; i++)
        if (d->v[i].id == id && d->v[i].key == key_of(who))
            return &d->v[i];
    return NULL;
}

int draft_append(struct draft *d, const void *bytes, size_t size) {
    if (size > POLICY_TEXT_MAX - d->size)
        return -EFBIG;
    size_t room = d->room;
    while (room < d->size + size)
        room = room == 0 ? 65536 : 2 * room;
    char *more = room == d->room ? d->text : realloc(d->text, room);
    if (more == NULL && room > 0)
        return -ENOMEM;
    d->text = more;
    d->room = room;
    if (size > 0)
        memcpy(d->text + d->size, bytes, size);
    d->size += size;
    policy_destroy(d->policy);
    free(d->problems);
    d->policy = NULL;
    d->problems = NULL;
    return 0;
}

struct policy *draft_parse(struct draft *d) {
    if (d->problems != NULL)
        return d->policy;
    d->problems = calloc(1, sizeof *d->problems);
    if (d->problems != NULL &&
        policy_parse(d->name, d->text != NULL ? d->text : "", d->size, 0, &d->policy, d->problems) == -ENOMEM)
        problem_add(d->problems, &(struct place){d->name, 0, 0}, "no memory is left for it");
    return d->policy;
}
