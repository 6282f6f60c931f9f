/* SPDX-License-Identifier: Apache-2.0
 *
 * Makes sandboxes with clone(2) flags and iproute2. Everything made here is anonymous: no name, no file, nothing to
 * remove. Single-threaded callers only.
 */
#include "test/bench/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK_BYTES     (1u << 20)
#define EXIT_NO_SANDBOX 128

struct inside {
    int (*fn)(void *arg);
    void *arg;
};

static int furnish(void) {
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 || mount("proc", "/proc", "proc", 0, NULL) != 0 ||
        mount("tmpfs", "/run", "tmpfs", 0, "mode=755") != 0) {
        fprintf(stderr, "usher-bench: cannot mount inside the sandbox: %s\n", strerror(errno));
        return -1;
    }
    return sandbox_exec(-1, "ip link set lo up");
}

static int inside_main(void *arg) {
    struct inside *in = arg;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (furnish() != 0)
        return EXIT_NO_SANDBOX;
    return in->fn(in->arg);
}

static int wait_bounded(pid_t pid, double seconds) {
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd pfd = {.fd = pidfd, .events = POLLIN};
    int ready = poll(&pfd, 1, (int)(seconds * 1000));
    if (ready <= 0)
        (void)kill(pid, SIGKILL);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    (void)close(pidfd);
    if (ready <= 0)
        return -ETIMEDOUT;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -EIO;
}

int sandbox_run(int (*fn)(void *arg), void *arg, double seconds, char *err, size_t err_size) {
    struct inside in = {.fn = fn, .arg = arg};
    uint8_t *stack = malloc(STACK_BYTES);
    if (stack == NULL) {
        (void)snprintf(err, err_size, "out of memory");
        return -ENOMEM;
    }
    (void)fflush(NULL);
    int flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | SIGCHLD;
    pid_t pid = clone(inside_main, stack + STACK_BYTES, flags, &in);
    int rc = pid < 0 ? -errno : wait_bounded(pid, seconds);
    free(stack);
    if (pid < 0)
        (void)snprintf(err, err_size, "cannot make namespaces: %s; run usher-bench as root", strerror(-rc));
    else if (rc == -ETIMEDOUT)
        (void)snprintf(err, err_size, "still not done after %.0f s: stopped", seconds);
    else if (rc == EXIT_NO_SANDBOX)
        (void)snprintf(err, err_size, "the sandbox could not be set up (see above)");
    else if (rc < 0)
        (void)snprintf(err, err_size, "the bench's process died");
    return rc == EXIT_NO_SANDBOX ? -EPERM : rc;
}

static void exec_words(int netns_fd, char *words) {
    char *argv[32];
    size_t n = 0;
    char *save = NULL;
    for (char *w = strtok_r(words, " ", &save); w != NULL && n < 31; w = strtok_r(NULL, " ", &save))
        argv[n++] = w;
    argv[n] = NULL;
    if (netns_fd >= 0 && setns(netns_fd, CLONE_NEWNET) != 0)
        _exit(126);
    execvp(argv[0], argv);
    fprintf(stderr, "usher-bench: cannot run %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

int sandbox_exec(int netns_fd, const char *command) {
    char words[512];
    if ((size_t)snprintf(words, sizeof(words), "%s", command) >= sizeof(words))
        return -1;
    pid_t pid = fork();
    if (pid == 0)
        exec_words(netns_fd, words);
    int status = 0;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fprintf(stderr, "usher-bench: '%s' failed\n", command);
        return -1;
    }
    return 0;
}

/* sysfs shows the interfaces of the namespace that mounted it, so each write needs a mount of its own. */
static int steer_inside(int netns_fd, const char *ifname, int core) {
    char path[128], mask[64];
    if ((netns_fd >= 0 && setns(netns_fd, CLONE_NEWNET) != 0) || unshare(CLONE_NEWNS) != 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 || mount("sysfs", "/sys", "sysfs", 0, NULL) != 0)
        return 1;
    (void)snprintf(path, sizeof(path), "/sys/class/net/%s/queues/rx-0/rps_cpus", ifname);
    int n = snprintf(mask, sizeof(mask), "%x", 1u << (core % 32));
    for (int word = 0; word < core / 32 && (size_t)n < sizeof(mask); word++)
        n += snprintf(mask + n, sizeof(mask) - (size_t)n, ",00000000");
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd >= 0 && write(fd, mask, strlen(mask)) > 0 ? 0 : 1;
}

int sandbox_steer(int netns_fd, const char *ifname, int core) {
    pid_t pid = fork();
    if (pid == 0)
        _exit(steer_inside(netns_fd, ifname, core));
    int status = 0;
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

/* A namespace without a name: a child makes it, we open it, the child ends. */
static int netns_new(void) {
    int ready[2];
    if (pipe2(ready, O_CLOEXEC) != 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0) {
        char byte = (char)(unshare(CLONE_NEWNET) == 0);
        (void)!write(ready[1], &byte, 1);
        for (;;)
            (void)pause();
    }
    char byte = 0;
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
    int fd = pid > 0 && read(ready[0], &byte, 1) == 1 && byte == 1 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    (void)close(ready[0]);
    (void)close(ready[1]);
    if (pid > 0) {
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
    }
    return fd;
}

int sandbox_peer(void) {
    int ns = netns_new();
    if (ns < 0)
        return -1;
    /* iproute2 takes /proc/self/fd/N as the name of a namespace when it is given as a path. */
    int keep = fcntl(ns, F_DUPFD, 100);
    char link[128];
    (void)snprintf(link, sizeof(link), "ip link add %s type veth peer name vb1 netns /proc/self/fd/%d", SANDBOX_IFNAME,
                   keep);
    int rc = sandbox_exec(-1, link);
    (void)close(keep);
    if (rc != 0 || sandbox_exec(-1, "ip addr add " SANDBOX_ADDR "/24 dev " SANDBOX_IFNAME) != 0 ||
        sandbox_exec(-1, "ip link set " SANDBOX_IFNAME " up") != 0 || sandbox_exec(ns, "ip link set lo up") != 0 ||
        sandbox_exec(ns, "ip addr add " SANDBOX_PEER_ADDR "/24 dev vb1") != 0 ||
        sandbox_exec(ns, "ip link set vb1 up") != 0) {
        (void)close(ns);
        return -1;
    }
    return ns;
}
