/* SPDX-License-Identifier: Apache-2.0
 *
 * One run of usherctl: what was asked for, where it is shown, and the connection, made when the first call needs it. A
 * command is a row of commands.c.
 */
#ifndef USHER_CONTROL_USHERCTL_CTL_H
#define USHER_CONTROL_USHERCTL_CTL_H

#include "control/usherctl/client.h"
#include "control/usherctl/options.h"
#include "control/usherctl/table.h"
#include "usher/control/v1/counters.pb-c.h"
#include "usher/control/v1/daemon.pb-c.h"
#include "usher/control/v1/engines.pb-c.h"
#include "usher/control/v1/policies.pb-c.h"
#include "usher/control/v1/ports.pb-c.h"
#include "usher/control/v1/sessions.pb-c.h"
#include "usher/control/v1/workers.pb-c.h"

/* The generated names are long: PB(Worker) is struct usher.control.v1.Worker. */
#define PB(name) Usher__Control__V1__##name
#define PB_METHOD(service, method, answer)                                                                             \
    (struct client_method) {                                                                                           \
        "/usher.control.v1." #service "/" #method, &usher__control__v1__##answer##__descriptor                         \
    }

enum output { OUTPUT_TABLE, OUTPUT_WIDE, OUTPUT_JSON };

struct command;

struct ctl {
    const struct command *command;
    const char *group; /* named alone: its commands are explained */
    struct screen screen;
    enum output output;
    struct options_result given; /* `second` by place in the command's own table */
    struct client_params params;
    struct client *client; /* NULL until the first call */
    uint64_t watch_ns;     /* 0 = once */
    struct fault fault;
};

struct command {
    const char *name;    /* one word, or two: "policy apply" belongs to the group policy */
    const char *args;    /* "[NAME]", "" = none */
    size_t arg_min, arg_max;
    const char *summary; /* one line, no full stop */
    const char *help;    /* a paragraph for the manual */
    const char *role;    /* least: "viewer"; "" = talks to nobody */
    const char *words;   /* values of the first argument for completion, as in option_def; NULL = any */
    bool own_watch;      /* it repeats by itself */
    const struct option_def *options; /* NULL = none of its own */
    int (*run)(struct ctl *c); /* 0, or -1 with c->fault */
};

extern const struct command commands[];
extern const size_t command_count;
extern const struct option_def global_options[];

const struct command *command_find(const char *name);
/* The command that the words begin with; *ret_used: how many of them name it. NULL: none. */
const struct command *command_of(int argc, char *const *argv, int *ret_used);
/* Is it the first word of commands of two? */
bool command_is_group(const char *word);
/* The first word of a group's command; *ret_rest: the second. False: it has one word only. */
bool command_split(const struct command *m, char ret_group[24], const char **ret_rest);

/* The answer, to be freed by ctl_free(); NULL with c->fault. */
void *ctl_call(struct ctl *c, struct client_method m, const void *request);
void ctl_free(void *answer);
int ctl_stream(struct ctl *c, struct client_method m, const void *request, bool endless, client_stream_fn *fn,
               void *arg);
int ctl_usage(struct ctl *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
struct list;
/* All parts of a stream as one list: a table, or a JSON object with the repeated field's name. */
int ctl_list_stream(struct ctl *c, struct client_method m, const void *request, const struct list *l);
/* Argument i as a number; false with c->fault. */
bool ctl_number(struct ctl *c, const char *text, const char *what, uint64_t max, uint64_t *ret_number);
/* A message as JSON: indented, or one line in a series. */
void ctl_json(const struct ctl *c, const void *message);
uint64_t ctl_now_unix_ns(void);

/* ---- the commands ---- */

int run_status(struct ctl *c);
int run_config(struct ctl *c);
int run_check_config(struct ctl *c);
int run_workers(struct ctl *c);
int run_shards(struct ctl *c);
int run_ports(struct ctl *c);
int run_engines(struct ctl *c);
int run_engine(struct ctl *c);
int run_sessions(struct ctl *c);
int run_sockets(struct ctl *c);
int run_refusals(struct ctl *c);
int run_counters(struct ctl *c);
int run_drops(struct ctl *c);
int run_qos(struct ctl *c);
int run_events(struct ctl *c);
int run_capture(struct ctl *c);
int run_mode(struct ctl *c);
int run_move_shard(struct ctl *c);
int run_kill_session(struct ctl *c);
int run_kill_socket(struct ctl *c);
int run_engine(struct ctl *c);
int run_upgrade(struct ctl *c);
int run_drain(struct ctl *c);
int run_resume(struct ctl *c);
int run_shutdown(struct ctl *c);
int run_reload(struct ctl *c);
int run_log_level(struct ctl *c);
int run_ss(struct ctl *c);
int run_top(struct ctl *c);
int run_doctor(struct ctl *c);
int run_policy_check(struct ctl *c);
int run_policy_diff(struct ctl *c);
int run_policy_apply(struct ctl *c);
int run_policy_confirm(struct ctl *c);
int run_policy_rollback(struct ctl *c);
int run_policy_history(struct ctl *c);
int run_policy_show(struct ctl *c);
int run_policy_rules(struct ctl *c);
int run_policy_counters(struct ctl *c);
int run_policy_sets(struct ctl *c);
int run_policy_set(struct ctl *c);
int run_policy_explain(struct ctl *c);
int run_policy_import(struct ctl *c);
int run_completion(struct ctl *c);
int run_manual(struct ctl *c);

#endif
