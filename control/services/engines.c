/* SPDX-License-Identifier: Apache-2.0
 *
 * usher.control.v1.Engines. Control thread.
 */
#include <errno.h>
#include <string.h>

#include "control/engines.h"
#include "control/services/service_internal.h"
#include "usher/control/v1/engines.pb-c.h"

#define COUNTERS_MAX 256u /* of one engine */

static PB(EngineStage) stage_of(uint8_t stage) {
    static const PB(EngineStage) stages[STAGE_COUNT] = {
        [STAGE_LINK] = USHER__CONTROL__V1__ENGINE_STAGE__ENGINE_STAGE_LINK,
        [STAGE_FILTER] = USHER__CONTROL__V1__ENGINE_STAGE__ENGINE_STAGE_FILTER,
        [STAGE_TRANSPORT] = USHER__CONTROL__V1__ENGINE_STAGE__ENGINE_STAGE_TRANSPORT,
        [STAGE_APP] = USHER__CONTROL__V1__ENGINE_STAGE__ENGINE_STAGE_APP,
        [STAGE_QOS] = USHER__CONTROL__V1__ENGINE_STAGE__ENGINE_STAGE_QOS,
    };
    return stages[stage < STAGE_COUNT ? stage : STAGE_LINK];
}

static void counters_fill(struct rpc_call *c, const struct service *s, uint32_t index, PB(Engine) * m) {
    const struct engine_counter *names = NULL;
    uint64_t values[COUNTERS_MAX];
    m->n_counters = runtime_engine_counters(s->u->rt, index, &names, values, COUNTERS_MAX);
    m->counters = rpc_alloc_array(c, PB(Counter) *, m->n_counters);
    for (size_t i = 0; i < m->n_counters; i++) {
        PB(Counter) *k = PB_NEW(c, Counter, counter);
        k->name = PB_TEXT(names[i].name);
        k->value = values[i];
        k->help = PB_TEXT(names[i].help);
        m->counters[i] = k;
    }
}

static PB(Engine) *
    engine_message(struct rpc_call *c, const struct service *s, uint32_t index, const struct engine_facts *f) {
    PB(Engine) *m = PB_NEW(c, Engine, engine);
    m->name = PB_TEXT(f->name);
    m->stage = stage_of(f->stage);
    m->protocol = f->proto;
    m->abi = f->abi;
    m->layout_version = f->layout_version;
    m->state_bytes = f->state_bytes;
    counters_fill(c, s, index, m);
    return m;
}

static enum rpc_code list(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    const PB(ListEnginesRequest) *q = request;
    PB(ListEnginesResponse) *r = PB_NEW(c, ListEnginesResponse, list_engines_response);
    struct engine_facts f;
    r->engines = rpc_alloc_array(c, PB(Engine) *, SHARD_ENGINE_MAX);
    for (uint32_t i = 0; i < SHARD_ENGINE_MAX && runtime_engine_facts(s->u->rt, i, &f) == 0; i++) {
        if (f.name[0] != '\0' && (q->name[0] == '\0' || strcmp(q->name, f.name) == 0))
            r->engines[r->n_engines++] = engine_message(c, s, i, &f);
    }
    if (r->n_engines == 0 && q->name[0] != '\0')
        return rpc_fail(c, RPC_NOT_FOUND, "ENGINE_UNKNOWN", "name",
                        "no engine \"%.32s\" is loaded; the setting engines.load says which are", q->name);
    rpc_answer(c, &r->base);
    return RPC_OK;
}

/* ---- changes ---- */

static PB(Engine) * engine_find(struct rpc_call *c, const struct service *s, const char *name) {
    struct engine_facts f;
    uint32_t index;
    if (runtime_engine_find(s->u->rt, name, &index) != 0 || runtime_engine_facts(s->u->rt, index, &f) != 0)
        return NULL;
    PB(Engine) *m = engine_message(c, s, index, &f);
    m->name = rpc_text(c, "%s", f.name); /* its code, and the names in it, may be gone when the answer is packed */
    for (size_t i = 0; i < m->n_counters; i++) {
        m->counters[i]->name = rpc_text(c, "%s", m->counters[i]->name);
        m->counters[i]->help = rpc_text(c, "%s", m->counters[i]->help);
    }
    return m;
}

static enum rpc_code load(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    const PB(LoadEngineRequest) *q = request;
    PB(LoadEngineResponse) *r = PB_NEW(c, LoadEngineResponse, load_engine_response);
    struct runtime_error err = {""};
    rpc_audit(c, rpc_text(c, "engine %.32s", q->name), "", "loaded");
    int error = engines_load(s->u, q->name, &err);
    if (error == -EEXIST)
        return rpc_fail(c, RPC_ALREADY_EXISTS, "ENGINE_LOADED", "name", "%s", err.text);
    if (error == -ENOENT)
        return rpc_fail(c, RPC_NOT_FOUND, "MODULE_UNKNOWN", "name", "%s", err.text);
    if (error != 0)
        return rpc_fail(c, RPC_FAILED_PRECONDITION, error == -EBUSY ? "ENGINE_PERMANENT" : "MODULE_UNFIT", "name", "%s",
                        err.text);
    r->engine = engine_find(c, s, q->name);
    rpc_answer(c, &r->base);
    return RPC_OK;
}

static enum rpc_code unload(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    const PB(UnloadEngineRequest) *q = request;
    PB(UnloadEngineResponse) *r = PB_NEW(c, UnloadEngineResponse, unload_engine_response);
    struct runtime_error err = {""};
    rpc_audit(c, rpc_text(c, "engine %.32s", q->name), "loaded", "");
    r->engine = engine_find(c, s, q->name);
    int error = engines_unload(s->u, q->name, &err);
    if (error == -ENOENT)
        return rpc_fail(c, RPC_NOT_FOUND, "ENGINE_UNKNOWN", "name", "%s; Engines.List has those there are", err.text);
    if (error != 0)
        return rpc_fail(c, RPC_FAILED_PRECONDITION, "ENGINE_PERMANENT", "name", "%s", err.text);
    rpc_answer(c, &r->base);
    return RPC_OK;
}

const struct rpc_method engines_methods[] = {
    {.name = "List", PB_REQUEST(list_engines_request), .role = RPC_ROLE_VIEWER, .unary = list},
    {.name = "Upgrade",
     PB_REQUEST(upgrade_engine_request),
     .role = RPC_ROLE_ADMIN,
     .change = true,
     .unary = engine_upgrade},
    {.name = "Load", PB_REQUEST(load_engine_request), .role = RPC_ROLE_ADMIN, .change = true, .unary = load},
    {.name = "Unload", PB_REQUEST(unload_engine_request), .role = RPC_ROLE_ADMIN, .change = true, .unary = unload},
};
const size_t engines_method_count = ARRAY_LEN(engines_methods);
