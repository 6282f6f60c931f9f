/* SPDX-License-Identifier: Apache-2.0
 *
 * The commands that change something. Each says in one line what it did; usherd keeps the audit record.
 */
#include <limits.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "control/usherctl/ctl.h"
#include "control/usherctl/lists.h"
#include "control/usherctl/reflect.h"

#define UPGRADE_WAIT_NS 30000000000ull

static const char *const modes[] = {"", "auto", "dedicated", "spreading", "compacting"};

/* Shows the answer as JSON, or else leaves the sentence to the caller. */
static bool told(struct ctl *c, const void *answer) {
    if (c->output == OUTPUT_JSON)
        ctl_json(c, answer);
    return c->output == OUTPUT_JSON;
}

static void word_of(const void *message, const char *path, char ret[ENUM_WORD_MAX]) {
    list_cell_text(message, path, SHOW_WORD, 0, ret, ENUM_WORD_MAX);
}

int run_mode(struct ctl *c) {
    PB(SetModeRequest) request = USHER__CONTROL__V1__SET_MODE_REQUEST__INIT;
    char before[ENUM_WORD_MAX], now[ENUM_WORD_MAX];
    for (size_t i = 1; i < sizeof modes / sizeof modes[0]; i++) {
        if (strcmp(c->given.args[0], modes[i]) == 0)
            request.mode = (PB(SchedulingMode))i;
    }
    if (request.mode == 0)
        return ctl_usage(c, "%s is no mode; those are auto, dedicated, spreading and compacting", c->given.args[0]);
    PB(SetModeResponse) *a = ctl_call(c, PB_METHOD(Workers, SetMode, set_mode_response), &request);
    if (a == NULL)
        return -1;
    word_of(a, "before", before);
    word_of(a, "mode", now);
    if (!told(c, a))
        (void)fprintf(c->screen.out, "mode %s, was %s: %s\n", now, before, a->mode_why);
    ctl_free(a);
    return 0;
}

int run_move_shard(struct ctl *c) {
    PB(MoveShardRequest) request = USHER__CONTROL__V1__MOVE_SHARD_REQUEST__INIT;
    uint64_t shard, worker;
    if (!ctl_number(c, c->given.args[0], "shard", UINT32_MAX, &shard) ||
        !ctl_number(c, c->given.args[1], "worker", UINT32_MAX, &worker))
        return -1;
    request.shard = (uint32_t)shard;
    request.worker = (uint32_t)worker;
    PB(MoveShardResponse) *a = ctl_call(c, PB_METHOD(Workers, MoveShard, move_shard_response), &request);
    if (a == NULL)
        return -1;
    if (!told(c, a))
        (void)fprintf(c->screen.out, "shard %u: worker %u, was %u\n", request.shard, request.worker, a->worker_before);
    ctl_free(a);
    return 0;
}

/* A file that is named from here is looked for from here; usherd has another working folder. */
static char *module_path(const char *given, char *buf, size_t size) {
    char here[PATH_MAX];
    if (given == NULL || given[0] == '/' || getcwd(here, sizeof here) == NULL)
        return (char *)(uintptr_t)(given != NULL ? given : "");
    (void)snprintf(buf, size, "%s/%s", here, given);
    return buf;
}

static int engine_upgrade(struct ctl *c) {
    PB(UpgradeEngineRequest) request = USHER__CONTROL__V1__UPGRADE_ENGINE_REQUEST__INIT;
    char path[2 * PATH_MAX];
    request.name = (char *)(uintptr_t)c->given.args[1];
    request.module = module_path(c->given.args[2], path, sizeof path);
    PB(UpgradeEngineResponse) *a = ctl_call(c, PB_METHOD(Engines, Upgrade, upgrade_engine_response), &request);
    if (a == NULL)
        return -1;
    if (!told(c, a)) {
        (void)fprintf(c->screen.out, "engine %s: layout %u, was %u; black-out %.1f us, brown-out %.1f ms\n",
                      request.name, a->layout_after, a->layout_before, (double)a->black_out_ns / 1e3,
                      (double)a->brown_out_ns / 1e6);
        if (a->moved)
            (void)fprintf(c->screen.out, "%llu flows and other records moved, %llu packets waited in the old state\n",
                          (unsigned long long)a->records, (unsigned long long)a->packets);
    }
    ctl_free(a);
    return 0;
}

static int engine_load(struct ctl *c) {
    const char *name = c->given.args[1];
    PB(LoadEngineRequest) request = USHER__CONTROL__V1__LOAD_ENGINE_REQUEST__INIT;
    request.name = (char *)(uintptr_t)name;
    PB(LoadEngineResponse) *a = ctl_call(c, PB_METHOD(Engines, Load, load_engine_response), &request);
    if (a == NULL)
        return -1;
    if (!told(c, a))
        (void)fprintf(c->screen.out, "engine %s loaded; until usherd ends\n", name);
    ctl_free(a);
    return 0;
}

static int engine_unload(struct ctl *c) {
    const char *name = c->given.args[1];
    PB(UnloadEngineRequest) request = USHER__CONTROL__V1__UNLOAD_ENGINE_REQUEST__INIT;
    request.name = (char *)(uintptr_t)name;
    PB(UnloadEngineResponse) *a = ctl_call(c, PB_METHOD(Engines, Unload, unload_engine_response), &request);
    if (a == NULL)
        return -1;
    if (!told(c, a))
        (void)fprintf(c->screen.out, "engine %s unloaded\n", name);
    ctl_free(a);
    return 0;
}

int run_engine(struct ctl *c) {
    static const struct {
        const char *word;
        int (*run)(struct ctl *c);
    } actions[] = {{"load", engine_load}, {"unload", engine_unload}, {"upgrade", engine_upgrade}};
    for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++) {
        if (strcmp(c->given.args[0], actions[i].word) == 0)
            return actions[i].run(c);
    }
    return ctl_usage(c, "engine %s: it is not known what to do; load, unload and upgrade are", c->given.args[0]);
}

int run_kill_session(struct ctl *c) {
    PB(KillSessionRequest) request = USHER__CONTROL__V1__KILL_SESSION_REQUEST__INIT;
    if (!ctl_number(c, c->given.args[0], "session id", UINT64_MAX, &request.session_id))
        return -1;
    PB(KillSessionResponse) *a = ctl_call(c, PB_METHOD(Sessions, Kill, kill_session_response), &request);
    if (a == NULL)
        return -1;
    char who[128];
    list_cell_text(&a->base, "session.owner", SHOW_OWNER, 0, who, sizeof who);
    if (!told(c, a))
        (void)fprintf(c->screen.out, "session %s of %s ended; the program may attach again\n", c->given.args[0], who);
    ctl_free(a);
    return 0;
}

int run_kill_socket(struct ctl *c) {
    PB(KillSocketRequest) request = USHER__CONTROL__V1__KILL_SOCKET_REQUEST__INIT;
    uint64_t handle;
    if (!ctl_number(c, c->given.args[0], "session id", UINT64_MAX, &request.session_id) ||
        !ctl_number(c, c->given.args[1], "handle", UINT32_MAX, &handle))
        return -1;
    request.handle = (uint32_t)handle;
    PB(KillSocketResponse) *a = ctl_call(c, PB_METHOD(Sockets, Kill, kill_socket_response), &request);
    if (a == NULL)
        return -1;
    char local[128], peer[128], proto[ENUM_WORD_MAX];
    if (!told(c, a) && a->socket != NULL) {
        list_cell_text(&a->socket->base, "local", SHOW_ENDPOINT, 0, local, sizeof local);
        list_cell_text(&a->socket->base, "remote", SHOW_ENDPOINT, 0, peer, sizeof peer);
        word_of(a->socket, "protocol", proto);
        (void)fprintf(c->screen.out, "%s %s to %s closed\n", proto, local, peer);
    }
    ctl_free(a);
    return 0;
}

static int drain(struct ctl *c, bool on) {
    PB(DrainRequest) request = USHER__CONTROL__V1__DRAIN_REQUEST__INIT;
    request.drain = on;
    PB(DrainResponse) *a = ctl_call(c, PB_METHOD(Daemon, Drain, drain_response), &request);
    if (a == NULL)
        return -1;
    if (!told(c, a))
        (void)fprintf(c->screen.out,
                      on ? "draining: no new sessions; %u still attached\n"
                         : "serving: sessions may attach; %u are attached\n",
                      a->sessions);
    ctl_free(a);
    return 0;
}

int run_drain(struct ctl *c) {
    return drain(c, true);
}

int run_resume(struct ctl *c) {
    return drain(c, false);
}

int run_shutdown(struct ctl *c) {
    PB(ShutdownRequest) request = USHER__CONTROL__V1__SHUTDOWN_REQUEST__INIT;
    request.force = c->given.second[0] != NULL;
    PB(ShutdownResponse) *a = ctl_call(c, PB_METHOD(Daemon, Shutdown, shutdown_response), &request);
    if (a == NULL)
        return -1;
    if (!told(c, a))
        (void)fprintf(c->screen.out, "usherd stops; the kernel gets its ports back\n");
    ctl_free(a);
    return 0;
}

/* The next usherd's word about itself; NULL: it does not serve yet. */
static PB(GetInfoResponse) * info_again(struct ctl *c, uint64_t before_ns) {
    const PB(GetInfoRequest) request = USHER__CONTROL__V1__GET_INFO_REQUEST__INIT;
    client_close(c->client);
    c->client = NULL;
    PB(GetInfoResponse) *a = ctl_call(c, PB_METHOD(Daemon, GetInfo, get_info_response), &request);
    if (a != NULL && a->started_unix_ns != before_ns)
        return a;
    ctl_free(a);
    return NULL;
}

static int upgrade_wait(struct ctl *c, uint64_t before_ns) {
    const struct timespec nap = {.tv_nsec = 100000000};
    PB(GetInfoResponse) *a = NULL;
    for (uint64_t end = ctl_now_unix_ns() + UPGRADE_WAIT_NS; a == NULL && ctl_now_unix_ns() < end;) {
        (void)nanosleep(&nap, NULL);
        a = info_again(c, before_ns);
    }
    if (a == NULL)
        return -1;
    bool back = strncmp(a->succession, "back again", 10) == 0;
    if (back)
        fault_set(&c->fault, EXIT_FAILED, "usherd %s is %s", a->version, a->succession);
    else if (!told(c, a))
        (void)fprintf(c->screen.out, "usherd %s %s\n", a->version, a->succession);
    ctl_free(a);
    return back ? -1 : 0;
}

int run_upgrade(struct ctl *c) {
    const PB(GetInfoRequest) ask = USHER__CONTROL__V1__GET_INFO_REQUEST__INIT;
    PB(UpgradeRequest) request = USHER__CONTROL__V1__UPGRADE_REQUEST__INIT;
    char path[2 * PATH_MAX];
    PB(GetInfoResponse) *before = ctl_call(c, PB_METHOD(Daemon, GetInfo, get_info_response), &ask);
    if (before == NULL)
        return -1;
    uint64_t before_ns = before->started_unix_ns;
    ctl_free(before);
    request.program = module_path(c->given.args[0], path, sizeof path);
    PB(UpgradeResponse) *a = ctl_call(c, PB_METHOD(Daemon, Upgrade, upgrade_response), &request);
    if (a == NULL)
        return -1;
    ctl_free(a);
    return upgrade_wait(c, before_ns);
}

int run_reload(struct ctl *c) {
    PB(ReloadRequest) request = USHER__CONTROL__V1__RELOAD_REQUEST__INIT;
    PB(ReloadResponse) *a = ctl_call(c, PB_METHOD(Daemon, Reload, reload_response), &request);
    if (a == NULL)
        return -1;
    bool shown = told(c, a);
    for (size_t i = 0; i < a->n_problems && !shown; i++)
        (void)fprintf(c->screen.out, "%s\n", a->problems[i]);
    if (!shown && a->valid)
        (void)fprintf(c->screen.out, "changed: %s\n", a->changed[0] != '\0' ? a->changed : "nothing");
    if (!shown && a->restart[0] != '\0')
        (void)fprintf(c->screen.out, "takes effect at a restart of usherd: %s\n", a->restart);
    if (!a->valid)
        fault_set(&c->fault, EXIT_FAILED, "the settings are wrong; nothing was changed");
    int result = a->valid ? 0 : -1;
    ctl_free(a);
    return result;
}

int run_log_level(struct ctl *c) {
    PB(SetLogLevelRequest) request = USHER__CONTROL__V1__SET_LOG_LEVEL_REQUEST__INIT;
    request.level = (char *)(uintptr_t)c->given.args[0];
    PB(SetLogLevelResponse) *a = ctl_call(c, PB_METHOD(Daemon, SetLogLevel, set_log_level_response), &request);
    if (a == NULL)
        return -1;
    if (!told(c, a))
        (void)fprintf(c->screen.out, "log level %s, was %s; until usherd ends\n", request.level, a->before);
    ctl_free(a);
    return 0;
}
