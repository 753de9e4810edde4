/*
 * lstm_edge_core.h: run a network as a table of operations. C99, no malloc, no stdio, no state of its own.
 *
 * A network is a const table of lc_op: a kernel and its arguments. Arrays are named by an lc_ref, a number of
 * elements behind one of the bases that the caller gives. A kernel that no table names is dropped by the
 * linker
 * (-ffunction-sections -Wl,--gc-sections). SPDX-License-Identifier: Apache-2.0
 */
#ifndef LSTM_EDGE_CORE_H
#define LSTM_EDGE_CORE_H

#include <stdint.h>

/* Where the arrays of a step begin. The ports are the inputs, then the outputs. Whole numbers are int64_t,
   and take two elements each, anywhere in memory. */
enum { LC_FLOATS, LC_WHOLES, LC_MEMORY, LC_QUANTIZED, LC_STATE, LC_PORTS };

typedef union {
    const void *from; /* constants and inputs */
    void *to;
} lc_base;

/* An array: its base in the upper 8 bits, and elements behind that in the lower 24. */
typedef uint32_t lc_ref;
#define LC_REF(base, offset) ((uint32_t)(base) << 24 | (uint32_t)(offset))

/* Returns 0 to go on; anything else ends the step and is its result. */
typedef int lc_kernel(const void *arguments, const lc_base *base);

typedef struct {
    lc_kernel *run;
    const void *arguments;
} lc_op;

int lc_run(const lc_op *ops, int count, const lc_base *base);

/* --- Parts of operations ---------------------------------------------------------------------------------
 */

/* A function of each of n numbers. y may be x. */
typedef struct lc_function lc_function;
typedef void lc_map(const lc_function *f, const float *x, float *y, int n);
struct lc_function {
    lc_map *map;
    float alpha, beta;
};
lc_map lc_identity, lc_relu, lc_sigmoid, lc_tanh, lc_affine, lc_leaky_relu, lc_thresholded_relu,
    lc_scaled_tanh, lc_hard_sigmoid, lc_elu, lc_softsign, lc_softplus, lc_selu, lc_clip, lc_gelu, lc_abs,
    lc_negate, lc_exp, lc_log, lc_sqrt, lc_reciprocal, lc_erf, lc_gelu_tanh, lc_floor, lc_ceil, lc_round,
    lc_sin, lc_cos;

/* A function of n pairs. A step of 0 repeats one number, else it is the numbers in a vector. */
typedef void lc_pair(const float *a, int step_a, const float *b, int step_b, float *y, int n);
lc_pair lc_add, lc_subtract, lc_multiply, lc_divide, lc_maximum, lc_minimum, lc_prelu, lc_power, lc_less,
    lc_less_equal, lc_equal;

/*
 * y = start + weights * x. `start` may be y.
 *
 * lc_float_product: the weights of each 16 outputs lie side by side, input by input, then those of 12, 8 or
 * 4, then one output's after the other's. lc_int8_product: int8 times the one scale, one output's after the
 * other's; x is quantized as DynamicQuantizeLinear does. lc_int8_scaled_product: the same with a scale of
 * each output. lc_stored_product: int8 times a scale of each output, and x stays as it is.
 *
 * lc_..._blocks: the same with only the blocks that are listed, of 16 outputs and 1 input, or of 8 outputs
 * and 4 quantized inputs. `blocks` has for each band of outputs the number of its blocks and the first input
 * of each. Rows are a multiple of a band.
 */
typedef struct lc_matrix lc_matrix;
typedef void lc_product(const lc_matrix *m, const lc_base *base, const float *start, const float *x,
                        float *y);
struct lc_matrix {
    lc_product *product;
    const void *weights;
    const float *scales; /* of all outputs, or of each */
    uint16_t rows, columns;
    const uint16_t *blocks; /* NULL if all of it is stored */
};
lc_product lc_float_product, lc_int8_product, lc_int8_scaled_product, lc_stored_product, lc_float_blocks,
    lc_int8_blocks, lc_int8_scaled_blocks, lc_stored_blocks;

/* --- Operations: the kernel of that name takes these arguments -------------------------------------------
 */

/* y = start + weights * x, for each of `count` rows of x; `start` is one row, which may be y. */
typedef struct {
    lc_ref x, start, y;
    int count;
    lc_matrix w;
} lc_linear_op;

/* lc_mix: y = a * b + c * d, the new state of an LSTM. lc_blend: y = a * b + (1 - a) * d, that of a GRU.
   lc_accumulate: y = a * b + d. */
typedef struct {
    lc_ref a, b, c, d, y;
    int n;
} lc_mix_op;

typedef struct {
    lc_ref x, y;
    int n;
    lc_function f;
} lc_unary_op;

typedef struct {
    lc_ref a, b, y;
    uint16_t n;
    uint8_t many_a, many_b; /* 0 to repeat one number */
    lc_pair *pair;
} lc_binary_op;

/* lc_whole: an operation of n pairs of whole numbers; comparisons give 1 or 0. */
typedef enum {
    LC_ADD,
    LC_SUBTRACT,
    LC_MULTIPLY,
    LC_DIVIDE,
    LC_MAXIMUM,
    LC_MINIMUM,
    LC_LESS,
    LC_LESS_EQUAL,
    LC_EQUAL
} lc_whole_kind;

typedef struct {
    lc_ref a, b, y;
    uint16_t n;
    uint8_t many_a, many_b; /* 0 to repeat one number */
    lc_whole_kind kind;
} lc_whole_op;

/* lc_cast: n numbers of one type become another. LC_INT32 is int32_t in an input, and a number of 32 bits in
   an int64_t elsewhere. Floats are truncated; NaN, and what the type cannot hold, becomes its least number,
   as on x86. Whole numbers wrap. */
typedef enum { LC_FLOAT, LC_INT32, LC_INT64 } lc_type;

typedef struct {
    lc_ref x, y;
    int n;
    lc_type from, to;
} lc_cast_op;

typedef struct {
    lc_ref condition, a, b, y;
    int n;
} lc_where_op;

/* lc_softmax, lc_log_softmax and lc_normalize: rows of `length` numbers. */
typedef struct {
    lc_ref x, y;
    int count, length;
    float epsilon;
    const float *scale, *bias; /* NULL for none, here and below */
} lc_rows_op;

/* Rows of a table, float32 where `scales` is NULL. Negative indices count from the end. */
typedef struct {
    lc_ref index, y;
    lc_type type; /* of an index: LC_INT32 or LC_INT64 */
    const void *table;
    const float *scales;
    int count, rows, columns;
} lc_gather_op;

typedef struct {
    lc_ref x, y;
    int length, count, step_x, step_y;
} lc_copy_op;

/* lc_window and lc_push: a ring of `frames` frames of n numbers, followed by the index of the oldest. */
typedef struct {
    lc_ref x, past, y;
    int frames, n, first, dilation, count;
} lc_ring_op;

/* The sum of k vectors of n numbers times their weights; without weights the largest numbers. */
typedef struct {
    lc_ref x, y;
    const float *weights, *bias;
    int k, n;
} lc_depthwise_op;

lc_kernel lc_linear, lc_mix, lc_blend, lc_accumulate, lc_unary, lc_binary, lc_whole, lc_cast, lc_where,
    lc_softmax, lc_log_softmax, lc_normalize, lc_check_rows, lc_gather, lc_copy, lc_window, lc_push,
    lc_depthwise;

/* Fill a state: with `reset` where it is not NULL, else with zeros. */
void lc_reset(float *state, const float *reset, int n);

/* Note the largest difference of n numbers; *passed becomes 0 where one is beyond its limit. */
void lc_compare(const float *got, const float *expected, const float *limits, int n, float *worst,
                int *passed);

#endif
