/* SPDX-License-Identifier: Apache-2.0
 *
 * See program.h. The table of instructions is the whole language; what is not in it is refused.
 */
#include "dataplane/capture/program.h"

#include <errno.h>
#include <string.h>

enum program_op {
    OP_LD_W,
    OP_LD_H,
    OP_LD_B,
    OP_LD_W_IND,
    OP_LD_H_IND,
    OP_LD_B_IND,
    OP_LD_LEN,
    OP_LD_IMM,
    OP_LD_MEM,
    OP_LDX_LEN,
    OP_LDX_IMM,
    OP_LDX_MEM,
    OP_LDX_MSH,
    OP_ST,
    OP_STX,
    OP_ADD_K,
    OP_SUB_K,
    OP_MUL_K,
    OP_DIV_K,
    OP_MOD_K,
    OP_AND_K,
    OP_OR_K,
    OP_XOR_K,
    OP_LSH_K,
    OP_RSH_K,
    OP_ADD_X,
    OP_SUB_X,
    OP_MUL_X,
    OP_DIV_X,
    OP_MOD_X,
    OP_AND_X,
    OP_OR_X,
    OP_XOR_X,
    OP_LSH_X,
    OP_RSH_X,
    OP_NEG,
    OP_JA,
    OP_JEQ_K,
    OP_JGT_K,
    OP_JGE_K,
    OP_JSET_K,
    OP_JEQ_X,
    OP_JGT_X,
    OP_JGE_X,
    OP_JSET_X,
    OP_RET_K,
    OP_RET_A,
    OP_TAX,
    OP_TXA,
    OP_COUNT
};

enum operand { ANY, WORD, DIVISOR, SHIFT, JUMP, FORWARD }; /* what k, jt and jf must be */

static const struct {
    uint16_t code;
    uint8_t operand;
} language[OP_COUNT] = {
    [OP_LD_W] = {BPF_LD | BPF_W | BPF_ABS, ANY},
    [OP_LD_H] = {BPF_LD | BPF_H | BPF_ABS, ANY},
    [OP_LD_B] = {BPF_LD | BPF_B | BPF_ABS, ANY},
    [OP_LD_W_IND] = {BPF_LD | BPF_W | BPF_IND, ANY},
    [OP_LD_H_IND] = {BPF_LD | BPF_H | BPF_IND, ANY},
    [OP_LD_B_IND] = {BPF_LD | BPF_B | BPF_IND, ANY},
    [OP_LD_LEN] = {BPF_LD | BPF_W | BPF_LEN, ANY},
    [OP_LD_IMM] = {BPF_LD | BPF_IMM, ANY},
    [OP_LD_MEM] = {BPF_LD | BPF_MEM, WORD},
    [OP_LDX_LEN] = {BPF_LDX | BPF_W | BPF_LEN, ANY},
    [OP_LDX_IMM] = {BPF_LDX | BPF_IMM, ANY},
    [OP_LDX_MEM] = {BPF_LDX | BPF_MEM, WORD},
    [OP_LDX_MSH] = {BPF_LDX | BPF_B | BPF_MSH, ANY},
    [OP_ST] = {BPF_ST, WORD},
    [OP_STX] = {BPF_STX, WORD},
    [OP_ADD_K] = {BPF_ALU | BPF_ADD | BPF_K, ANY},
    [OP_SUB_K] = {BPF_ALU | BPF_SUB | BPF_K, ANY},
    [OP_MUL_K] = {BPF_ALU | BPF_MUL | BPF_K, ANY},
    [OP_DIV_K] = {BPF_ALU | BPF_DIV | BPF_K, DIVISOR},
    [OP_MOD_K] = {BPF_ALU | BPF_MOD | BPF_K, DIVISOR},
    [OP_AND_K] = {BPF_ALU | BPF_AND | BPF_K, ANY},
    [OP_OR_K] = {BPF_ALU | BPF_OR | BPF_K, ANY},
    [OP_XOR_K] = {BPF_ALU | BPF_XOR | BPF_K, ANY},
    [OP_LSH_K] = {BPF_ALU | BPF_LSH | BPF_K, SHIFT},
    [OP_RSH_K] = {BPF_ALU | BPF_RSH | BPF_K, SHIFT},
    [OP_ADD_X] = {BPF_ALU | BPF_ADD | BPF_X, ANY},
    [OP_SUB_X] = {BPF_ALU | BPF_SUB | BPF_X, ANY},
    [OP_MUL_X] = {BPF_ALU | BPF_MUL | BPF_X, ANY},
    [OP_DIV_X] = {BPF_ALU | BPF_DIV | BPF_X, ANY},
    [OP_MOD_X] = {BPF_ALU | BPF_MOD | BPF_X, ANY},
    [OP_AND_X] = {BPF_ALU | BPF_AND | BPF_X, ANY},
    [OP_OR_X] = {BPF_ALU | BPF_OR | BPF_X, ANY},
    [OP_XOR_X] = {BPF_ALU | BPF_XOR | BPF_X, ANY},
    [OP_LSH_X] = {BPF_ALU | BPF_LSH | BPF_X, ANY},
    [OP_RSH_X] = {BPF_ALU | BPF_RSH | BPF_X, ANY},
    [OP_NEG] = {BPF_ALU | BPF_NEG, ANY},
    [OP_JA] = {BPF_JMP | BPF_JA, FORWARD},
    [OP_JEQ_K] = {BPF_JMP | BPF_JEQ | BPF_K, JUMP},
    [OP_JGT_K] = {BPF_JMP | BPF_JGT | BPF_K, JUMP},
    [OP_JGE_K] = {BPF_JMP | BPF_JGE | BPF_K, JUMP},
    [OP_JSET_K] = {BPF_JMP | BPF_JSET | BPF_K, JUMP},
    [OP_JEQ_X] = {BPF_JMP | BPF_JEQ | BPF_X, JUMP},
    [OP_JGT_X] = {BPF_JMP | BPF_JGT | BPF_X, JUMP},
    [OP_JGE_X] = {BPF_JMP | BPF_JGE | BPF_X, JUMP},
    [OP_JSET_X] = {BPF_JMP | BPF_JSET | BPF_X, JUMP},
    [OP_RET_K] = {BPF_RET | BPF_K, ANY},
    [OP_RET_A] = {BPF_RET | BPF_A, ANY},
    [OP_TAX] = {BPF_MISC | BPF_TAX, ANY},
    [OP_TXA] = {BPF_MISC | BPF_TXA, ANY},
};

/* ---- the verifier ---- */

static enum program_op op_of(uint16_t code) {
    uint32_t op = 0;
    while (op < OP_COUNT && language[op].code != code)
        op++;
    return (enum program_op)op;
}

/* `left`: instructions behind this one; a jump of n skips n of them and needs one to land on. */
static bool operand_is_good(const struct sock_filter *i, enum operand operand, uint32_t left) {
    switch (operand) {
    case WORD:
        return i->k < BPF_MEMWORDS;
    case DIVISOR:
        return i->k != 0;
    case SHIFT:
        return i->k < 32;
    case JUMP:
        return i->jt < left && i->jf < left;
    case FORWARD:
        return i->k < left;
    default:
        return true;
    }
}

/* ---- jumps, for both ---- */

struct registers {
    uint32_t a, x;
    uint32_t mem[BPF_MEMWORDS];
};

static bool jumps(const struct registers *r, enum program_op op, uint32_t k) {
    uint32_t with = op >= OP_JEQ_X ? r->x : k;
    switch (op >= OP_JEQ_X ? op - OP_JEQ_X + OP_JEQ_K : op) {
    case OP_JEQ_K:
        return r->a == with;
    case OP_JGT_K:
        return r->a > with;
    case OP_JGE_K:
        return r->a >= with;
    default:
        return (r->a & with) != 0;
    }
}

/* ---- what cannot match ---- */

/* What is known of a frame: its Ethernet type, and one byte of its IP header. */
struct shape {
    uint16_t type;
    uint32_t proto_at;
    uint8_t proto;
};

/* What is known when an instruction is reached, by whichever way. */
struct known {
    bool reached, a_known, x_known;
    uint32_t a, x;
};

static void known_join(struct known *to, const struct known *from) {
    if (!to->reached) {
        *to = *from;
        to->reached = true;
        return;
    }
    to->a_known = to->a_known && from->a_known && to->a == from->a;
    to->x_known = to->x_known && from->x_known && to->x == from->x;
}

static bool byte_is_known(const struct shape *shape, uint32_t at, uint32_t *ret_byte) {
    *ret_byte = at == 12 ? shape->type >> 8 : at == 13 ? shape->type & 0xff : shape->proto;
    return at == 12 || at == 13 || at == shape->proto_at;
}

/* What an instruction that neither jumps nor returns leaves behind. */
static void known_step(struct known *n, const struct shape *shape, const struct program_step *s) {
    switch ((enum program_op)s->op) {
    case OP_LD_H:
        n->a_known = s->k == 12;
        n->a = shape->type;
        break;
    case OP_LD_B:
        n->a_known = byte_is_known(shape, s->k, &n->a);
        break;
    case OP_LD_IMM:
        n->a_known = true;
        n->a = s->k;
        break;
    case OP_LDX_IMM:
        n->x_known = true;
        n->x = s->k;
        break;
    case OP_TAX:
        n->x_known = n->a_known;
        n->x = n->a;
        break;
    case OP_TXA:
        n->a_known = n->x_known;
        n->a = n->x;
        break;
    case OP_ST:
    case OP_STX:
        break;
    case OP_LDX_LEN:
    case OP_LDX_MEM:
    case OP_LDX_MSH:
        n->x_known = false;
        break;
    default:
        n->a_known = false;
    }
}

/* Where a jump may lead: bit 0 = jf, bit 1 = jt. */
static uint32_t ways(const struct known *n, const struct program_step *s) {
    const struct registers r = {.a = n->a, .x = n->x};
    bool known = n->a_known && (s->op < OP_JEQ_X || n->x_known);
    return !known ? 3u : jumps(&r, (enum program_op)s->op, s->k) ? 2u : 1u;
}

static bool is_jump(uint8_t op) {
    return op >= OP_JEQ_K && op <= OP_JSET_X;
}

/* One pass: jumps only go forward, so all that leads to an instruction has been seen when its turn comes. */
static bool shape_is_possible(const struct program *p, const struct shape *shape) {
    static const struct known nothing;
    struct known at[257]; /* a ring: a conditional jump reaches 256 instructions ahead */
    for (uint32_t i = 0; i < ARRAY_LEN(at); i++)
        at[i] = nothing;
    at[0] = (struct known){.reached = true, .a_known = true, .x_known = true};
    for (uint32_t i = 0; i < p->count; i++) {
        const struct program_step *s = &p->step[i];
        struct known n = at[i % ARRAY_LEN(at)];
        at[i % ARRAY_LEN(at)] = nothing;
        if (!n.reached)
            continue;
        if (s->op == OP_RET_A || (s->op == OP_RET_K && s->k != 0) || (s->op == OP_JA && s->k >= 256))
            return true; /* or too far to follow */
        if (s->op == OP_RET_K)
            continue;
        uint32_t to = is_jump(s->op) ? ways(&n, s) : 1u;
        uint32_t jf = is_jump(s->op) ? s->jf : s->op == OP_JA ? s->k : 0;
        if (!is_jump(s->op) && s->op != OP_JA)
            known_step(&n, shape, s);
        if (to & 1)
            known_join(&at[(i + 1 + jf) % ARRAY_LEN(at)], &n);
        if (to & 2)
            known_join(&at[(i + 1 + s->jt) % ARRAY_LEN(at)], &n);
    }
    return p->count == 0;
}

int capture_program_load(struct program *p, const struct sock_filter *code, uint32_t count, uint32_t *ret_at) {
    *ret_at = 0;
    if (count > PROGRAM_MAX)
        return -EINVAL;
    for (uint32_t at = 0; at < count; at++) {
        enum program_op op = op_of(code[at].code);
        *ret_at = at;
        if (op == OP_COUNT || !operand_is_good(&code[at], (enum operand)language[op].operand, count - 1 - at))
            return -EINVAL;
        if (at + 1 == count && op != OP_RET_K && op != OP_RET_A)
            return -EINVAL;
        p->step[at] = (struct program_step){.op = (uint8_t)op, .jt = code[at].jt, .jf = code[at].jf, .k = code[at].k};
    }
    p->count = count;
    for (uint32_t proto = 0; proto < 256; proto++) {
        p->possible[SHAPE_IP4][proto] = shape_is_possible(p, &(struct shape){ETHERTYPE_IP4, 23, (uint8_t)proto});
        p->possible[SHAPE_IP6][proto] = shape_is_possible(p, &(struct shape){ETHERTYPE_IP6, 20, (uint8_t)proto});
    }
    return 0;
}

/* ---- the interpreter ---- */

/* Big-endian bytes of the frame. False: not all of them are there. */
static inline bool load(const struct frame *f, uint32_t at, uint32_t size, uint32_t *ret_value) {
    uint8_t bytes[4];
    const uint8_t *from = bytes;
    if (LIKELY(at <= f->head_len && size <= f->head_len - at))
        from = f->head + at;
    else if (at > f->length || size > f->length - at || !frame_read(f, at, bytes, size))
        return false;
    if (size == 4)
        *ret_value = be32_load(from);
    else
        *ret_value = size == 2 ? be16_load(from) : from[0];
    return true;
}

/* An offset that wraps around is one beyond the frame. */
static inline bool load_ind(const struct frame *f, uint32_t x, uint32_t k, uint32_t size, uint32_t *ret_value) {
    return k <= UINT32_MAX - x && load(f, x + k, size, ret_value);
}

static inline uint32_t shift_left(uint32_t a, uint32_t by) {
    return by < 32 ? a << by : 0;
}

static inline uint32_t shift_right(uint32_t a, uint32_t by) {
    return by < 32 ? a >> by : 0;
}

/* Arithmetic: seldom in filters, so it stays out of the interpreter's switch. False: division by zero. */
static bool calculate(struct registers *r, enum program_op op, uint32_t k) {
    uint32_t by = op >= OP_ADD_X && op <= OP_RSH_X ? r->x : k;
    enum program_op kind = op >= OP_ADD_X && op <= OP_RSH_X ? op - OP_ADD_X + OP_ADD_K : op;
    if (by == 0 && (kind == OP_DIV_K || kind == OP_MOD_K))
        return false;
    switch (kind) {
    case OP_ADD_K:
        r->a += by;
        break;
    case OP_SUB_K:
        r->a -= by;
        break;
    case OP_MUL_K:
        r->a *= by;
        break;
    case OP_DIV_K:
        r->a /= by;
        break;
    case OP_MOD_K:
        r->a %= by;
        break;
    case OP_AND_K:
        r->a &= by;
        break;
    case OP_OR_K:
        r->a |= by;
        break;
    case OP_XOR_K:
        r->a ^= by;
        break;
    case OP_LSH_K:
        r->a = shift_left(r->a, by);
        break;
    case OP_RSH_K:
        r->a = shift_right(r->a, by);
        break;
    default:
        r->a = 0u - r->a; /* OP_NEG */
    }
    return true;
}

/* Everything that neither jumps nor returns. False: the program ends without a match. */
static bool step(struct registers *r, const struct frame *f, const struct program_step *s) {
    uint32_t byte;
    switch ((enum program_op)s->op) {
    case OP_LD_W_IND:
        return load_ind(f, r->x, s->k, 4, &r->a);
    case OP_LD_H_IND:
        return load_ind(f, r->x, s->k, 2, &r->a);
    case OP_LD_B_IND:
        return load_ind(f, r->x, s->k, 1, &r->a);
    case OP_LD_LEN:
        r->a = f->length;
        return true;
    case OP_LD_IMM:
        r->a = s->k;
        return true;
    case OP_LD_MEM:
        r->a = r->mem[s->k];
        return true;
    case OP_LDX_LEN:
        r->x = f->length;
        return true;
    case OP_LDX_IMM:
        r->x = s->k;
        return true;
    case OP_LDX_MEM:
        r->x = r->mem[s->k];
        return true;
    case OP_LDX_MSH:
        if (!load(f, s->k, 1, &byte))
            return false;
        r->x = (byte & 0xf) * 4;
        return true;
    case OP_ST:
        r->mem[s->k] = r->a;
        return true;
    case OP_STX:
        r->mem[s->k] = r->x;
        return true;
    case OP_TAX:
        r->x = r->a;
        return true;
    case OP_TXA:
        r->a = r->x;
        return true;
    default:
        return calculate(r, (enum program_op)s->op, s->k);
    }
}

/* The few that nearly every filter consists of are here, the others one call away. */
uint32_t capture_program_run(const struct program *p, const struct frame *f) {
    struct registers r;
    r.a = r.x = 0;
    if (p->count == 0)
        return UINT32_MAX;
    bool cleared = false; /* the words begin as zero, but hardly any filter has use for them */
    for (const struct program_step *s = p->step;; s++) {
        bool good = true;
        switch ((enum program_op)s->op) {
        case OP_LD_H:
            good = load(f, s->k, 2, &r.a);
            break;
        case OP_LD_B:
            good = load(f, s->k, 1, &r.a);
            break;
        case OP_LD_W:
            good = load(f, s->k, 4, &r.a);
            break;
        case OP_JEQ_K:
            s += r.a == s->k ? s->jt : s->jf;
            break;
        case OP_JA:
            s += s->k;
            break;
        case OP_JGT_K:
        case OP_JGE_K:
        case OP_JSET_K:
        case OP_JEQ_X:
        case OP_JGT_X:
        case OP_JGE_X:
        case OP_JSET_X:
            s += jumps(&r, (enum program_op)s->op, s->k) ? s->jt : s->jf;
            break;
        case OP_RET_K:
            return s->k;
        case OP_RET_A:
            return r.a;
        default:
            if (!cleared)
                memset(r.mem, 0, sizeof r.mem);
            cleared = true;
            good = step(&r, f, s);
        }
        if (UNLIKELY(!good))
            return 0;
    }
}
