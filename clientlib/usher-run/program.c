/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads the file: ELF header, program headers, the names of its sections. All of it is input: bounded and checked.
 */
#include "clientlib/usher-run/program.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADERS_MAX 512
#define NAMES_MAX   (1 << 20)

static int try_path(const char *dir, size_t len, const char *name, char *ret_path, size_t size) {
    struct stat st;
    int n = snprintf(ret_path, size, "%.*s%s%s", (int)len, dir, len ? "/" : "", name);
    if (n < 0 || (size_t)n >= size)
        return -ENAMETOOLONG;
    if (stat(ret_path, &st) < 0)
        return -errno;
    return S_ISREG(st.st_mode) && access(ret_path, X_OK) == 0 ? 0 : -EACCES;
}

int program_find(const char *name, char *ret_path, size_t size) {
    if (strchr(name, '/'))
        return try_path("", 0, name, ret_path, size);
    const char *dir = getenv("PATH");
    int err = -ENOENT;
    for (dir = dir ? dir : "/usr/bin:/bin"; *dir; dir += *dir == ':') {
        size_t len = strcspn(dir, ":");
        int e = len ? try_path(dir, len, name, ret_path, size) : try_path(".", 1, name, ret_path, size);
        if (e == 0)
            return 0;
        err = e == -EACCES ? e : err;
        dir += len;
    }
    return err;
}

static bool read_at(int fd, void *to, size_t len, uint64_t at) {
    return at <= INT64_MAX && pread(fd, to, len, (off_t)at) == (ssize_t)len;
}

static bool has_interpreter(int fd, const Elf64_Ehdr *h) {
    if (h->e_phnum > HEADERS_MAX || h->e_phentsize != sizeof(Elf64_Phdr))
        return false;
    for (uint32_t i = 0; i < h->e_phnum; i++) {
        Elf64_Phdr p;
        if (!read_at(fd, &p, sizeof(p), h->e_phoff + i * sizeof(p)))
            return false;
        if (p.p_type == PT_INTERP)
            return true;
    }
    return false;
}

/* Go's linker leaves sections of its own, also in stripped files. */
static bool is_go(int fd, const Elf64_Ehdr *h) {
    Elf64_Shdr s, names;
    bool go = false;
    if (h->e_shentsize != sizeof(s) || h->e_shstrndx >= h->e_shnum || h->e_shnum > HEADERS_MAX ||
        !read_at(fd, &names, sizeof(names), h->e_shoff + h->e_shstrndx * sizeof(s)) || names.sh_size > NAMES_MAX)
        return false;
    char *text = calloc(1, names.sh_size + 1);
    if (text && read_at(fd, text, names.sh_size, names.sh_offset))
        for (uint32_t i = 0; i < h->e_shnum && !go; i++)
            go = read_at(fd, &s, sizeof(s), h->e_shoff + i * sizeof(s)) && s.sh_name < names.sh_size &&
                 strcmp(text + s.sh_name, ".go.buildinfo") == 0;
    free(text);
    return go;
}

static void look_elf(int fd, struct program *p) {
    Elf64_Ehdr h;
    if (!read_at(fd, &h, sizeof(h), 0))
        return;
    p->elf = true;
    p->other_class = h.e_ident[EI_CLASS] != ELFCLASS64;
    if (p->other_class)
        return;
    p->dynamic = has_interpreter(fd, &h);
    p->go = is_go(fd, &h);
}

/* "#!/usr/bin/env python3" names python3. */
static int script_interpreter(const char *line, char *ret_path, size_t size) {
    char word[2][256] = {"", ""};
    if (sscanf(line, "#! %255s %255s", word[0], word[1]) < 1)
        return -ENOEXEC;
    const char *base = strrchr(word[0], '/');
    bool env = base && strcmp(base, "/env") == 0 && word[1][0];
    return program_find(env ? word[1] : word[0], ret_path, size);
}

static int look_file(const char *path, struct program *p, char *ret_line, size_t size) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    memset(ret_line, 0, size);
    ssize_t n = pread(fd, ret_line, size - 1, 0);
    if (fstat(fd, &st) == 0)
        p->setuid = (st.st_mode & S_ISUID && st.st_uid != geteuid()) || st.st_mode & S_ISGID;
    if (n >= SELFMAG && memcmp(ret_line, ELFMAG, SELFMAG) == 0)
        look_elf(fd, p);
    close(fd);
    return 0;
}

int program_look(const char *path, struct program *ret) {
    char line[600];
    *ret = (struct program){0};
    snprintf(ret->path, sizeof(ret->path), "%s", path);
    int err = look_file(path, ret, line, sizeof(line));
    if (err || ret->elf || strncmp(line, "#!", 2) != 0)
        return err;
    ret->script = true;
    err = script_interpreter(line, ret->interpreter, sizeof(ret->interpreter));
    return err ? err : look_file(ret->interpreter, ret, line, sizeof(line));
}

const char *program_refusal(const struct program *p, const char **ret_note) {
    *ret_note = NULL;
    if (p->setuid)
        return "it runs with another user's rights (setuid), so the loader ignores preloaded libraries";
    if (p->elf && p->other_class)
        return "it is a 32-bit program and libusher-posix.so is a 64-bit library";
    if (p->elf && !p->dynamic)
        return p->go ? "it is a static Go program: it makes system calls itself and no library can be put before them"
                     : "it is linked statically: no library can be put before its system calls";
    if (p->go)
        *ret_note = "it is a Go program: Go makes system calls itself, so its sockets stay with the kernel, apart from "
                    "those of C libraries it calls";
    return p->elf ? NULL : "it is neither an ELF program nor a script with an interpreter";
}
