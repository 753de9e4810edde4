/*
 * Kernels of a network in C, by lstm-edge. SPDX-License-Identifier: Apache-2.0
 *
 * They compute what lstm-edge's native engine computes, for one source and one time step.
 *
 * Every function is static, and the network's own file is the only one that includes this one. A multiplication and
 * an addition are fused in LE_FMA and nowhere else, which products and cells of float32 use. int8 products are exact,
 * and what turns them into float32 and back is never fused: these layers give the same bits on every processor.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__FAST_MATH__)
#error "-ffast-math reorders sums; compile without it"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

/* --- Vectors: LE_LANES floats, 1 where a processor has none ------------------------------------------ */

#if defined(__GNUC__)
#define LE_INLINE static inline __attribute__((always_inline, unused))
#define LE_KERNEL static inline __attribute__((unused))
#define LE_ALIGNED __attribute__((aligned(4 * LE_LANES)))
#else
#define LE_INLINE static inline
#define LE_KERNEL static inline
#define LE_ALIGNED
#endif

#if !defined(__GNUC__)
#define LE_LANES 1
#elif defined(__AVX512F__)
#define LE_LANES 16
#elif defined(__AVX__)
#define LE_LANES 8
#elif defined(__SSE2__) || defined(__aarch64__)
#define LE_LANES 4
#elif defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 2)
#define LE_LANES 4
#else
#define LE_LANES 1
#endif

#if LE_LANES >= 8
#include <immintrin.h>
#endif
#if LE_LANES > 1
typedef float le_vf __attribute__((vector_size(4 * LE_LANES)));
typedef int32_t le_vi __attribute__((vector_size(4 * LE_LANES)));
typedef uint32_t le_vu __attribute__((vector_size(4 * LE_LANES)));
LE_INLINE le_vf le_set(float x) {
    le_vf zero = {0.0f};
    return x - zero;
}
LE_INLINE le_vi le_bits(le_vf x) { return (le_vi)x; }
LE_INLINE le_vf le_float(le_vi x) { return (le_vf)x; }
LE_INLINE le_vf le_pick(le_vi mask, le_vf a, le_vf b) { return (le_vf)(((le_vi)a & mask) | ((le_vi)b & ~mask)); }
/* Load or store the first `count` numbers of a vector. */
LE_INLINE le_vf le_load(const float *p, int count) {
    le_vf v = le_set(0.0f);
    if (count >= LE_LANES) memcpy(&v, p, sizeof v);
#if LE_LANES == 16
    else v = (le_vf)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1u), p);
#elif LE_LANES == 8
    else {
        const le_vi lane = {0, 1, 2, 3, 4, 5, 6, 7};
        v = (le_vf)_mm256_maskload_ps(p, (__m256i)(lane < count));
    }
#else
    else memcpy(&v, p, (size_t)count * sizeof *p);
#endif
    return v;
}
LE_INLINE void le_store(float *p, le_vf v, int count) {
    if (count >= LE_LANES) memcpy(p, &v, sizeof v);
    else memcpy(p, &v, (size_t)count * sizeof *p);
}
#else
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-loop-distribute-patterns") /* no memset in the flash for a few loops */
#endif
typedef float le_vf;
typedef int32_t le_vi;
typedef uint32_t le_vu;
LE_INLINE le_vf le_set(float x) { return x; }
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
LE_INLINE le_vf le_pick(le_vi mask, le_vf a, le_vf b) { return mask ? a : b; }
#define le_load(p, count) ((void)(count), *(p))
#define le_store(p, v, count) ((void)(count), (void)(*(p) = (v)))
#endif
#define LE_IF(condition) ((le_vi)(condition))

#define LE_EACH(i, n) for (int i = 0; i < (n); i += LE_LANES)

/* a * b + c, fused where the processor does that; only in layers of float32. */
#if defined(__FMA__) && LE_LANES == 16
#define LE_FMA(a, b, c) ((le_vf)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#elif defined(__FMA__) && LE_LANES == 8
#define LE_FMA(a, b, c) ((le_vf)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#elif defined(__aarch64__) && LE_LANES == 4
#include <arm_neon.h>
#define LE_FMA(a, b, c) ((le_vf)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#elif LE_LANES == 4 && defined(__ARM_FEATURE_MVE)
#include <arm_mve.h>
#define LE_FMA(a, b, c) ((le_vf)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#elif LE_LANES > 1
#define LE_FMA(a, b, c) ((a) * (b) + (c))
#else
#define LE_FMA LE_FMA1
#endif
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__FP_FAST_FMAF)
#define LE_FMA1(a, b, c) __builtin_fmaf(a, b, c)
#else
#define LE_FMA1(a, b, c) ((a) * (b) + (c))
#endif

/* --- Functions of one and two numbers ---------------------------------------------------------------- */

/* The larger or smaller of two; x where one of them is NaN. */
#if LE_LANES == 16
LE_INLINE le_vf le_larger(le_vf a, le_vf x) { return (le_vf)_mm512_max_ps((__m512)a, (__m512)x); }
LE_INLINE le_vf le_smaller(le_vf a, le_vf x) { return (le_vf)_mm512_min_ps((__m512)a, (__m512)x); }
#elif LE_LANES == 8
LE_INLINE le_vf le_larger(le_vf a, le_vf x) { return (le_vf)_mm256_max_ps((__m256)a, (__m256)x); }
LE_INLINE le_vf le_smaller(le_vf a, le_vf x) { return (le_vf)_mm256_min_ps((__m256)a, (__m256)x); }
#else
LE_INLINE le_vf le_larger(le_vf a, le_vf x) { return le_pick(LE_IF(a > x), a, x); }
LE_INLINE le_vf le_smaller(le_vf a, le_vf x) { return le_pick(LE_IF(a < x), a, x); }
#endif

/* x between two limits, -low at most high; NaN is NaN. */
LE_INLINE le_vf le_limited(float low, float high, le_vf x) {
#if LE_LANES == 1
    if (((uint32_t)le_bits(x) & 0x7FFFFFFFu) <= (uint32_t)le_bits(-low)) return x; /* by its bits: usual and cheap */
#endif
    return le_smaller(le_set(high), le_larger(le_set(low), x));
}

/* exp(x) within 2 ULP: 2^n * exp(f) with |f| <= log(2) / 2 and the polynomial of Cephes' expf. */
LE_INLINE le_vf le_exp(le_vf x) {
    x = le_limited(-87.3365f, 88.8f, x);
    le_vf shifted = x * 1.44269504088896341f + 12582912.0f; /* 1.5 * 2^23: the sum is rounded to a whole number */
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

LE_INLINE le_vf le_sigmoid(le_vf x) { return 1.0f / (1.0f + le_exp(-x)); }

/* tanh(x) by the rational approximation of degree 13 over 6 that Eigen and onnxruntime use, within 4 ULP. */
LE_INLINE le_vf le_tanh(le_vf x) {
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

LE_KERNEL float le_softplus(float x) {
    return log1pf(expf(-fabsf(x))) + (x > 0.0f || x != x ? x : 0.0f);
}

enum {
    LE_IDENTITY, LE_RELU, LE_SIGMOID, LE_TANH, LE_AFFINE, LE_LEAKY_RELU, LE_THRESHOLDED_RELU, LE_SCALED_TANH,
    LE_HARD_SIGMOID, LE_ELU, LE_SOFTSIGN, LE_SOFTPLUS, LE_SELU, LE_CLIP, LE_GELU, LE_ABS, LE_NEGATE, LE_EXP, LE_LOG,
    LE_SQRT, LE_RECIPROCAL, LE_ERF, LE_GELU_TANH, LE_FLOOR, LE_CEIL, LE_ROUND, LE_SIN, LE_COS
};
enum {
    LE_ADD, LE_SUBTRACT, LE_MULTIPLY, LE_DIVIDE, LE_MAXIMUM, LE_MINIMUM, LE_PRELU, LE_POWER, LE_LESS, LE_LESS_EQUAL,
    LE_EQUAL, LE_REMAINDER
};

/* A function and its parameters: constants where it is called, so that nothing of the others is left. */
typedef struct {
    int kind;
    float alpha, beta;
} le_function;

LE_INLINE le_vf le_apply(const le_function *f, le_vf x) {
    const le_vf alpha = le_set(f->alpha), beta = le_set(f->beta), zero = le_set(0.0f);
    switch (f->kind) {
    case LE_RELU: return le_larger(zero, x);
    case LE_SIGMOID: return le_sigmoid(x);
    case LE_TANH: return le_tanh(x);
    case LE_AFFINE: return alpha * x + beta;
    case LE_LEAKY_RELU: return le_pick(LE_IF(x < zero), alpha * x, x);
    case LE_THRESHOLDED_RELU: return le_pick(LE_IF(x <= alpha), zero, x);
    case LE_SCALED_TANH: return alpha * le_tanh(beta * x);
    case LE_HARD_SIGMOID: return le_smaller(le_set(1.0f), le_larger(zero, alpha * x + beta));
    case LE_ELU: return le_pick(LE_IF(x < zero), alpha * (le_exp(x) - 1.0f), x);
    case LE_SOFTSIGN: return x / (1.0f + le_larger(x, -x));
    case LE_SOFTPLUS: return le_by_lane(x, le_softplus);
    case LE_SELU: return beta * le_pick(LE_IF(x < zero), alpha * (le_exp(x) - 1.0f), x);
    case LE_CLIP: return le_smaller(beta, le_larger(alpha, x));
    case LE_GELU: return 0.5f * x * (1.0f + le_by_lane(x * 0.70710678118654752f, erff));
    case LE_ABS: return le_float((le_vi)((le_vu)le_bits(x) & 0x7FFFFFFFu));
    case LE_NEGATE: return -x;
    case LE_EXP: return le_exp(x);
    case LE_LOG: return le_by_lane(x, logf);
    case LE_SQRT: return le_by_lane(x, sqrtf);
    case LE_RECIPROCAL: return 1.0f / x;
    case LE_ERF: return le_by_lane(x, erff);
    case LE_GELU_TANH: return x * le_sigmoid(1.5957691216057308f * (0.044715f * x * x * x + x));
    default: return x;
    }
}

/* Those of the library that no layer has stand here alone, so that layers with functions of their choice do without. */
LE_INLINE void le_unary(int kind, float alpha, float beta, const float *x, float *y, int n) {
    const le_function f = {kind, alpha, beta};
    switch (kind) {
    case LE_FLOOR: for (int i = 0; i < n; i++) y[i] = floorf(x[i]); return;
    case LE_CEIL: for (int i = 0; i < n; i++) y[i] = ceilf(x[i]); return;
    case LE_ROUND: for (int i = 0; i < n; i++) y[i] = rintf(x[i]); return;
    case LE_SIN: for (int i = 0; i < n; i++) y[i] = sinf(x[i]); return;
    case LE_COS: for (int i = 0; i < n; i++) y[i] = cosf(x[i]); return;
    default: LE_EACH(i, n) le_store(y + i, le_apply(&f, le_load(x + i, n - i)), n - i);
    }
}

LE_INLINE le_vf le_combine(int kind, le_vf a, le_vf b) {
    const le_vf zero = le_set(0.0f), one = le_set(1.0f);
    float left[LE_LANES], right[LE_LANES];
    switch (kind) {
    case LE_ADD: return a + b;
    case LE_SUBTRACT: return a - b;
    case LE_MULTIPLY: return a * b;
    case LE_DIVIDE: return a / b;
    case LE_MAXIMUM: return le_pick(LE_IF(a < b) | LE_IF(b != b), b, a);
    case LE_MINIMUM: return le_pick(LE_IF(a > b) | LE_IF(b != b), b, a);
    case LE_PRELU: return le_pick(LE_IF(a < zero), a * b, a);
    case LE_LESS: return le_pick(LE_IF(a < b), one, zero);
    case LE_LESS_EQUAL: return le_pick(LE_IF(a <= b), one, zero);
    case LE_EQUAL: return le_pick(LE_IF(a == b), one, zero);
    default:
        memcpy(left, &a, sizeof left);
        memcpy(right, &b, sizeof right);
        for (int i = 0; i < LE_LANES; i++) left[i] = powf(left[i], right[i]);
        memcpy(&a, left, sizeof left);
        return a;
    }
}

/* y = a and b combined; a or b may be a single number. */
LE_INLINE void le_binary(int kind, const float *a, int many_a, const float *b, int many_b, float *y, int n) {
    const le_vf one_a = le_set(a[0]), one_b = le_set(b[0]);
    LE_EACH(i, n) {
        le_vf left = many_a ? le_load(a + i, n - i) : one_a, right = many_b ? le_load(b + i, n - i) : one_b;
        le_store(y + i, le_combine(kind, left, right), n - i);
    }
}

/* Whole numbers: they wrap, and what is divided by 0 is 0. */
LE_INLINE int64_t le_combine_whole(int kind, int64_t a, int64_t b) {
    const uint64_t left = (uint64_t)a, right = (uint64_t)b;
    const int64_t rest = b == 0 || b == -1 ? 0 : a % b;
    switch (kind) {
    case LE_ADD: return (int64_t)(left + right);
    case LE_SUBTRACT: return (int64_t)(left - right);
    case LE_MULTIPLY: return (int64_t)(left * right);
    case LE_DIVIDE: return b == 0 ? 0 : b == -1 ? (int64_t)(0 - left) : a / b;
    case LE_MAXIMUM: return a > b ? a : b;
    case LE_MINIMUM: return a < b ? a : b;
    case LE_LESS: return a < b;
    case LE_LESS_EQUAL: return a <= b;
    case LE_EQUAL: return a == b;
    default: return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest; /* LE_REMAINDER */
    }
}

LE_INLINE void le_binary_whole(int kind, const int64_t *a, int many_a, const int64_t *b, int many_b, int64_t *y, int n) {
    for (int i = 0; i < n; i++) y[i] = le_combine_whole(kind, a[many_a ? i : 0], b[many_b ? i : 0]);
}

/* A number without what is behind its point; the nearest one where it is beyond int64, 0 for NaN. */
LE_INLINE int64_t le_truncated(float x) {
    if (x >= 9223372036854775808.0f) return INT64_MAX;
    return x > -9223372036854775808.0f ? (int64_t)x : x == x ? INT64_MIN : 0;
}

LE_KERNEL void le_where(const float *condition, const float *a, const float *b, float *y, int n) {
    for (int i = 0; i < n; i++) y[i] = condition[i] != 0.0f ? a[i] : b[i];
}

/* --- Rows of numbers --------------------------------------------------------------------------------- */

LE_KERNEL void le_softmax(const float *x, float *y, int n) {
    float most = x[0], all = 0.0f;
    for (int i = 1; i < n; i++) most = x[i] > most || x[i] != x[i] ? x[i] : most; /* NaN where one is in it */
    LE_EACH(i, n) le_store(y + i, le_exp(le_load(x + i, n - i) - most), n - i);
    for (int i = 0; i < n; i++) all += y[i];
    for (int i = 0; i < n; i++) y[i] /= all;
}

LE_KERNEL void le_log_softmax(const float *x, float *y, int n) {
    float most = x[0], all = 0.0f;
    for (int i = 1; i < n; i++) most = x[i] > most || x[i] != x[i] ? x[i] : most;
    for (int i = 0; i < n; i++) {
        float one[LE_LANES] = {0.0f};
        le_store(one, le_exp(le_set(x[i] - most)), 1);
        all += one[0];
    }
    all = logf(all);
    for (int i = 0; i < n; i++) y[i] = x[i] - most - all;
}

/* Layer normalization; scale and bias may be NULL. */
LE_KERNEL void le_normalize(const float *x, float epsilon, const float *scale, const float *bias, float *y, int n) {
    const float share = 1.0f / (float)n;
    float mean = 0.0f, squares = 0.0f;
    for (int i = 0; i < n; i++) mean += x[i];
    mean *= share;
    for (int i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    const float factor = 1.0f / sqrtf(squares * share + epsilon);
    for (int i = 0; i < n; i++) {
        float v = (x[i] - mean) * factor;
        if (scale) v *= scale[i];
        if (bias) v += bias[i];
        y[i] = v;
    }
}

/* The row of a table that an index names, counted from the end where it is negative; -1 where there is none. */
LE_KERNEL int le_row(int64_t index, int rows) {
    return index < -rows || index >= rows ? -1 : (int)(index < 0 ? index + rows : index);
}

/* The same of an index that is computed, and the last row where there is none. */
LE_INLINE int le_any_row(int64_t index, int rows) {
    const int row = le_row(index, rows);
    return row < 0 ? rows - 1 : row;
}

/* y = a row of a table whose numbers are int8 times a scale for each row. */
LE_KERNEL void le_row_stored(const int8_t *table, const float *scales, int row, int n, float *y) {
    for (int i = 0; i < n; i++) y[i] = (float)table[row * n + i] * scales[row];
}

/* --- The last frames of a value: a ring, and behind it the place of the oldest frame ------------------- */

LE_INLINE int le_oldest(const float *past, int frames, int n) {
    const float place = past[frames * n];
    return place > 0.0f && place < (float)frames ? (int)place : 0;
}

/* y = `count` frames of n numbers, `dilation` apart from number `first` on: 0 is the oldest, `frames` is x. */
LE_KERNEL void le_window(const float *x, const float *past, int frames, int n, int first, int dilation, int count,
                         float *y) {
    const int oldest = le_oldest(past, frames, n);
    for (; count > 0; count--, first += dilation, y += n) {
        const int place = oldest + first < frames ? oldest + first : oldest + first - frames;
        memcpy(y, first < frames ? past + place * n : x + (first - frames) * n, (size_t)n * sizeof *y);
    }
}

/* Replace the oldest frames by the `count` frames of x. */
LE_KERNEL void le_push(const float *x, float *past, int frames, int n, int count) {
    int oldest = le_oldest(past, frames, n);
    for (; count > 0; count--, x += n) {
        memcpy(past + oldest * n, x, (size_t)n * sizeof *x);
        if (++oldest == frames) oldest = 0;
    }
    past[frames * n] = (float)oldest;
}

/* y = start + the sum of k stretches of n numbers times their weights; without weights the largest numbers. */
LE_KERNEL void le_depthwise(const float *x, const float *w, const float *start, int k, int n, float *y) {
    LE_EACH(i, n) {
        const int left = n - i;
        le_vf v = !w ? le_load(x + i, left) : start ? le_load(start + i, left) : le_set(0.0f);
        for (int j = 0; j < k; j++) {
            const le_vf next = le_load(x + j * n + i, left);
            if (!w) v = le_combine(LE_MAXIMUM, v, next);
            else v = LE_FMA(next, le_load(w + j * n + i, left), v);
        }
        le_store(y + i, v, left);
    }
}

/* --- Products of float32 ----------------------------------------------------------------------------- */

/* y = n zeros, which it returns. */
LE_KERNEL float *le_zeros(float *y, int n) {
    for (int i = 0; i < n; i++) y[i] = 0.0f;
    return y;
}

#define LE_3(F) F(0) F(1) F(2)
#define LE_4(F) LE_3(F) F(3)
#if LE_LANES == 16
#define LE_16(F) F(0)
#elif LE_LANES == 8
#define LE_16(F) F(0) F(1)
#elif LE_LANES == 4
#define LE_16(F) LE_4(F)
#else
#define LE_16(F) LE_4(F) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12) F(13) F(14) F(15)
#endif

/*
 * Weights of m outputs and k inputs: those of each 16 outputs lie side by side, input by input, then those of 12, 8 or 4,
 * then one output's after the other's.
 */

#if LE_LANES > 1
LE_INLINE float le_sum(le_vf v) {
    float part[4];
#if LE_LANES == 16
    const __m512d pairs = _mm512_castps_pd((__m512)v);
    const __m256 upper = _mm256_castpd_ps(_mm512_extractf64x4_pd(pairs, 1));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256((__m512)v), upper);
#elif LE_LANES == 8
    const __m256 half = (__m256)v;
#endif
#if LE_LANES > 4
    _mm_storeu_ps(part, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#else
    memcpy(part, &v, sizeof part);
#endif
    return part[0] + part[1] + (part[2] + part[3]);
}
#endif

/* y = start + weights * x for less than 4 outputs. */
LE_INLINE void le_product_rest(const float *w, const float *start, const float *x, int k, int m, float *y) {
    for (; m > 0; m--, y++, start++) {
#if LE_LANES > 1
        le_vf sums = le_set(0.0f);
        LE_EACH(j, k) sums = LE_FMA(le_load(x + j, k - j), le_load(w + j, k - j), sums);
        *y = *start + le_sum(sums);
        w += k;
#else
        float b0 = *start;
        for (int j = 0; j < k; j++) b0 = LE_FMA1(x[j], *w++, b0);
        *y = b0;
#endif
    }
}

#if LE_LANES == 1 || defined(__ARM_FEATURE_MVE)
/* y = start + weights * x: m outputs of k inputs. `start` may be y. */
LE_KERNEL void le_product(const float *w, const float *start, const float *x, int k, int m, float *y) {
    for (; m >= 16; m -= 16, y += 16, start += 16) {
#define LE_BEGIN(i) le_vf a##i = le_load(start + i * LE_LANES, LE_LANES);
#define LE_ADD_TO(i) a##i = LE_FMA(v, le_load(w + i * LE_LANES, LE_LANES), a##i);
#define LE_END(i) le_store(y + i * LE_LANES, a##i, LE_LANES);
        LE_16(LE_BEGIN)
        for (int j = 0; j < k; j++, w += 16) {
            const le_vf v = le_set(x[j]);
            LE_16(LE_ADD_TO)
        }
        LE_16(LE_END)
    }
    const int many = m & ~3;
    for (int i = 0; i < many; i += 4, w += 4) {
#define LE_BEGIN1(i) float b##i = *start++;
#define LE_ADD_TO1(i) b##i = LE_FMA1(x[j], v[i], b##i);
#define LE_END1(i) *y++ = b##i;
        const float *v = w;
        LE_4(LE_BEGIN1)
        for (int j = 0; j < k; j++, v += many) {
            LE_4(LE_ADD_TO1)
        }
        LE_4(LE_END1)
    }
    le_product_rest(w + many * (k - 1), start, x, k, m & 3, y);
}

/* y = start + w * x + r * h. */
LE_INLINE void le_products(const float *w, const float *start, const float *x, int k, const float *r, const float *h,
                           int n, int m, float *y) {
    le_product(w, start, x, k, m, y);
    le_product(r, y, h, n, m, y);
}
#else
/* Some vectors of outputs. Every other number of h is added to a sum of its own, to hide the latency of an addition. */
#define LE_PLACE(i, k) ((i) * LE_LANES / 16 * 16 * (k) + (i) * LE_LANES % 16)
#define LE_BEGIN(i) le_vf a##i = le_load(start + i * LE_LANES, LE_LANES), b##i = le_set(0.0f);
#define LE_ADD_X(i) a##i = LE_FMA(v, le_load(w + j * 16 + LE_PLACE(i, k), LE_LANES), a##i);
#define LE_ADD_H(i) a##i = LE_FMA(v, le_load(r + j * 16 + LE_PLACE(i, n), LE_LANES), a##i);
#define LE_ADD_NEXT(i) b##i = LE_FMA(next, le_load(r + (j + 1) * 16 + LE_PLACE(i, n), LE_LANES), b##i);
#define LE_END(i) le_store(y + i * LE_LANES, a##i + b##i, LE_LANES);
#define LE_TILE(name, EACH)                                                                          \
    LE_INLINE void name(const float *w, const float *start, const float *x, int k, const float *r,   \
                        const float *h, int n, float *y) {                                           \
        int j = 0;                                                                                   \
        EACH(LE_BEGIN)                                                                               \
        for (; j < k; j++) {                                                                         \
            const le_vf v = le_set(x[j]);                                                            \
            EACH(LE_ADD_X)                                                                           \
        }                                                                                            \
        for (j = 0; j + 1 < n; j += 2) {                                                             \
            const le_vf v = le_set(h[j]), next = le_set(h[j + 1]);                                   \
            EACH(LE_ADD_H) EACH(LE_ADD_NEXT)                                                         \
        }                                                                                            \
        if (j < n) {                                                                                 \
            const le_vf v = le_set(h[j]);                                                            \
            EACH(LE_ADD_H)                                                                           \
        }                                                                                            \
        EACH(LE_END)                                                                                 \
    }
LE_TILE(le_tile, LE_4)
#if LE_LANES > 4
LE_TILE(le_tile_16, LE_16)
#endif
#if LE_LANES == 16
#define LE_5(F) LE_4(F) F(4)
LE_TILE(le_tile_80, LE_5)
#endif

/* The same for 4, 8 or 12 outputs. */
LE_INLINE void le_tile_of(const float *w, const float *start, const float *x, int k, const float *r, const float *h, int n,
                          int m, float *y) {
    int j = 0;
#define LE_HAS(i) ((i) * LE_LANES < m)
#define LE_PART(p, i) le_load((p) + (i) * LE_LANES, m - (i) * LE_LANES)
#define LE_BEGIN_OF(i) le_vf a##i = LE_HAS(i) ? LE_PART(start, i) : le_set(0.0f), b##i = le_set(0.0f);
#define LE_ADD_X_OF(i) if (LE_HAS(i)) a##i = LE_FMA(v, LE_PART(w + j * m, i), a##i);
#define LE_ADD_H_OF(i) if (LE_HAS(i)) a##i = LE_FMA(v, LE_PART(r + j * m, i), a##i);
#define LE_ADD_NEXT_OF(i) if (LE_HAS(i)) b##i = LE_FMA(next, LE_PART(r + (j + 1) * m, i), b##i);
#define LE_END_OF(i) if (LE_HAS(i)) le_store(y + (i) * LE_LANES, a##i + b##i, m - (i) * LE_LANES);
    LE_3(LE_BEGIN_OF)
    for (; j < k; j++) {
        const le_vf v = le_set(x[j]);
        LE_3(LE_ADD_X_OF)
    }
    for (j = 0; j + 1 < n; j += 2) {
        const le_vf v = le_set(h[j]), next = le_set(h[j + 1]);
        LE_3(LE_ADD_H_OF) LE_3(LE_ADD_NEXT_OF)
    }
    if (j < n) {
        const le_vf v = le_set(h[j]);
        LE_3(LE_ADD_H_OF)
    }
    LE_3(LE_END_OF)
}

/* y = start + w * x + r * h: m outputs of k and n inputs. `start` may be y. */
LE_INLINE void le_products(const float *w, const float *start, const float *x, int k, const float *r, const float *h,
                           int n, int m, float *y) {
    const int many = 4 * LE_LANES;
#if LE_LANES == 16
    if (m % 80 == 0) {
        for (; m > 0; m -= 80, w += 80 * k, r += 80 * n, y += 80, start += 80) {
            le_tile_80(w, start, x, k, r, h, n, y);
        }
    }
#endif
    for (; m >= many; m -= many, w += many * k, r += many * n, y += many, start += many) {
        le_tile(w, start, x, k, r, h, n, y);
    }
#if LE_LANES > 4
    for (; m >= 16; m -= 16, w += 16 * k, r += 16 * n, y += 16, start += 16) {
        le_tile_16(w, start, x, k, r, h, n, y);
    }
#endif
    const int some = m & ~3;
    if (some > 0) {
        le_tile_of(w, start, x, k, r, h, n, some, y);
        m -= some, w += some * k, r += some * n, y += some, start += some;
    }
    if (k > 0 && m > 0) {
        le_product_rest(w, start, x, k, m, y);
        start = y;
    }
    le_product_rest(r, start, h, n, m, y);
}

/* y = start + weights * x. */
LE_INLINE void le_product(const float *w, const float *start, const float *x, int k, int m, float *y) {
    le_products(w, start, x, 0, w, x, k, m, y);
}
#endif

/* The same with weights that are an int8 number times their output's scale, one output's after the other's. */
LE_KERNEL void le_product_stored(const int8_t *w, const float *scales, const float *start, const float *x, int k, int m,
                                 float *y) {
    for (; m >= 4; m -= 4, w += 4 * k, y += 4, start += 4, scales += 4) {
#define LE_BEGIN_STORED(i) float c##i = 0.0f;
#define LE_ADD_TO_STORED(i) c##i = LE_FMA1(x[j], (float)w[j + i * k], c##i);
#define LE_END_STORED(i) y[i] = LE_FMA1(scales[i], c##i, start[i]);
        LE_4(LE_BEGIN_STORED)
        for (int j = 0; j < k; j++) {
            LE_4(LE_ADD_TO_STORED)
        }
        LE_4(LE_END_STORED)
    }
    for (; m > 0; m--, w += k, y++, start++, scales++) {
        float c0 = 0.0f;
        for (int j = 0; j < k; j++) c0 = LE_FMA1(x[j], (float)w[j], c0);
        *y = LE_FMA1(*scales, c0, *start);
    }
}

/* --- Products of int8 -------------------------------------------------------------------------------- */

#if defined(__ARM_FEATURE_MVE)
#include <arm_mve.h>
#elif defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_UNALIGNED) && defined(__thumb2__) && defined(__OPTIMIZE__)
#define LE_DSP 1 /* the loop needs twelve registers, which compilers have that optimize */
#endif
#if defined(LE_DSP)
#define LE_ORDER(i) (((i) & ~3) | ((i) & 1) << 1 | ((i) & 2) >> 1) /* 0 2 1 3, 4 6 5 7: as sxtb16 takes weights apart */
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
 * Quantize k numbers to 8 bits as DynamicQuantizeLinear does, take off the zero point, and return the scale, NaN where
 * one is not finite; `q` goes on to a multiple of 4. Numbers are compared by their bits: cheap without a floating-point
 * unit, too.
 */
LE_KERNEL float le_quantize(const float *x, int k, int16_t *q) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: a sum with it is rounded to a whole number, in its low bits */
    const int32_t infinity = 0x7F800000, normal = 0x00800000, whole = 0x4B400000;
    int32_t high = 0; /* the bits of the largest number */
    uint32_t low = 0x80000000u; /* and of the smallest: more bits below the sign are less */
    for (int i = 0; i < k; i++) {
        const int32_t bits = le_word(x + i);
        if (bits > high) high = bits;
        if ((uint32_t)bits > low) low = (uint32_t)bits;
    }
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
    for (int i = 0; i < k; i++) {
        const float rounded = x[i] / scale + magic;
        int32_t value = le_word(&rounded) + offset;
        value = value < 0 ? 0 : value > 255 ? 255 : value;
        q[LE_ORDER(i)] = (int16_t)(value - zero);
    }
    return scale;
}

/* Sums of the products of k quantized inputs and the weights of 4 outputs, which lie `stride` apart. Exact. */
LE_INLINE void le_dots(const int8_t *w, int stride, const int16_t *q, int k, int32_t *sums) {
#define LE_BEGIN8(i) int32_t a##i = 0;
#define LE_END8(i) sums[i] = a##i;
#if defined(__ARM_FEATURE_MVE)
#define LE_ADD_TO8(i) a##i = vmladavaq_p_s16(a##i, x, vldrbq_z_s16(w + i * stride, some), some);
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
#define LE_ADD_PAIRS(a)                                                                                  \
    "sxtb16 %[two], %[four]\n\tsmlad " a ", %[two], %[x02], " a "\n\t"                                   \
    "sxtb16 %[four], %[four], ror #8\n\tsmlad " a ", %[four], %[x13], " a "\n\t"
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

/*
 * y = start + weights * x in int8: m outputs of k inputs that le_quantize gave with `scale`, which the caller multiplies by
 * the weights' own where `scales` of each output is NULL. Behind the last weight up to 3 more are read.
 */
LE_KERNEL void le_product8(const int8_t *w, const float *scales, const float *start, const int16_t *q, float scale, int k,
                           int m, float *y) {
    int32_t sums[4];
    for (; m >= 4; m -= 4, w += 4 * k) {
        le_dots(w, k, q, k, sums);
        for (int i = 0; i < 4; i++) *y++ = *start++ + (float)sums[i] * (scales ? *scales++ * scale : scale);
    }
    for (; m > 0; m--, w += k) {
        le_dots(w, 0, q, k, sums);
        *y++ = *start++ + (float)sums[0] * (scales ? *scales++ * scale : scale);
    }
}

/* --- Cells: from the gates' sums to the new states, which may take the place of the old ones ----------- */

LE_INLINE le_vf le_clipped(le_vf x, float clip) {
    return clip > 0.0f ? le_smaller(le_set(clip), le_larger(le_set(-clip), x)) : x;
}

/* Gates: input, output, forget, cell; peepholes: input, output, forget, or NULL. */
LE_INLINE void le_lstm_cell(const le_function *f, float clip, int input_forget, const float *peepholes, const float *g,
                            const float *c, float *new_h, float *new_c, int n) {
    LE_EACH(j, n) {
        const int left = n - j;
        const le_vf before = le_load(c + j, left);
        le_vf i = le_load(g + j, left), o = le_load(g + n + j, left);
        le_vf forget = le_load(g + 2 * n + j, left), z = le_load(g + 3 * n + j, left);
        if (peepholes) {
            i = le_load(peepholes + j, left) * before + i;
            forget = le_load(peepholes + 2 * n + j, left) * before + forget;
        }
        i = le_apply(&f[0], le_clipped(i, clip));
        forget = input_forget ? 1.0f - i : le_apply(&f[0], le_clipped(forget, clip));
        z = le_apply(&f[1], le_clipped(z, clip));
        const le_vf now = forget * before + i * z;
        if (peepholes) o = le_load(peepholes + n + j, left) * now + o;
        o = le_apply(&f[0], le_clipped(o, clip));
        le_store(new_c + j, now, left);
        le_store(new_h + j, o * le_apply(&f[2], now), left);
    }
}

LE_KERNEL void le_each_tanh(const float *x, float *y, int n) {
    LE_EACH(i, n) le_store(y + i, le_tanh(le_load(x + i, n - i)), n - i);
}

/* The usual cell, a function at a time over all gates: its constants stay in registers. */
LE_KERNEL void le_lstm(float *g, const float *c, float *new_h, float *new_c, int n) {
    float *z = g + 3 * n;
    LE_EACH(i, 3 * n) le_store(g + i, le_sigmoid(le_load(g + i, 3 * n - i)), 3 * n - i);
    le_each_tanh(z, z, n);
    LE_EACH(i, n) {
        const int left = n - i;
        const le_vf kept = le_load(g + 2 * n + i, left) * le_load(c + i, left);
        le_store(new_c + i, kept + le_load(g + i, left) * le_load(z + i, left), left);
    }
    le_each_tanh(new_c, z, n);
    LE_EACH(i, n) le_store(new_h + i, le_load(g + n + i, n - i) * le_load(z + i, n - i), n - i);
}

#if LE_LANES >= 8 && defined(__FMA__)
/* 1 + exp(-x), in as few dependent operations as can be: 2^n * 2^f with |f| <= 1/2, and a polynomial of degree 5. */
LE_INLINE le_vf le_one_and_exp(le_vf x) {
    const le_vf scale = le_set(-1.44269504088896341f), magic = le_set(12582912.0f);
    x = le_smaller(le_set(87.0f), le_larger(le_set(-87.0f), x));
    const le_vf shifted = LE_FMA(x, scale, magic), f = LE_FMA(x, scale, magic - shifted), f2 = f * f;
    const le_vf low = LE_FMA(f2, LE_FMA(f, le_set(5.5507337435e-2f), le_set(2.4022242085e-1f)),
                             LE_FMA(f, le_set(6.9314697760e-1f), le_set(1.0f)));
    const le_vf high = LE_FMA(f, le_set(1.3264727126e-3f), le_set(9.6715126448e-3f));
    const le_vf power = le_float((le_vi)(((le_vu)le_bits(shifted) << 23) + 0x3F800000u));
    return LE_FMA(LE_FMA(f2 * f2, high, low), power, le_set(1.0f));
}

/* tanh(x) is top / below, as in le_tanh. */
LE_INLINE void le_tanh_parts(le_vf x, le_vf *top, le_vf *below) {
    x = le_smaller(le_set(9.0f), le_larger(le_set(-9.0f), x));
    const le_vf s = x * x, s2 = s * s;
    const le_vf low = LE_FMA(s2, LE_FMA(s, le_set(5.12229709037114e-08f), le_set(1.48572235717979e-05f)),
                             LE_FMA(s, le_set(6.37261928875436e-04f), le_set(4.89352455891786e-03f)));
    const le_vf high = LE_FMA(s2, le_set(-2.76076847742355e-16f),
                              LE_FMA(s, le_set(2.00018790482477e-13f), le_set(-8.60467152213735e-11f)));
    *top = x * LE_FMA(s2 * s2, high, low);
    *below = LE_FMA(s2, LE_FMA(s, le_set(1.19825839466702e-06f), le_set(1.18534705686654e-04f)),
                    LE_FMA(s, le_set(2.26843463243900e-03f), le_set(4.89352518554385e-03f)));
}

/* a / b within 2 ULP, for 0 < b < 2^127; a division takes AVX-512 as long as twenty multiplications. */
LE_INLINE le_vf le_ratio(le_vf a, le_vf b) {
#if LE_LANES == 16
    const le_vf near = (le_vf)_mm512_rcp14_ps((__m512)b);
    return a * LE_FMA(LE_FMA(-b, near, le_set(1.0f)), near, near);
#else
    return a / b;
#endif
}

/* `count` vectors, `left` numbers in the last one: two at a time, as a processor looks ahead for less than one takes. */
LE_INLINE void le_lstm_parts(const float *g, const float *c, float *new_h, float *new_c, int n, int count, int left) {
    le_vf i[2], o[2], forget[2], top[2], below[2], now[2];
#define LE_PARTS for (int v = 0; v < count; v++)
#define LE_HERE(p) (p) + v * LE_LANES, (v + 1 < count ? LE_LANES : left)
    LE_PARTS forget[v] = le_one_and_exp(le_load(LE_HERE(g + 2 * n)));
    LE_PARTS i[v] = le_one_and_exp(le_load(LE_HERE(g)));
    LE_PARTS le_tanh_parts(le_load(LE_HERE(g + 3 * n)), &top[v], &below[v]);
    LE_PARTS now[v] = le_ratio(le_load(LE_HERE(c)), forget[v]) + le_ratio(top[v], below[v] * i[v]);
    LE_PARTS o[v] = le_one_and_exp(le_load(LE_HERE(g + n)));
    LE_PARTS le_tanh_parts(now[v], &top[v], &below[v]);
    LE_PARTS {
        const int size = v + 1 < count ? LE_LANES : left;
        le_store(new_c + v * LE_LANES, now[v], size);
        le_store(new_h + v * LE_LANES, le_ratio(top[v], below[v] * o[v]), size);
    }
}

/* The usual cell in float32, where a multiplication and an addition are fused. */
LE_INLINE void le_lstm_float(float *g, const float *c, float *new_h, float *new_c, int n) {
    int j = 0;
    for (; j + 2 * LE_LANES <= n; j += 2 * LE_LANES) le_lstm_parts(g + j, c + j, new_h + j, new_c + j, n, 2, LE_LANES);
    if (n - j > LE_LANES) le_lstm_parts(g + j, c + j, new_h + j, new_c + j, n, 2, n - j - LE_LANES);
    else if (n > j) le_lstm_parts(g + j, c + j, new_h + j, new_c + j, n, 1, n - j);
}
#else
#define le_lstm_float le_lstm
#endif

/* Gates: update, reset, new. The first half takes update and reset, and leaves in s what the new gate adds. */
LE_INLINE void le_gru_gates(const le_function *f, float clip, int linear_before_reset, float *g, const float *h, float *s,
                            int n) {
    LE_EACH(j, n) {
        const int left = n - j;
        const le_vf reset = le_apply(&f[0], le_clipped(le_load(g + n + j, left), clip));
        le_store(g + j, le_apply(&f[0], le_clipped(le_load(g + j, left), clip)), left);
        le_store(s + j, reset * le_load((linear_before_reset ? s : h) + j, left), left);
    }
}

LE_INLINE void le_gru_cell(const le_function *f, float clip, const float *g, const float *s, const float *h, float *new_h,
                           int n) {
    LE_EACH(j, n) {
        const int left = n - j;
        const le_vf update = le_load(g + j, left);
        le_vf fresh = le_load(g + 2 * n + j, left);
        if (s) fresh = le_load(s + j, left) + fresh;
        fresh = le_apply(&f[1], le_clipped(fresh, clip));
        le_store(new_h + j, update * le_load(h + j, left) + (1.0f - update) * fresh, left);
    }
}

#if LE_LANES >= 8 && defined(__FMA__)
/* The usual cell in float32, fused and with the reset gate after the product: gates update, reset and new, and in s what the reset gate lets through of the latter. */
LE_INLINE void le_gru_part(const float *g, const float *s, const float *h, float *new_h, int n, int left) {
    le_vf top, below;
    const le_vf update = le_one_and_exp(le_load(g, left)), reset = le_one_and_exp(le_load(g + n, left));
    le_tanh_parts(le_load(g + 2 * n, left) + le_ratio(le_load(s, left), reset), &top, &below);
    const le_vf fresh = le_ratio(top, below);
    le_store(new_h, fresh + le_ratio(le_load(h, left) - fresh, update), left);
}

LE_INLINE void le_gru_float(const float *g, const float *s, const float *h, float *new_h, int n) {
    int j = 0;
    for (; j + LE_LANES <= n; j += LE_LANES) le_gru_part(g + j, s + j, h + j, new_h + j, n, LE_LANES);
    if (j < n) le_gru_part(g + j, s + j, h + j, new_h + j, n, n - j);
}
#else
LE_INLINE void le_gru_float(float *g, float *s, const float *h, float *new_h, int n) {
    static const le_function usual[2] = {{LE_SIGMOID, 0.0f, 0.0f}, {LE_TANH, 0.0f, 0.0f}};
    le_gru_gates(usual, 0.0f, 1, g, h, s, n);
    le_gru_cell(usual, 0.0f, g, s, h, new_h, n);
}
#endif

LE_INLINE void le_rnn_cell(const le_function *f, float clip, const float *g, float *new_h, int n) {
    LE_EACH(j, n) le_store(new_h + j, le_apply(f, le_clipped(le_load(g + j, n - j), clip)), n - j);
}
