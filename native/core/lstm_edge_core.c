/*
 * Kernels of networks in C99. SPDX-License-Identifier: Apache-2.0
 *
 * A multiplication and an addition are fused in LE_FMA and nowhere else, which float32 products alone use.
 * int8 products are exact, and what turns them into float32 and back is never fused: these layers give the
 * same bits on every processor.
 */
#include "lstm_edge_core.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#if defined(__FAST_MATH__)
#error "-ffast-math reorders sums; compile without it"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

/* --- Vectors: 4 floats with Helium, NEON and SSE2, else 1 ------------------------------------------------
 */

#if defined(__GNUC__)
#define LE_INLINE static inline __attribute__((always_inline, unused))
#else
#define LE_INLINE static inline
#endif

#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 2)
#include <arm_mve.h>
#define LE_LANES        4
#define LE_FMA(a, b, c) ((le_vf)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#elif defined(__GNUC__) && defined(__aarch64__)
#include <arm_neon.h>
#define LE_LANES        4
#define LE_FMA(a, b, c) ((le_vf)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#elif defined(__GNUC__) && defined(__SSE2__)
#define LE_LANES        4
#define LE_FMA(a, b, c) ((a) * (b) + (c))
#else
#define LE_LANES 1
#define LE_FMA   LE_FMA1
#endif
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__FP_FAST_FMAF)
#define LE_FMA1(a, b, c) __builtin_fmaf(a, b, c)
#else
#define LE_FMA1(a, b, c) ((a) * (b) + (c))
#endif

#if LE_LANES == 4
#if defined(__GNUC__) && !defined(__clang__) && !defined(__ARM_FEATURE_MVE)
#pragma GCC optimize("tree-vectorize", "vect-cost-model=dynamic") /* the loop over int8 weights at -O2, too  \
                                                                   */
#endif
typedef float le_vf __attribute__((vector_size(16)));
typedef int32_t le_vi __attribute__((vector_size(16)));
typedef uint32_t le_vu __attribute__((vector_size(16)));
LE_INLINE le_vf le_set(float x) {
    le_vf zero = {0.0f};
    return x - zero;
}
LE_INLINE le_vf le_pick(le_vi mask, le_vf a, le_vf b) {
    return (le_vf)(((le_vi)a & mask) | ((le_vi)b & ~mask));
}
LE_INLINE le_vi le_bits(le_vf x) { return (le_vi)x; }
LE_INLINE le_vf le_float(le_vi x) { return (le_vf)x; }
/* Load or store the first `left` numbers of a vector. */
LE_INLINE le_vf le_load(const float *p, int left) {
    le_vf v = le_set(0.0f);
#if defined(__ARM_FEATURE_MVE)
    if (!__builtin_constant_p(left)) return (le_vf)vldrwq_z_f32(p, vctp32q((uint32_t)left));
#endif
    if (left >= 4) memcpy(&v, p, sizeof v);
    else memcpy(&v, p, (size_t)left * sizeof *p);
    return v;
}
LE_INLINE void le_store(float *p, le_vf v, int left) {
#if defined(__ARM_FEATURE_MVE)
    if (!__builtin_constant_p(left)) {
        vstrwq_p_f32(p, (float32x4_t)v, vctp32q((uint32_t)left));
        return;
    }
#endif
    if (left >= 4) memcpy(p, &v, sizeof v);
    else memcpy(p, &v, (size_t)left * sizeof *p);
}
#else
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-loop-distribute-patterns") /* no memset in the flash for a few loops */
#endif
typedef float le_vf;
typedef int32_t le_vi;
typedef uint32_t le_vu;
LE_INLINE le_vf le_set(float x) { return x; }
LE_INLINE le_vf le_pick(le_vi mask, le_vf a, le_vf b) { return mask ? a : b; }
LE_INLINE le_vi le_bits(le_vf x) {
    le_vi bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
LE_INLINE le_vf le_float(le_vi bits) {
    le_vf x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
#define le_load(p, left)     ((void)(left), *(p))
#define le_store(p, v, left) ((void)(left), (void)(*(p) = (v)))
#endif
#define LE_IF(condition) ((le_vi)(condition))
#define LE_EACH(i, n)    for (int i = 0; i < (n); i += LE_LANES)
#define LE_OFFSET        0xFFFFFFu
LE_INLINE float *le_to(const le_base *base, le_ref ref) {
    return (float *)base[ref >> 24].to + (ref & LE_OFFSET);
}
LE_INLINE const float *le_from(const le_base *base, le_ref ref) {
    return (const float *)base[ref >> 24].from + (ref & LE_OFFSET);
}

int le_run(const le_op *ops, int count, const le_base *base) {
    int result = 0;
    for (; count > 0 && result == 0; count--, ops++) result = ops->run(ops->arguments, base);
    return result;
}

/* --- Functions -------------------------------------------------------------------------------------------
 */

LE_INLINE le_vf le_larger(le_vf a, le_vf x) { return le_pick(LE_IF(a > x), a, x); } /* x where one is NaN */
LE_INLINE le_vf le_smaller(le_vf a, le_vf x) { return le_pick(LE_IF(a < x), a, x); }

/* x between two limits, -low at most high; NaN is NaN. */
LE_INLINE le_vf le_limited(float low, float high, le_vf x) {
#if LE_LANES == 1
    if (((uint32_t)le_bits(x) & 0x7FFFFFFFu) <= (uint32_t)le_bits(-low))
        return x; /* by its bits: usual and cheap */
#endif
    return le_smaller(le_set(high), le_larger(le_set(low), x));
}

/* exp(x) within 2 ULP: 2^n * exp(f) with |f| <= log(2) / 2 and the polynomial of Cephes' expf. */
LE_INLINE le_vf le_exp_of(le_vf x) {
    x = le_limited(-87.3365f, 88.8f, x);
    le_vf shifted =
        x * 1.44269504088896341f + 12582912.0f; /* 1.5 * 2^23: the sum is rounded to a whole number */
    le_vf n = shifted - 12582912.0f;
    le_vf f = n * -0.693359375f + x;
    f = n * 2.12194440e-4f + f;
    le_vf p = f * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * f * f + f + 1.0f;
    /* 2^(n - 1), then twice: n is 128 at the upper end. At the lower end the exponent field is 0. */
    p *= le_float((le_vi)(((le_vu)le_bits(shifted) - 0x4B400000u + 126u) << 23));
    return p + p;
}

LE_INLINE le_vf le_sigmoid_of(le_vf x) { return 1.0f / (1.0f + le_exp_of(-x)); }

/* tanh(x) by the rational approximation of degree 13 over 6 that Eigen and onnxruntime use, within 4 ULP. */
LE_INLINE le_vf le_tanh_of(le_vf x) {
    x = le_limited(-9.0f, 9.0f, x);
    le_vf s = x * x;
    le_vf p = s * -2.76076847742355e-16f + 2.00018790482477e-13f;
    p = p * s + -8.60467152213735e-11f;
    p = p * s + 5.12229709037114e-08f;
    p = p * s + 1.48572235717979e-05f;
    p = p * s + 6.37261928875436e-04f;
    p = p * s + 4.89352455891786e-03f;
    le_vf q = s * 1.19825839466702e-06f + 1.18534705686654e-04f;
    q = q * s + 2.26843463243900e-03f;
    q = q * s + 4.89352518554385e-03f;
    return x * p / q;
}

/* A function of the standard library, number by number. */
LE_INLINE le_vf le_by_lane(le_vf x, float (*f)(float)) {
    float lane[LE_LANES];
    memcpy(lane, &x, sizeof lane);
    for (int i = 0; i < LE_LANES; i++) lane[i] = f(lane[i]);
    memcpy(&x, lane, sizeof lane);
    return x;
}
static inline float le_softplus_of(float x) {
    return log1pf(expf(-fabsf(x))) + (x > 0.0f || x != x ? x : 0.0f);
}

#define LE_ALPHA le_set(f->alpha)
#define LE_BETA  le_set(f->beta)
#define LE_ZERO  le_set(0.0f)
/* Sizes are at least 1, and compilers that optimize for size need a test less a turn for do than for while.
 */
#define LE_MORE(n) (LE_LANES == 1 ? (n) != 0 : (n) > 0) /* a comparison less a turn */
#define LE_MAP(name, result)                                                                                 \
    void le_##name(const le_function *f, const float *from, float *y, int n) {                               \
        (void)f;                                                                                             \
        do {                                                                                                 \
            const le_vf x = le_load(from, n);                                                                \
            le_store(y, result, n);                                                                          \
            from += LE_LANES, y += LE_LANES, n -= LE_LANES;                                                  \
        } while (LE_MORE(n));                                                                                \
    }
LE_MAP(identity, x)
LE_MAP(relu, le_larger(LE_ZERO, x))
LE_MAP(sigmoid, le_sigmoid_of(x))
LE_MAP(tanh, le_tanh_of(x))
LE_MAP(affine, LE_ALPHA *x + LE_BETA)
LE_MAP(leaky_relu, le_pick(LE_IF(x < LE_ZERO), LE_ALPHA *x, x))
LE_MAP(thresholded_relu, le_pick(LE_IF(x <= LE_ALPHA), LE_ZERO, x))
LE_MAP(scaled_tanh, LE_ALPHA *le_tanh_of(LE_BETA *x))
LE_MAP(hard_sigmoid, le_smaller(le_set(1.0f), le_larger(LE_ZERO, LE_ALPHA *x + LE_BETA)))
LE_MAP(elu, le_pick(LE_IF(x < LE_ZERO), LE_ALPHA *(le_exp_of(x) - 1.0f), x))
LE_MAP(softsign, x / (1.0f + le_larger(x, -x)))
LE_MAP(softplus, le_by_lane(x, le_softplus_of))
LE_MAP(selu, LE_BETA *le_pick(LE_IF(x < LE_ZERO), LE_ALPHA *(le_exp_of(x) - 1.0f), x))
LE_MAP(clip, le_smaller(LE_BETA, le_larger(LE_ALPHA, x)))
LE_MAP(gelu, 0.5f * x * (1.0f + le_by_lane(x * 0.70710678118654752f, erff)))
LE_MAP(abs, le_float((le_vi)((le_vu)le_bits(x) & 0x7FFFFFFFu)))
LE_MAP(negate, -x)
LE_MAP(exp, le_exp_of(x))
LE_MAP(log, le_by_lane(x, logf))
LE_MAP(sqrt, le_by_lane(x, sqrtf))
LE_MAP(reciprocal, 1.0f / x)
LE_MAP(erf, le_by_lane(x, erff))
LE_MAP(gelu_tanh, x *le_sigmoid_of(1.5957691216057308f * (0.044715f * x * x * x + x)))
LE_MAP(floor, le_by_lane(x, floorf))
LE_MAP(ceil, le_by_lane(x, ceilf))
LE_MAP(round, le_by_lane(x, rintf))
LE_MAP(sin, le_by_lane(x, sinf))
LE_MAP(cos, le_by_lane(x, cosf))

#define LE_PAIR(name, result)                                                                                \
    void le_##name(const float *left, int step_a, const float *right, int step_b, float *y, int n) {         \
        do {                                                                                                 \
            const le_vf a = step_a || LE_LANES == 1 ? le_load(left, n) : le_set(*left);                      \
            const le_vf b = step_b || LE_LANES == 1 ? le_load(right, n) : le_set(*right);                    \
            le_store(y, result, n);                                                                          \
            left += step_a, right += step_b, y += LE_LANES, n -= LE_LANES;                                   \
        } while (LE_MORE(n));                                                                                \
    }
LE_PAIR(add, a + b)
LE_PAIR(subtract, a - b)
LE_PAIR(multiply, a *b)
LE_PAIR(divide, a / b)
LE_PAIR(maximum, le_pick(LE_IF(a < b) | LE_IF(b != b), b, a))
LE_PAIR(minimum, le_pick(LE_IF(a > b) | LE_IF(b != b), b, a))
LE_PAIR(prelu, le_pick(LE_IF(a < LE_ZERO), a *b, a))
LE_PAIR(less, le_pick(LE_IF(a < b), le_set(1.0f), LE_ZERO))
LE_PAIR(less_equal, le_pick(LE_IF(a <= b), le_set(1.0f), LE_ZERO))
LE_PAIR(equal, le_pick(LE_IF(a == b), le_set(1.0f), LE_ZERO))

void le_power(const float *a, int step_a, const float *b, int step_b, float *y, int n) {
    for (int i = 0; i < n; i++) y[i] = powf(a[step_a ? i : 0], b[step_b ? i : 0]);
}

int le_unary(const void *arguments, const le_base *base) {
    const le_unary_op *op = arguments;
    op->f.map(&op->f, le_from(base, op->x), le_to(base, op->y), op->n);
    return 0;
}

int le_binary(const void *arguments, const le_base *base) {
    const le_binary_op *op = arguments;
    op->pair(le_from(base, op->a), op->many_a * LE_LANES, le_from(base, op->b), op->many_b * LE_LANES,
             le_to(base, op->y), op->n);
    return 0;
}

int le_where(const void *arguments, const le_base *base) {
    const le_where_op *op = arguments;
    const float *condition = le_from(base, op->condition), *a = le_from(base, op->a),
                *b = le_from(base, op->b);
    float *y = le_to(base, op->y);
    for (int i = 0; i < op->n; i++) y[i] = condition[i] != 0.0f ? a[i] : b[i];
    return 0;
}

/* --- Rows of numbers -------------------------------------------------------------------------------------
 */

LE_INLINE float le_most(const float *x, int n) {
    float most = x[0];
    for (int i = 1; i < n; i++) most = x[i] > most || x[i] != x[i] ? x[i] : most; /* NaN where one is in it */
    return most;
}

int le_softmax(const void *arguments, const le_base *base) {
    const le_rows_op *op = arguments;
    const float *x = le_from(base, op->x);
    float *y = le_to(base, op->y);
    const int n = op->length;
    for (int row = 0; row < op->count; row++, x += n, y += n) {
        const float most = le_most(x, n);
        float all = 0.0f;
        LE_EACH(i, n) le_store(y + i, le_exp_of(le_load(x + i, n - i) - most), n - i);
        for (int i = 0; i < n; i++) all += y[i];
        for (int i = 0; i < n; i++) y[i] /= all;
    }
    return 0;
}

int le_log_softmax(const void *arguments, const le_base *base) {
    const le_rows_op *op = arguments;
    const float *x = le_from(base, op->x);
    float *y = le_to(base, op->y);
    const int n = op->length;
    for (int row = 0; row < op->count; row++, x += n, y += n) {
        const float most = le_most(x, n);
        float all = 0.0f;
        for (int i = 0; i < n; i++) {
            float one[LE_LANES];
            le_store(one, le_exp_of(le_set(x[i] - most)), LE_LANES);
            all += one[0];
        }
        all = logf(all);
        for (int i = 0; i < n; i++) y[i] = x[i] - most - all;
    }
    return 0;
}

int le_normalize(const void *arguments, const le_base *base) {
    const le_rows_op *op = arguments;
    const float *x = le_from(base, op->x), *scale = op->scale, *bias = op->bias;
    float *y = le_to(base, op->y);
    const int n = op->length;
    const float share = 1.0f / (float)n;
    for (int row = 0; row < op->count; row++, x += n, y += n) {
        float mean = 0.0f, squares = 0.0f;
        for (int i = 0; i < n; i++) mean += x[i];
        mean *= share;
        for (int i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
        const float factor = 1.0f / sqrtf(squares * share + op->epsilon);
        for (int i = 0; i < n; i++) {
            float v = (x[i] - mean) * factor;
            if (scale) v *= scale[i];
            if (bias) v += bias[i];
            y[i] = v;
        }
    }
    return 0;
}

/* --- Whole numbers ----------------------------------------------------------------------------------------
 */

LE_INLINE int64_t le_whole_at(const float *from, int i) {
    int64_t number;
    memcpy(&number, from + 2 * i, sizeof number);
    return number;
}

LE_INLINE int64_t le_combined(le_whole_kind kind, int64_t a, int64_t b) {
    const uint64_t left = (uint64_t)a, right = (uint64_t)b;
    switch (kind) {
    case LE_ADD: return (int64_t)(left + right);
    case LE_SUBTRACT: return (int64_t)(left - right);
    case LE_MULTIPLY: return (int64_t)(left * right);
    case LE_DIVIDE: return b == 0 ? 0 : b == -1 ? (int64_t)(0 - left) : a / b;
    case LE_MAXIMUM: return a > b ? a : b;
    case LE_MINIMUM: return a < b ? a : b;
    case LE_LESS: return a < b;
    case LE_LESS_EQUAL: return a <= b;
    default: return a == b; /* LE_EQUAL */
    }
}

int le_whole(const void *arguments, const le_base *base) {
    const le_whole_op *op = arguments;
    const float *a = le_from(base, op->a), *b = le_from(base, op->b);
    float *y = le_to(base, op->y);
    for (int i = 0; i < op->n; i++) {
        const int64_t left = le_whole_at(a, op->many_a ? i : 0), right = le_whole_at(b, op->many_b ? i : 0);
        const int64_t result = le_combined(op->kind, left, right);
        memcpy(y + 2 * i, &result, sizeof result);
    }
    return 0;
}

/* A number truncated and clamped to int64_t; 0 for NaN. */
LE_INLINE int64_t le_truncated(float x) {
    if (x >= 9223372036854775808.0f) return INT64_MAX;
    return x > -9223372036854775808.0f ? (int64_t)x : x == x ? INT64_MIN : 0;
}

int le_cast(const void *arguments, const le_base *base) {
    const le_cast_op *op = arguments;
    const float *x = le_from(base, op->x);
    const int32_t *whole = (const int32_t *)base[op->x >> 24].from;
    float *y = le_to(base, op->y);
    for (int i = 0; i < op->n; i++) {
        const int64_t number = op->from == LE_FLOAT   ? le_truncated(x[i])
                               : op->from == LE_INT32 ? whole[i]
                                                      : le_whole_at(x, i);
        if (op->to == LE_FLOAT) y[i] = (float)number;
        else memcpy(y + 2 * i, &number, sizeof number);
    }
    return 0;
}

/* The row of a table that an index names, counted from the end where it is negative; -1 where there is none.
 */
LE_INLINE int le_row(const le_gather_op *op, const le_base *base, int i) {
    const int32_t *narrow = (const int32_t *)base[op->index >> 24].from;
    const int64_t index = op->type == LE_INT32 ? narrow[i] : le_whole_at(le_from(base, op->index), i);
    return index < -op->rows || index >= op->rows ? -1 : (int)(index < 0 ? index + op->rows : index);
}

/* End the step with 1 where a table lacks a row, before anything is written. */
int le_check_rows(const void *arguments, const le_base *base) {
    const le_gather_op *op = arguments;
    for (int i = 0; i < op->count; i++) {
        if (le_row(op, base, i) < 0) return 1;
    }
    return 0;
}

int le_gather(const void *arguments, const le_base *base) {
    const le_gather_op *op = arguments;
    const float *floats = op->table;
    const int8_t *bytes = op->table;
    float *y = le_to(base, op->y);
    for (int i = 0; i < op->count; i++) {
        const int row = le_row(op, base, i), start = row * op->columns;
        if (row < 0) return 1;
        for (int j = 0; j < op->columns; j++) {
            *y++ = op->scales ? (float)bytes[start + j] * op->scales[row] : floats[start + j];
        }
    }
    return 0;
}

int le_copy(const void *arguments, const le_base *base) {
    const le_copy_op *op = arguments;
    const float *x = le_from(base, op->x);
    float *y = le_to(base, op->y);
    for (int i = 0; i < op->count; i++, x += op->step_x, y += op->step_y) {
        for (int j = 0; j < op->length; j++) y[j] = x[j];
    }
    return 0;
}

/* --- The last frames of a value --------------------------------------------------------------------------
 */

LE_INLINE int le_oldest(const float *past, int frames, int n) {
    const float index = past[frames * n];
    return index > 0.0f && index < (float)frames ? (int)index : 0;
}

/* y = `count` frames, `dilation` apart from number `first` on: 0 is the oldest, `frames` is the first of x.
 */
int le_window(const void *arguments, const le_base *base) {
    const le_ring_op *op = arguments;
    const float *past = le_from(base, op->past), *x = le_from(base, op->x);
    float *y = le_to(base, op->y);
    const int oldest = le_oldest(past, op->frames, op->n);
    for (int i = 0, frame = op->first; i < op->count; i++, frame += op->dilation) {
        const int index = oldest + frame < op->frames ? oldest + frame : oldest + frame - op->frames;
        const float *from = frame < op->frames ? past + index * op->n : x + (frame - op->frames) * op->n;
        for (int j = 0; j < op->n; j++) *y++ = from[j];
    }
    return 0;
}

/* Replace the oldest frames by the `count` frames of x. */
int le_push(const void *arguments, const le_base *base) {
    const le_ring_op *op = arguments;
    const float *x = le_from(base, op->x);
    float *past = le_to(base, op->past);
    int oldest = le_oldest(past, op->frames, op->n);
    for (int i = 0; i < op->count; i++) {
        for (int j = 0; j < op->n; j++) past[oldest * op->n + j] = *x++;
        if (++oldest == op->frames) oldest = 0;
    }
    past[op->frames * op->n] = (float)oldest;
    return 0;
}

int le_depthwise(const void *arguments, const le_base *base) {
    const le_depthwise_op *op = arguments;
    const float *x = le_from(base, op->x), *w = op->weights, *bias = op->bias;
    float *y = le_to(base, op->y);
    const int n = op->n;
    LE_EACH(i, n) {
        const int left = n - i;
        le_vf sum = !w ? le_load(x + i, left) : bias ? le_load(bias + i, left) : LE_ZERO;
        for (int j = 0; j < op->k; j++) {
            const le_vf v = le_load(x + j * n + i, left);
            if (w) sum = LE_FMA(v, le_load(w + j * n + i, left), sum);
            else sum = le_pick(LE_IF(sum < v) | LE_IF(v != v), v, sum);
        }
        le_store(y + i, sum, left);
    }
    return 0;
}

/* --- Products --------------------------------------------------------------------------------------------
 */

#define LE_4(F) F(0) F(1) F(2) F(3)
#if LE_LANES == 4
#define LE_16(F) LE_4(F)
#else
#define LE_16(F) LE_4(F) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12) F(13) F(14) F(15)
#endif

void le_float_product(const le_matrix *matrix, const le_base *base, const float *start, const float *x,
                      float *y) {
    const float *w = matrix->weights, *const end = x + matrix->columns;
    int m = matrix->rows;
    (void)base;
#define LE_BEGIN(i)  le_vf a##i = le_load(start + i * LE_LANES, LE_LANES);
#define LE_ADD_TO(i) a##i = LE_FMA(v, le_load(w + i * LE_LANES, LE_LANES), a##i);
#define LE_END(i)    le_store(y + i * LE_LANES, a##i, LE_LANES);
#if LE_LANES == 4 && !defined(__ARM_FEATURE_MVE)
    /* 32 outputs: eight sums hide the latency of an addition. */
    const int next = 16 * matrix->columns;
#define LE_BEGIN_NEXT(i) le_vf b##i = le_load(start + 16 + i * LE_LANES, LE_LANES);
#define LE_ADD_NEXT(i)   b##i = LE_FMA(v, le_load(w + next + i * LE_LANES, LE_LANES), b##i);
#define LE_END_NEXT(i)   le_store(y + 16 + i * LE_LANES, b##i, LE_LANES);
    for (; m >= 32; m -= 32, w += next, y += 32, start += 32) {
        const float *in = x;
        LE_4(LE_BEGIN) LE_4(LE_BEGIN_NEXT) do {
            const le_vf v = le_set(*in++);
            LE_4(LE_ADD_TO) LE_4(LE_ADD_NEXT) w += 16;
        }
        while (in != end);
        LE_4(LE_END) LE_4(LE_END_NEXT)
    }
#endif
    for (; m >= 16; m -= 16, y += 16, start += 16) {
        const float *in = x;
        LE_16(LE_BEGIN)
        do {
            const le_vf v = le_set(*in++);
            LE_16(LE_ADD_TO)
            w += 16;
        } while (in != end);
        LE_16(LE_END)
    }
    const int many = m & ~3;
    const float *rest = w + many * matrix->columns;
    for (int i = 0; i < many; i += 4, w += 4) {
#define LE_BEGIN1(i)  float b##i = *start++;
#define LE_ADD_TO1(i) b##i = LE_FMA1(*in, v[i], b##i);
#define LE_END1(i)    *y++ = b##i;
        const float *in = x, *v = w;
        LE_4(LE_BEGIN1)
        do {
            LE_4(LE_ADD_TO1)
            v += many;
        } while (++in != end);
        LE_4(LE_END1)
    }
    for (m &= 3; m > 0; m--) {
        const float *in = x;
        float sum = *start++;
        do sum = LE_FMA1(*in, *rest++, sum);
        while (++in != end);
        *y++ = sum;
    }
}

void le_stored_product(const le_matrix *matrix, const le_base *base, const float *start, const float *x,
                       float *y) {
    const int8_t *w = matrix->weights;
    const int k = matrix->columns;
    (void)base;
    for (int i = 0; i < matrix->rows; i++) {
        float sum = 0.0f;
        for (int j = 0; j < k; j++) sum = LE_FMA1(x[j], (float)*w++, sum);
        y[i] = LE_FMA1(matrix->scales[i], sum, start[i]);
    }
}

#if !defined(__ARM_FEATURE_MVE) && defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_UNALIGNED) &&         \
    defined(__thumb2__) && defined(__OPTIMIZE__)
#define LE_DSP 1 /* the loop needs twelve registers, which compilers have that optimize */
#define LE_ORDER(i)                                                                                          \
    (((i) & ~3) | ((i) & 1) << 1 | ((i) & 2) >> 1) /* 0 2 1 3, 4 6 5 7: as sxtb16 takes weights apart */
#else
#define LE_ORDER(i) (i)
#endif

LE_INLINE int32_t le_word(const void *p) {
    int32_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

LE_INLINE float le_number(int32_t bits) {
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

/*
 * Quantize k numbers to 8 bits as DynamicQuantizeLinear does, take off the zero point, and return the scale,
 * NaN where one is not finite; `q` goes on to a multiple of 4. Numbers are compared by their bits: cheap
 * without a floating-point unit, too.
 */
static float le_quantize(const float *x, int k, int16_t *q) {
    const float magic =
        12582912.0f; /* 1.5 * 2^23: a sum with it is rounded to a whole number, in its low bits */
    const int32_t infinity = 0x7F800000, normal = 0x00800000, whole = 0x4B400000;
    int32_t high = 0;           /* the bits of the largest number */
    uint32_t low = 0x80000000u; /* and of the smallest: more bits below the sign are less */
    int i = 0;
    do {
        const int32_t bits = le_word(x + i);
        if (bits > high) high = bits;
        if ((uint32_t)bits > low) low = (uint32_t)bits;
    } while (++i < k);
    const float most = high < normal ? 0.0f : le_number(high);
    const float least = low < 0x80800000u ? 0.0f : le_number((int32_t)low);
    float scale = (most - least) / 255.0f;
    if (le_word(&scale) >= infinity) scale = most / 255.0f - least / 255.0f;
    if (le_word(&scale) < normal) scale = 1.0f;
    scale += most - most + (least - least); /* NaN where one of them is not finite */
    const float shifted = -least / scale + magic;
    int32_t zero = le_word(&shifted) - whole;
    zero = zero < 0 ? 0 : zero > 255 ? 255 : zero;
    const int32_t offset = zero - whole;
    memset(q + ((k - 1) & ~3), 0, 4 * sizeof *q);
    i = 0;
    do {
        const float rounded = x[i] / scale + magic;
        int32_t value = le_word(&rounded) + offset;
        value = value < 0 ? 0 : value > 255 ? 255 : value;
        q[LE_ORDER(i)] = (int16_t)(value - zero);
    } while (++i < k);
    return scale;
}

/* Sums of the products of k quantized inputs and the weights of 4 outputs, which lie `stride` apart. Exact.
 */
#if defined(__ARM_FEATURE_MVE)
static
    __attribute__((noinline)) /* inside of its caller it has too few registers */
#else
LE_INLINE
#endif
    void
    le_dots(const int8_t *w, int stride, const int16_t *q, int k, int32_t *sums) {
#define LE_BEGIN8(i) int32_t a##i = 0;
#define LE_END8(i)   sums[i] = a##i;
#if defined(__ARM_FEATURE_MVE)
#define LE_ADD_TO8(i) a##i = vmladavaq_p_s16(a##i, x, vldrbq_z_s16(w + i * stride, some), some);
    if (k < 1) __builtin_unreachable(); /* without it gcc makes no loop with tail predication */
    LE_4(LE_BEGIN8)
    for (; k > 0; k -= 8, w += 8, q += 8) {
        const mve_pred16_t some = vctp16q((uint32_t)k);
        const int16x8_t x = vldrhq_z_s16(q, some);
        LE_4(LE_ADD_TO8)
    }
    LE_4(LE_END8)
#elif defined(LE_DSP)
    const int16_t *end = q + k;
    int32_t x02, x13, four, two;
    LE_4(LE_BEGIN8)
#define LE_ADD_PAIRS(a)                                                                                      \
    "sxtb16 %[two], %[four]\n\tsmlad " a ", %[two], %[x02], " a "\n\t"                                       \
    "sxtb16 %[four], %[four], ror #8\n\tsmlad " a ", %[four], %[x13], " a "\n\t"
    /* clang-format off */
    __asm__("1:\tldrd %[x02], %[x13], [%[q]], #8\n\t"
            "ldr %[four], [%[w], %[stride]]\n\t" LE_ADD_PAIRS("%[a1]")
            "ldr %[four], [%[w], %[stride], lsl #1]\n\t" LE_ADD_PAIRS("%[a2]")
            "add %[four], %[w], %[stride]\n\tldr %[four], [%[four], %[stride], lsl #1]\n\t" LE_ADD_PAIRS("%[a3]")
            "ldr %[four], [%[w]], #4\n\t" LE_ADD_PAIRS("%[a0]")
            "cmp %[q], %[end]\n\tblo 1b"
            : [a0] "+&r"(a0), [a1] "+&r"(a1), [a2] "+&r"(a2), [a3] "+&r"(a3), [w] "+&r"(w), [q] "+&r"(q),
              [x02] "=&r"(x02), [x13] "=&r"(x13), [four] "=&r"(four), [two] "=&r"(two)
            : [stride] "r"(stride), [end] "r"(end)
            : "memory", "cc");
    /* clang-format on */
    LE_4(LE_END8)
#elif LE_LANES > 1
    for (int r = 0; r < 4; r++, w += stride) {
        int32_t sum = 0;
        for (int j = 0; j < k; j++) sum += (int16_t)w[j] * q[j];
        sums[r] = sum;
    }
#else
#define LE_ADD_TO8(i) a##i += w[j + i * stride] * q[j];
    LE_4(LE_BEGIN8)
    for (int j = 0; j < k; j++) {
        LE_4(LE_ADD_TO8)
    }
    LE_4(LE_END8)
#endif
}

/* Up to 3 bytes after the last weight are read. */
LE_INLINE void le_int8_rows(const le_matrix *matrix, const le_base *base, const bool scaled,
                            const float *start, const float *x, float *y) {
    const int8_t *w = matrix->weights;
    const float *scales = matrix->scales;
    int16_t *q = base[LE_QUANTIZED].to;
    const int k = matrix->columns;
    const float input_scale = le_quantize(x, k, q), scale = scaled ? input_scale : input_scale * *scales;
    for (int m = matrix->rows, some = 4; m > 0; m -= some, w += some * k) {
        int32_t sums[4];
        if (m < 4) some = 1;
        le_dots(w, m < 4 ? 0 : k, q, k, sums);
#if LE_LANES == 4
        if (m >= 4) {
            le_vi four;
            memcpy(&four, sums, sizeof four);
            const le_vf factor = scaled ? le_load(scales, 4) * scale : le_set(scale);
            le_store(y, le_load(start, 4) + __builtin_convertvector(four, le_vf) * factor, 4);
            y += 4, start += 4, scales += scaled ? 4 : 0;
            continue;
        }
#endif
        for (int i = 0; i < some; i++)
            *y++ = *start++ + (float)sums[i] * (scaled ? *scales++ * scale : scale);
    }
}

void le_int8_product(const le_matrix *matrix, const le_base *base, const float *start, const float *x,
                     float *y) {
    le_int8_rows(matrix, base, false, start, x, y);
}

void le_int8_scaled_product(const le_matrix *matrix, const le_base *base, const float *start, const float *x,
                            float *y) {
    le_int8_rows(matrix, base, true, start, x, y);
}

int le_linear(const void *arguments, const le_base *base) {
    const le_linear_op *op = arguments;
    const le_matrix *w = &op->w;
    const float *x = le_from(base, op->x), *start = le_from(base, op->start);
    float *y = le_to(base, op->y);
    for (int i = op->count; i > 0; i--, x += w->columns, y += w->rows) w->product(w, base, start, x, y);
    return 0;
}

/* Not fused: they give the same bits on every processor. */
#define LE_MIX(name, sum)                                                                                    \
    int le_##name(const void *arguments, const le_base *base) {                                              \
        const le_mix_op *op = arguments;                                                                     \
        const float *from_a = le_from(base, op->a), *from_b = le_from(base, op->b);                          \
        const float *from_c = le_from(base, op->c), *from_d = le_from(base, op->d);                          \
        float *y = le_to(base, op->y);                                                                       \
        int n = op->n;                                                                                       \
        (void)from_c;                                                                                        \
        do {                                                                                                 \
            const le_vf a = le_load(from_a, n), b = le_load(from_b, n), d = le_load(from_d, n);              \
            le_store(y, sum, n);                                                                             \
            from_a += LE_LANES, from_b += LE_LANES, from_c += LE_LANES, from_d += LE_LANES;                  \
            y += LE_LANES, n -= LE_LANES;                                                                    \
        } while (LE_MORE(n));                                                                                \
        return 0;                                                                                            \
    }
LE_MIX(mix, a *b + le_load(from_c, n) * d)
LE_MIX(blend, a *b + (1.0f - a) * d)
LE_MIX(accumulate, a *b + d)

/* --- The state of a source -------------------------------------------------------------------------------
 */

void le_reset(float *state, const float *reset, int n) {
    for (int i = 0; i < n; i++) state[i] = reset ? reset[i] : 0.0f;
}

void le_compare(const float *got, const float *expected, const float *limits, int n, float *worst,
                int *passed) {
    for (int i = 0; i < n; i++) {
        const float difference = got[i] == expected[i] ? 0.0f : fabsf(got[i] - expected[i]);
        if (!(difference <= limits[i])) *passed = 0; /* NaN, too */
        if (!(difference <= *worst)) *worst = difference;
    }
}
