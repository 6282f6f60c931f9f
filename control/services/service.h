/* SPDX-License-Identifier: Apache-2.0
 *
 * usherd's control service: the services of usher.control.v1 over control/rpc. Thread: control.
 */
#ifndef USHER_CONTROL_SERVICES_SERVICE_H
#define USHER_CONTROL_SERVICES_SERVICE_H

#include <stddef.h>
#include <stdio.h>

struct service;
struct usherd;

/* Opens the control socket (and TLS, when the config says so). */
int service_create(struct usherd *u, struct service **ret_service, char *err, size_t err_size);
void service_destroy(struct service *s);
/* The roles and limits of the settings have changed. 0, or -ENOMEM and the old ones hold. */
int service_settings(struct service *s);
/* The service's own metrics, see control/metrics/families.h. */
void service_metrics_write(const struct service *s, FILE *out);

#endif
