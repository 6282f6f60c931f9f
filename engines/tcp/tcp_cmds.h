/* SPDX-License-Identifier: Apache-2.0
 *
 * What the ops table of engines/tcp points to, apart from input. Private to the room.
 */
#ifndef USHER_ENGINES_TCP_CMDS_H
#define USHER_ENGINES_TCP_CMDS_H

#include "engines/tcp/tcp_conn.h"

void tcp_command(void *state, struct engine_io *io, const struct engine_cmd *cmd, struct engine_reply *ret_reply);
void tcp_send(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n);
void tcp_credit(void *state, struct engine_io *io, const struct engine_credit *credits, uint32_t n);

/* tcp_option.c */
int tcp_cmd_option_run(struct tcp_ctx *x, const struct engine_cmd *cmd, struct engine_reply *r);
int tcp_cmd_info_run(struct tcp_ctx *x, const struct engine_cmd *cmd, struct engine_reply *r);
int tcp_cmd_stats_run(struct tcp_ctx *x, const struct engine_cmd *cmd, struct engine_reply *r);

/* tcp_cmd.c: TCP_CMD_SYNC, of an open change. -EINVAL: numbers that cannot be. */
int tcp_sync(struct tcp_ctx *x, struct tcp_conn *c, uint64_t rx_bytes, uint32_t held, struct tcp_resumed *ret);

/* tcp_frozen.c */
bool tcp_is_frozen(const struct tcp_engine *st, const struct tcp_conn *c);
void tcp_thaw(struct tcp_ctx *x, uint32_t index);
/* A client has come back, resumed what it knew of, and listens again: what is its and still frozen it was never told
 * of. */
void tcp_frozen_offer(struct tcp_ctx *x, uint32_t listener);
int tcp_cmd_freeze_run(struct tcp_ctx *x, const struct engine_cmd *cmd, struct engine_reply *r);
int tcp_cmd_resume_run(struct tcp_ctx *x, const struct engine_cmd *cmd, struct engine_reply *r);

/* tcp_save.c */
int64_t tcp_save(const void *state, uint64_t *cursor, uint8_t *buf, size_t size);
int tcp_load(void *state, uint32_t from_version, const uint8_t *rec, size_t size);

/* tcp.c: the keys of hashes, numbers and cookies, from the arena's seed. */
void tcp_keys_derive(struct tcp_engine *st);

/* tcp_check.c */
int tcp_check(const void *state);
/* What can be said of one hot record alone; 0 or what is broken. */
int tcp_check_fields(const struct tcp_conn *c);
/* Records that no code of ours could have written are removed; returns how many. */
uint32_t tcp_recover_records(struct tcp_engine *st);

#endif
