/* SPDX-License-Identifier: Apache-2.0
 *
 * usherd as it describes itself: each number that should be small, and each choice that costs something.
 */
#include <inttypes.h>
#include <string.h>

#include "control/usherctl/doctor.h"
#include "control/usherctl/text.h"

#define DELAY_BAD_NS 1000000u

static void check_info(const PB(GetInfoResponse) * i, struct findings *f) {
    if (strcmp(i->version, USHER_VERSION) != 0)
        finding_add(f, VERDICT_WARN, "daemon.version", "columns may be empty and commands unknown",
                    "install the two from one release, then restart usherd", "usherd is %s, usherctl is %s", i->version,
                    USHER_VERSION);
    else
        finding_add(f, VERDICT_OK, "daemon.version", "", "", "usherd %s, pid %u", i->version, i->pid);
    if (i->draining)
        finding_add(f, VERDICT_WARN, "daemon.draining", "programs that start now run on the kernel's stack",
                    "usherctl resume", "usherd is draining");
    if (strcmp(i->log_level, "debug") == 0)
        finding_add(f, VERDICT_NOTE, "daemon.log", "the control thread writes a line for every small thing",
                    "usherctl log-level info", "the log level is debug");
    if (strcmp(i->keeper, "nobody") == 0)
        finding_add(f, VERDICT_WARN, "daemon.keeper",
                    "when usherd dies, the kernel answers for its clients, and resets their connections",
                    "keeper: {mode: auto} in usherd.yaml, then restart usherd", "nobody keeps usherd's kernel objects");
    else
        finding_add(f, VERDICT_OK, "daemon.keeper", "", "", "kernel objects are kept by %s", i->keeper);
    if (i->sessions_refused > 0)
        finding_add(f, VERDICT_WARN, "daemon.refused", "those programs run on the kernel's stack",
                    "usherctl events session.refuse --history 100 says why; limits: sessions in usherd.yaml",
                    "%" PRIu64 " connections of programs were refused", i->sessions_refused);
}

static void check_workers(const PB(ListWorkersResponse) * w, struct findings *f) {
    char delay[TEXT_NUMBER_MAX];
    size_t slow = 0, running = 0;
    for (size_t i = 0; i < w->n_workers; i++) {
        running += w->workers[i]->running;
        if (w->workers[i]->running && w->workers[i]->delay_p99_ns > DELAY_BAD_NS) {
            slow++;
            text_duration(w->workers[i]->delay_p99_ns, delay);
            finding_add(f, VERDICT_WARN, "worker.delay", "packets wait for it: latency of all its programs",
                        "give usherd cores of its own (runtime.cpus), or more shards (runtime.shards)",
                        "worker %u: 1 of 100 packets waits longer than %s", w->workers[i]->worker, delay);
        }
    }
    if (slow == 0)
        finding_add(f, VERDICT_OK, "worker.delay", "", "", "%zu worker%s, none keeps packets waiting", running,
                    running == 1 ? "" : "s");
    for (size_t i = 0; i < w->n_shards; i++) {
        if (w->shards[i]->small_buffers_free == 0)
            finding_add(f, VERDICT_WARN, "shard.buffers", "packets are dropped for NO_BUFFER",
                        "raise runtime.small_buffers in usherd.yaml, then restart usherd",
                        "shard %u has no free packet buffer", w->shards[i]->shard);
    }
}

static void check_ports(const PB(ListPortsResponse) * r, struct findings *f) {
    if (r->n_ports == 0)
        finding_add(f, VERDICT_FAIL, "port.none", "nothing is accelerated: every socket stays with the kernel",
                    "name an interface under interfaces in usherd.yaml; usherctl events interface. --history 100 tells "
                    "why those there are not run",
                    "usherd runs no interface");
    for (size_t i = 0; i < r->n_ports; i++) {
        const PB(Port) *p = r->ports[i];
        uint64_t lost = 0;
        for (size_t q = 0; q < p->n_queues; q++)
            lost += p->queues[q]->rx_dropped;
        if (strstr(p->mode, "generic") != NULL)
            finding_add(f, VERDICT_WARN, "port.mode",
                        "generic XDP runs after the kernel has made an skb: slower than kind packet",
                        "set kind: packet for it, or a driver with native XDP", "%s: %s", p->name, p->mode);
        else
            finding_add(f, VERDICT_OK, "port.mode", "", "", "%s: %s (%s)", p->name, p->kind, p->mode);
        if (lost > 0)
            finding_add(f, VERDICT_WARN, "port.lost", "programs see loss; TCP slows down",
                        "see worker.delay above; more shards or cores take packets away faster",
                        "%s: %" PRIu64 " frames were lost before usherd could take them", p->name, lost);
    }
}

/* Reasons that an administrator can do something about. */
static const struct {
    const char *name, *costs, *mend;
} drop_advice[] = {
    {"drop.NO_BUFFER", "loss in both directions", "raise runtime.small_buffers and large_buffers in usherd.yaml"},
    {"drop.SESSION_NO_CELL", "a program loses what it is sent", "raise sessions.rx_bytes in usherd.yaml"},
    {"drop.SESSION_RING_FULL", "a program loses what it is sent",
     "it does not read its completions; see usherctl sockets for which one"},
    {"drop.SOCKET_RX_FULL", "a program loses datagrams", "it reads too slowly, or its SO_RCVBUF is small"},
    {"drop.IP_NEIGH_FAILED", "peers behind that next hop are not reached", "look at ip neigh, and at the switch"},
    {"drop.IP_NEIGH_PENDING", "the first packets to a new peer are lost", "raise engines.ip.neighbour_queue"},
    {"drop.QUEUE_FULL", "loss between stages under load", "more shards (runtime.shards) or cores"},
    {"drop.ENGINE_LIMIT", "new sockets or connections fail", "raise the sizes under engines in usherd.yaml"},
    {"drop.TCP_BACKLOG", "clients wait or are refused", "a listener accepts too slowly, or its backlog is small"},
    {"drop.PORT_TX_FULL", "loss towards the wire", "the link is full; usherctl ports and top show by how much"},
    {"drop.FAULT_INJECTED", "loss on purpose", "remove interfaces[].faults from usherd.yaml"},
};

static void check_drops(const PB(CountersSnapshot) * d, struct findings *f) {
    size_t found = 0;
    for (size_t i = 0; i < d->n_counters; i++) {
        const PB(NamedCounter) *n = d->counters[i];
        for (size_t k = 0; k < sizeof drop_advice / sizeof drop_advice[0]; k++) {
            if (n->value == 0 || strcmp(n->name, drop_advice[k].name) != 0)
                continue;
            finding_add(f, VERDICT_WARN, drop_advice[k].name, drop_advice[k].costs, drop_advice[k].mend,
                        "%" PRIu64 " packet%s died: %s", n->value, n->value == 1 ? "" : "s",
                        n->help[0] != '\0' ? n->help : n->name);
            found++;
        }
    }
    if (found == 0)
        finding_add(f, VERDICT_OK, "drops", "", "", "no packet died for want of anything");
}

static void check_refusals(const PB(ListRefusalsResponse) * r, struct findings *f) {
    size_t told = 0;
    for (size_t i = r->n_refusals; i > 0 && told < 5; i--) {
        const PB(Refusal) *x = r->refusals[i - 1];
        bool again = false;
        for (size_t k = i; k < r->n_refusals; k++)
            again = again || strcmp(r->refusals[k]->reason, x->reason) == 0;
        if (again)
            continue;
        told++;
        finding_add(f, VERDICT_NOTE, "refusal", "these sockets have the kernel's speed",
                    "usherctl refusals names the programs and ports", "stayed with the kernel: %s", x->reason);
    }
}

void doctor_daemon(const struct doctor_answers *a, struct findings *f) {
    if (a->info != NULL)
        check_info(a->info, f);
    if (a->workers != NULL)
        check_workers(a->workers, f);
    if (a->ports != NULL)
        check_ports(a->ports, f);
    if (a->drops != NULL)
        check_drops(a->drops, f);
    if (a->refusals != NULL)
        check_refusals(a->refusals, f);
}
