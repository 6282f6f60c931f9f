/* SPDX-License-Identifier: Apache-2.0
 *
 * usher.control.v1.Engines.Upgrade. Control thread; the change runs while the workers stand between two polls.
 */
#include <string.h>

#include "control/engines.h"
#include "control/services/service_internal.h"
#include "usher/control/v1/engines.pb-c.h"

static void report_fill(const struct runtime_upgrade_report *from, PB(UpgradeEngineResponse) * r) {
    r->layout_before = from->layout_before;
    r->layout_after = from->layout_after;
    r->moved = from->moved;
    r->brown_out_ns = from->brown_out_ns;
    r->black_out_ns = from->black_out_ns;
    r->state_bytes = from->state_bytes;
    r->records = from->records;
    r->packets = from->packets;
}

enum rpc_code engine_upgrade(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    const PB(UpgradeEngineRequest) *q = request;
    PB(UpgradeEngineResponse) *r = PB_NEW(c, UpgradeEngineResponse, upgrade_engine_response);
    struct runtime_upgrade_report report;
    struct runtime_error err = {""};
    struct engine_facts facts;
    uint32_t engine;
    if (runtime_engine_find(s->u->rt, q->name, &engine) != 0 || runtime_engine_facts(s->u->rt, engine, &facts) != 0)
        return rpc_fail(c, RPC_NOT_FOUND, "ENGINE_UNKNOWN", "name",
                        "no engine \"%.32s\" is loaded; the setting engines.load says which are", q->name);
    if (q->module[0] != '\0' && q->module[0] != '/')
        return rpc_fail(c, RPC_INVALID_ARGUMENT, "PATH_RELATIVE", "module",
                        "\"%.200s\" is no absolute path; name the module from the root of usherd's host", q->module);
    const char *file = q->module[0] != '\0' ? q->module : NULL;
    rpc_audit(c, rpc_text(c, "engine %s", q->name), rpc_text(c, "layout %u", facts.layout_version),
              file != NULL ? file : "the engine folder's");
    if (engines_upgrade(s->u, engine, file, &report, &err) != 0)
        return rpc_fail(c, RPC_FAILED_PRECONDITION, "UPGRADE_REFUSED", "module", "%s", err.text);
    report_fill(&report, r);
    rpc_answer(c, &r->base);
    return RPC_OK;
}
