/* SPDX-License-Identifier: Apache-2.0
 *
 * Connections whose listener is gone. A port's claim goes with its last listener, and the kernel has the port again;
 * the connections that came from it are ours until they end. Each is held in the hooks by its own four numbers, and
 * looked for from time to time. What has left its program (closed, not yet acknowledged) counts as well.
 *
 * Thread: control.
 */
#ifndef USHER_CONTROL_BROKER_ORPHANS_H
#define USHER_CONTROL_BROKER_ORPHANS_H

#include <stdint.h>
#include <systemd/sd-event.h>

struct claim_table;
struct orphans;
struct runtime;

int orphans_create(sd_event *event, struct runtime *rt, struct claim_table *claims, struct orphans **ret_orphans);
void orphans_destroy(struct orphans *o); /* lets all go */

/* The listeners of these ports (a bit each, 65536) are gone from the dataplane, their claims are not yet. */
void orphans_hold(struct orphans *o, const uint64_t *ports);
uint32_t orphans_count(const struct orphans *o);

#endif
