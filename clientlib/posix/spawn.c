/* SPDX-License-Identifier: Apache-2.0
 *
 * Children that become another program at once: vfork(), posix_spawn(). Until then they share our memory, and usherd
 * knows only us: so they change nothing. Once the child is another program, we look which of our streams it has and
 * park those for it; it waits for that at its start, because its environment tells it to (inherit.c).
 */
#include <dirent.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clientlib/posix/posix.h"

#define SOCKETS_MAX 64                  /* of a child */
#define START_NS    INT64_C(2000000000) /* how long it may take to say that it has a stream */

static bool is_stream(const struct posix_object *o) {
    return o && o->kind == POSIX_SOCK && (o->state == POSIX_OPEN || o->state == POSIX_PARKED);
}

bool posix_has_streams(void) {
    for (int fd = 0; fd < posix.fd_high && posix.objects; fd++)
        if (is_stream(posix_object(fd)))
            return true;
    return false;
}

/* The sockets that a process has, by their numbers in the file system of sockets. */
static uint32_t sockets_of(pid_t pid, uint64_t inode[SOCKETS_MAX]) {
    char path[64], what[64];
    uint32_t n = 0;
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *d = opendir(path);
    for (struct dirent *e; d && n < SOCKETS_MAX && (e = readdir(d));) {
        ssize_t len = readlinkat(dirfd(d), e->d_name, what, sizeof(what) - 1);
        what[len > 0 ? len : 0] = 0;
        n += sscanf(what, "socket:[%lu]", &inode[n]) == 1;
    }
    if (d)
        closedir(d);
    return n;
}

static bool has(const uint64_t *inode, uint32_t n, int fd) {
    struct stat st;
    bool found = false;
    if (n == 0 || fstat(fd, &st))
        return false;
    for (uint32_t i = 0; i < n && !found; i++)
        found = inode[i] == st.st_ino;
    return found;
}

static bool has_ended(pid_t pid) {
    siginfo_t info = {0};
    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == pid;
}

/* We may close it next, and nobody must think that it was the last copy. Under the lock, given meanwhile. */
static void await(const struct posix_sock *s, pid_t pid) {
    uint32_t life = s->life;
    int64_t until = client_now() + START_NS;
    while (s->life == life && !posix_share_is_held_by(s, pid) && !has_ended(pid) && client_now() < until) {
        posix_unlock();
        (void)posix_real.poll(NULL, 0, 1);
        posix_lock();
    }
}

static void hand_on(pid_t pid) {
    uint64_t inode[SOCKETS_MAX];
    uint32_t n = sockets_of(pid, inode);
    posix_lock();
    for (int fd = 0; fd < posix.fd_high && n; fd++) {
        struct posix_sock *s = (struct posix_sock *)posix_table[fd];
        if (!is_stream(posix_table[fd]) || s->fd != fd || !has(inode, n, fd))
            continue;
        posix_share_one(s, 0);
        await(s, pid);
    }
    posix_unlock();
}

/* The child runs its program, or has ended. */
static void child_began(pid_t pid) {
    int error = errno;
    if (posix.objects && posix_is_owner() && posix_has_streams())
        hand_on(pid);
    errno = error;
}

/* ---- vfork ---- */

#ifdef __x86_64__

pid_t posix_vforked(long result) __attribute__((used, visibility("hidden")));
pid_t posix_vforked(long result) {
    if (result < 0)
        return posix_errno((int)result);
    child_began((pid_t)result);
    return (pid_t)result;
}

/* The child returns first and goes on using this stack, so nothing of ours may be on it; that the parent's return
 * address still is, is for a register to know. */
__asm__(".text\n"
        ".globl vfork\n"
        ".type vfork, @function\n"
        "vfork:\n"
        "    endbr64\n"
        "    pop %rdi\n"
        "    mov $58, %eax\n"
        "    syscall\n"
        "    push %rdi\n"
        "    test %rax, %rax\n"
        "    jz 1f\n"
        "    mov %rax, %rdi\n"
        "    jmp posix_vforked\n"
        "1:  ret\n"
        ".size vfork, .-vfork\n");

#else

pid_t POSIX_CALL vfork(void) {
    return fork();
}

#endif

/* ---- posix_spawn ---- */

typedef int spawn_fn(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,
                     char *const[], char *const[]);

static int spawn(spawn_fn *fn, pid_t *ret_pid, const char *what, const posix_spawn_file_actions_t *actions,
                 const posix_spawnattr_t *attr, char *const argv[], char *const envp[]) {
    char *marked[POSIX_ENV_MAX];
    bool hands_on = posix.objects && posix_is_owner() && posix_has_streams();
    pid_t pid;
    int err = fn(&pid, what, actions, attr, argv, hands_on ? posix_env_mark(marked, envp, POSIX_MARK_WAIT) : envp);
    if (!err && ret_pid)
        *ret_pid = pid;
    if (!err && hands_on)
        child_began(pid);
    return err;
}

int POSIX_CALL posix_spawn(pid_t *ret_pid, const char *path, const posix_spawn_file_actions_t *actions,
                           const posix_spawnattr_t *attr, char *const argv[], char *const envp[]) {
    return spawn(posix_real.posix_spawn, ret_pid, path, actions, attr, argv, envp);
}

int POSIX_CALL posix_spawnp(pid_t *ret_pid, const char *file, const posix_spawn_file_actions_t *actions,
                            const posix_spawnattr_t *attr, char *const argv[], char *const envp[]) {
    return spawn(posix_real.posix_spawnp, ret_pid, file, actions, attr, argv, envp);
}
