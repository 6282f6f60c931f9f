/* SPDX-License-Identifier: Apache-2.0
 *
 * usherd's settings as a plain struct. One table (schema.c) says for each field its name, type, range, unit, default
 * and meaning; reading, checking, printing and the man page all come from it. A struct config that config_load() gave
 * out needs no further check.
 *
 * Thread: control. Plain values: copy it as you like.
 */
#ifndef USHER_CONTROL_CONFIG_CONFIG_H
#define USHER_CONTROL_CONFIG_CONFIG_H

#include <stdio.h>

#include "control/config/tree.h"
#include "engines/ipaddr.h"

#define CONFIG_INTERFACE_MAX 16
#define CONFIG_ADDRESS_MAX   8
#define CONFIG_ENGINE_MAX    8
#define CONFIG_ECHO_MAX      16
#define CONFIG_GENERATE_MAX  4
#define CONFIG_ROLE_MAX      8
#define CONFIG_MEMBER_MAX    8
#define CONFIG_PATH_MAX      108 /* what a UNIX socket address can hold */

enum config_kind { KIND_AUTO, KIND_PACKET, KIND_XDP, KIND_TAP };
enum config_if_mode { IF_SHARED, IF_DEDICATED };
enum config_raw_frames { RAW_FRAMES_USHER, RAW_FRAMES_KERNEL };
enum config_firewall { FIREWALL_REFUSE, FIREWALL_IGNORE, FIREWALL_IMPORT };
enum config_role_kind { ROLE_VIEWER, ROLE_OPERATOR, ROLE_ADMIN };
enum config_keeper { KEEPER_AUTO, KEEPER_ON, KEEPER_OFF };

struct config_prefix {
    struct ipaddr addr;
    uint32_t len; /* in v4-mapped counting: 96 + n for IPv4 */
};

struct config_mac {
    uint8_t b[6];
    bool given; /* else usherd makes one that stays the same for the interface */
};

struct config_faults {
    uint64_t seed;
    uint32_t drop_ppm, duplicate_ppm, corrupt_ppm, reorder_ppm;
    uint64_t delay_ns, jitter_ns;
    uint64_t bottleneck_bps;
    uint32_t queue_packets;
    bool rx, tx;
};

/* Who drops what the policy forbids before it reaches usherd: interfaces[].nic. */
enum config_nic { NIC_OFF, NIC_TC, NIC_XDP, NIC_XDP_GENERIC };

struct config_interface {
    char name[16]; /* or a glob */
    uint32_t kind; /* enum config_kind */
    uint32_t mode; /* enum config_if_mode */
    struct config_prefix addresses[CONFIG_ADDRESS_MAX];
    uint32_t address_count;
    struct config_prefix gateways[2]; /* dedicated: at most one per IP version; len is that of a host */
    uint32_t gateway_count;
    struct config_mac mac;
    uint32_t queues;
    uint32_t nic; /* enum config_nic */
    uint32_t nic_entries; /* 0 = all that the device has */
    bool native, zero_copy, generic;
    struct config_faults faults;
};

struct config_generate {
    uint32_t port; /* of usherd's own socket */
    struct config_prefix peer;
    uint32_t peer_port, window, size;
    uint64_t timeout_ns;
};

struct config_word {
    char text[16];
};

struct config_member {
    char text[64];
};

/* Who has a role in the control service. */
struct config_role {
    uint32_t role; /* enum config_role_kind */
    struct config_member users[CONFIG_MEMBER_MAX], groups[CONFIG_MEMBER_MAX], names[CONFIG_MEMBER_MAX];
    uint32_t user_count, group_count, name_count;
};

struct config {
    struct {
        uint32_t mode; /* enum sched_mode */
        uint64_t cpus; /* mask, 0 = all */
        uint32_t shards, spin_us, target_delay_us, small_buffers, large_buffers;
        char engine_dir[CONFIG_PATH_MAX]; /* empty = beside the program */
    } runtime;
    struct config_interface interfaces[CONFIG_INTERFACE_MAX];
    uint32_t interface_count;
    struct {
        char socket[CONFIG_PATH_MAX]; /* empty = session.sock in run_dir */
        char group[32];
        uint32_t mode;
        uint32_t max, max_per_uid, sockets, sockets_per_uid, streams, streams_per_uid;
        uint64_t tx_bytes, rx_bytes;
        uint32_t raw_frames; /* enum config_raw_frames */
    } sessions;
    struct {
        struct config_word load[CONFIG_ENGINE_MAX];
        uint32_t load_count;
        struct {
            uint32_t addresses, routes, neighbours, paths, reassemblies, neighbour_queue, icmp_per_second;
        } ip;
        struct {
            uint32_t sockets, memberships;
        } udp;
        struct {
            uint32_t connections, port_low, port_high;
        } tcp;
    } engines;
    struct {
        uint32_t ports[CONFIG_ECHO_MAX];
        uint32_t port_count;
        struct config_generate generate[CONFIG_GENERATE_MAX];
        uint32_t generate_count;
    } echo;
    uint32_t firewall; /* enum config_firewall */
    char policy[CONFIG_PATH_MAX]; /* empty = none */
    struct {
        uint32_t mode; /* enum config_keeper */
        uint64_t recovery_grace_ns;
    } keeper;
    struct {
        char socket[CONFIG_PATH_MAX]; /* empty = control.sock in run_dir */
        char group[32];
        uint32_t mode;
        struct config_role roles[CONFIG_ROLE_MAX];
        uint32_t role_count;
        struct {
            char address[64]; /* empty = no TCP */
            char certificate[CONFIG_PATH_MAX], key[CONFIG_PATH_MAX], client_ca[CONFIG_PATH_MAX];
        } tls;
        uint32_t connections, caller_connections, caller_calls, caller_rate;
        uint64_t idle_stop_ns;
    } control;
    char state_dir[CONFIG_PATH_MAX];
    char run_dir[CONFIG_PATH_MAX];
    struct {
        char listen[CONFIG_PATH_MAX]; /* empty = off */
        char group[32];
        uint32_t mode;
    } metrics;
    struct {
        uint32_t level; /* 0 error .. 3 debug, enum log_level */
    } log;
};

/* All defaults. */
void config_init(struct config *ret_cfg);
/* Reads `path` and then conf.d/ *.yaml beside it, by name. 0, or -EINVAL with problems;
 * *ret_cfg is defined only on 0. */
int config_load(const char *path, struct config *ret_cfg, struct problems *problems);
/* The same from memory, for tests and fuzzing. */
int config_parse(const char *name, const char *text, size_t size, struct config *ret_cfg, struct problems *problems);
/* Names what differs, "runtime.mode interfaces log.level", cut to fit; returns how many settings do. */
uint32_t config_compare(const struct config *a, const struct config *b, char *ret_names, size_t size);
/* Writes it as YAML that parses to the same struct again. */
void config_print(const struct config *cfg, FILE *out);
/* The man page usherd.yaml(5), as roff. */
void config_print_manual(FILE *out);

#endif
