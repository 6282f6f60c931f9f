/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine host: what it loads, what it refuses and what it says then; arenas; the clock.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "dataplane/core/test_kit.h"

static struct runtime_error err;
static char dir[128];

/* A folder of our own with `from` in it under the name label.so. */
static void install(const char *from) {
    char command[512];
    if (dir[0] == '\0') {
        snprintf(dir, sizeof dir, "/tmp/usher-module-XXXXXX");
        cr_assert_not_null(mkdtemp(dir));
    }
    snprintf(command, sizeof command, "cp %s %s/new.so && mv %s/new.so %s/label.so", from, dir, dir, dir);
    cr_assert_eq(system(command), 0);
}

static void remove_dir(void) {
    char command[256];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    if (dir[0] != '\0')
        cr_assert_eq(system(command), 0);
}

TestSuite(module, .fini = remove_dir);

Test(module, a_replaced_file_gives_the_new_code) {
    struct module one, two, again;
    install(MODULES "/v1/label.so");
    cr_assert_eq(module_load(&one, dir, "label", &err), 0, "%s", err.text);
    install(MODULES "/v2/label.so");
    cr_assert_eq(module_load(&two, dir, "label", &err), 0, "%s", err.text);
    cr_assert_eq(one.ops.layout_version, 1);
    cr_assert_eq(two.ops.layout_version, 2);
    cr_assert_neq(one.ops.input, two.ops.input);
    module_unload(&one);
    module_unload(&two);
    cr_assert_eq(module_load(&again, dir, "label", &err), 0, "%s", err.text);
    cr_assert_eq(again.ops.layout_version, 2);
    cr_assert_eq(again.ops.check(NULL), 0, "an optional call that is missing has a default");
    cr_assert_eq(write(again.memfd, "x", 1), -1, "the copy is sealed");
    module_unload(&again);
}

Test(module, what_is_no_engine_is_refused_with_a_sentence) {
    struct module m;
    char file[512];
    install(MODULES "/v1/label.so");
    cr_assert_eq(module_load(&m, dir, "nothing", &err), -ENOENT);
    cr_assert_not_null(strstr(err.text, "nothing.so"));
    cr_assert_eq(module_load(&m, dir, "../label", &err), -EINVAL);
    snprintf(file, sizeof file, "%s/text.so", dir);
    FILE *f = fopen(file, "w");
    fputs("not a module", f);
    fclose(f);
    cr_assert_eq(module_load(&m, dir, "text", &err), -ENOEXEC);
    cr_assert_not_null(strstr(err.text, "text.so"));
    for (off_t size = 1000; size < 15000; size += 1000) {
        install(MODULES "/v1/label.so");
        snprintf(file, sizeof file, "%s/label.so", dir);
        cr_assert_eq(truncate(file, size), 0);
        cr_assert_eq(module_load(&m, dir, "label", &err), -ENOEXEC, "%ld bytes are not all of it", (long)size);
    }
    install(MODULES "/v1/label.so");
    snprintf(file, sizeof file, "cp %s/label.so %s/other.so", dir, dir);
    cr_assert_eq(system(file), 0);
    cr_assert_eq(module_load(&m, dir, "other", &err), -EINVAL);
    cr_assert_not_null(strstr(err.text, "calls itself \"label\""));
}

static struct engine_ops bad;
static void wrong_abi(void) {
    bad.abi = 99;
}
static void wrong_size(void) {
    bad.size = 8;
}
static void no_name(void) {
    bad.name = NULL;
}
static void long_name(void) {
    bad.name = "a-name-of-more-than-fifteen-letters";
}
static void wrong_stage(void) {
    bad.stage = STAGE_COUNT;
}
static void proto_on_a_link(void) {
    bad.proto = 17;
}
static void counters_without_names(void) {
    bad.counter_count = 3;
}
static void no_init(void) {
    bad.init = NULL;
}
static void no_input(void) {
    bad.input = NULL;
}
static void no_save(void) {
    bad.save = NULL;
}

static const struct {
    void (*spoil)(void);
    const char *says;
} faults[] = {
    {wrong_abi, "ABI 99"},
    {wrong_size, "8 bytes"},
    {no_name, "names itself"},
    {long_name, "names itself"},
    {wrong_stage, "no place"},
    {proto_on_a_link, "no place"},
    {counters_without_names, "does not name"},
    {no_init, "init()"},
    {no_input, "input()"},
    {no_save, "save()"},
};

Test(module, each_fault_of_a_table_is_named) {
    for (uint32_t i = 0; i < ARRAY_LEN(faults); i++) {
        struct module m;
        bad = kit_link;
        faults[i].spoil();
        cr_assert_lt(module_link(&m, &bad, &err), 0);
        cr_assert_not_null(strstr(err.text, faults[i].says), "\"%s\" does not say \"%s\"", err.text, faults[i].says);
    }
}

Test(module, two_engines_for_one_place_are_refused) {
    struct kit k;
    uint32_t index;
    kit_open(&k, NULL);
    cr_assert_eq(runtime_engine_add(k.rt, &kit_link, NULL, &index, &err), -EEXIST);
    bad = kit_link;
    bad.name = "another";
    cr_assert_eq(runtime_engine_add(k.rt, &bad, NULL, &index, &err), -EEXIST);
    cr_assert_not_null(strstr(err.text, "label"), "names who is there: %s", err.text);
    cr_assert_eq(runtime_engine_find(k.rt, "udp", &index), 0);
    cr_assert_eq(index, KIT_UDP);
    cr_assert_eq(runtime_engine_find(k.rt, "tcpdump", &index), -ENOENT);
    cr_assert_eq(runtime_engine_load(k.rt, "nothing", NULL, &index, &err), -ENOENT);
    kit_close(&k);
}

Test(module, arenas_are_sealed_and_can_be_adopted) {
    struct arena_memory a, b;
    cr_assert_eq(arena_memory_create(&a, "test", 100000), 0);
    cr_assert_eq(ftruncate(a.memfd, 0), -1);
    memcpy((char *)a.base + 5000, "still here", sizeof "still here");
    int fd = dup(a.memfd);
    arena_memory_destroy(&a);
    cr_assert_eq(arena_memory_adopt(&b, fd), 0);
    cr_assert_str_eq((char *)b.base + 5000, "still here");
    arena_memory_destroy(&b);
    int loose = memfd_create("loose", MFD_ALLOW_SEALING);
    cr_assert_eq(ftruncate(loose, 4096), 0);
    cr_assert_eq(arena_memory_adopt(&b, loose), -EINVAL, "one that can shrink under us is refused");
    close(loose);
}

Test(module, a_bad_runtime_is_refused_with_a_sentence) {
    static const struct runtime_config configs[] = {
        {.shard_count = 99}, {.small_packets = 1u << 30}, {.session_max = 1u << 30}, {.cpu_mask = 1ull << 63}};
    for (uint32_t i = 0; i < ARRAY_LEN(configs); i++) {
        struct runtime *rt = NULL;
        err.text[0] = '\0';
        cr_assert_lt(runtime_create(&configs[i], &rt, &err), 0);
        cr_assert_neq(err.text[0], '\0');
    }
}

Test(clock, never_runs_backwards) {
    struct clock c;
    clock_init(&c);
    ns_t before = clock_now(&c);
    for (uint32_t i = 0; i < 1000000; i++) {
        ns_t now = i % 1000 == 0 ? clock_sync(&c) : clock_now(&c);
        cr_assert_geq(now, before);
        before = now;
    }
    cr_assert_not_null(clock_source(&c));
    c.anchor_tsc += 1ull << 40; /* a counter that was set back is noticed, not believed */
    cr_assert_geq(clock_now(&c), before);
    cr_assert_lt(clock_now(&c) - before, 3600 * NS_PER_SEC);
    c.tsc = false;
    cr_assert_geq(clock_now(&c), before);
}
