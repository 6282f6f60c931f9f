/* SPDX-License-Identifier: Apache-2.0
 *
 * From files to a checked struct config: load, merge conf.d, read by the schema, then the rules that span fields. Those
 * rules find their place in the tree again, so that their messages have line and column like all others.
 */
#include "control/config/config.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/config/hostport.h"
#include "control/config/schema.h"
#include "engines/check.h"

#define DROPIN_MAX 256

void config_init(struct config *ret_cfg) {
    memset(ret_cfg, 0, sizeof *ret_cfg);
    schema_defaults(config_schema, ret_cfg);
}

void config_print(const struct config *cfg, FILE *out) {
    schema_print(config_schema, cfg, 0, out);
}

struct changes {
    char *names;
    size_t size, used;
    uint32_t count;
};

static void change_note(void *arg, const char *name) {
    struct changes *c = arg;
    int n = snprintf(c->names + c->used, c->size - c->used, "%s%s", c->count > 0 ? " " : "", name);
    c->used = c->used + (size_t)n < c->size ? c->used + (size_t)n : c->size - 1;
    c->count++;
}

uint32_t config_compare(const struct config *a, const struct config *b, char *ret_names, size_t size) {
    struct changes c = {.names = ret_names, .size = size};
    ret_names[0] = '\0';
    schema_compare(config_schema, a, b, "", change_note, &c);
    return c.count;
}

static const struct place *place_in(const struct node *map, const char *key) {
    const struct node *n = tree_get(map, key);
    return n != NULL ? &n->place : &map->place;
}

static uint32_t gateways_of(const struct config_interface *i, bool v4) {
    uint32_t n = 0;
    for (uint32_t g = 0; g < i->gateway_count; g++)
        n += ipaddr_is_v4(&i->gateways[g].addr) == v4;
    return n;
}

static void check_dedicated(const struct config_interface *i, const struct node *n, const char *path,
                            struct problems *problems) {
    if (i->address_count == 0)
        problem_add(problems, place_in(n, "mode"), "%s.addresses: a dedicated interface needs at least one", path);
    if (strpbrk(i->name, "*?[") != NULL)
        problem_add(problems, place_in(n, "name"), "%s.name: a dedicated interface must be named, not matched", path);
    if (gateways_of(i, true) > 1 || gateways_of(i, false) > 1)
        problem_add(problems, place_in(n, "gateways"), "%s.gateways: at most one per IP version", path);
}

static void check_shared(const struct config_interface *i, const struct node *n, const char *path,
                         struct problems *problems) {
    if (i->kind == KIND_TAP)
        problem_add(problems, place_in(n, "kind"), "%s.kind: a tap needs mode: dedicated and addresses of its own",
                    path);
    const char *extra = i->address_count > 0 ? "addresses" : i->gateway_count > 0 ? "gateways" : NULL;
    extra = extra == NULL && i->mac.given ? "mac" : extra;
    if (extra != NULL)
        problem_add(problems, place_in(n, extra),
                    "%s.%s: only with mode: dedicated; a shared interface has the kernel's own", path, extra);
}

static void check_interface(const struct config *cfg, uint32_t index, const struct node *list,
                            struct problems *problems) {
    const struct config_interface *i = &cfg->interfaces[index];
    const struct node *n = tree_at(list, index);
    char path[32];
    (void)snprintf(path, sizeof path, "interfaces[%u]", index);
    if (i->name[0] == '\0')
        problem_add(problems, &n->place, "%s.name: is missing; give an interface's name or a glob", path);
    for (uint32_t j = 0; j < index; j++) {
        if (strcmp(cfg->interfaces[j].name, i->name) == 0 && i->name[0] != '\0')
            problem_add(problems, place_in(n, "name"), "%s.name: %s is given twice, first in %s line %u", path, i->name,
                        tree_at(list, j)->place.file, tree_at(list, j)->place.line);
    }
    if (i->mode == IF_DEDICATED)
        check_dedicated(i, n, path, problems);
    else
        check_shared(i, n, path, problems);
}

static bool engine_wanted(const struct config *cfg, const char *name) {
    for (uint32_t i = 0; i < cfg->engines.load_count; i++) {
        if (strcmp(cfg->engines.load[i].text, name) == 0)
            return true;
    }
    return false;
}

static bool echo_used(const struct config *cfg) {
    return cfg->echo.port_count > 0 || cfg->echo.generate_count > 0;
}

static void check_engines(const struct config *cfg, const struct node *root, struct problems *problems) {
    const struct node *load = tree_get(tree_get(root, "engines"), "load");
    if (load == NULL || cfg->engines.load_count == 0)
        return;
    if (!engine_wanted(cfg, "ip") || !engine_wanted(cfg, "udp"))
        problem_add(problems, &load->place, "engines.load: must hold ip and udp, without which nothing works");
    if (echo_used(cfg) && !engine_wanted(cfg, "echo")) {
        const char *field = cfg->echo.port_count > 0 ? "ports" : "generate";
        problem_add(problems, place_in(tree_get(root, "echo"), field),
                    "echo.%s: needs the echo engine; add echo to engines.load (line %u)", field, load->place.line);
    }
    for (uint32_t i = 0; i < cfg->engines.load_count; i++) {
        if (strspn(cfg->engines.load[i].text, "abcdefghijklmnopqrstuvwxyz0123456789_-") !=
                strlen(cfg->engines.load[i].text) ||
            cfg->engines.load[i].text[0] == '\0')
            problem_add(problems, &tree_at(load, i)->place, "engines.load[%u]: must be a name of a-z, 0-9, _ and -", i);
    }
}

static void check_path(const char *path, const char *field, const struct place *at, struct problems *problems) {
    if (path[0] != '\0' && path[0] != '/')
        problem_add(problems, at, "%s: must be an absolute path", field);
}

/* Not encrypted and open to whoever reaches it: only this host may. */
static void check_metrics(const struct config *cfg, const struct node *root, struct problems *problems) {
    const char *at = cfg->metrics.listen;
    const struct node *metrics = tree_get(root, "metrics");
    struct hostport where;
    if (at[0] != '\0' && at[0] != '/' && !(hostport_parse(at, &where) && where.loopback))
        problem_add(problems, place_in(metrics != NULL ? metrics : root, "listen"),
                    "metrics.listen: must be 127.0.0.1:PORT, [::1]:PORT or an absolute path: metrics are not "
                    "encrypted, so let a proxy or an agent on this host carry them further");
}

static void check_tls(const struct config *cfg, const struct node *control, struct problems *problems) {
    const struct node *tls = tree_get(control, "tls");
    const struct {
        const char *path, *name;
    } files[] = {{cfg->control.tls.certificate, "certificate"},
                 {cfg->control.tls.key, "key"},
                 {cfg->control.tls.client_ca, "client_ca"}};
    const char *at = cfg->control.tls.address;
    struct hostport where;
    if (at[0] != '\0' && !hostport_parse(at, &where))
        problem_add(problems, place_in(tls, "address"),
                    "control.tls.address: must be an IP address and a port, as 192.0.2.1:9480 or [2001:db8::1]:9480");
    for (size_t i = 0; tls != NULL && i < ARRAY_LEN(files); i++) {
        char field[32];
        (void)snprintf(field, sizeof field, "control.tls.%s", files[i].name);
        check_path(files[i].path, field, place_in(tls, files[i].name), problems);
        if (at[0] != '\0' && files[i].path[0] == '\0')
            problem_add(problems, &tls->place, "%s: is missing; TCP is served with certificates only", field);
    }
}

static void check_control(const struct config *cfg, const struct node *root, struct problems *problems) {
    const struct node *control = tree_get(root, "control");
    if (control == NULL)
        return;
    check_path(cfg->control.socket, "control.socket", place_in(control, "socket"), problems);
    check_tls(cfg, control, problems);
    for (uint32_t i = 0; i < cfg->control.role_count; i++) {
        const struct config_role *r = &cfg->control.roles[i];
        if (r->user_count + r->group_count + r->name_count == 0)
            problem_add(problems, &tree_at(tree_get(control, "roles"), i)->place,
                        "control.roles[%u]: gives a role to nobody; add users, groups or names", i);
    }
}

/* An empty load list means the usual engines; spelling them out makes the printed form say what happens. */
static void fill_engines(struct config *cfg) {
    static const char *const usual[] = {"ip", "udp", "tcp", "echo"};
    if (cfg->engines.load_count > 0)
        return;
    uint32_t n = echo_used(cfg) ? 4 : 3;
    for (uint32_t i = 0; i < n; i++)
        (void)snprintf(cfg->engines.load[i].text, sizeof cfg->engines.load[i].text, "%s", usual[i]);
    cfg->engines.load_count = n;
}

static void check_all(struct config *cfg, const struct node *root, struct problems *problems) {
    const struct node *interfaces = tree_get(root, "interfaces");
    for (uint32_t i = 0; i < cfg->interface_count; i++)
        check_interface(cfg, i, interfaces, problems);
    check_engines(cfg, root, problems);
    fill_engines(cfg);
    if (cfg->engines.tcp.port_low > cfg->engines.tcp.port_high)
        problem_add(problems, place_in(tree_get(tree_get(root, "engines"), "tcp"), "port_low"),
                    "engines.tcp: port_low %u is above port_high %u", cfg->engines.tcp.port_low,
                    cfg->engines.tcp.port_high);
    check_path(cfg->state_dir, "state_dir", place_in(root, "state_dir"), problems);
    check_path(cfg->run_dir, "run_dir", place_in(root, "run_dir"), problems);
    const struct node *sessions = tree_get(root, "sessions");
    check_path(cfg->sessions.socket, "sessions.socket", place_in(sessions != NULL ? sessions : root, "socket"),
               problems);
    const struct node *runtime = tree_get(root, "runtime");
    check_path(cfg->runtime.engine_dir, "runtime.engine_dir", place_in(runtime != NULL ? runtime : root, "engine_dir"),
               problems);
    check_metrics(cfg, root, problems);
    check_control(cfg, root, problems);
    if (cfg->firewall == FIREWALL_IMPORT)
        problem_add(problems, place_in(root, "firewall"),
                    "firewall: this version cannot import netfilter rules yet; use refuse or ignore");
}

static int config_from(const struct node *root, struct config *ret_cfg, struct problems *problems) {
    if (root == NULL || problems->count > 0)
        return -EINVAL;
    config_init(ret_cfg);
    schema_read(config_schema, root, ret_cfg, "", problems);
    if (problems->count == 0)
        check_all(ret_cfg, root, problems);
    return problems->count > 0 ? -EINVAL : 0;
}

int config_parse(const char *name, const char *text, size_t size, struct config *ret_cfg, struct problems *problems) {
    struct tree *t;
    int err = tree_create(&t);
    if (err != 0)
        return err;
    err = config_from(tree_parse(t, name, text, size, problems), ret_cfg, problems);
    tree_destroy(t);
    return err;
}

static int is_dropin(const struct dirent *d) {
    size_t n = strlen(d->d_name);
    return d->d_name[0] != '.' && n > 5 && strcmp(d->d_name + n - 5, ".yaml") == 0;
}

static void merge_dropin(struct tree *t, const char *dir, const char *name, struct node *root,
                         struct problems *problems) {
    char path[512];
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return;
    struct node *over = tree_load(t, path, problems);
    if (over != NULL)
        tree_merge(root, over);
}

static void merge_dropins(struct tree *t, const char *path, struct node *root, struct problems *problems) {
    char dir[400];
    const char *slash = strrchr(path, '/');
    int n = slash != NULL ? (int)(slash - path + 1) : 0;
    if (snprintf(dir, sizeof dir, "%.*sconf.d", n, path) >= (int)sizeof dir)
        return;
    struct dirent **names;
    int count = scandir(dir, &names, is_dropin, alphasort);
    for (int i = 0; i < count; i++) {
        if (i < DROPIN_MAX)
            merge_dropin(t, dir, names[i]->d_name, root, problems);
        free(names[i]);
    }
    if (count > DROPIN_MAX)
        problem_add(problems, &(struct place){dir, 0, 0}, "holds more than %d files; join some", DROPIN_MAX);
    if (count >= 0)
        free((void *)names);
}

int config_load(const char *path, struct config *ret_cfg, struct problems *problems) {
    struct tree *t;
    int err = tree_create(&t);
    if (err != 0)
        return err;
    struct node *root = tree_load(t, path, problems);
    if (root != NULL)
        merge_dropins(t, path, root, problems);
    err = config_from(root, ret_cfg, problems);
    tree_destroy(t);
    return err;
}
