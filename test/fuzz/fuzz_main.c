/* SPDX-License-Identifier: Apache-2.0
 *
 * Stands in for libFuzzer where the compiler has none: replays a corpus, then changes its inputs at random, without
 * looking at coverage, for as long as it is told. Understands the few libFuzzer options that test/fuzz/smoke gives.
 *
 *     fuzz_x [-max_total_time=SECONDS] [-seed=N] [-artifact_prefix=PREFIX] FILE_OR_FOLDER...
 *
 * The input of the moment lies in PREFIXcurrent, a file in shared memory: it is still there after a crash.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "test/fuzz/fuzz_input.h"

#define INPUT_MAX  4096u
#define CORPUS_MAX 8192u

struct corpus {
    struct {
        uint8_t *bytes;
        size_t size;
    } input[CORPUS_MAX];
    size_t count;
};

static uint64_t rng = 1;

static uint32_t dice(uint32_t n) {
    rng = rng * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)((rng >> 33) % n);
}

static void corpus_add_file(struct corpus *c, const char *path) {
    FILE *f = fopen(path, "rb");
    if (f == NULL || c->count == CORPUS_MAX) {
        fprintf(stderr, "fuzz: %s: %s\n", path, f == NULL ? strerror(errno) : "the corpus is too large");
        exit(2);
    }
    uint8_t *bytes = (uint8_t *)malloc(INPUT_MAX);
    size_t size = bytes == NULL ? 0 : fread(bytes, 1, INPUT_MAX, f);
    fclose(f);
    c->input[c->count].bytes = bytes;
    c->input[c->count++].size = size;
}

static void corpus_add(struct corpus *c, const char *path) {
    DIR *d = opendir(path);
    if (d == NULL) {
        corpus_add_file(c, path);
        return;
    }
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char name[4096];
        snprintf(name, sizeof name, "%s/%s", path, e->d_name);
        if (e->d_name[0] != '.')
            corpus_add_file(c, name);
    }
    closedir(d);
}

static uint8_t *map_current(const char *prefix, char *ret_path, size_t path_size) {
    snprintf(ret_path, path_size, "%scurrent", prefix);
    int fd = open(ret_path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    void *p = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, INPUT_MAX) == 0)
        p = mmap(NULL, INPUT_MAX, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "fuzz: %s: %s; give a folder that can be written with -artifact_prefix=\n", ret_path,
                strerror(errno));
        exit(2);
    }
    close(fd);
    return (uint8_t *)p;
}

/* One run on a copy of exactly that size, so that the address sanitizer sees its end. */
static void run_one(uint8_t *current, const uint8_t *bytes, size_t size) {
    uint8_t *exact = (uint8_t *)malloc(size + (size == 0));
    if (exact == NULL)
        abort();
    memcpy(exact, bytes, size);
    memset(current, 0, INPUT_MAX);
    memcpy(current, bytes, size);
    (void)LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

static size_t mutate_once(const struct corpus *c, uint8_t *b, size_t size) {
    static const uint8_t special[] = {0, 1, 0x7f, 0x80, 0xff, 0xfe, 16, 20, 40, 64};
    size_t at = size > 0 ? dice((uint32_t)size) : 0, n = 1 + dice(16);
    switch (size == 0 ? 3 : dice(6)) {
    case 0:
        b[at] ^= (uint8_t)(1u << dice(8));
        return size;
    case 1:
        b[at] = special[dice(sizeof special)];
        return size;
    case 2: /* cut a piece out */
        n = at + n > size ? size - at : n;
        memmove(b + at, b + at + n, size - at - n);
        return size - n;
    case 3: /* put a piece in */
        if (size + n > INPUT_MAX)
            return size;
        memmove(b + at + n, b + at, size - at);
        for (size_t i = 0; i < n; i++)
            b[at + i] = (uint8_t)dice(256);
        return size + n;
    case 4: { /* go on as another input does */
        const uint32_t other = c->count > 0 ? dice((uint32_t)c->count) : 0;
        if (c->count == 0 || c->input[other].size <= at)
            return size;
        memcpy(b + at, c->input[other].bytes + at, c->input[other].size - at);
        return c->input[other].size;
    }
    default:
        b[at] = (uint8_t)dice(256);
        return size;
    }
}

static void fuzz(const struct corpus *c, uint8_t *current, long seconds) {
    struct timespec now, end;
    uint64_t runs = 0;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += seconds;
    do {
        static uint8_t b[INPUT_MAX];
        size_t size = 0;
        if (c->count > 0) {
            uint32_t from = dice((uint32_t)c->count);
            size = c->input[from].size;
            memcpy(b, c->input[from].bytes, size);
        }
        for (uint32_t i = 1 + dice(8); i > 0; i--)
            size = mutate_once(c, b, size);
        run_one(current, b, size);
        runs++;
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec));
    printf("fuzz: %llu random runs\n", (unsigned long long)runs);
}

int main(int argc, char **argv) {
    static struct corpus corpus;
    const char *prefix = "./";
    long seconds = 0;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "-max_total_time=", 16) == 0)
            seconds = strtol(argv[i] + 16, NULL, 10);
        else if (strncmp(argv[i], "-seed=", 6) == 0)
            rng = strtoull(argv[i] + 6, NULL, 10);
        else if (strncmp(argv[i], "-artifact_prefix=", 17) == 0)
            prefix = argv[i] + 17;
        else if (argv[i][0] != '-')
            corpus_add(&corpus, argv[i]);
    }
    char path[4096];
    uint8_t *current = map_current(prefix, path, sizeof path);
    for (size_t i = 0; i < corpus.count; i++)
        run_one(current, corpus.input[i].bytes, corpus.input[i].size);
    printf("fuzz: %zu inputs replayed\n", corpus.count);
    if (seconds > 0)
        fuzz(&corpus, current, seconds);
    for (size_t i = 0; i < corpus.count; i++)
        free(corpus.input[i].bytes);
    unlink(path);
    return 0;
}
