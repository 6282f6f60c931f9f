/* SPDX-License-Identifier: Apache-2.0
 *
 * usher.control.v1.Daemon: what runs, its settings, draining and ending. Control thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "control/broker/broker.h"
#include "control/broker/claims.h"
#include "control/manager.h"
#include "control/services/service_internal.h"
#include "control/succession.h"
#include "proto/usher_shm.h"
#include "usher/control/v1/daemon.pb-c.h"

#define YAML_MAX 60000u

static const char *const levels[] = {"error", "warning", "info", "debug"};

/* ---- info ---- */

static PB(Caller) * caller_message(struct rpc_call *c) {
    const struct rpc_caller *who = rpc_caller(c);
    PB(Caller) *m = PB_NEW(c, Caller, caller);
    m->name = PB_TEXT(who->name);
    m->role = (PB(Role))who->role; /* the numbers are the same */
    m->via = PB_TEXT(who->tls ? "tls" : "unix");
    m->uid = who->uid;
    m->pid = who->pid;
    m->address = PB_TEXT(who->address);
    return m;
}

static void info_places(struct rpc_call *c, const struct service *s, PB(GetInfoResponse) * r) {
    const struct config *cfg = &s->u->cfg;
    struct utsname host;
    if (uname(&host) == 0) {
        r->hostname = rpc_text(c, "%s", host.nodename);
        r->kernel = rpc_text(c, "%s", host.release);
    }
    r->netns_cookie = s->u->netns_cookie;
    r->config_path = s->u->config_path;
    r->session_socket = s->u->socket;
    r->control_socket = s->u->control_socket;
    if (cfg->control.tls.address[0] == '\0')
        return;
    r->n_control_addresses = 1;
    r->control_addresses = rpc_alloc_array(c, char *, 1);
    r->control_addresses[0] = PB_TEXT(cfg->control.tls.address);
}

static enum rpc_code get_info(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    PB(GetInfoResponse) *r = PB_NEW(c, GetInfoResponse, get_info_response);
    struct broker_stats stats;
    (void)request;
    broker_stats_read(s->u->broker, &stats);
    r->version = PB_TEXT(USHER_VERSION);
    r->pid = (uint32_t)getpid();
    r->started_unix_ns = s->started_unix_ns;
    info_places(c, s, r);
    r->draining = s->draining;
    r->abi_min = USH_ABI_MIN;
    r->abi_max = USH_ABI_MAX;
    r->sessions = stats.sessions;
    r->sockets = stats.sockets;
    r->sessions_attached = stats.attached;
    r->sessions_refused = stats.refused;
    r->claims = claim_table_count(s->u->claims);
    r->keeper = PB_TEXT(s->u->store != NULL ? store_text(s->u->store) : "nobody");
    r->caller = caller_message(c);
    r->log_level = PB_TEXT(levels[s->u->cfg.log.level]);
    r->succession = s->u->succession;
    rpc_answer(c, &r->base);
    return RPC_OK;
}

/* ---- settings ---- */

/* The normalised text, in memory of the call. */
static char *config_text(struct rpc_call *c, const struct config *cfg) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL)
        return PB_TEXT("");
    config_print(cfg, out);
    (void)fclose(out);
    char *copy = rpc_alloc(c, size + 1);
    if (text != NULL)
        memcpy(copy, text, size);
    free(text);
    return copy;
}

static enum rpc_code get_config(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    PB(GetConfigResponse) *r = PB_NEW(c, GetConfigResponse, get_config_response);
    (void)request;
    r->yaml = config_text(c, &s->u->cfg);
    r->config_path = s->u->config_path;
    rpc_answer(c, &r->base);
    return RPC_OK;
}

static enum rpc_code check_config(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    const PB(CheckConfigRequest) *q = request;
    PB(CheckConfigResponse) *r = PB_NEW(c, CheckConfigResponse, check_config_response);
    struct config *cfg = rpc_alloc(c, sizeof *cfg);
    struct problems *problems = rpc_alloc(c, sizeof *problems);
    size_t size = strlen(q->yaml);
    if (size > YAML_MAX)
        return rpc_fail(c, RPC_INVALID_ARGUMENT, "TOO_LONG", "yaml",
                        "%zu bytes of settings are more than %u; check "
                        "them on the host with usherd --check-config",
                        size, YAML_MAX);
    int error = size > 0 ? config_parse("request", q->yaml, size, cfg, problems)
                         : config_load(s->u->config_path, cfg, problems);
    r->valid = error == 0;
    r->problem_count = problems->count;
    r->n_problems = problems->count < PROBLEM_MAX ? problems->count : PROBLEM_MAX;
    r->problems = rpc_alloc_array(c, char *, PROBLEM_MAX);
    for (size_t i = 0; i < r->n_problems; i++)
        r->problems[i] = problems->text[i];
    if (r->valid)
        r->yaml = config_text(c, cfg);
    rpc_answer(c, &r->base);
    return RPC_OK;
}

static enum rpc_code reload(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    PB(ReloadResponse) *r = PB_NEW(c, ReloadResponse, reload_response);
    struct manager_report *report = rpc_alloc(c, sizeof *report);
    (void)request;
    manager_reload(s->u, report);
    r->valid = report->problems.count == 0;
    r->problem_count = report->problems.count;
    r->n_problems = r->problem_count < PROBLEM_MAX ? r->problem_count : PROBLEM_MAX;
    r->problems = rpc_alloc_array(c, char *, PROBLEM_MAX);
    for (size_t i = 0; i < r->n_problems; i++)
        r->problems[i] = report->problems.text[i];
    r->changed = report->changed;
    r->restart = report->restart;
    rpc_audit(c, "settings", "", r->valid ? r->changed : "wrong, nothing changed");
    rpc_answer(c, &r->base);
    return RPC_OK;
}

static enum rpc_code set_log_level(struct rpc_call *c, void *arg, const void *request) {
    struct service *s = arg;
    const PB(SetLogLevelRequest) *q = request;
    PB(SetLogLevelResponse) *r = PB_NEW(c, SetLogLevelResponse, set_log_level_response);
    uint32_t level = 0;
    while (level < ARRAY_LEN(levels) && strcmp(levels[level], q->level) != 0)
        level++;
    if (level == ARRAY_LEN(levels))
        return rpc_fail(c, RPC_INVALID_ARGUMENT, "LEVEL_UNKNOWN", "level",
                        "there is no log level \"%.32s\"; it is one of error, warning, info, debug", q->level);
    r->before = PB_TEXT(levels[s->u->cfg.log.level]);
    s->u->cfg.log.level = level;
    log_level_set((enum log_level)level);
    rpc_audit(c, "log level", r->before, levels[level]);
    rpc_answer(c, &r->base);
    return RPC_OK;
}

/* ---- draining and ending ---- */

static uint32_t sessions_now(const struct service *s) {
    struct broker_stats stats;
    broker_stats_read(s->u->broker, &stats);
    return stats.sessions;
}

static enum rpc_code drain(struct rpc_call *c, void *arg, const void *request) {
    struct service *s = arg;
    const PB(DrainRequest) *q = request;
    PB(DrainResponse) *r = PB_NEW(c, DrainResponse, drain_response);
    rpc_audit(c, "sessions", s->draining ? "draining" : "open", q->drain ? "draining" : "open");
    s->draining = q->drain;
    broker_drain(s->u->broker, q->drain);
    rpc_server_serving(s->rpc, !q->drain);
    r->sessions = sessions_now(s);
    log_info("drain", "%s; %u attached", q->drain ? "no new sessions" : "sessions may attach again", r->sessions);
    rpc_answer(c, &r->base);
    return RPC_OK;
}

/* The loop ends after this turn; the server lets the answer leave before it goes. */
static enum rpc_code stop(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    const PB(ShutdownRequest) *q = request;
    PB(ShutdownResponse) *r = PB_NEW(c, ShutdownResponse, shutdown_response);
    uint32_t sessions = sessions_now(s);
    rpc_audit(c, "usherd", rpc_text(c, "running, %u sessions", sessions), "ended");
    if (sessions > 0 && !q->force)
        return rpc_fail(c, RPC_FAILED_PRECONDITION, "SESSIONS_ATTACHED", "force",
                        "%u sessions are attached; drain first and wait, or say force to end them", sessions);
    rpc_answer(c, &r->base);
    (void)sd_event_exit(s->u->event, 0);
    return RPC_OK;
}

static enum rpc_code upgrade(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    const PB(UpgradeRequest) *q = request;
    PB(UpgradeResponse) *r = PB_NEW(c, UpgradeResponse, upgrade_response);
    char err[400];
    const char *path = q->program[0] != '\0' ? q->program : NULL;
    if (path != NULL && path[0] != '/')
        return rpc_fail(c, RPC_INVALID_ARGUMENT, "PATH_RELATIVE", "program",
                        "\"%.200s\" is no absolute path; name the program from the root of usherd's host", path);
    rpc_audit(c, "usherd", USHER_VERSION, path != NULL ? path : s->u->self);
    if (s->u->cfg.keeper.mode == KEEPER_OFF)
        return rpc_fail(c, RPC_FAILED_PRECONDITION, "KEEPER_OFF", "program",
                        "nobody keeps what connections live in: set keeper.mode to auto, or restart usherd");
    if (succession_try(s->u, path, err, sizeof err) != 0)
        return rpc_fail(c, RPC_FAILED_PRECONDITION, "UPGRADE_REFUSED", "program", "%s", err);
    r->program = PB_TEXT(s->u->successor);
    rpc_answer(c, &r->base);
    (void)sd_event_exit(s->u->event, 0);
    return RPC_OK;
}

const struct rpc_method daemon_methods[] = {
    {.name = "GetInfo", PB_REQUEST(get_info_request), .role = RPC_ROLE_VIEWER, .unary = get_info},
    {.name = "GetConfig", PB_REQUEST(get_config_request), .role = RPC_ROLE_VIEWER, .unary = get_config},
    {.name = "CheckConfig", PB_REQUEST(check_config_request), .role = RPC_ROLE_VIEWER, .unary = check_config},
    {.name = "Reload", PB_REQUEST(reload_request), .role = RPC_ROLE_ADMIN, .change = true, .unary = reload},
    {.name = "SetLogLevel",
     PB_REQUEST(set_log_level_request),
     .role = RPC_ROLE_OPERATOR,
     .change = true,
     .unary = set_log_level},
    {.name = "Drain", PB_REQUEST(drain_request), .role = RPC_ROLE_OPERATOR, .change = true, .unary = drain},
    {.name = "Upgrade", PB_REQUEST(upgrade_request), .role = RPC_ROLE_ADMIN, .change = true, .unary = upgrade},
    {.name = "Shutdown", PB_REQUEST(shutdown_request), .role = RPC_ROLE_ADMIN, .change = true, .unary = stop},
};
const size_t daemon_method_count = ARRAY_LEN(daemon_methods);
