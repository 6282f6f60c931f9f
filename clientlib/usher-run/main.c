/* SPDX-License-Identifier: Apache-2.0
 *
 * usher-run PROG ARGS...: runs a program with its sockets on Usher. It puts libusher-posix.so before the C library, by
 * LD_PRELOAD, and becomes the program. With --check it says first what the program is and whether usherd answers, and
 * the library then reports each socket as its way is decided.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <usher/usher.h>

#include "clientlib/usher-run/program.h"

#define LIBRARY "libusher-posix.so"

static const char usage[] =
    "usage: usher-run [--check] [--listen=learn|now] [--loopback=auto|kernel|usher] [--socket=PATH]\n"
    "                 PROGRAM [ARGUMENT...]\n"
    "\n"
    "Runs PROGRAM with its TCP and UDP sockets on Usher. What cannot be accelerated stays with the kernel.\n"
    "\n"
    "  --check            say what PROGRAM is, whether usherd answers, and how each of its sockets is carried\n"
    "  --listen=WHEN      when listeners are usherd's: from the start (now, the default), or once the program has\n"
    "                     served a connection itself (learn): one that hands each to a child stays with the kernel\n"
    "  --loopback=HOW     who serves 127.0.0.0/8 and ::1: Usher's sockets first, then the kernel's (auto, the\n"
    "                     default); the kernel's alone (kernel); Usher's alone, for connections (usher)\n"
    "  --socket=PATH      usherd's session socket (also USHER_SOCKET); /run/usher/session.sock\n"
    "  --help, --version\n";

struct options {
    bool check;
    const char *loopback, *socket, *listen;
};

static int fail(const char *what, const char *why) {
    fprintf(stderr, "usher-run: %s: %s\n", what, why);
    return 1;
}

/* Beside this program: ../lib, where it was built; else where it was installed. */
static bool find_library(char *ret_path, size_t size) {
    static const char *const places[] = {"/../lib/", "/../lib/x86_64-linux-gnu/", "/../lib64/", "/"};
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n <= 0)
        return false;
    self[n] = 0;
    *strrchr(self, '/') = 0;
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        char joined[sizeof(self) + 64];
        snprintf(joined, sizeof(joined), "%s%s" LIBRARY, self, places[i]);
        char *real = realpath(joined, NULL);
        bool found = real && strlen(real) < size;
        if (found)
            memcpy(ret_path, real, strlen(real) + 1);
        free(real);
        if (found)
            return true;
    }
    return false;
}

/* What is preloaded already stays in front: a sanitizer has to be first. So does a library of ours that is there. */
static int set_preload(const char *library) {
    const char *before = getenv("LD_PRELOAD");
    char *both = NULL;
    if (before && strstr(before, LIBRARY))
        return 0;
    if (before && *before && asprintf(&both, "%s:%s", before, library) < 0)
        return -ENOMEM;
    int err = setenv("LD_PRELOAD", both ? both : library, 1) ? -errno : 0;
    free(both);
    return err;
}

/* ---- --check ---- */

static void check_usherd(void) {
    struct usher_context *ctx = NULL;
    int err = usher_context_open(NULL, &ctx);
    fprintf(stderr, "usher-run: usherd: %s\n", err ? usher_strerror() : "answers");
    usher_context_close(ctx);
}

static void check_program(const struct program *p) {
    const char *note, *refusal = program_refusal(p, &note);
    fprintf(stderr, "usher-run: %s%s%s%s: %s\n", p->path, p->script ? " (by " : "", p->interpreter,
            p->script ? ")" : "", refusal ? refusal : "a dynamic program: its sockets can be carried by usherd");
    if (note)
        fprintf(stderr, "usher-run: %s\n", note);
    if (refusal)
        fprintf(stderr, "usher-run: all of its sockets stay with the kernel\n");
}

static bool parse(int argc, char **argv, struct options *o, int *ret_code) {
    static const struct option longs[] = {
        {"check", no_argument, NULL, 'c'},
        {"loopback", required_argument, NULL, 'l'},
        {"listen", required_argument, NULL, 'n'},
        {"socket", required_argument, NULL, 's'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {0},
    };
    *ret_code = 0;
    for (int c; (c = getopt_long(argc, argv, "+h", longs, NULL)) != -1;) {
        switch (c) {
        case 'c':
            o->check = true;
            break;
        case 'l':
            o->loopback = optarg;
            break;
        case 'n':
            o->listen = optarg;
            break;
        case 's':
            o->socket = optarg;
            break;
        case 'h':
            fputs(usage, stdout);
            return false;
        case 'V':
            puts("usher-run " USHER_VERSION);
            return false;
        default:
            *ret_code = 2;
            return false;
        }
    }
    if (o->listen && strcmp(o->listen, "now") && strcmp(o->listen, "learn")) {
        *ret_code = fail("--listen", "one of learn, now") + 1;
        return false;
    }
    if (o->loopback && strcmp(o->loopback, "auto") && strcmp(o->loopback, "kernel") && strcmp(o->loopback, "usher")) {
        *ret_code = fail("--loopback", "one of auto, kernel, usher") + 1;
        return false;
    }
    if (optind == argc) {
        fputs(usage, stderr);
        *ret_code = 2;
        return false;
    }
    return true;
}

static int set_environment(const struct options *o) {
    char library[4096];
    if (!find_library(library, sizeof(library)))
        return fail(LIBRARY, "not found beside usher-run nor in ../lib; install Usher's client library");
    if (o->socket && setenv("USHER_SOCKET", o->socket, 1))
        return fail("USHER_SOCKET", strerror(errno));
    if (o->loopback && setenv("USHER_LOOPBACK", o->loopback, 1))
        return fail("USHER_LOOPBACK", strerror(errno));
    if (o->listen && setenv("USHER_LISTEN", o->listen, 1))
        return fail("USHER_LISTEN", strerror(errno));
    if (o->check) {
        check_usherd();
        if (setenv("USHER_CHECK", "1", 1))
            return fail("USHER_CHECK", strerror(errno));
    }
    int err = set_preload(library);
    return err ? fail("LD_PRELOAD", strerror(-err)) : 0;
}

int main(int argc, char **argv) {
    struct options o = {0};
    int code;
    if (!parse(argc, argv, &o, &code))
        return code;
    char **command = argv + optind, path[4096];
    struct program p;
    int err = program_find(command[0], path, sizeof(path));
    if (err) {
        fail(command[0], strerror(-err));
        return err == -ENOENT ? 127 : 126;
    }
    if (o.check && program_look(path, &p) == 0)
        check_program(&p);
    if (set_environment(&o))
        return 125;
    execv(path, command);
    fail(path, strerror(errno));
    return 126;
}
