/* SPDX-License-Identifier: Apache-2.0
 *
 * The runner behind criterion/criterion.h of this folder. Each test runs in a process of its own, freshly executed,
 * with a time limit, as Criterion does. Understands --filter 'suite/name' with wildcards; ignores other options.
 */
#include <fnmatch.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <unistd.h>

#include <criterion/criterion.h>

#define EXIT_SKIPPED 77
#define TIMEOUT_S    60

static struct plain_test *tests;
static int failures;

void plain_register(struct plain_test *t) {
    struct plain_test **p = &tests;
    while (*p) /* in the order of the source */
        p = &(*p)->next;
    *p = t;
}

void plain_failed(bool end, const char *file, int line, const char *what, const char *format, ...) {
    va_list ap;
    fprintf(stderr, "[----] %s:%d: failed: %s\n[----]   ", file, line, what);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
    __atomic_add_fetch(&failures, 1, __ATOMIC_RELAXED);
    if (end)
        _exit(1);
}

_Noreturn void plain_skip(const char *format, ...) {
    va_list ap;
    fputs("SKIPPED: ", stderr);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
    _exit(EXIT_SKIPPED);
}

static const struct plain_data *suite_data(const char *suite) {
    static const struct plain_data none;
    for (struct plain_test *t = tests; t; t = t->next)
        if (!t->run && strcmp(t->suite, suite) == 0)
            return &t->data;
    return &none;
}

static void call(void (*own)(void), void (*of_suite)(void)) {
    if (own)
        own();
    else if (of_suite)
        of_suite();
}

/* In the test's own process. */
static int run_one(const struct plain_test *t) {
    const struct plain_data *suite = suite_data(t->suite);
    double limit = t->data.timeout > 0 ? t->data.timeout : suite->timeout > 0 ? suite->timeout : TIMEOUT_S;
    alarm((unsigned)limit + 1);
    call(t->data.init, suite->init);
    t->run();
    call(t->data.fini, suite->fini);
    return failures != 0;
}

static bool passed(const struct plain_test *t, int status) {
    if (t->data.signal)
        return WIFSIGNALED(status) && WTERMSIG(status) == t->data.signal;
    return WIFEXITED(status) && (WEXITSTATUS(status) == t->data.exit_code || WEXITSTATUS(status) == EXIT_SKIPPED);
}

static bool spawn(const struct plain_test *t, char *self, const char *id) {
    int status = -1;
    pid_t pid = fork();
    if (pid == 0) {
        execl(self, self, "--run", id, (char *)NULL);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !passed(t, status)) {
        fprintf(stderr, "[FAIL] %s::%s%s\n", t->suite, t->name,
                WIFSIGNALED(status) ? WTERMSIG(status) == SIGALRM ? ": took too long" : ": ended by a signal" : "");
        return false;
    }
    return true;
}

static const char *option(int argc, char **argv, const char *name) {
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return argv[i + 1];
    return NULL;
}

int main(int argc, char **argv) {
    const char *filter = option(argc, argv, "--filter"), *run = option(argc, argv, "--run");
    int tested = 0, good = 0;
    for (struct plain_test *t = tests; t; t = t->next) {
        char id[256];
        snprintf(id, sizeof(id), "%s/%s", t->suite, t->name);
        if (run && t->run && strcmp(run, id) == 0)
            return run_one(t);
        if (run || !t->run || t->data.disabled || (filter && fnmatch(filter, id, 0) != 0))
            continue;
        tested++;
        good += spawn(t, argv[0], id);
    }
    fprintf(stderr, "[====] Synthesis: Tested: %d | Passing: %d | Failing: %d | Crashing: 0 \n", tested, good,
            tested - good);
    return tested != good;
}
