/* SPDX-License-Identifier: Apache-2.0
 *
 * Engine modules as the simulator, the fuzzers and their tests load them: from a folder, each time as a fresh copy, so
 * that an upgrade really swaps code.
 */
#ifndef USHER_TEST_SIM_MODULE_H
#define USHER_TEST_SIM_MODULE_H

#include "engines/engine.h"

struct module {
    const struct engine_ops *ops;
    void *handle;
    int memfd; /* stays open: the loader knows the module by the name of this fd */
};

/* 0, or -errno with a sentence in err. */
int module_open(const char *folder, const char *name, struct module *ret_module, char *err, size_t err_size);
void module_close(struct module *m);

#endif
