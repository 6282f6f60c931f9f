/* SPDX-License-Identifier: Apache-2.0
 *
 * The policy commands. A file goes to usherd as a draft, part by part, and everything else names the draft.
 */
#include "control/usherctl/policy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "control/usherctl/capture_line.h"
#include "control/usherctl/json.h"
#include "control/usherctl/text.h"

#define PUT_PART   (48u << 10)
#define MEMBER_MAX 4000u

/* clang-format off */
const struct option_def policy_apply_options[] = {
    {"confirm", 0, "TIME", NULL, "go back by itself after so long (60s, 5m), unless confirmed", NULL},
    {"expect", 0, "REVISION", NULL, "only if this revision is in force: nobody changed the policy meanwhile", NULL},
    {"note", 'n', "TEXT", NULL, "why, for the history", NULL},
    {"partial", 0, NULL, NULL, "also with rules that kernel sockets cannot be judged by", NULL},
    {.name = NULL}};
const struct option_def policy_diff_options[] = {
    {"from", 0, "REVISION", NULL, "compare with this revision (default: the one in force)", NULL},
    {"to", 0, "REVISION", NULL, "what this revision would change, instead of a file", NULL},
    {.name = NULL}};
/* In the order of enum policy_explain_option. */
const struct option_def policy_explain_options[] = {
    {"out", 0, NULL, NULL, "from this host (default: to this host)", NULL},
    {"protocol", 'p', "PROTOCOL", "tcp udp icmp icmp6 sctp", "or a number (default tcp)", NULL},
    {"from", 0, "ADDRESS:PORT", NULL, "source: 10.0.0.1:4000, [fd00::1]:4000, 10.0.0.1 or :4000", NULL},
    {"to", 0, "ADDRESS:PORT", NULL, "destination", NULL},
    {"state", 0, "STATE", "new established related", "of the conversation (default new)", NULL},
    {"interface", 'i', "NAME", NULL, "it comes in or goes out there", NULL},
    {"user", 'u', "USER", NULL, "whose socket it is", NULL},
    {"group", 'g', "GROUP", NULL, "of that program", NULL},
    {"exe", 0, "PATH", "FILE", "the program's file", NULL},
    {"comm", 0, "NAME", NULL, "the program's short name", NULL},
    {"cgroup", 0, "PATH", NULL, "the program's cgroup", NULL},
    {"pid", 0, "PID", NULL, "a running program, instead of all these", NULL},
    {"flags", 0, "FLAGS", NULL, "of TCP: syn, or syn,ack", NULL},
    {"length", 0, "BYTES", NULL, "of the IP packet (default 60)", NULL},
    {"policy", 0, "FILE", "FILE", "judged by this file instead of the policy in force", NULL},
    {.name = NULL}};
/* clang-format on */

static char *text_of(const char *given) {
    return (char *)(uintptr_t)(given != NULL ? given : "");
}

static char *argument(const struct ctl *c, size_t i) {
    return text_of(i < c->given.arg_count ? c->given.args[i] : NULL);
}

/* ---- drafts ---- */

static int put_part(struct ctl *c, const char *name, uint8_t *bytes, size_t size, uint64_t *draft) {
    PB(PutPolicyRequest) request = USHER__CONTROL__V1__PUT_POLICY_REQUEST__INIT;
    request.draft = *draft;
    request.name = text_of(name);
    request.part = (ProtobufCBinaryData){size, bytes};
    PB(PutPolicyResponse) *a = ctl_call(c, PB_METHOD(Policies, Put, put_policy_response), &request);
    if (a == NULL)
        return -1;
    *draft = a->draft;
    ctl_free(a);
    return 0;
}

/* `path` "-" = standard input. */
static int draft_put(struct ctl *c, const char *path, uint64_t *ret_draft) {
    bool input = strcmp(path, "-") == 0;
    FILE *f = input ? stdin : fopen(path, "re");
    const char *slash = strrchr(path, '/');
    uint8_t *part = malloc(PUT_PART);
    int error = part == NULL ? -1 : 0;
    *ret_draft = 0;
    if (f == NULL) {
        free(part);
        return ctl_usage(c, "%s cannot be opened: %s", path, strerror(errno));
    }
    do {
        size_t n = error == 0 ? fread(part, 1, PUT_PART, f) : 0;
        error = error == 0 ? put_part(c,
                                      input           ? "stdin"
                                      : slash != NULL ? slash + 1
                                                      : path,
                                      part, n, ret_draft)
                           : error;
    } while (error == 0 && !feof(f) && !ferror(f));
    if (error == 0 && ferror(f))
        error = ctl_usage(c, "%s cannot be read: %s", path, strerror(errno));
    if (!input)
        (void)fclose(f);
    free(part);
    return error;
}

static PB(CheckPolicyResponse) * draft_check(struct ctl *c, uint64_t draft) {
    PB(CheckPolicyRequest) request = USHER__CONTROL__V1__CHECK_POLICY_REQUEST__INIT;
    request.draft = draft;
    return ctl_call(c, PB_METHOD(Policies, Check, check_policy_response), &request);
}

/* Standard output is for what was asked for. */
static void gaps_aside(const struct ctl *c, PB(PolicyGap) * *gaps, size_t given, uint32_t count) {
    struct screen aside = c->screen;
    aside.out = stderr;
    policy_print_gaps(gaps, given, count, &aside);
}

static int check_show(struct ctl *c, const PB(CheckPolicyResponse) * a, const char *file) {
    if (c->output == OUTPUT_JSON)
        ctl_json(c, a);
    else
        policy_print_check(a, file, &c->screen);
    c->fault.exit = a->valid ? EXIT_OK : EXIT_FAILED;
    return a->valid ? 0 : -1;
}

int run_policy_check(struct ctl *c) {
    uint64_t draft;
    PB(CheckPolicyResponse) *a = draft_put(c, c->given.args[0], &draft) == 0 ? draft_check(c, draft) : NULL;
    if (a == NULL)
        return -1;
    int result = check_show(c, a, c->given.args[0]);
    ctl_free(a);
    return result;
}

/* ---- differences ---- */

static bool revision_given(struct ctl *c, size_t option, uint64_t *ret) {
    const char *text = c->given.second[option];
    return text == NULL || ctl_number(c, text, "revision", UINT64_MAX, ret);
}

int run_policy_diff(struct ctl *c) {
    PB(DiffPolicyRequest) request = USHER__CONTROL__V1__DIFF_POLICY_REQUEST__INIT;
    bool file = c->given.arg_count > 0;
    if (file == (c->given.second[DIFF_TO] != NULL))
        return ctl_usage(c, "name a FILE, or a revision with --to");
    if (!revision_given(c, DIFF_FROM, &request.base_revision) || !revision_given(c, DIFF_TO, &request.revision) ||
        (file && draft_put(c, c->given.args[0], &request.draft) != 0))
        return -1;
    PB(DiffPolicyResponse) *a = ctl_call(c, PB_METHOD(Policies, Diff, diff_policy_response), &request);
    if (a == NULL)
        return -1;
    if (c->output == OUTPUT_JSON)
        ctl_json(c, a);
    else
        policy_print_diff(a, &c->screen);
    ctl_free(a);
    return 0;
}

/* ---- into force and back ---- */

/* "60", "60s", "5m", "1h" */
static int confirm_given(struct ctl *c, uint32_t *ret_seconds) {
    const char *text = c->given.second[APPLY_CONFIRM];
    char *end;
    if (text == NULL)
        return 0;
    unsigned long n = strtoul(text, &end, 10);
    unsigned long times = strcmp(end, "") == 0 || strcmp(end, "s") == 0 ? 1
                          : strcmp(end, "m") == 0                       ? 60
                          : strcmp(end, "h") == 0                       ? 3600
                                                                        : 0;
    if (text[0] < '0' || text[0] > '9' || times == 0 || n == 0 || n > 86400 / times)
        return ctl_usage(c, "--confirm takes a time up to a day, as 60s or 5m, not %s", text);
    *ret_seconds = (uint32_t)(n * times);
    return 0;
}

static int apply_show(struct ctl *c, PB(ApplyPolicyRequest) * request) {
    PB(ApplyPolicyResponse) *a = ctl_call(c, PB_METHOD(Policies, Apply, apply_policy_response), request);
    if (a == NULL)
        return -1;
    if (c->output == OUTPUT_JSON)
        ctl_json(c, a);
    else
        policy_print_apply(a, ctl_now_unix_ns(), &c->screen);
    ctl_free(a);
    return 0;
}

int run_policy_apply(struct ctl *c) {
    PB(ApplyPolicyRequest) request = USHER__CONTROL__V1__APPLY_POLICY_REQUEST__INIT;
    if (c->given.second[APPLY_EXPECT] != NULL)
        request.expects_case = USHER__CONTROL__V1__APPLY_POLICY_REQUEST__EXPECTS_EXPECTED_REVISION;
    if (!revision_given(c, APPLY_EXPECT, &request.expected_revision) || confirm_given(c, &request.confirm_seconds) != 0)
        return -1;
    request.note = text_of(c->given.second[APPLY_NOTE]);
    PB(CheckPolicyResponse) *check =
        draft_put(c, c->given.args[0], &request.draft) == 0 ? draft_check(c, request.draft) : NULL;
    if (check == NULL)
        return -1;
    request.partial = c->given.second[APPLY_PARTIAL] != NULL;
    if (check->valid && !request.partial) /* usherd will say that it does not take them */
        gaps_aside(c, check->gaps, check->n_gaps, check->gap_count);
    int result = check->valid ? apply_show(c, &request) : check_show(c, check, c->given.args[0]);
    ctl_free(check);
    return result;
}

int run_policy_confirm(struct ctl *c) {
    PB(ConfirmPolicyRequest) request = USHER__CONTROL__V1__CONFIRM_POLICY_REQUEST__INIT;
    if (c->given.arg_count > 0 && !ctl_number(c, c->given.args[0], "revision", UINT64_MAX, &request.revision))
        return -1;
    PB(ConfirmPolicyResponse) *a = ctl_call(c, PB_METHOD(Policies, Confirm, confirm_policy_response), &request);
    if (a == NULL)
        return -1;
    if (c->output == OUTPUT_JSON)
        ctl_json(c, a);
    else
        (void)fprintf(c->screen.out, "revision %" PRIu64 " stays\n", a->revision);
    ctl_free(a);
    return 0;
}

int run_policy_rollback(struct ctl *c) {
    PB(RollbackPolicyRequest) request = USHER__CONTROL__V1__ROLLBACK_POLICY_REQUEST__INIT;
    if (c->given.arg_count > 0 && !ctl_number(c, c->given.args[0], "revision", UINT64_MAX, &request.revision))
        return -1;
    PB(RollbackPolicyResponse) *a = ctl_call(c, PB_METHOD(Policies, Rollback, rollback_policy_response), &request);
    if (a == NULL)
        return -1;
    if (c->output == OUTPUT_JSON)
        ctl_json(c, a);
    else
        (void)fprintf(c->screen.out, "revision %" PRIu64 " is in force again; it was revision %" PRIu64 "\n",
                      a->revision, a->before);
    ctl_free(a);
    return 0;
}

/* ---- lists ---- */

int run_policy_history(struct ctl *c) {
    const PB(PolicyHistoryRequest) request = USHER__CONTROL__V1__POLICY_HISTORY_REQUEST__INIT;
    PB(PolicyHistoryResponse) *a = ctl_call(c, PB_METHOD(Policies, History, policy_history_response), &request);
    if (a == NULL)
        return -1;
    if (c->output == OUTPUT_JSON)
        ctl_json(c, a);
    else
        list_print(&list_policy_history, &a->base, ctl_now_unix_ns(), &c->screen);
    ctl_free(a);
    return 0;
}

/* The text goes out as it is: it is for files and for apply. What else is to be said goes beside it. */
int run_policy_show(struct ctl *c) {
    PB(ShowPolicyRequest) request = USHER__CONTROL__V1__SHOW_POLICY_REQUEST__INIT;
    if (c->given.arg_count > 0 && !ctl_number(c, c->given.args[0], "revision", UINT64_MAX, &request.revision))
        return -1;
    for (bool more = true; more;) {
        PB(ShowPolicyResponse) *a = ctl_call(c, PB_METHOD(Policies, Show, show_policy_response), &request);
        if (a == NULL)
            return -1;
        (void)fwrite(a->part.data, 1, a->part.len, c->screen.out);
        gaps_aside(c, a->gaps, a->n_gaps, a->gap_count);
        request.offset += a->part.len;
        request.revision = a->revision;
        more = a->part.len > 0 && request.offset < a->bytes && ferror(c->screen.out) == 0;
        ctl_free(a);
    }
    return 0;
}

int run_policy_rules(struct ctl *c) {
    PB(ListRulesRequest) request = USHER__CONTROL__V1__LIST_RULES_REQUEST__INIT;
    request.name = argument(c, 0);
    return ctl_list_stream(c, PB_METHOD(Policies, ListRules, list_rules_response), &request, &list_policy_rules);
}

int run_policy_counters(struct ctl *c) {
    const PB(ListPolicyCountersRequest) request = USHER__CONTROL__V1__LIST_POLICY_COUNTERS_REQUEST__INIT;
    PB(ListPolicyCountersResponse) *a =
        ctl_call(c, PB_METHOD(Policies, ListCounters, list_policy_counters_response), &request);
    if (a == NULL)
        return -1;
    if (c->output == OUTPUT_JSON)
        ctl_json(c, a);
    else
        list_print(&list_policy_counters, &a->base, 0, &c->screen);
    ctl_free(a);
    return 0;
}

int run_policy_sets(struct ctl *c) {
    const PB(ListSetsRequest) request = USHER__CONTROL__V1__LIST_SETS_REQUEST__INIT;
    PB(ListSetsResponse) *a = ctl_call(c, PB_METHOD(Policies, ListSets, list_sets_response), &request);
    if (a == NULL)
        return -1;
    if (c->output == OUTPUT_JSON)
        ctl_json(c, a);
    else
        list_print(&list_policy_sets, &a->base, 0, &c->screen);
    ctl_free(a);
    return 0;
}

/* ---- sets ---- */

static void member_add(PB(EditSetRequest) * request, const char *text) {
    if (text[0] != '\0' && request->n_members < MEMBER_MAX)
        request->members[request->n_members++] = strdup(text);
}

/* "-": one on each line of standard input. */
static void members_take(const struct ctl *c, PB(EditSetRequest) * request) {
    char line[256];
    for (size_t i = 2; i < c->given.arg_count; i++) {
        if (strcmp(c->given.args[i], "-") != 0) {
            member_add(request, c->given.args[i]);
            continue;
        }
        while (fgets(line, sizeof line, stdin) != NULL) {
            line[strcspn(line, " \t\r\n#")] = '\0';
            member_add(request, line);
        }
    }
}

static int set_edit(struct ctl *c, PB(EditSetRequest) * request) {
    PB(EditSetResponse) *a = ctl_call(c, PB_METHOD(Policies, EditSet, edit_set_response), request);
    if (a == NULL)
        return -1;
    if (c->output == OUTPUT_JSON)
        ctl_json(c, a);
    else
        (void)fprintf(c->screen.out, "set %s has %u ranges now: revision %" PRIu64 "%s\n", request->set, a->members,
                      a->revision, a->in_place ? "" : "; the rules were loaded anew");
    ctl_free(a);
    return 0;
}

int run_policy_set(struct ctl *c) {
    static const char *const words[] = {"", "add", "remove", "replace"};
    PB(EditSetRequest) request = USHER__CONTROL__V1__EDIT_SET_REQUEST__INIT;
    int how = 1;
    while (how < 4 && strcmp(words[how], c->given.args[1]) != 0)
        how++;
    if (how == 4)
        return ctl_usage(c, "%s is nothing one can do to a set; add, remove or replace members", c->given.args[1]);
    request.set = argument(c, 0);
    request.edit = (PB(SetEdit))how;
    request.members = calloc(MEMBER_MAX, sizeof *request.members);
    if (request.members == NULL)
        return -1;
    members_take(c, &request);
    int result = set_edit(c, &request);
    for (size_t i = 0; i < request.n_members; i++)
        free(request.members[i]);
    free(request.members);
    return result;
}

/* ---- explanations ---- */

static bool small_given(struct ctl *c, size_t option, uint32_t *ret) {
    uint64_t n = 0;
    if (c->given.second[option] == NULL)
        return true;
    if (!ctl_number(c, c->given.second[option], "number", UINT32_MAX, &n))
        return false;
    *ret = (uint32_t)n;
    return true;
}

/* A line that does not say which way it went: who sends from an address of this host sends from here. */
static bool is_ours(const char *address) {
    struct ifaddrs *all;
    char text[INET6_ADDRSTRLEN];
    bool found = false;
    if (getifaddrs(&all) != 0)
        return false;
    for (const struct ifaddrs *i = all; i != NULL && !found; i = i->ifa_next) {
        const struct sockaddr *sa = i->ifa_addr;
        if (sa == NULL || (sa->sa_family != AF_INET && sa->sa_family != AF_INET6))
            continue;
        const void *bytes = sa->sa_family == AF_INET
                                ? (const void *)&((const struct sockaddr_in *)(const void *)sa)->sin_addr
                                : &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr;
        found = inet_ntop(sa->sa_family, bytes, text, sizeof text) != NULL && strcmp(text, address) == 0;
    }
    freeifaddrs(all);
    return found;
}

/* The line given, or the first of standard input; all empty when there is none. */
static int line_given(struct ctl *c, struct capture_line *l) {
    char text[2048], why[200];
    *l = (struct capture_line){.length = 0};
    if (c->given.arg_count == 0)
        return 0;
    bool input = strcmp(c->given.args[0], "-") == 0;
    (void)snprintf(text, sizeof text, "%s", input ? "" : c->given.args[0]);
    if (input && fgets(text, sizeof text, stdin) == NULL)
        return ctl_usage(c, "standard input has no line");
    if (capture_line_read(text, l, why, sizeof why) != 0)
        return ctl_usage(c, "%s", why);
    if (l->direction[0] == '\0')
        (void)snprintf(l->direction, sizeof l->direction, "%s", is_ours(l->address) ? "out" : "in");
    return 0;
}

/* What the options say comes before what the line says. */
static void packet_fill(const char *const *given, struct capture_line *l, PB(ExplainPolicyRequest) * r) {
    const struct {
        enum policy_explain_option option;
        char *line, **to;
    } words[] = {{EXPLAIN_PROTOCOL, l->protocol, &r->protocol},
                 {EXPLAIN_FROM, l->source, &r->source},
                 {EXPLAIN_TO, l->destination, &r->destination},
                 {EXPLAIN_STATE, l->state, &r->state},
                 {EXPLAIN_INTERFACE, l->interface, &r->interface},
                 {EXPLAIN_USER, l->user, &r->user},
                 {EXPLAIN_EXE, l->exe, &r->exe},
                 {EXPLAIN_COMM, l->comm, &r->comm},
                 {EXPLAIN_CGROUP, l->cgroup, &r->cgroup},
                 {EXPLAIN_FLAGS, l->flags, &r->tcp_flags}};
    if (given[EXPLAIN_PID] != NULL)
        l->user[0] = l->exe[0] = l->comm[0] = l->cgroup[0] = '\0';
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        *words[i].to = given[words[i].option] != NULL ? text_of(given[words[i].option]) : words[i].line;
    r->group = text_of(given[EXPLAIN_GROUP]);
    r->direction = given[EXPLAIN_OUT] != NULL ? text_of("out") : l->direction[0] != '\0' ? l->direction : text_of("in");
    r->length = l->length;
    r->icmp_type = l->icmp_type;
    r->icmp_code = l->icmp_code;
    r->vlan = l->vlan;
}

int run_policy_explain(struct ctl *c) {
    PB(ExplainPolicyRequest) request = USHER__CONTROL__V1__EXPLAIN_POLICY_REQUEST__INIT;
    const char *const *given = c->given.second;
    struct capture_line line;
    if (line_given(c, &line) != 0)
        return -1;
    packet_fill(given, &line, &request);
    if (!small_given(c, EXPLAIN_PID, &request.pid) || !small_given(c, EXPLAIN_LENGTH, &request.length) ||
        (given[EXPLAIN_FILE] != NULL && draft_put(c, given[EXPLAIN_FILE], &request.draft) != 0))
        return -1;
    PB(ExplainPolicyResponse) *a = ctl_call(c, PB_METHOD(Policies, Explain, explain_policy_response), &request);
    if (a == NULL)
        return -1;
    if (c->output == OUTPUT_JSON)
        ctl_json(c, a);
    else
        policy_print_explain(a, &c->screen);
    ctl_free(a);
    return 0;
}
