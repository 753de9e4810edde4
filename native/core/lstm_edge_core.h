/*
 * lstm_edge_core.h: run a network as a table of operations. C99, no malloc, no stdio, no state of its own.
 *
 * A network is a const table of le_op: a kernel and its arguments. Arrays are named by an le_ref, a number of
 * elements behind one of the bases that the caller gives. A kernel that no table names is dropped by the
 * linker
 * (-ffunction-sections -Wl,--gc-sections). SPDX-License-Identifier: Apache-2.0
 */
#ifndef LSTM_EDGE_CORE_H
#define LSTM_EDGE_CORE_H

#include <stdint.h>

/* Where the arrays of a step begin. The ports are the inputs, then the outputs. Whole numbers are int64_t,
   and take two elements each, anywhere in memory. */
enum { LE_FLOATS, LE_WHOLES, LE_MEMORY, LE_QUANTIZED, LE_STATE, LE_PORTS };

typedef union {
    const void *from; /* constants and inputs */
    void *to;
} le_base;

/* An array: its base in the upper 8 bits, and elements behind that in the lower 24. */
typedef uint32_t le_ref;
#define LE_REF(base, offset) ((uint32_t)(base) << 24 | (uint32_t)(offset))

/* Returns 0 to go on; anything else ends the step and is its result. */
typedef int le_kernel(const void *arguments, const le_base *base);

typedef struct {
    le_kernel *run;
    const void *arguments;
} le_op;

int le_run(const le_op *ops, int count, const le_base *base);

/* --- Parts of operations ---------------------------------------------------------------------------------
 */

/* A function of each of n numbers. y may be x. */
typedef struct le_function le_function;
typedef void le_map(const le_function *f, const float *x, float *y, int n);
struct le_function {
    le_map *map;
    float alpha, beta;
};
le_map le_identity, le_relu, le_sigmoid, le_tanh, le_affine, le_leaky_relu, le_thresholded_relu,
    le_scaled_tanh, le_hard_sigmoid, le_elu, le_softsign, le_softplus, le_selu, le_clip, le_gelu, le_abs,
    le_negate, le_exp, le_log, le_sqrt, le_reciprocal, le_erf, le_gelu_tanh, le_floor, le_ceil, le_round,
    le_sin, le_cos;

/* A function of n pairs. A step of 0 repeats one number, else it is the numbers in a vector. */
typedef void le_pair(const float *a, int step_a, const float *b, int step_b, float *y, int n);
le_pair le_add, le_subtract, le_multiply, le_divide, le_maximum, le_minimum, le_prelu, le_power, le_less,
    le_less_equal, le_equal;

/*
 * y = start + weights * x. `start` may be y.
 *
 * le_float_product: the weights of each 16 outputs lie side by side, input by input, then those of 12, 8 or
 * 4, then one output's after the other's. le_int8_product: int8 times the one scale, one output's after the
 * other's; x is quantized as DynamicQuantizeLinear does. le_int8_scaled_product: the same with a scale of
 * each output. le_stored_product: int8 times a scale of each output, and x stays as it is.
 */
typedef struct le_matrix le_matrix;
typedef void le_product(const le_matrix *m, const le_base *base, const float *start, const float *x,
                        float *y);
struct le_matrix {
    le_product *product;
    const void *weights;
    const float *scales; /* of all outputs, or of each */
    uint16_t rows, columns;
};
le_product le_float_product, le_int8_product, le_int8_scaled_product, le_stored_product;

/* --- Operations: the kernel of that name takes these arguments -------------------------------------------
 */

/* y = start + weights * x, for each of `count` rows of x; `start` is one row, which may be y. */
typedef struct {
    le_ref x, start, y;
    int count;
    le_matrix w;
} le_linear_op;

/* le_mix: y = a * b + c * d, the new state of an LSTM. le_blend: y = a * b + (1 - a) * d, that of a GRU.
   le_accumulate: y = a * b + d. */
typedef struct {
    le_ref a, b, c, d, y;
    int n;
} le_mix_op;

typedef struct {
    le_ref x, y;
    int n;
    le_function f;
} le_unary_op;

typedef struct {
    le_ref a, b, y;
    uint16_t n;
    uint8_t many_a, many_b; /* 0 to repeat one number */
    le_pair *pair;
} le_binary_op;

/* le_whole: an operation of n pairs of whole numbers; comparisons give 1 or 0. */
typedef enum {
    LE_ADD,
    LE_SUBTRACT,
    LE_MULTIPLY,
    LE_DIVIDE,
    LE_MAXIMUM,
    LE_MINIMUM,
    LE_LESS,
    LE_LESS_EQUAL,
    LE_EQUAL
} le_whole_kind;

typedef struct {
    le_ref a, b, y;
    uint16_t n;
    uint8_t many_a, many_b; /* 0 to repeat one number */
    le_whole_kind kind;
} le_whole_op;

/* le_cast: n numbers of one type become another. */
typedef enum { LE_FLOAT, LE_INT32, LE_INT64 } le_type;

typedef struct {
    le_ref x, y;
    int n;
    le_type from, to;
} le_cast_op;

typedef struct {
    le_ref condition, a, b, y;
    int n;
} le_where_op;

/* le_softmax, le_log_softmax and le_normalize: rows of `length` numbers. */
typedef struct {
    le_ref x, y;
    int count, length;
    float epsilon;
    const float *scale, *bias; /* NULL for none, here and below */
} le_rows_op;

/* Rows of a table, float32 where `scales` is NULL. Negative indices count from the end. */
typedef struct {
    le_ref index, y;
    le_type type; /* of an index: LE_INT32 or LE_INT64 */
    const void *table;
    const float *scales;
    int count, rows, columns;
} le_gather_op;

typedef struct {
    le_ref x, y;
    int length, count, step_x, step_y;
} le_copy_op;

/* le_window and le_push: a ring of `frames` frames of n numbers, followed by the index of the oldest. */
typedef struct {
    le_ref x, past, y;
    int frames, n, first, dilation, count;
} le_ring_op;

/* The sum of k stretches of n numbers times their weights; without weights the largest numbers. */
typedef struct {
    le_ref x, y;
    const float *weights, *bias;
    int k, n;
} le_depthwise_op;

le_kernel le_linear, le_mix, le_blend, le_accumulate, le_unary, le_binary, le_whole, le_cast, le_where,
    le_softmax, le_log_softmax, le_normalize, le_check_rows, le_gather, le_copy, le_window, le_push,
    le_depthwise;

/* Fill a state: with `reset` where it is not NULL, else with zeros. */
void le_reset(float *state, const float *reset, int n);

/* Note the largest difference of n numbers; *passed becomes 0 where one is beyond its limit. */
void le_compare(const float *got, const float *expected, const float *limits, int n, float *worst,
                int *passed);

#endif
