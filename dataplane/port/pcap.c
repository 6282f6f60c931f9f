/* SPDX-License-Identifier: Apache-2.0
 *
 * The `pcap` decorator: every packet, both ways, into a pcap file with nanoseconds. A debugging aid: it writes files
 * from the worker, so a slow disk slows the port. Partial checksums are written as they are.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "dataplane/port/observe.h"

#define PCAP_MAGIC_NS     0xa1b23c4du
#define PCAP_SNAPLEN      (256u << 10)
#define LINKTYPE_ETHERNET 1u
#define LINKTYPE_RAW_IP   101u
#define FILE_BUFFER       (1u << 20)

struct pcap_file {
    FILE *file;
    uint64_t wall_minus_monotonic; /* modulo 2^64 */
};

struct pcap_head {
    uint32_t magic;
    uint16_t major, minor;
    uint32_t zone, accuracy, snaplen, linktype;
};

struct pcap_record {
    uint32_t seconds, nanoseconds, captured, length;
};

static void pcap_see(void *arg, enum observe_way way, const struct pkt *p, ns_t now) {
    struct pcap_file *f = arg;
    uint64_t wall = now + f->wall_minus_monotonic;
    uint32_t bytes = pkt_bytes(p);
    struct pcap_record r = {(uint32_t)(wall / NS_PER_SEC), (uint32_t)(wall % NS_PER_SEC), bytes, bytes};
    (void)way;
    flockfile(f->file); /* queues of one port share the file; a record is whole */
    fwrite(&r, sizeof r, 1, f->file);
    fwrite(p->data, 1, p->len, f->file);
    for (uint32_t i = 0; i < p->frag_count; i++)
        fwrite(p->frag[i].base, 1, p->frag[i].len, f->file);
    funlockfile(f->file);
}

static void pcap_end(void *arg) {
    struct pcap_file *f = arg;
    fclose(f->file);
    free(f);
}

static const struct observer pcap_observer = {.kind = "pcap", .see = pcap_see, .end = pcap_end};

static uint64_t clock_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * NS_PER_SEC + (uint64_t)t.tv_nsec;
}

int port_pcap_create(struct port *inner, const char *path, struct port **ret_port) {
    struct pcap_file *f = calloc(1, sizeof *f);
    if (f == NULL)
        return -ENOMEM;
    f->file = fopen(path, "we");
    int error = f->file == NULL ? -errno : 0;
    struct pcap_head head = {.magic = PCAP_MAGIC_NS,
                             .major = 2,
                             .minor = 4,
                             .snaplen = PCAP_SNAPLEN,
                             .linktype = inner->info.caps & PORT_CAP_L3 ? LINKTYPE_RAW_IP : LINKTYPE_ETHERNET};
    if (error == 0) {
        setvbuf(f->file, NULL, _IOFBF, FILE_BUFFER);
        fwrite(&head, sizeof head, 1, f->file);
        if (fflush(f->file) != 0)
            error = -errno;
    }
    f->wall_minus_monotonic = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_MONOTONIC);
    if (error == 0)
        error = observe_create(inner, &pcap_observer, f, ret_port);
    if (error < 0) {
        if (f->file != NULL)
            fclose(f->file);
        free(f);
    }
    return error;
}
