/* SPDX-License-Identifier: Apache-2.0
 *
 * The built-in echo service and its request loops (config `echo`): UDP sockets of the dataplane whose sink is the echo
 * engine, backed by kernel sockets of usherd's own, so that nobody else can bind the port.
 *
 * Thread: control.
 */
#ifndef USHER_CONTROL_ECHO_SERVICE_H
#define USHER_CONTROL_ECHO_SERVICE_H

#include "control/config/config.h"
#include "dataplane/core/runtime.h"

struct claim_table;
struct echo_service;

int echo_service_create(struct runtime *rt, const struct config *cfg, uint32_t udp_engine, uint32_t echo_engine,
                        struct claim_table *claims, struct echo_service **ret_echo, char *err, size_t err_size);
void echo_service_destroy(struct echo_service *e);

#endif
