/*
 * Kernels of networks in C99. SPDX-License-Identifier: Apache-2.0
 *
 * A multiplication and an addition are fused in LC_FMA and nowhere else, which float32 products alone use.
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
#define LC_INLINE static inline __attribute__((always_inline, unused))
#else
#define LC_INLINE static inline
#endif

#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 2)
#include <arm_mve.h>
#define LC_LANES        4
#define LC_FMA(a, b, c) ((lc_vf)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#elif defined(__GNUC__) && defined(__aarch64__)
#include <arm_neon.h>
#define LC_LANES        4
#define LC_FMA(a, b, c) ((lc_vf)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#elif defined(__GNUC__) && defined(__SSE2__)
#define LC_LANES        4
#define LC_FMA(a, b, c) ((a) * (b) + (c))
#else
#define LC_LANES 1
#define LC_FMA   LC_FMA1
#endif
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__FP_FAST_FMAF)
#define LC_FMA1(a, b, c) __builtin_fmaf(a, b, c)
#else
#define LC_FMA1(a, b, c) ((a) * (b) + (c))
#endif

#if LC_LANES == 4
#if defined(__GNUC__) && !defined(__clang__) && !defined(__ARM_FEATURE_MVE)
#pragma GCC optimize("tree-vectorize", "vect-cost-model=dynamic") /* the loop over int8 weights at -O2, too  \
                                                                   */
#endif
typedef float lc_vf __attribute__((vector_size(16)));
typedef int32_t lc_vi __attribute__((vector_size(16)));
typedef uint32_t lc_vu __attribute__((vector_size(16)));
LC_INLINE lc_vf lc_set(float x) {
    lc_vf zero = {0.0f};
    return x - zero;
}
LC_INLINE lc_vf lc_pick(lc_vi mask, lc_vf a, lc_vf b) {
    return (lc_vf)(((lc_vi)a & mask) | ((lc_vi)b & ~mask));
}
LC_INLINE lc_vi lc_bits(lc_vf x) { return (lc_vi)x; }
LC_INLINE lc_vf lc_float(lc_vi x) { return (lc_vf)x; }
/* Load or store the first `left` numbers of a vector. */
LC_INLINE lc_vf lc_load(const float *p, int left) {
    lc_vf v = lc_set(0.0f);
#if defined(__ARM_FEATURE_MVE)
    if (!__builtin_constant_p(left)) return (lc_vf)vldrwq_z_f32(p, vctp32q((uint32_t)left));
#endif
    if (left >= 4) memcpy(&v, p, sizeof v);
    else memcpy(&v, p, (size_t)left * sizeof *p);
    return v;
}
LC_INLINE void lc_store(float *p, lc_vf v, int left) {
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
typedef float lc_vf;
typedef int32_t lc_vi;
typedef uint32_t lc_vu;
LC_INLINE lc_vf lc_set(float x) { return x; }
LC_INLINE lc_vf lc_pick(lc_vi mask, lc_vf a, lc_vf b) { return mask ? a : b; }
LC_INLINE lc_vi lc_bits(lc_vf x) {
    lc_vi bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
LC_INLINE lc_vf lc_float(lc_vi bits) {
    lc_vf x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
#define lc_load(p, left)     ((void)(left), *(p))
#define lc_store(p, v, left) ((void)(left), (void)(*(p) = (v)))
#endif
#define LC_IF(condition) ((lc_vi)(condition))
#define LC_EACH(i, n)    for (int i = 0; i < (n); i += LC_LANES)
#define LC_OFFSET        0xFFFFFFu
LC_INLINE float *lc_to(const lc_base *base, lc_ref ref) {
    return (float *)base[ref >> 24].to + (ref & LC_OFFSET);
}
LC_INLINE const float *lc_from(const lc_base *base, lc_ref ref) {
    return (const float *)base[ref >> 24].from + (ref & LC_OFFSET);
}

int lc_run(const lc_op *ops, int count, const lc_base *base) {
    int result = 0;
    for (; count > 0 && result == 0; count--, ops++) result = ops->run(ops->arguments, base);
    return result;
}

/* --- Functions -------------------------------------------------------------------------------------------
 */

LC_INLINE lc_vf lc_larger(lc_vf a, lc_vf x) { return lc_pick(LC_IF(a > x), a, x); } /* x where one is NaN */
LC_INLINE lc_vf lc_smaller(lc_vf a, lc_vf x) { return lc_pick(LC_IF(a < x), a, x); }

/* x between two limits, -low at most high; NaN is NaN. */
LC_INLINE lc_vf lc_limited(float low, float high, lc_vf x) {
#if LC_LANES == 1
    if (((uint32_t)lc_bits(x) & 0x7FFFFFFFu) <= (uint32_t)lc_bits(-low))
        return x; /* by its bits: usual and cheap */
#endif
    return lc_smaller(lc_set(high), lc_larger(lc_set(low), x));
}

/* exp(x) within 2 ULP: 2^n * exp(f) with |f| <= log(2) / 2 and the polynomial of Cephes' expf. */
LC_INLINE lc_vf lc_exp_of(lc_vf x) {
    x = lc_limited(-87.3365f, 88.8f, x);
    lc_vf shifted =
        x * 1.44269504088896341f + 12582912.0f; /* 1.5 * 2^23: the sum is rounded to a whole number */
    lc_vf n = shifted - 12582912.0f;
    lc_vf f = n * -0.693359375f + x;
    f = n * 2.12194440e-4f + f;
    lc_vf p = f * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * f * f + f + 1.0f;
    /* 2^(n - 1), then twice: n is 128 at the upper end. At the lower end the exponent field is 0. */
    p *= lc_float((lc_vi)(((lc_vu)lc_bits(shifted) - 0x4B400000u + 126u) << 23));
    return p + p;
}

LC_INLINE lc_vf lc_sigmoid_of(lc_vf x) { return 1.0f / (1.0f + lc_exp_of(-x)); }

/* tanh(x) by the rational approximation of degree 13 over 6 that Eigen and onnxruntime use, within 4 ULP. */
LC_INLINE lc_vf lc_tanh_of(lc_vf x) {
    x = lc_limited(-9.0f, 9.0f, x);
    lc_vf s = x * x;
    lc_vf p = s * -2.76076847742355e-16f + 2.00018790482477e-13f;
    p = p * s + -8.60467152213735e-11f;
    p = p * s + 5.12229709037114e-08f;
    p = p * s + 1.48572235717979e-05f;
    p = p * s + 6.37261928875436e-04f;
    p = p * s + 4.89352455891786e-03f;
    lc_vf q = s * 1.19825839466702e-06f + 1.18534705686654e-04f;
    q = q * s + 2.26843463243900e-03f;
    q = q * s + 4.89352518554385e-03f;
    return x * p / q;
}

/* A function of the standard library, number by number. */
LC_INLINE lc_vf lc_by_lane(lc_vf x, float (*f)(float)) {
    float lane[LC_LANES];
    memcpy(lane, &x, sizeof lane);
    for (int i = 0; i < LC_LANES; i++) lane[i] = f(lane[i]);
    memcpy(&x, lane, sizeof lane);
    return x;
}
static inline float lc_softplus_of(float x) {
    return log1pf(expf(-fabsf(x))) + (x > 0.0f || x != x ? x : 0.0f);
}

#define LC_ALPHA lc_set(f->alpha)
#define LC_BETA  lc_set(f->beta)
#define LC_ZERO  lc_set(0.0f)
/* Sizes are at least 1, and compilers that optimize for size need a test less a turn for do than for while.
 */
#define LC_MORE(n) (LC_LANES == 1 ? (n) != 0 : (n) > 0) /* a comparison less a turn */
#define LC_MAP(name, result)                                                                                 \
    void lc_##name(const lc_function *f, const float *from, float *y, int n) {                               \
        (void)f;                                                                                             \
        do {                                                                                                 \
            const lc_vf x = lc_load(from, n);                                                                \
            lc_store(y, result, n);                                                                          \
            from += LC_LANES, y += LC_LANES, n -= LC_LANES;                                                  \
        } while (LC_MORE(n));                                                                                \
    }
LC_MAP(identity, x)
LC_MAP(relu, lc_larger(LC_ZERO, x))
LC_MAP(sigmoid, lc_sigmoid_of(x))
LC_MAP(tanh, lc_tanh_of(x))
LC_MAP(affine, LC_ALPHA *x + LC_BETA)
LC_MAP(leaky_relu, lc_pick(LC_IF(x < LC_ZERO), LC_ALPHA *x, x))
LC_MAP(thresholded_relu, lc_pick(LC_IF(x <= LC_ALPHA), LC_ZERO, x))
LC_MAP(scaled_tanh, LC_ALPHA *lc_tanh_of(LC_BETA *x))
LC_MAP(hard_sigmoid, lc_smaller(lc_set(1.0f), lc_larger(LC_ZERO, LC_ALPHA *x + LC_BETA)))
LC_MAP(elu, lc_pick(LC_IF(x < LC_ZERO), LC_ALPHA *(lc_exp_of(x) - 1.0f), x))
LC_MAP(softsign, x / (1.0f + lc_larger(x, -x)))
LC_MAP(softplus, lc_by_lane(x, lc_softplus_of))
LC_MAP(selu, LC_BETA *lc_pick(LC_IF(x < LC_ZERO), LC_ALPHA *(lc_exp_of(x) - 1.0f), x))
LC_MAP(clip, lc_smaller(LC_BETA, lc_larger(LC_ALPHA, x)))
LC_MAP(gelu, 0.5f * x * (1.0f + lc_by_lane(x * 0.70710678118654752f, erff)))
LC_MAP(abs, lc_float((lc_vi)((lc_vu)lc_bits(x) & 0x7FFFFFFFu)))
LC_MAP(negate, -x)
LC_MAP(exp, lc_exp_of(x))
LC_MAP(log, lc_by_lane(x, logf))
LC_MAP(sqrt, lc_by_lane(x, sqrtf))
LC_MAP(reciprocal, 1.0f / x)
LC_MAP(erf, lc_by_lane(x, erff))
LC_MAP(gelu_tanh, x *lc_sigmoid_of(1.5957691216057308f * (0.044715f * x * x * x + x)))
LC_MAP(floor, lc_by_lane(x, floorf))
LC_MAP(ceil, lc_by_lane(x, ceilf))
LC_MAP(round, lc_by_lane(x, rintf))
LC_MAP(sin, lc_by_lane(x, sinf))
LC_MAP(cos, lc_by_lane(x, cosf))

#define LC_PAIR(name, result)                                                                                \
    void lc_##name(const float *left, int step_a, const float *right, int step_b, float *y, int n) {         \
        do {                                                                                                 \
            const lc_vf a = step_a || LC_LANES == 1 ? lc_load(left, n) : lc_set(*left);                      \
            const lc_vf b = step_b || LC_LANES == 1 ? lc_load(right, n) : lc_set(*right);                    \
            lc_store(y, result, n);                                                                          \
            left += step_a, right += step_b, y += LC_LANES, n -= LC_LANES;                                   \
        } while (LC_MORE(n));                                                                                \
    }
LC_PAIR(add, a + b)
LC_PAIR(subtract, a - b)
LC_PAIR(multiply, a *b)
LC_PAIR(divide, a / b)
LC_PAIR(maximum, lc_pick(LC_IF(a < b) | LC_IF(b != b), b, a))
LC_PAIR(minimum, lc_pick(LC_IF(a > b) | LC_IF(b != b), b, a))
LC_PAIR(prelu, lc_pick(LC_IF(a < LC_ZERO), a *b, a))
LC_PAIR(less, lc_pick(LC_IF(a < b), lc_set(1.0f), LC_ZERO))
LC_PAIR(less_equal, lc_pick(LC_IF(a <= b), lc_set(1.0f), LC_ZERO))
LC_PAIR(equal, lc_pick(LC_IF(a == b), lc_set(1.0f), LC_ZERO))

void lc_power(const float *a, int step_a, const float *b, int step_b, float *y, int n) {
    for (int i = 0; i < n; i++) y[i] = powf(a[step_a ? i : 0], b[step_b ? i : 0]);
}

int lc_unary(const void *arguments, const lc_base *base) {
    const lc_unary_op *op = arguments;
    op->f.map(&op->f, lc_from(base, op->x), lc_to(base, op->y), op->n);
    return 0;
}

int lc_binary(const void *arguments, const lc_base *base) {
    const lc_binary_op *op = arguments;
    op->pair(lc_from(base, op->a), op->many_a * LC_LANES, lc_from(base, op->b), op->many_b * LC_LANES,
             lc_to(base, op->y), op->n);
    return 0;
}

int lc_where(const void *arguments, const lc_base *base) {
    const lc_where_op *op = arguments;
    const float *condition = lc_from(base, op->condition), *a = lc_from(base, op->a),
                *b = lc_from(base, op->b);
    float *y = lc_to(base, op->y);
    for (int i = 0; i < op->n; i++) y[i] = condition[i] != 0.0f ? a[i] : b[i];
    return 0;
}

/* --- Rows of numbers -------------------------------------------------------------------------------------
 */

LC_INLINE float lc_most(const float *x, int n) {
    float most = x[0];
    for (int i = 1; i < n; i++) most = x[i] > most || x[i] != x[i] ? x[i] : most; /* NaN where one is in it */
    return most;
}

int lc_softmax(const void *arguments, const lc_base *base) {
    const lc_rows_op *op = arguments;
    const float *x = lc_from(base, op->x);
    float *y = lc_to(base, op->y);
    const int n = op->length;
    for (int row = 0; row < op->count; row++, x += n, y += n) {
        const float most = lc_most(x, n);
        float all = 0.0f;
        LC_EACH(i, n) lc_store(y + i, lc_exp_of(lc_load(x + i, n - i) - most), n - i);
        for (int i = 0; i < n; i++) all += y[i];
        for (int i = 0; i < n; i++) y[i] /= all;
    }
    return 0;
}

int lc_log_softmax(const void *arguments, const lc_base *base) {
    const lc_rows_op *op = arguments;
    const float *x = lc_from(base, op->x);
    float *y = lc_to(base, op->y);
    const int n = op->length;
    for (int row = 0; row < op->count; row++, x += n, y += n) {
        const float most = lc_most(x, n);
        float all = 0.0f;
        for (int i = 0; i < n; i++) {
            float one[LC_LANES];
            lc_store(one, lc_exp_of(lc_set(x[i] - most)), LC_LANES);
            all += one[0];
        }
        all = logf(all);
        for (int i = 0; i < n; i++) y[i] = x[i] - most - all;
    }
    return 0;
}

int lc_normalize(const void *arguments, const lc_base *base) {
    const lc_rows_op *op = arguments;
    const float *x = lc_from(base, op->x), *scale = op->scale, *bias = op->bias;
    float *y = lc_to(base, op->y);
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

LC_INLINE int64_t lc_whole_at(const float *from, int i) {
    int64_t number;
    memcpy(&number, from + 2 * i, sizeof number);
    return number;
}

LC_INLINE int64_t lc_combined(lc_whole_kind kind, int64_t a, int64_t b) {
    const uint64_t left = (uint64_t)a, right = (uint64_t)b;
    switch (kind) {
    case LC_ADD: return (int64_t)(left + right);
    case LC_SUBTRACT: return (int64_t)(left - right);
    case LC_MULTIPLY: return (int64_t)(left * right);
    case LC_DIVIDE: return b == 0 ? 0 : b == -1 ? (int64_t)(0 - left) : a / b;
    case LC_MAXIMUM: return a > b ? a : b;
    case LC_MINIMUM: return a < b ? a : b;
    case LC_LESS: return a < b;
    case LC_LESS_EQUAL: return a <= b;
    default: return a == b; /* LC_EQUAL */
    }
}

int lc_whole(const void *arguments, const lc_base *base) {
    const lc_whole_op *op = arguments;
    const float *a = lc_from(base, op->a), *b = lc_from(base, op->b);
    float *y = lc_to(base, op->y);
    for (int i = 0; i < op->n; i++) {
        const int64_t left = lc_whole_at(a, op->many_a ? i : 0), right = lc_whole_at(b, op->many_b ? i : 0);
        const int64_t result = lc_combined(op->kind, left, right);
        memcpy(y + 2 * i, &result, sizeof result);
    }
    return 0;
}

/* A float truncated to a type; its least number where that cannot hold it. */
LC_INLINE int64_t lc_truncated(float x, lc_type to) {
    const float end = to == LC_INT32 ? 2147483648.0f : 9223372036854775808.0f;
    if (x >= -end && x < end) return (int64_t)x;
    return to == LC_INT32 ? INT32_MIN : INT64_MIN;
}

int lc_cast(const void *arguments, const lc_base *base) {
    const lc_cast_op *op = arguments;
    const float *x = lc_from(base, op->x);
    const int32_t *whole = (const int32_t *)base[op->x >> 24].from;
    float *y = lc_to(base, op->y);
    for (int i = 0; i < op->n; i++) {
        int64_t number = op->from == LC_FLOAT   ? lc_truncated(x[i], op->to)
                         : op->from == LC_INT32 ? whole[i]
                                                : lc_whole_at(x, i);
        if (op->to == LC_INT32) number = (int32_t)(uint32_t)number;
        if (op->to == LC_FLOAT) y[i] = (float)number;
        else memcpy(y + 2 * i, &number, sizeof number);
    }
    return 0;
}

/* The row of a table that an index names, counted from the end where it is negative; -1 where there is none.
 */
LC_INLINE int lc_row(const lc_gather_op *op, const lc_base *base, int i) {
    const int32_t *narrow = (const int32_t *)base[op->index >> 24].from;
    const int64_t index = op->type == LC_INT32 ? narrow[i] : lc_whole_at(lc_from(base, op->index), i);
    return index < -op->rows || index >= op->rows ? -1 : (int)(index < 0 ? index + op->rows : index);
}

/* End the step with 1 where a table lacks a row, before anything is written. */
int lc_check_rows(const void *arguments, const lc_base *base) {
    const lc_gather_op *op = arguments;
    for (int i = 0; i < op->count; i++) {
        if (lc_row(op, base, i) < 0) return 1;
    }
    return 0;
}

int lc_gather(const void *arguments, const lc_base *base) {
    const lc_gather_op *op = arguments;
    const float *floats = op->table;
    const int8_t *bytes = op->table;
    float *y = lc_to(base, op->y);
    for (int i = 0; i < op->count; i++) {
        const int row = lc_row(op, base, i), start = row * op->columns;
        if (row < 0) return 1;
        for (int j = 0; j < op->columns; j++) {
            *y++ = op->scales ? (float)bytes[start + j] * op->scales[row] : floats[start + j];
        }
    }
    return 0;
}

int lc_copy(const void *arguments, const lc_base *base) {
    const lc_copy_op *op = arguments;
    const float *x = lc_from(base, op->x);
    float *y = lc_to(base, op->y);
    for (int i = 0; i < op->count; i++, x += op->step_x, y += op->step_y) {
        for (int j = 0; j < op->length; j++) y[j] = x[j];
    }
    return 0;
}

/* --- The last frames of a value --------------------------------------------------------------------------
 */

LC_INLINE int lc_oldest(const float *past, int frames, int n) {
    const float index = past[frames * n];
    return index > 0.0f && index < (float)frames ? (int)index : 0;
}

/* y = `count` frames, `dilation` apart from number `first` on: 0 is the oldest, `frames` is the first of x.
 */
int lc_window(const void *arguments, const lc_base *base) {
    const lc_ring_op *op = arguments;
    const float *past = lc_from(base, op->past), *x = lc_from(base, op->x);
    float *y = lc_to(base, op->y);
    const int oldest = lc_oldest(past, op->frames, op->n);
    for (int i = 0, frame = op->first; i < op->count; i++, frame += op->dilation) {
        const int index = oldest + frame < op->frames ? oldest + frame : oldest + frame - op->frames;
        const float *from = frame < op->frames ? past + index * op->n : x + (frame - op->frames) * op->n;
        for (int j = 0; j < op->n; j++) *y++ = from[j];
    }
    return 0;
}

/* Replace the oldest frames by the `count` frames of x. */
int lc_push(const void *arguments, const lc_base *base) {
    const lc_ring_op *op = arguments;
    const float *x = lc_from(base, op->x);
    float *past = lc_to(base, op->past);
    int oldest = lc_oldest(past, op->frames, op->n);
    for (int i = 0; i < op->count; i++) {
        for (int j = 0; j < op->n; j++) past[oldest * op->n + j] = *x++;
        if (++oldest == op->frames) oldest = 0;
    }
    past[op->frames * op->n] = (float)oldest;
    return 0;
}

int lc_depthwise(const void *arguments, const lc_base *base) {
    const lc_depthwise_op *op = arguments;
    const float *x = lc_from(base, op->x), *w = op->weights, *bias = op->bias;
    float *y = lc_to(base, op->y);
    const int n = op->n;
    LC_EACH(i, n) {
        const int left = n - i;
        lc_vf sum = !w ? lc_load(x + i, left) : bias ? lc_load(bias + i, left) : LC_ZERO;
        for (int j = 0; j < op->k; j++) {
            const lc_vf v = lc_load(x + j * n + i, left);
            if (w) sum = LC_FMA(v, lc_load(w + j * n + i, left), sum);
            else sum = lc_pick(LC_IF(sum < v) | LC_IF(v != v), v, sum);
        }
        lc_store(y + i, sum, left);
    }
    return 0;
}

/* --- Products --------------------------------------------------------------------------------------------
 */

#define LC_4(F) F(0) F(1) F(2) F(3)
#if LC_LANES == 4
#define LC_16(F) LC_4(F)
#else
#define LC_16(F) LC_4(F) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12) F(13) F(14) F(15)
#endif

#define LC_BAND 16 /* outputs of a block */

void lc_float_product(const lc_matrix *matrix, const lc_base *base, const float *start, const float *x,
                      float *y) {
    const float *w = matrix->weights, *const end = x + matrix->columns;
    int m = matrix->rows;
    (void)base;
#define LC_BEGIN(i)  lc_vf a##i = lc_load(start + i * LC_LANES, LC_LANES);
#define LC_ADD_TO(i) a##i = LC_FMA(v, lc_load(w + i * LC_LANES, LC_LANES), a##i);
#define LC_END(i)    lc_store(y + i * LC_LANES, a##i, LC_LANES);
#if LC_LANES == 4 && !defined(__ARM_FEATURE_MVE)
    /* 32 outputs: eight sums hide the latency of an addition. */
    const int next = 16 * matrix->columns;
#define LC_BEGIN_NEXT(i) lc_vf b##i = lc_load(start + 16 + i * LC_LANES, LC_LANES);
#define LC_ADD_NEXT(i)   b##i = LC_FMA(v, lc_load(w + next + i * LC_LANES, LC_LANES), b##i);
#define LC_END_NEXT(i)   lc_store(y + 16 + i * LC_LANES, b##i, LC_LANES);
    for (; m >= 32; m -= 32, w += next, y += 32, start += 32) {
        const float *in = x;
        LC_4(LC_BEGIN) LC_4(LC_BEGIN_NEXT) do {
            const lc_vf v = lc_set(*in++);
            LC_4(LC_ADD_TO) LC_4(LC_ADD_NEXT) w += 16;
        }
        while (in != end);
        LC_4(LC_END) LC_4(LC_END_NEXT)
    }
#endif
    for (; m >= 16; m -= 16, y += 16, start += 16) {
        const float *in = x;
        LC_16(LC_BEGIN)
        do {
            const lc_vf v = lc_set(*in++);
            LC_16(LC_ADD_TO)
            w += 16;
        } while (in != end);
        LC_16(LC_END)
    }
    const int many = m & ~3;
    const float *rest = w + many * matrix->columns;
    for (int i = 0; i < many; i += 4, w += 4) {
#define LC_BEGIN1(i)  float b##i = *start++;
#define LC_ADD_TO1(i) b##i = LC_FMA1(*in, v[i], b##i);
#define LC_END1(i)    *y++ = b##i;
        const float *in = x, *v = w;
        LC_4(LC_BEGIN1)
        do {
            LC_4(LC_ADD_TO1)
            v += many;
        } while (++in != end);
        LC_4(LC_END1)
    }
    for (m &= 3; m > 0; m--) {
        const float *in = x;
        float sum = *start++;
        do sum = LC_FMA1(*in, *rest++, sum);
        while (++in != end);
        *y++ = sum;
    }
}

void lc_float_blocks(const lc_matrix *matrix, const lc_base *base, const float *start, const float *x,
                     float *y) {
    const float *w = matrix->weights;
    const uint16_t *block = matrix->blocks;
    (void)base;
    for (int m = matrix->rows; m > 0; m -= LC_BAND, y += LC_BAND, start += LC_BAND) {
        LC_16(LC_BEGIN)
        for (int left = *block++; left > 0; left--, w += LC_BAND) {
            const lc_vf v = lc_set(x[*block++]);
            LC_16(LC_ADD_TO)
        }
        LC_16(LC_END)
    }
}

void lc_stored_blocks(const lc_matrix *matrix, const lc_base *base, const float *start, const float *x,
                      float *y) {
    const int8_t *w = matrix->weights;
    const uint16_t *block = matrix->blocks;
    (void)base;
    for (int row = 0; row < matrix->rows; row += LC_BAND) {
        float sums[LC_BAND] = {0.0f};
        for (int left = *block++; left > 0; left--) {
            const float v = x[*block++];
            for (int i = 0; i < LC_BAND; i++) sums[i] = LC_FMA1(v, (float)*w++, sums[i]);
        }
        for (int i = 0; i < LC_BAND; i++)
            y[row + i] = LC_FMA1(matrix->scales[row + i], sums[i], start[row + i]);
    }
}

void lc_stored_product(const lc_matrix *matrix, const lc_base *base, const float *start, const float *x,
                       float *y) {
    const int8_t *w = matrix->weights;
    const int k = matrix->columns;
    (void)base;
    for (int i = 0; i < matrix->rows; i++) {
        float sum = 0.0f;
        for (int j = 0; j < k; j++) sum = LC_FMA1(x[j], (float)*w++, sum);
        y[i] = LC_FMA1(matrix->scales[i], sum, start[i]);
    }
}

#if !defined(__ARM_FEATURE_MVE) && defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_UNALIGNED) &&         \
    defined(__thumb2__) && defined(__OPTIMIZE__)
#define LC_DSP 1 /* the loop needs twelve registers, which compilers have that optimize */
#define LC_ORDER(i)                                                                                          \
    (((i) & ~3) | ((i) & 1) << 1 | ((i) & 2) >> 1) /* 0 2 1 3, 4 6 5 7: as sxtb16 takes weights apart */
#else
#define LC_ORDER(i) (i)
#endif

LC_INLINE int32_t lc_word(const void *p) {
    int32_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

LC_INLINE float lc_number(int32_t bits) {
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

/*
 * Quantize k numbers to 8 bits as DynamicQuantizeLinear does, take off the zero point, and return the scale,
 * NaN where one is not finite; `q` goes on to a multiple of 4. Numbers are compared by their bits: cheap
 * without a floating-point unit, too.
 */
static float lc_quantize(const float *x, int k, int16_t *q) {
    const float magic =
        12582912.0f; /* 1.5 * 2^23: a sum with it is rounded to a whole number, in its low bits */
    const int32_t infinity = 0x7F800000, normal = 0x00800000, whole = 0x4B400000;
    int32_t high = 0;           /* the bits of the largest number */
    uint32_t low = 0x80000000u; /* and of the smallest: more bits below the sign are less */
    int i = 0;
    do {
        const int32_t bits = lc_word(x + i);
        if (bits > high) high = bits;
        if ((uint32_t)bits > low) low = (uint32_t)bits;
    } while (++i < k);
    const float most = high < normal ? 0.0f : lc_number(high);
    const float least = low < 0x80800000u ? 0.0f : lc_number((int32_t)low);
    float scale = (most - least) / 255.0f;
    if (lc_word(&scale) >= infinity) scale = most / 255.0f - least / 255.0f;
    if (lc_word(&scale) < normal) scale = 1.0f;
    scale += most - most + (least - least); /* NaN where one of them is not finite */
    const float shifted = -least / scale + magic;
    int32_t zero = lc_word(&shifted) - whole;
    zero = zero < 0 ? 0 : zero > 255 ? 255 : zero;
    const int32_t offset = zero - whole;
    memset(q + ((k - 1) & ~3), 0, 4 * sizeof *q);
    i = 0;
    do {
        const float rounded = x[i] / scale + magic;
        int32_t value = lc_word(&rounded) + offset;
        value = value < 0 ? 0 : value > 255 ? 255 : value;
        q[LC_ORDER(i)] = (int16_t)(value - zero);
    } while (++i < k);
    return scale;
}

/* Sums of the products of k quantized inputs and the weights of 4 outputs, which lie `stride` apart. Exact.
 */
#if defined(__ARM_FEATURE_MVE)
static
    __attribute__((noinline)) /* inside of its caller it has too few registers */
#else
LC_INLINE
#endif
    void
    lc_dots(const int8_t *w, int stride, const int16_t *q, int k, int32_t *sums) {
#define LC_BEGIN8(i) int32_t a##i = 0;
#define LC_END8(i)   sums[i] = a##i;
#if defined(__ARM_FEATURE_MVE)
#define LC_ADD_TO8(i) a##i = vmladavaq_p_s16(a##i, x, vldrbq_z_s16(w + i * stride, some), some);
    if (k < 1) __builtin_unreachable(); /* without it gcc makes no loop with tail predication */
    LC_4(LC_BEGIN8)
    for (; k > 0; k -= 8, w += 8, q += 8) {
        const mve_pred16_t some = vctp16q((uint32_t)k);
        const int16x8_t x = vldrhq_z_s16(q, some);
        LC_4(LC_ADD_TO8)
    }
    LC_4(LC_END8)
#elif defined(LC_DSP)
    const int16_t *end = q + k;
    int32_t x02, x13, four, two;
    LC_4(LC_BEGIN8)
#define LC_ADD_PAIRS(a)                                                                                      \
    "sxtb16 %[two], %[four]\n\tsmlad " a ", %[two], %[x02], " a "\n\t"                                       \
    "sxtb16 %[four], %[four], ror #8\n\tsmlad " a ", %[four], %[x13], " a "\n\t"
    /* clang-format off */
    __asm__("1:\tldrd %[x02], %[x13], [%[q]], #8\n\t"
            "ldr %[four], [%[w], %[stride]]\n\t" LC_ADD_PAIRS("%[a1]")
            "ldr %[four], [%[w], %[stride], lsl #1]\n\t" LC_ADD_PAIRS("%[a2]")
            "add %[four], %[w], %[stride]\n\tldr %[four], [%[four], %[stride], lsl #1]\n\t" LC_ADD_PAIRS("%[a3]")
            "ldr %[four], [%[w]], #4\n\t" LC_ADD_PAIRS("%[a0]")
            "cmp %[q], %[end]\n\tblo 1b"
            : [a0] "+&r"(a0), [a1] "+&r"(a1), [a2] "+&r"(a2), [a3] "+&r"(a3), [w] "+&r"(w), [q] "+&r"(q),
              [x02] "=&r"(x02), [x13] "=&r"(x13), [four] "=&r"(four), [two] "=&r"(two)
            : [stride] "r"(stride), [end] "r"(end)
            : "memory", "cc");
    /* clang-format on */
    LC_4(LC_END8)
#elif LC_LANES > 1
    for (int r = 0; r < 4; r++, w += stride) {
        int32_t sum = 0;
        for (int j = 0; j < k; j++) sum += (int16_t)w[j] * q[j];
        sums[r] = sum;
    }
#else
#define LC_ADD_TO8(i) a##i += w[j + i * stride] * q[j];
    LC_4(LC_BEGIN8)
    for (int j = 0; j < k; j++) {
        LC_4(LC_ADD_TO8)
    }
    LC_4(LC_END8)
#endif
}

#define LC_INT8_BAND 8 /* outputs of a block */

/* Sums of the products of 4 outputs of a band with `count` blocks, each output's 4 weights after the other's.
 * Exact. */
LC_INLINE void lc_dots_of_blocks(const int8_t *w, const uint16_t *block, int count, const int16_t *q,
                                 int32_t *sums) {
    LC_4(LC_BEGIN8)
    for (; count > 0; count--, w += 4 * LC_INT8_BAND) {
        const int16_t *x = q + *block++;
#if defined(__ARM_FEATURE_MVE)
        const int32_t low = lc_word(x), high = lc_word(x + 2);
        const int16x8_t both = vreinterpretq_s16_s32((int32x4_t){low, high, low, high});
        const int16x8_t first = vldrbq_s16(w), last = vldrbq_s16(w + 8);
        a0 = vmladavaq_p_s16(a0, both, first, 0x00FF);
        a1 = vmladavaq_p_s16(a1, both, first, 0xFF00);
        a2 = vmladavaq_p_s16(a2, both, last, 0x00FF);
        a3 = vmladavaq_p_s16(a3, both, last, 0xFF00);
#elif defined(LC_DSP)
        const int32_t x02 = lc_word(x), x13 = lc_word(x + 2);
        int32_t two;
#define LC_ADD_BLOCK(i)                                                                                      \
    __asm__("sxtb16 %[two], %[four]\n\tsmlad %[sum], %[two], %[x02], %[sum]\n\t"                             \
            "sxtb16 %[two], %[four], ror #8\n\tsmlad %[sum], %[two], %[x13], %[sum]"                         \
            : [sum] "+r"(a##i), [two] "=&r"(two)                                                             \
            : [four] "r"(lc_word(w + 4 * i)), [x02] "r"(x02), [x13] "r"(x13));
        LC_4(LC_ADD_BLOCK)
#else
#define LC_ADD_BLOCK(i)                                                                                      \
    a##i += w[4 * i] * x[0] + w[4 * i + 1] * x[1] + w[4 * i + 2] * x[2] + w[4 * i + 3] * x[3];
        LC_4(LC_ADD_BLOCK)
#endif
    }
    LC_4(LC_END8)
}

/* Up to 3 bytes after the last weight are read. */
LC_INLINE void lc_int8_rows(const lc_matrix *matrix, const lc_base *base, const bool scaled,
                            const float *start, const float *x, float *y) {
    const int8_t *w = matrix->weights;
    const float *scales = matrix->scales;
    int16_t *q = base[LC_QUANTIZED].to;
    const int k = matrix->columns;
    const float input_scale = lc_quantize(x, k, q), scale = scaled ? input_scale : input_scale * *scales;
    for (int m = matrix->rows, some = 4; m > 0; m -= some, w += some * k) {
        int32_t sums[4];
        if (m < 4) some = 1;
        lc_dots(w, m < 4 ? 0 : k, q, k, sums);
#if LC_LANES == 4
        if (m >= 4) {
            lc_vi four;
            memcpy(&four, sums, sizeof four);
            const lc_vf factor = scaled ? lc_load(scales, 4) * scale : lc_set(scale);
            lc_store(y, lc_load(start, 4) + __builtin_convertvector(four, lc_vf) * factor, 4);
            y += 4, start += 4, scales += scaled ? 4 : 0;
            continue;
        }
#endif
        for (int i = 0; i < some; i++)
            *y++ = *start++ + (float)sums[i] * (scaled ? *scales++ * scale : scale);
    }
}

void lc_int8_product(const lc_matrix *matrix, const lc_base *base, const float *start, const float *x,
                     float *y) {
    lc_int8_rows(matrix, base, false, start, x, y);
}

void lc_int8_scaled_product(const lc_matrix *matrix, const lc_base *base, const float *start, const float *x,
                            float *y) {
    lc_int8_rows(matrix, base, true, start, x, y);
}

LC_INLINE void lc_int8_bands(const lc_matrix *matrix, const lc_base *base, const bool scaled,
                             const float *start, const float *x, float *y) {
    const int8_t *w = matrix->weights;
    const float *scales = matrix->scales;
    const uint16_t *block = matrix->blocks;
    int16_t *q = base[LC_QUANTIZED].to;
    const float input_scale = lc_quantize(x, matrix->columns, q),
                scale = scaled ? input_scale : input_scale * *scales;
    for (int row = 0; row < matrix->rows; row += LC_INT8_BAND) {
        const int count = *block++;
        int32_t sums[LC_INT8_BAND];
        lc_dots_of_blocks(w, block, count, q, sums);
        lc_dots_of_blocks(w + 2 * LC_INT8_BAND, block, count, q, sums + LC_INT8_BAND / 2);
        w += 4 * LC_INT8_BAND * count;
        block += count;
        for (int i = row; i < row + LC_INT8_BAND; i++)
            y[i] = start[i] + (float)sums[i - row] * (scaled ? scales[i] * scale : scale);
    }
}

void lc_int8_blocks(const lc_matrix *matrix, const lc_base *base, const float *start, const float *x,
                    float *y) {
    lc_int8_bands(matrix, base, false, start, x, y);
}

void lc_int8_scaled_blocks(const lc_matrix *matrix, const lc_base *base, const float *start, const float *x,
                           float *y) {
    lc_int8_bands(matrix, base, true, start, x, y);
}

int lc_linear(const void *arguments, const lc_base *base) {
    const lc_linear_op *op = arguments;
    const lc_matrix *w = &op->w;
    const float *x = lc_from(base, op->x), *start = lc_from(base, op->start);
    float *y = lc_to(base, op->y);
    for (int i = op->count; i > 0; i--, x += w->columns, y += w->rows) w->product(w, base, start, x, y);
    return 0;
}

/* Not fused: they give the same bits on every processor. */
#define LC_MIX(name, sum)                                                                                    \
    int lc_##name(const void *arguments, const lc_base *base) {                                              \
        const lc_mix_op *op = arguments;                                                                     \
        const float *from_a = lc_from(base, op->a), *from_b = lc_from(base, op->b);                          \
        const float *from_c = lc_from(base, op->c), *from_d = lc_from(base, op->d);                          \
        float *y = lc_to(base, op->y);                                                                       \
        int n = op->n;                                                                                       \
        (void)from_c;                                                                                        \
        do {                                                                                                 \
            const lc_vf a = lc_load(from_a, n), b = lc_load(from_b, n), d = lc_load(from_d, n);              \
            lc_store(y, sum, n);                                                                             \
            from_a += LC_LANES, from_b += LC_LANES, from_c += LC_LANES, from_d += LC_LANES;                  \
            y += LC_LANES, n -= LC_LANES;                                                                    \
        } while (LC_MORE(n));                                                                                \
        return 0;                                                                                            \
    }
LC_MIX(mix, a *b + lc_load(from_c, n) * d)
LC_MIX(blend, a *b + (1.0f - a) * d)
LC_MIX(accumulate, a *b + d)

/* --- The state of a source -------------------------------------------------------------------------------
 */

void lc_reset(float *state, const float *reset, int n) {
    for (int i = 0; i < n; i++) state[i] = reset ? reset[i] : 0.0f;
}

void lc_compare(const float *got, const float *expected, const float *limits, int n, float *worst,
                int *passed) {
    for (int i = 0; i < n; i++) {
        const int is_equal = got[i] == expected[i] || (got[i] != got[i] && expected[i] != expected[i]);
        const float difference = is_equal ? 0.0f : fabsf(got[i] - expected[i]);
        if (!(difference <= limits[i])) *passed = 0; /* one NaN, too */
        if (!(difference <= *worst)) *worst = difference;
    }
}
