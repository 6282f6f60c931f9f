/* SPDX-License-Identifier: Apache-2.0
 *
 * The examples as a user runs them: as programs, against a fake usherd and against none.
 */
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clientlib/src/testkit.h"

struct program {
    pid_t pid;
    int in, out; /* our ends of its stdin and of its stdout and stderr */
    char text[8192];
    size_t len;
};

static struct program start(const char *name, const char *const *args) {
    struct program p = {0};
    char path[512];
    const char *argv[16] = {path};
    int in[2], out[2];
    snprintf(path, sizeof(path), "%s/%s", EXAMPLE_DIR, name);
    for (int i = 0; args[i]; i++)
        argv[i + 1] = args[i];
    cr_assert_eq(pipe2(in, O_CLOEXEC), 0);
    cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
    posix_spawn_file_actions_t a;
    posix_spawn_file_actions_init(&a);
    posix_spawn_file_actions_adddup2(&a, in[0], 0);
    posix_spawn_file_actions_adddup2(&a, out[1], 1);
    posix_spawn_file_actions_adddup2(&a, out[1], 2);
    cr_assert_eq(posix_spawn(&p.pid, path, &a, NULL, (char *const *)argv, environ), 0, "%s", path);
    posix_spawn_file_actions_destroy(&a);
    close(in[0]);
    close(out[1]);
    p.in = in[1];
    p.out = out[0];
    return p;
}

/* Reads until the text holds `word`, or the program ends. */
static bool read_until(struct program *p, const char *word) {
    while (!word || !strstr(p->text, word)) {
        ssize_t n = read(p->out, p->text + p->len, sizeof(p->text) - 1 - p->len);
        if (n <= 0)
            return false;
        p->len += (size_t)n;
        p->text[p->len] = 0;
    }
    return true;
}

/* Its exit code, or -1 when a signal ended it. */
static int finish(struct program *p) {
    int status = 0;
    close(p->in);
    read_until(p, NULL);
    close(p->out);
    waitpid(p->pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Test(examples, ping_by_usherd) {
    struct fake *f = fake_start(NULL);
    setenv("USHER_SOCKET", fake_path(f), 1);
    struct program p = start("udp-ping", (const char *[]){"--count", "50", "127.0.0.1:7", NULL});
    cr_assert_eq(finish(&p), 0, "%s", p.text);
    cr_assert(strstr(p.text, "50 sent, 50 answered, 0 lost"), "%s", p.text);
    cr_assert(strstr(p.text, "carried by usherd"), "%s", p.text);
    cr_assert(strstr(p.text, "p99.9"), "%s", p.text);
    fake_stop(f);
}

Test(examples, ping_and_echo_by_the_kernel) {
    const struct fake_config c = {.fault = FAULT_KERNEL, .fault_at = FAKE_RPC_OPEN};
    struct fake *a = fake_start(&c), *b = fake_start(&c);
    /* A port of our own choice: free a moment ago. */
    struct rig r = {.fake = a, .ctx = rig_context(a, 0, -1)};
    struct usher_socket *s = rig_socket(r.ctx);
    char target[32];
    snprintf(target, sizeof(target), "127.0.0.1:%u", rig_port(s));
    usher_context_close(r.ctx);
    struct program echo = start("udp-echo", (const char *[]){"--socket", fake_path(a), target, NULL});
    cr_assert(read_until(&echo, "listening"), "%s", echo.text);
    struct program ping =
        start("udp-ping", (const char *[]){"--socket", fake_path(b), "--size", "1400", "--count", "50", target, NULL});
    cr_assert_eq(finish(&ping), 0, "%s", ping.text);
    cr_assert(strstr(ping.text, "50 answered"), "%s", ping.text);
    cr_assert(strstr(ping.text, "does not manage"), "says why not: %s", ping.text);
    kill(echo.pid, SIGTERM);
    cr_assert_eq(finish(&echo), 0, "%s", echo.text);
    cr_assert(strstr(echo.text, "50 datagrams answered"), "%s", echo.text);
    fake_stop(a);
    fake_stop(b);
}

Test(examples, event_loop_sends_lines_and_prints_answers) {
    struct fake *f = fake_start(NULL);
    setenv("USHER_SOCKET", fake_path(f), 1);
    struct program p = start("event-loop", (const char *[]){"--linger", "1", "127.0.0.1:7", NULL});
    cr_assert_eq(write(p.in, "one\ntwo\n", 8), 8);
    cr_assert(read_until(&p, "< two"), "%s", p.text);
    cr_assert_eq(write(p.in, "three\n", 6), 6);
    cr_assert(read_until(&p, "< three"), "%s", p.text);
    cr_assert_eq(finish(&p), 0);
    cr_assert(strstr(p.text, "3 lines sent, 3 answers"), "%s", p.text);
    fake_stop(f);
}

Test(examples, without_usherd_they_say_what_to_do) {
    static const char *const names[] = {"udp-ping", "udp-echo", "event-loop"};
    setenv("USHER_SOCKET", "/nonexistent/session.sock", 1);
    for (int i = 0; i < 3; i++) {
        struct program p = start(names[i], (const char *[]){"127.0.0.1:7", NULL});
        cr_assert_eq(finish(&p), 1, "%s", names[i]);
        cr_assert(strstr(p.text, "no usherd at /nonexistent/session.sock"), "%s", p.text);
    }
}

Test(examples, wrong_arguments_exit_2) {
    static const char *const wrong[] = {"7", "127.0.0.1", "127.0.0.1:99999", "[::1:7", "nowhere:7"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct program p = start("udp-ping", (const char *[]){wrong[i], NULL});
        cr_assert_eq(finish(&p), 2, "%s: %s", wrong[i], p.text);
    }
}
