/*
 * The kernels, compiled once an instruction set: LE_ISA is its name as a token, LE_LANES the floats in a
 * vector, LE_ROWS the rows of a tile.
 *
 * Weights lie as [group][k][vector of the group][lane]. Of a layer's gates the first vectors come first, side
 * by side, and last what fills no vector of units, all gates in as few vectors as can be. A tile holds the
 * sums of some rows and one group in registers while k runs; a single row takes several groups at once, so
 * that about eight sums hide the latency of an addition. However many rows a tile has, each output starts
 * from its bias and adds its products in the order of k; if a matrix has a single
 * group of outputs, k is split over up to eight partial sums, which are added at the end, for any number of
 * rows; a single output is a dot product. int8 weights of inputs in float32 are widened in registers, if
 * floats would not fit the cache, and their sum is multiplied by the scale at the end. Of a matrix in blocks
 * a tile holds the sums of some rows and one band of outputs, in four chains, over the blocks of that band;
 * of quantized inputs several bands side by side. Hence the same bits on every path. Products are contracted
 * to fused multiply-adds in madd() and nowhere else.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mode.h"
#include "program.h"
#if defined(__wasm_simd128__)
#include <wasm_simd128.h>
#endif

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define L        ((size_t)LE_LANES)
#define INLINE   static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))
#define UNROLL   _Pragma("GCC unroll 16")

typedef float vf __attribute__((vector_size(4 * LE_LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LE_LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LE_LANES)));
typedef float vf_loose __attribute__((vector_size(4 * LE_LANES), aligned(4), may_alias));
typedef int8_t vi8 __attribute__((vector_size(LE_LANES), aligned(1), may_alias));

/* --- Vectors ---------------------------------------------------------------------------------------- */

INLINE vf set1(float x) { return x - (vf){0}; }
INLINE vf load(const float *p) { return *(const vf_loose *)p; }
INLINE void store(float *p, vf v) { *(vf_loose *)p = v; }

/* Whether weights may stay in int8 where their inputs do not: not where it takes longer to widen than to read
 * them. */
#if defined(__SSE2__) && LE_LANES == 4
#define KEEPS_INT8 false
#else
#define KEEPS_INT8 true
#endif

/* Load int8 numbers as floats. */
INLINE vf widen(const int8_t *p) {
#if LE_LANES == 16
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
#elif LE_LANES == 8
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
#elif defined(__ARM_NEON)
    int32_t four;
    memcpy(&four, p, 4);
    const int16x8_t wide = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
    return (vf)vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
#else
    vf v;
    for (size_t i = 0; i < L; i++) v[i] = (float)p[i];
    return v;
#endif
}
INLINE vf blend(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }

/* a * b + c. largest and smallest return x where one of the two is NaN. */
#if LE_LANES == 16
INLINE vf madd(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE vf largest(vf a, vf x) { return (vf)_mm512_max_ps((__m512)a, (__m512)x); }
INLINE vf smallest(vf a, vf x) { return (vf)_mm512_min_ps((__m512)a, (__m512)x); }
INLINE vf root(vf x) { return (vf)_mm512_sqrt_ps((__m512)x); }
#elif LE_LANES == 8
INLINE vf madd(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE vf largest(vf a, vf x) { return (vf)_mm256_max_ps((__m256)a, (__m256)x); }
INLINE vf smallest(vf a, vf x) { return (vf)_mm256_min_ps((__m256)a, (__m256)x); }
INLINE vf root(vf x) { return (vf)_mm256_sqrt_ps((__m256)x); }
#elif defined(__SSE2__)
INLINE vf madd(vf a, vf b, vf c) { return a * b + c; }
INLINE vf largest(vf a, vf x) { return (vf)_mm_max_ps((__m128)a, (__m128)x); }
INLINE vf smallest(vf a, vf x) { return (vf)_mm_min_ps((__m128)a, (__m128)x); }
INLINE vf root(vf x) { return (vf)_mm_sqrt_ps((__m128)x); }
#else
#if defined(__aarch64__)
INLINE vf madd(vf a, vf b, vf c) { return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#elif defined(__ARM_NEON)
INLINE vf madd(vf a, vf b, vf c) { return (vf)vmlaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#else
INLINE vf madd(vf a, vf b, vf c) { return a * b + c; }
#endif
INLINE vf largest(vf a, vf x) { return blend(a > x, a, x); }
INLINE vf smallest(vf a, vf x) { return blend(a < x, a, x); }
INLINE vf root(vf x) {
    for (size_t i = 0; i < L; i++) x[i] = sqrtf(x[i]);
    return x;
}
#endif

INLINE size_t least(size_t a, size_t b) { return a < b ? a : b; }

static const int32_t LANES[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* Load the first `count` numbers, and `rest` in the other lanes. Working memory goes on for a vector
 * (le_zeros). */
INLINE vf load_some(const float *p, size_t count, float rest) {
    vi lane;
    memcpy(&lane, LANES, sizeof lane);
    return blend(lane < (int32_t)(count < L ? count : L), load(p), set1(rest));
}

INLINE void store_some(float *p, vf v, size_t count) {
    memcpy(p, &v, (count < L ? count : L) * sizeof(float));
}

INLINE float sum(vf v) {
    float part[L];
    store(part, v);
    UNROLL for (size_t half = L / 2; half > 0; half /= 2) {
        for (size_t i = 0; i < half; i++) part[i] += part[i + half];
    }
    return part[0];
}

/* The largest number; NaN lanes are left out unless all are. */
INLINE float largest_of(vf v) {
    float part[L];
    store(part, v);
    UNROLL for (size_t half = L / 2; half > 0; half /= 2) {
        for (size_t i = 0; i < half; i++) part[i] = part[i + half] > part[i] ? part[i + half] : part[i];
    }
    return part[0];
}

/* --- Functions -------------------------------------------------------------------------------------- */

/* exp(x) within 2 ULP: 2^n * exp(f) with |f| <= log(2) / 2 and the polynomial of Cephes' expf. */
INLINE vf vexp(vf x) {
    x = smallest(set1(88.8f), largest(set1(-87.3365f), x));
    const vf magic = set1(12582912.f); /* 1.5 * 2^23: adding it rounds to a whole number, in its low bits */
    vf shifted = madd(x, set1(1.44269504088896341f), magic);
    vf n = shifted - magic;
    vf f = madd(n, set1(-0.693359375f), x);
    f = madd(n, set1(2.12194440e-4f), f);
    vf p = madd(set1(1.9875691500e-4f), f, set1(1.3981999507e-3f));
    p = madd(p, f, set1(8.3334519073e-3f));
    p = madd(p, f, set1(4.1665795894e-2f));
    p = madd(p, f, set1(1.6666665459e-1f));
    p = madd(p, f, set1(5.0000001201e-1f));
    p = madd(p * f, f, f) + 1.f;
    /* 2^(n - 1), then twice: n is 128 at the upper end. At the lower end the exponent field is 0. */
    vu power = ((vu)shifted - 0x4B400000u + 126u) << 23;
    p *= (vf)power;
    return p + p;
}

#if LE_LANES > 4 || defined(__aarch64__)
#define FUSED 1

/* 1 + exp(-x), in as few operations one after the other as can be: 2^n * 2^f with |f| <= 1/2. */
INLINE vf one_and_exp(vf x) {
    const vf scale = set1(-1.44269504088896341f), magic = set1(12582912.f), one = set1(1.f);
    x = smallest(set1(87.f), largest(set1(-87.f), x));
    const vf shifted = madd(x, scale, magic), f = madd(x, scale, magic - shifted), f2 = f * f;
    const vf power = (vf)(((vu)shifted << 23) + 0x3F800000u);
    const vf low = madd(madd(f, set1(6.9314697760e-1f), one), power, one);
    const vf high = madd(f2, madd(f, set1(1.3264727126e-3f), set1(9.6715126448e-3f)),
                         madd(f, set1(5.5507337435e-2f), set1(2.4022242085e-1f)));
    return madd(f2 * power, high, low);
}

/* tanh(x) = top / below, by the rational approximation of degree 13 over 6 that Eigen and onnxruntime use. */
INLINE vf tanh_parts(vf x, vf *below) {
    x = smallest(set1(9.f), largest(set1(-9.f), x));
    const vf s = x * x, s2 = s * s;
    const vf low = madd(s2, madd(s, set1(5.12229709037114e-08f), set1(1.48572235717979e-05f)),
                        madd(s, set1(6.37261928875436e-04f), set1(4.89352455891786e-03f)));
    const vf high = madd(s2, set1(-2.76076847742355e-16f),
                         madd(s, set1(2.00018790482477e-13f), set1(-8.60467152213735e-11f)));
    *below = madd(s2, madd(s, set1(1.19825839466702e-06f), set1(1.18534705686654e-04f)),
                  madd(s, set1(2.26843463243900e-03f), set1(4.89352518554385e-03f)));
    return x * madd(s2 * s2, high, low);
}

/* a / b within 2 ULP, for 0 < b < 2^127: a division takes AVX-512 as long as twenty multiplications. */
INLINE vf ratio(vf a, vf b) {
#if LE_LANES == 16
    const vf near = (vf)_mm512_rcp14_ps((__m512)b), first = a * near;
    return madd(madd(-b, near, set1(1.f)), first, first);
#else
    return a / b;
#endif
}

INLINE vf sigmoid(vf x) { return ratio(set1(1.f), one_and_exp(x)); }

INLINE vf vtanh(vf x) {
    vf below, top = tanh_parts(x, &below);
    return ratio(top, below);
}
#else
#define FUSED 0

INLINE vf sigmoid(vf x) { return 1.f / (1.f + vexp(-x)); }

/* tanh(x) by the same approximation, within 4 ULP. */
INLINE vf vtanh(vf x) {
    x = smallest(set1(9.f), largest(set1(-9.f), x));
    vf s = x * x;
    vf p = madd(set1(-2.76076847742355e-16f), s, set1(2.00018790482477e-13f));
    p = madd(p, s, set1(-8.60467152213735e-11f));
    p = madd(p, s, set1(5.12229709037114e-08f));
    p = madd(p, s, set1(1.48572235717979e-05f));
    p = madd(p, s, set1(6.37261928875436e-04f));
    p = madd(p, s, set1(4.89352455891786e-03f));
    vf q = madd(set1(1.19825839466702e-06f), s, set1(1.18534705686654e-04f));
    q = madd(q, s, set1(2.26843463243900e-03f));
    q = madd(q, s, set1(4.89352518554385e-03f));
    return x * p / q;
}
#endif

static float softplus(float x) { return log1pf(expf(-fabsf(x))) + (x > 0.f ? x : isnan(x) ? x : 0.f); }

/* The functions that are computed one number after the other. */
typedef float number_function(float);
static number_function *const BY_LANE[LE_FUNCTIONS] = {
    [LE_SOFTPLUS] = softplus, [LE_LOG] = logf,    [LE_ERF] = erff, [LE_FLOOR] = floorf,
    [LE_CEIL] = ceilf,        [LE_ROUND] = rintf, [LE_SIN] = sinf, [LE_COS] = cosf,
};

NOINLINE vf by_lane(vf x, number_function *f) {
    for (size_t i = 0; i < L; i++) x[i] = f(x[i]);
    return x;
}

/* Apply a function without coefficients. */
NOINLINE vf apply_plain(le_function kind, vf x) {
    switch (kind) {
    case LE_SOFTSIGN: return x / (1.f + largest(x, -x));
    case LE_GELU: return 0.5f * x * (1.f + by_lane(x * 0.70710678118654752f, erff));
    case LE_GELU_TANH: return x * sigmoid(1.5957691216057308f * madd(0.044715f * x * x, x, x));
    case LE_ABS: return (vf)((vu)x & 0x7FFFFFFFu);
    case LE_NEGATE: return -x;
    case LE_EXP: return vexp(x);
    case LE_SQRT: return root(x);
    case LE_RECIPROCAL: return 1.f / x;
    case LE_IDENTITY: return x;
    default: return by_lane(x, BY_LANE[kind]);
    }
}

NOINLINE vf apply(const le_activation *a, vf x) {
    const vf alpha = set1(a->alpha), beta = set1(a->beta), zero = {0};
    switch (a->kind) {
    case LE_RELU: return largest(zero, x);
    case LE_SIGMOID: return sigmoid(x);
    case LE_TANH: return vtanh(x);
    case LE_AFFINE: return madd(alpha, x, beta);
    case LE_LEAKY_RELU: return blend(x < zero, alpha * x, x);
    case LE_THRESHOLDED_RELU: return blend(x <= alpha, zero, x);
    case LE_SCALED_TANH: return alpha * vtanh(beta * x);
    case LE_HARD_SIGMOID: return smallest(set1(1.f), largest(zero, madd(alpha, x, beta)));
    case LE_ELU: return blend(x < zero, alpha * (vexp(x) - 1.f), x);
    case LE_SELU: return beta * blend(x < zero, alpha * (vexp(x) - 1.f), x);
    case LE_CLIP: return smallest(beta, largest(alpha, x));
    default: return apply_plain(a->kind, x);
    }
}

NOINLINE vf combine(le_binary kind, vf a, vf b) {
    switch (kind) {
    case LE_ADD: return a + b;
    case LE_SUBTRACT: return a - b;
    case LE_MULTIPLY: return a * b;
    case LE_DIVIDE: return a / b;
    case LE_MAXIMUM: return blend((a < b) | (b != b), b, a);
    case LE_MINIMUM: return blend((a > b) | (b != b), b, a);
    case LE_PRELU: return blend(a < (vf){0}, a * b, a);
    case LE_LESS: return blend(a < b, set1(1.f), (vf){0});
    case LE_LESS_EQUAL: return blend(a <= b, set1(1.f), (vf){0});
    case LE_EQUAL: return blend(a == b, set1(1.f), (vf){0});
    default:
        for (size_t i = 0; i < L; i++) a[i] = powf(a[i], b[i]);
        return a;
    }
}

/* --- int8 products: four inputs at a time ----------------------------------------------------------- */

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__ARM_FEATURE_DOTPROD)
#define DOT 1 /* the four int8 weights of a lane side by side, activations in bytes */
#elif LE_LANES == 16 || LE_LANES == 8 || defined(__SSE2__) || defined(__wasm_simd128__)
#define PAIRS 1 /* two by two, activations in 16 bits */
#elif defined(__ARM_NEON)
#define PAIRS 1 /* two by two, activations in bytes */
#endif
#if defined(PAIRS) && LE_LANES > 4
#define SEVEN true /* as DOT where weights keep to 7 bits */
#else
#define SEVEN false
#endif

#if defined(__ARM_NEON)
#define OFFSET 128 /* NEON multiplies signed bytes */
#else
#define OFFSET 0
#endif

typedef uint8_t vu8 __attribute__((vector_size(LE_LANES), aligned(1), may_alias));
typedef int16_t vi16 __attribute__((vector_size(2 * LE_LANES), aligned(2), may_alias));

/* Bytes of a quantized input. */
#if defined(DOT) || defined(__ARM_NEON)
#define EACH_INPUT(seven) 1u
#else
#define EACH_INPUT(seven) ((seven) ? 1u : 2u)
#endif

/* Inputs that one multiply-add takes of a matrix of which all is stored: smmla multiplies eight of two rows
   by the weights of two outputs. */
#if defined(__ARM_FEATURE_MATMUL_INT8)
#define UNIT 8u
#else
#define UNIT 4u
#endif

/* Place of the weight of input k among the four of a vector of `lanes` outputs. */
INLINE size_t int8_place(size_t lane, size_t k, size_t lanes, bool seven) {
#if defined(DOT)
    (void)lanes;
    (void)seven;
    return lane * 4 + k;
#elif defined(PAIRS)
    if (seven) return lane * 4 + k;
    return k / 2 * 2 * lanes + lane * 2 + k % 2;
#else
    (void)seven;
    return k * lanes + lane;
#endif
}

#if LE_LANES == 16
/* Return the four bytes at x in each lane, or in the lower eight and those at `other` in the upper ones. */
INLINE __m512i four_bytes(const char *x, const char *other, const bool two) {
    int32_t low, high;
    memcpy(&low, x, 4);
    memcpy(&high, other, 4);
    const __m512i all = _mm512_set1_epi32(low);
    return two ? _mm512_mask_set1_epi32(all, 0xFF00, high) : all;
}

/* Add the products of four quantized inputs and the weights of a vector of outputs, four each; exact. The
   upper eight outputs have inputs of their own (`other`) if there are `two`. */
INLINE vi dot_two(vi total, const char *x, const char *other, const bool two, const int8_t *w,
                  const bool seven) {
    (void)seven;
    if (EACH_INPUT(seven) == 1) {
        const __m512i bytes = four_bytes(x, other, two), weights = _mm512_load_si512(w);
#if defined(__AVX512VNNI__)
        return (vi)_mm512_dpbusd_epi32((__m512i)total, bytes, weights);
#else
        const __m512i pairs = _mm512_maddubs_epi16(bytes, weights);
        return total + (vi)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#endif
    }
    for (size_t i = 0; i < 2; i++, x += 4, other += 4, w += 2 * L) {
        const __m512i wide = _mm512_cvtepi8_epi16(_mm256_load_si256((const __m256i *)w));
        total += (vi)_mm512_madd_epi16(wide, four_bytes(x, other, two));
    }
    return total;
}
#endif

/* Add the products of four quantized inputs and the weights of a vector of outputs, four each; exact. */
INLINE vi dot(vi total, const char *x, const int8_t *w, const bool seven) {
    (void)seven;
#if LE_LANES == 16
    return dot_two(total, x, x, false, w, seven);
#elif LE_LANES == 8
    if (EACH_INPUT(seven) == 1) {
        int32_t four;
        memcpy(&four, x, 4);
        const __m256i bytes = _mm256_set1_epi32(four), weights = _mm256_load_si256((const __m256i *)w);
#if defined(__AVXVNNI__)
        return (vi)_mm256_dpbusd_avx_epi32((__m256i)total, bytes, weights);
#else
        const __m256i pairs = _mm256_maddubs_epi16(bytes, weights);
        return total + (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
    }
    int32_t pair[2];
    memcpy(pair, x, 8);
    for (size_t i = 0; i < 2; i++, w += 2 * L) {
        const __m256i wide = _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)w));
        total += (vi)_mm256_madd_epi16(wide, _mm256_set1_epi32(pair[i]));
    }
    return total;
#elif defined(__ARM_FEATURE_DOTPROD)
    int32_t four;
    memcpy(&four, x, 4);
    return (vi)vdotq_s32((int32x4_t)total, vreinterpretq_s8_s32(vdupq_n_s32(four)), vld1q_s8(w));
#elif defined(__ARM_NEON)
    const int16_t *pair = (const int16_t *)(const void *)x;
    const int8x16_t weights = vld1q_s8(w);
    for (size_t i = 0; i < 2; i++) {
        const int8x8_t two = vreinterpret_s8_s16(vdup_n_s16(pair[i]));
        const int16x8_t products = vmull_s8(i == 0 ? vget_low_s8(weights) : vget_high_s8(weights), two);
        total = (vi)vpadalq_s16((int32x4_t)total, products);
    }
    return total;
#elif defined(PAIRS)
    int32_t pair[2];
    memcpy(pair, x, 8);
    for (size_t i = 0; i < 2; i++, w += 2 * L) {
#if defined(__wasm_simd128__)
        const v128_t wide = wasm_i16x8_extend_low_i8x16(wasm_v128_load64_zero(w));
        total += (vi)wasm_i32x4_dot_i16x8(wide, wasm_i32x4_splat(pair[i]));
#else
        const __m128i narrow = _mm_loadl_epi64((const __m128i *)w);
        const __m128i wide = _mm_srai_epi16(_mm_unpacklo_epi8(narrow, narrow), 8);
        total += (vi)_mm_madd_epi16(wide, _mm_set1_epi32(pair[i]));
#endif
    }
    return total;
#else
    for (size_t i = 0; i < 4; i++, w += L) {
        total += __builtin_convertvector(*(const vi8 *)w, vi) * (int32_t)((const int16_t *)x)[i];
    }
    return total;
#endif
}

/* Store a vector of whole numbers of 8 or 16 bits; memory after them is written later, or unused. */
INLINE void store_whole(char *to, vi v, const bool bytes) {
#if LE_LANES == 8
    const __m256i whole = (__m256i)v;
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    if (bytes) _mm_storel_epi64((__m128i *)to, _mm_packus_epi16(words, words));
    else _mm_storeu_si128((__m128i *)to, words);
#else
    if (bytes) *(vu8 *)to = __builtin_convertvector(v, vu8);
    else *(vi16 *)to = __builtin_convertvector(v, vi16);
#endif
}

INLINE void range_of(vf v, vf *low, vf *high, vf *odd) {
    *low = smallest(*low, v);
    *high = largest(*high, v);
    *odd += v * 0.f;
}

/* How the numbers of a row become bytes: x / scale + zero; all are 0 where one is not `finite`. */
typedef struct {
    float scale, zero;
    bool finite;
} levels;

INLINE levels levels_of(const float *x, size_t k) {
    const size_t whole = k / L * L;
    vf low = {0}, high = {0}, odd = {0};
    for (size_t i = 0; i < whole; i += L) range_of(load(x + i), &low, &high, &odd);
    if (whole < k) range_of(load_some(x + whole, k - whole, 0.f), &low, &high, &odd);
    const float least = -largest_of(-low), most = largest_of(high);
    float scale = most / 255.f - least / 255.f, exact = (most - least) / 255.f;
    scale = isinf(exact) ? scale : exact;
    scale = scale == 0.f ? 1.f : scale;
    if (sum(odd) != 0.f) return (levels){.scale = NAN};
    const float level = -least / scale;
    return (levels){scale, rintf(level < 255.f ? level : 255.f), true};
}

INLINE vi to_levels(vf v, const levels *is, int32_t shift) {
    /* 1.5 * 2^23: adding it rounds to a whole number, in the low bits */
    const vf magic = set1(12582912.f), bottom = magic - is->zero, top = bottom + 255.f;
    const vi start = (vi){0} + (0x4B400000 - (int32_t)is->zero + shift);
    const vf rounded = smallest(top, largest(bottom, v / is->scale + magic));
    return ((vi)rounded - start) & -(int32_t)is->finite;
}

/* Store a row of k numbers as levels less `shift`, `padded` of them, each in a byte or in two. */
INLINE void store_levels(const float *x, size_t k, char *to, size_t padded, const levels *is, int32_t shift,
                         const bool bytes) {
    const size_t whole = k / L * L, size = bytes ? 1 : 2;
    size_t i = 0;
    for (; i < whole; i += L) store_whole(to + size * i, to_levels(load(x + i), is, shift), bytes);
    for (; i < padded; i += L) {
        const vf v = load_some(x + i, i < k ? k - i : 0, 0.f);
        store_whole(to + size * i, to_levels(v, is, shift), bytes);
    }
}

/* Quantize rows of k numbers as DynamicQuantizeLinear does, each by itself. */
NOINLINE void quantize(const le_matrix *m, const float *x, size_t stride, size_t rows,
                       const le_workspace *w) {
    const size_t bytes = EACH_INPUT(m->seven), padded = m->units * 4;
    for (size_t row = 0; row < rows; row++, x += stride) {
        char *to = (char *)w->quantized + row * padded * bytes;
        const levels is = levels_of(x, m->k);
        const int32_t shift = bytes == 1 ? OFFSET : (int32_t)is.zero; /* what is taken off right here */
        w->row_scale[row] = is.scale;
        w->row_zero[row] = (int32_t)is.zero - shift;
        if (bytes == 1) store_levels(x, m->k, to, padded, &is, shift, true);
        else store_levels(x, m->k, to, padded, &is, shift, false);
    }
}

/* --- Products --------------------------------------------------------------------------------------- */

/* The sums of a tile, a flat array so that each is a register once the loops are unrolled. */
#define AT(r, j, s, i) ((((r) * J + (j)) * S + (s)) * G + (i))
#define EACH(i, n)     UNROLL for (size_t i = 0; i < (n); i++)
#define MOST           (LE_ROWS * 4 > 10 ? LE_ROWS * 4 : 10)

/* Ask for the weights that are read LE_AHEAD bytes later: `bytes` from `w`. */
INLINE void ask(const void *w, const size_t bytes) {
    UNROLL for (size_t i = 0; i < bytes; i += LE_ALIGN) __builtin_prefetch((const char *)w + LE_AHEAD + i);
}

/* Load a vector of weights from number `at` on, `bytes` per number. */
INLINE vf weights_at(const char *w, size_t at, const size_t bytes) {
    return bytes == 1 ? widen((const int8_t *)w + at) : load((const float *)w + at);
}

/* One tile: R rows, J groups of G vectors, S partial sums of each, weights of `bytes` each; `far` ones are
   asked for ahead. All six are constants where it is called. */
INLINE void tile(const le_matrix *m, const le_rows *p, size_t row, size_t group, const size_t R,
                 const size_t J, const size_t G, const size_t S, const size_t bytes, const bool far) {
    vf a[MOST];
    const float *x[LE_ROWS];
    const size_t next = m->k * G * L;
    const char *w = (const char *)m->weights + group * next * bytes;
    const float *bias = m->bias + group * G * L;
    EACH(r, R) {
        x[r] = p->x + (row + r) * p->stride;
        EACH(j, J) EACH(i, G) EACH(s, S) {
            a[AT(r, j, s, i)] = s == 0 && bytes > 1 ? load(bias + (j * G + i) * L) : (vf){0};
        }
    }
    size_t k = 0;
    for (; k + S <= m->k; k += S, w += S * G * L * bytes) {
        if (far) EACH(j, J) ask(w + j * next * bytes, G * L * bytes);
        EACH(s, S) EACH(r, R) {
            const vf v = set1(x[r][k + s]);
            EACH(j, J) EACH(i, G) {
                a[AT(r, j, s, i)] =
                    madd(v, weights_at(w, j * next + (s * G + i) * L, bytes), a[AT(r, j, s, i)]);
            }
        }
    }
    if (S > 1) {
        EACH(s, S - 1) {
            if (k + s >= m->k) break;
            EACH(r, R) EACH(i, G) {
                a[AT(r, 0, s, i)] =
                    madd(set1(x[r][k + s]), weights_at(w, (s * G + i) * L, bytes), a[AT(r, 0, s, i)]);
            }
        }
    }
    EACH(r, R) EACH(j, J) EACH(i, G) {
        if (S >= 8) EACH(s, 4) a[AT(r, j, s, i)] += a[AT(r, j, s + 4, i)];
        if (S >= 4) EACH(s, 2) a[AT(r, j, s, i)] += a[AT(r, j, s + 2, i)];
        if (S >= 2) a[AT(r, j, 0, i)] += a[AT(r, j, 1, i)];
        const size_t vector = (group + j) * G + i;
        vf v = a[AT(r, j, 0, i)];
        if (bytes == 1) v = madd(load(m->scales + vector * L), v, load(bias + (j * G + i) * L));
        store(p->y + (row + r) * p->y_stride + vector * L, v);
    }
}

/* Add the products of R rows of quantized inputs with int8 weights to the sums of a tile. They are exact in
 * any order, so that they need no partial sums. */
#if UNIT == 8
INLINE void multiply8(const le_matrix *m, const char *x, vi *a, size_t group, const size_t R, const size_t J,
                      const size_t G, const bool far, const bool seven) {
    (void)seven;
    int32x4_t part[2 * MOST] = {{0}}; /* of two outputs, with each of two rows or with halves of one */
    const size_t row = m->units * 4, next = row * G * L, each = G * UNIT * L, P = (R + 1) / 2, V = 2 * J * G;
    const int8_t *w = (const int8_t *)m->weights + group * next;
    for (size_t k = 0; k < row; k += UNIT, w += each) {
        if (far) EACH(j, J) ask(w + j * next, each);
        int8x16_t two[MOST];
        EACH(p, P) {
            const int64_t *from = (const int64_t *)(const void *)(x + 2 * p * row + k);
            int64x2_t eight = vld1q_dup_s64(from);
            if (R > 1) eight = vld1q_lane_s64(from + row / UNIT, eight, 1);
            two[p] = vreinterpretq_s8_s64(eight);
        }
        EACH(v, V) {
            const int8x16_t weights = vld1q_s8(w + v / (2 * G) * next + v % (2 * G) * 16);
            EACH(p, P) {
                int32x4_t *sums = &part[p * V + v];
                *sums = R == 1 ? vdotq_s32(*sums, weights, two[p]) : vmmlaq_s32(*sums, weights, two[p]);
            }
        }
    }
    EACH(p, P) EACH(v, J * G) {
        const int32x4_t low = part[p * V + 2 * v], high = part[p * V + 2 * v + 1];
        if (R == 1) {
            a[v] = (vi)vpaddq_s32(low, high);
        } else {
            a[2 * p * J * G + v] = (vi)vuzp1q_s32(low, high);
            a[(2 * p + 1) * J * G + v] = (vi)vuzp2q_s32(low, high);
        }
    }
}
#else
INLINE void multiply8(const le_matrix *m, const char *x, vi *a, size_t group, const size_t R, const size_t J,
                      const size_t G, const bool far, const bool seven) {
    const size_t next = m->units * G * 4 * L;
    const int8_t *w = (const int8_t *)m->weights + group * next;
    EACH(i, R * J * G) a[i] = (vi){0};
    for (size_t k = 0; k < m->units; k++, w += G * 4 * L) {
        if (far) EACH(j, J) ask(w + j * next, G * 4 * L);
        EACH(r, R) {
            const char *four = x + (r * m->units + k) * 4 * EACH_INPUT(seven);
            EACH(j, J) EACH(i, G) {
                vi *sums = &a[(r * J + j) * G + i];
                *sums = dot(*sums, four, w + j * next + i * 4 * L, seven);
            }
        }
    }
}
#endif

/* The same tile for int8 weights and quantized inputs. */
INLINE void tile8(const le_matrix *m, const le_rows *p, const le_workspace *ws, size_t row, size_t group,
                  const size_t R, const size_t J, const size_t G, const bool far, const bool seven) {
    vi a[MOST];
    const char *x = (const char *)ws->quantized + row * m->units * 4 * EACH_INPUT(seven);
    multiply8(m, x, a, group, R, J, G, far, seven);
    const size_t first = group * G * L;
    const int32_t *sums = m->sums + first;
    const float *scales = m->scales + first, *bias = m->bias + first;
    EACH(r, R) {
        const vi zero = (vi){0} + ws->row_zero[row + r];
        const vf scale = set1(ws->row_scale[row + r]);
        float *y = p->y + (row + r) * p->y_stride + first;
        EACH(j, J * G) { /* the sums of a row lie one after another */
            const vf whole =
                __builtin_convertvector(a[r * J * G + j] - *(const vi *)(sums + j * L) * zero, vf);
            store(y + j * L, load(bias + j * L) + whole * (load(scales + j * L) * scale));
        }
    }
}

/* What the weights of a product are: floats; int8 that is widened; int8 of quantized inputs, at most 64 or
 * not. */
typedef enum { FLOATS, WIDENED, QUANTIZED, SEVEN_BITS } form;

#define TILE(p, row, group, R, J, S, far)                                                                    \
    (kind < QUANTIZED ? tile(m, p, row, group, R, J, G, S, kind == WIDENED ? 1 : 4, far)                     \
                      : tile8(m, p, ws, row, group, R, J, G, far, kind == SEVEN_BITS))

/* A row of a matrix of one group, or of two groups of five vectors. */
INLINE void split_row(const le_matrix *m, const float *x, float *y, const le_workspace *ws, const form kind,
                      const size_t G) {
    const size_t S = G == 3 || G == 5 ? 2 : 8 / G;
    const le_rows p = {.x = x, .y = y};
    if (kind >= QUANTIZED) quantize(m, x, 0, 1, ws);
    if (G < 5 || m->groups == 1) TILE(&p, 0, 0, 1, 1, S, false);
    else TILE(&p, 0, 0, 1, 2, 1, false);
}

/* A row of a matrix of several groups: as many at once as hide the latency of an addition, then the rest. */
INLINE void one_row(const le_matrix *m, const float *x, float *y, const le_workspace *ws, const form kind,
                    const size_t G) {
    const size_t J = 8 / G, whole = m->groups / J, rest = m->groups % J;
    const le_rows p = {.x = x, .y = y};
    if (kind >= QUANTIZED) quantize(m, x, 0, 1, ws);
    const bool backward = ws->backward;
    const bool far = G >= 3 && (ws->far || m->padded * m->units * (kind == WIDENED ? 1 : 4) > LE_FAR);
    if (backward) {
        for (size_t i = rest; i-- > 0;) TILE(&p, 0, whole * J + i, 1, 1, 1, false);
    }
    for (size_t i = 0; i < whole; i++) {
        const size_t group = (backward ? whole - 1 - i : i) * J;
        if (far) TILE(&p, 0, group, 1, J, 1, true);
        else TILE(&p, 0, group, 1, J, 1, false);
    }
    if (!backward) {
        for (size_t i = 0; i < rest; i++) TILE(&p, 0, whole * J + i, 1, 1, 1, false);
    }
}

INLINE void many_rows(const le_matrix *m, const le_rows *p, const le_workspace *ws, size_t rows,
                      const form kind, const size_t G) {
    if (kind >= QUANTIZED) quantize(m, p->x, p->stride, rows, ws);
    for (size_t i = 0; i < m->groups; i++) {
        const size_t group = ws->backward ? m->groups - 1 - i : i;
        size_t row = 0;
        for (; row + LE_ROWS <= rows; row += LE_ROWS) TILE(p, row, group, LE_ROWS, 1, 1, false);
        for (; row + 2 <= rows; row += 2) TILE(p, row, group, 2, 1, 1, false);
        if (row < rows) TILE(p, row, group, 1, 1, 1, false);
    }
}

static void row_by_row(const le_matrix *m, const le_rows *p, const le_workspace *ws, size_t rows) {
    for (size_t r = 0; r < rows; r++) {
        m->one(m, p->x + r * p->stride, p->y + r * p->y_stride, ws);
    }
}

/* A single output of inputs in float32. */
static void one_output(const le_matrix *m, const float *x, float *y, const le_workspace *ws) {
    (void)ws;
    const float *w = m->weights;
    vf a[4] = {{0}};
    size_t k = 0;
    for (; k + 4 * L <= m->k; k += 4 * L) {
        EACH(s, 4) a[s] = madd(load(x + k + s * L), load(w + k + s * L), a[s]);
    }
    for (; k < m->k; k += L) a[0] = madd(load_some(x + k, m->k - k, 0.f), load(w + k), a[0]);
    *y = *m->bias + sum((a[0] + a[1]) + (a[2] + a[3]));
}

#define SPLIT(F, G)                                                                                          \
    NOINLINE void split_##F##G(const le_matrix *m, const float *x, float *y, const le_workspace *ws) {       \
        split_row(m, x, y, ws, F, G);                                                                        \
    }
#define PRODUCTS(F, G)                                                                                       \
    NOINLINE void one_##F##G(const le_matrix *m, const float *x, float *y, const le_workspace *ws) {         \
        one_row(m, x, y, ws, F, G);                                                                          \
    }                                                                                                        \
    NOINLINE void many_##F##G(const le_matrix *m, const le_rows *p, const le_workspace *ws, size_t rows) {   \
        many_rows(m, p, ws, rows, F, G);                                                                     \
    }                                                                                                        \
    SPLIT(F, G)
#define GROUPS(F)   PRODUCTS(F, 1) PRODUCTS(F, 2) PRODUCTS(F, 3) PRODUCTS(F, 4) SPLIT(F, 5)
#define NAMED(F, G) {one_##F##G, many_##F##G, split_##F##G}
#define ALL(F)      {NAMED(F, 1), NAMED(F, 2), NAMED(F, 3), NAMED(F, 4), {NULL, NULL, split_##F##5}}

GROUPS(FLOATS)
GROUPS(WIDENED)
GROUPS(QUANTIZED)
#if SEVEN
GROUPS(SEVEN_BITS)
#endif

/* By form, and one less than the vectors in a group. */
static const struct {
    le_one *one;
    le_many *many;
    le_one *split;
} PRODUCT[][5] = {
    ALL(FLOATS),
    ALL(WIDENED),
    ALL(QUANTIZED),
#if SEVEN
    ALL(SEVEN_BITS),
#endif
};

/* --- Products with the blocks that are stored --------------------------------------------------------- */

/* Sums of a row and a band: this many vectors, each in as many parts as make four. */
#define BAND_VECTORS            ((size_t)LE_BAND / L)
#define BAND_PARTS              (4 / BAND_VECTORS)
#define CHAIN(r, s, i, vectors) ((r) * 4 + (s) * (vectors) + (i))

/* One tile: R rows of one band, weights of `bytes` each. */
INLINE void blocks_tile(const le_matrix *m, const le_rows *p, size_t row, size_t band, const size_t R,
                        const size_t bytes, const bool far) {
    const size_t V = BAND_VECTORS, S = BAND_PARTS;
    const uint32_t *place = m->place + band * V;
    const uint16_t *column = m->column + m->first[band];
    const char *w = (const char *)m->weights + (size_t)m->first[band] * LE_BAND * bytes;
    vf a[LE_ROWS * 4];
    const float *x[LE_ROWS];
    EACH(r, R) {
        x[r] = p->x + (row + r) * p->stride;
        EACH(s, S) EACH(i, V) {
            a[CHAIN(r, s, i, V)] = s == 0 && bytes > 1 ? load(m->bias + place[i]) : (vf){0};
        }
    }
    size_t left = m->first[band + 1] - m->first[band];
#define ADD_BLOCK(s)                                                                                         \
    EACH(r, R) {                                                                                             \
        const vf v = set1(x[r][column[s]]);                                                                  \
        EACH(i, V) {                                                                                         \
            a[CHAIN(r, s, i, V)] =                                                                           \
                madd(v, weights_at(w, (s) * LE_BAND + i * L, bytes), a[CHAIN(r, s, i, V)]);                  \
        }                                                                                                    \
    }
    for (; left >= S; left -= S, column += S, w += S * LE_BAND * bytes) {
        if (far) ask(w, S * LE_BAND * bytes);
        EACH(s, S) ADD_BLOCK(s)
    }
    if (S > 1) {
        EACH(s, S - 1) {
            if (s >= left) break;
            ADD_BLOCK(s)
        }
    }
#undef ADD_BLOCK
    EACH(r, R) EACH(i, V) {
        if (S >= 4) EACH(s, 2) a[CHAIN(r, s, i, V)] += a[CHAIN(r, s + 2, i, V)];
        if (S >= 2) a[CHAIN(r, 0, i, V)] += a[CHAIN(r, 1, i, V)];
        vf v = a[CHAIN(r, 0, i, V)];
        if (bytes == 1) v = madd(load(m->scales + place[i]), v, load(m->bias + place[i]));
        store(p->y + (row + r) * p->y_stride + place[i], v);
    }
}

/* Quantized inputs: a group is some bands side by side, each with as many blocks, so that a tile's sums fill
 * GROUP_VECTORS vectors. A vector of sixteen lanes is two bands, one of four half a band. */
#define GROUP_VECTORS ((size_t)4)
#define GROUP_BANDS   (GROUP_VECTORS * L / LE_INT8_BAND)
#define SEGMENT       (L < LE_INT8_BAND ? L : (size_t)LE_INT8_BAND)
#define SEGMENTS      (GROUP_VECTORS * L / SEGMENT)

/* Add the products of vector i of a group's blocks. Their columns are four per number: a processor has few
   loads to spare. */
INLINE vi dot_blocks(vi total, const char *x, const uint64_t *column, const size_t i, const int8_t *w,
                     const bool seven) {
    const size_t bytes = LE_INT8_COLUMNS * EACH_INPUT(seven);
#define COLUMN(band) (column[(band) / 4] >> (band) % 4 * 16 & 0xFFFF)
    const char *first = x + COLUMN(i * L / LE_INT8_BAND) * bytes;
#if LE_LANES == 16
    return dot_two(total, first, x + COLUMN(2 * i + 1) * bytes, true, w, seven);
#else
    return dot(total, first, w, seven);
#endif
}

/* Units of four inputs that two vectors hold: from these each lane picks its own in less time than loads
 * take. */
#if LE_LANES == 16 && defined(DOT)
#define FEW 32u
#else
#define FEW 0u
#endif

/* The same for a row of few inputs; working memory goes on for two vectors. */
INLINE vi dot_few(vi total, const char *x, const uint16_t *column, const size_t i, const int8_t *w) {
#if FEW > 0
    int32_t two;
    memcpy(&two, column + 2 * i, sizeof two);
    const __m512i both = _mm512_set1_epi32(two);
    const __m512i index = _mm512_mask_srli_epi32(both, 0xFF00, both, 16); /* its low five bits count */
    const __m512i bytes = _mm512_permutex2var_epi32(_mm512_loadu_si512(x), index, _mm512_loadu_si512(x + 64));
    return (vi)_mm512_dpbusd_epi32((__m512i)total, bytes, _mm512_load_si512(w));
#else
    (void)x, (void)column, (void)i, (void)w;
    return total;
#endif
}

/* Store a vector whose segments lie apart. */
INLINE void store_segments(float *p, const uint32_t *place, vf v) {
#if LE_LANES == 16
    _mm256_storeu_ps(p + place[0], _mm512_castps512_ps256((__m512)v));
    _mm256_storeu_ps(p + place[1], _mm512_extractf32x8_ps((__m512)v, 1));
#else
    store(p + place[0], v);
#endif
}

/* One tile: R rows of one group, or one row of `few` inputs. */
INLINE void blocks_tile8(const le_matrix *m, const le_rows *p, const le_workspace *ws, size_t row,
                         size_t group, const size_t R, const bool far, const bool few, const bool seven) {
    const size_t V = GROUP_VECTORS, each = LE_INT8_COLUMNS * L;
    const uint16_t *column = m->column + m->first[group] * GROUP_BANDS;
    const int8_t *w = (const int8_t *)m->weights + m->first[group] * V * each;
    const int32_t *sums = m->sums + group * V * L;
    vi a[LE_ROWS * GROUP_VECTORS];
    const char *x[LE_ROWS];
    EACH(r, R) {
        x[r] = (const char *)ws->quantized + (row + r) * m->units * LE_INT8_COLUMNS * EACH_INPUT(seven);
        EACH(i, V) a[r * V + i] = *(const vi *)(sums + i * L) * -ws->row_zero[row + r];
    }
    for (size_t left = m->first[group + 1] - m->first[group]; left > 0; left--) {
        if (far) ask(w, V * each);
        uint64_t columns[2] = {0};
        memcpy(columns, column, GROUP_BANDS * sizeof *column);
        EACH(r, R) EACH(i, V) {
            vi *total = &a[r * V + i];
            *total = few ? dot_few(*total, x[r], column, i, w + i * each)
                         : dot_blocks(*total, x[r], columns, i, w + i * each, seven);
        }
        column += GROUP_BANDS;
        w += V * each;
    }
    const float *scales = m->scales + group * V * L, *bias = m->bias + group * V * L;
    EACH(r, R) {
        const vf scale = set1(ws->row_scale[row + r]);
        float *y = p->y + (row + r) * p->y_stride;
        EACH(i, V) {
            const uint32_t *place = m->place + (group * V + i) * SEGMENTS / V;
            const vf whole = __builtin_convertvector(a[r * V + i], vf);
            store_segments(y, place, load(bias + i * L) + whole * (load(scales + i * L) * scale));
        }
    }
}

#define BLOCKS_TILE(row, R, far, few)                                                                        \
    (kind < QUANTIZED ? blocks_tile(m, p, row, band, R, kind == WIDENED ? 1 : 4, far)                        \
                      : blocks_tile8(m, p, ws, row, band, R, far, few, kind == SEVEN_BITS))

INLINE void blocks_rows(const le_matrix *m, const le_rows *p, const le_workspace *ws, size_t rows,
                        const form kind) {
    if (kind >= QUANTIZED) quantize(m, p->x, p->stride, rows, ws);
    for (size_t i = 0; i < m->bands; i++) {
        const size_t band = ws->backward ? m->bands - 1 - i : i;
        size_t row = 0;
        for (; row + LE_ROWS <= rows; row += LE_ROWS) BLOCKS_TILE(row, LE_ROWS, false, false);
        for (; row + 2 <= rows; row += 2) BLOCKS_TILE(row, 2, false, false);
        if (row < rows) BLOCKS_TILE(row, 1, false, false);
    }
}

INLINE void blocks_row(const le_matrix *m, const float *x, float *y, const le_workspace *ws,
                       const form kind) {
    const le_rows row = {.x = x, .y = y}, *p = &row;
    if (kind >= QUANTIZED) quantize(m, x, 0, 1, ws);
    for (size_t i = 0; i < m->bands; i++) {
        const size_t band = ws->backward ? m->bands - 1 - i : i;
        if (FEW > 0 && kind >= QUANTIZED && m->units <= FEW) BLOCKS_TILE(0, 1, false, true);
        else if (ws->far) BLOCKS_TILE(0, 1, true, false);
        else BLOCKS_TILE(0, 1, false, false);
    }
}

#define BLOCKS(F)                                                                                            \
    NOINLINE void blocks_row_##F(const le_matrix *m, const float *x, float *y, const le_workspace *ws) {     \
        blocks_row(m, x, y, ws, F);                                                                          \
    }                                                                                                        \
    NOINLINE void blocks_rows_##F(const le_matrix *m, const le_rows *p, const le_workspace *ws,              \
                                  size_t rows) {                                                             \
        blocks_rows(m, p, ws, rows, F);                                                                      \
    }
BLOCKS(FLOATS)
BLOCKS(WIDENED)
BLOCKS(QUANTIZED)
#if SEVEN
BLOCKS(SEVEN_BITS)
#endif

/* By form. */
static const struct {
    le_one *one;
    le_many *many;
} BLOCK_PRODUCT[] = {
    {blocks_row_FLOATS, blocks_rows_FLOATS},
    {blocks_row_WIDENED, blocks_rows_WIDENED},
    {blocks_row_QUANTIZED, blocks_rows_QUANTIZED},
#if SEVEN
    {blocks_row_SEVEN_BITS, blocks_rows_SEVEN_BITS},
#endif
};

/* --- Packing ------------------------------------------------------------------------------------------ */

INLINE void product(const le_matrix *m, const le_rows *p, const le_workspace *ws, size_t rows) {
    if (rows == 1) m->one(m, p->x, p->y, ws);
    else m->many(m, p, ws, rows);
}

/* Distance between two gates whose `units` fill no vector: one store should write all that a later load
 * reads. */
INLINE size_t tail_of(size_t units) {
#if LE_LANES > 4
    if (units > 0 && units <= 4) return 4;
#endif
#if LE_LANES > 8
    if (units > 4 && units <= 8) return 8;
#endif
    return units;
}

/* How the outputs of a matrix are spread over the lanes of vectors, and these over groups. */
typedef struct {
    size_t gates, per_gate;
    size_t whole, tail;   /* outputs of a gate in whole vectors, and those behind them with their padding */
    size_t group, groups; /* vectors in a group, and how many groups there are */
} layout;

/* Spread m outputs of several gates. */
static layout spread(size_t m, size_t gates) {
    layout p = {.gates = gates, .per_gate = m / gates};
    p.whole = p.per_gate / L * L;
    p.tail = tail_of(p.per_gate - p.whole);
    const size_t vectors = (gates * (p.whole + p.tail) + L - 1) / L;
    p.group = vectors == 5 || vectors == 10 ? 5 : 4;
    /* Gates may be padded by a vector, as one vector at a time would wait for its sums. */
    const size_t least = gates > 1 && vectors > 1 ? 1 : 0;
    for (size_t g = 3; g > least; g--) {
        if ((vectors + g - 1) / g * g < (vectors + p.group - 1) / p.group * p.group) p.group = g;
    }
    p.groups = (vectors + p.group - 1) / p.group;
    return p;
}

/* Return the index of an output among the lanes of all vectors. */
static size_t place_of(const layout *p, size_t output) {
    const size_t gate = output / p->per_gate, unit = output % p->per_gate;
    if (unit < p->whole) return unit / L * L * p->gates + gate * L + unit % L;
    return p->gates * p->whole + gate * p->tail + unit - p->whole;
}

/* Return whether no weight is beyond 64, so that the sum of two products fits into 16 bits. */
static bool fit_seven_bits(const le_weights *given) {
    const int8_t *weights = (const int8_t *)given->numbers;
    const uint32_t *first = given->blocks.first;
    const size_t stored = first == NULL ? 0 : first[given->m / LE_INT8_BAND] - first[0];
    const size_t count = first == NULL ? given->m * given->k : stored * LE_INT8_BAND * LE_INT8_COLUMNS;
    for (size_t i = 0; i < count; i++) {
        if (weights[i] < -64 || weights[i] > 64) return false;
    }
    return true;
}

/* Copy the weights of an output, k numbers, to where its lane of a group begins. */
static void place_weights(le_matrix *matrix, form kind, const layout *p, size_t index,
                          const le_weights *given, size_t j) {
    const size_t k = matrix->k, lane = index % L, vector = index / L;
    const size_t start = (vector / p->group * matrix->units * p->group + vector % p->group) * L;
    const size_t unit = vector / p->group * matrix->units * 4 / UNIT * p->group + vector % p->group;
    const int8_t *from = (const int8_t *)given->numbers + j * k;
    float *floats = matrix->weights;
    int8_t *bytes = matrix->weights;
    for (size_t i = 0; i < k; i++) {
        const size_t to = start + i * p->group * L + lane;
        if (kind == WIDENED) {
            bytes[to] = from[i];
        } else if (kind != FLOATS) {
            const size_t at = UNIT == 4 ? int8_place(lane, i % 4, L, matrix->seven) : lane * UNIT + i % UNIT;
            bytes[(unit + i / UNIT * p->group) * L * UNIT + at] = from[i];
            matrix->sums[index] += from[i];
        } else if (given->scales != NULL) {
            floats[to] = (float)from[i] * given->scales[j];
        } else {
            memcpy(floats + to, given->numbers + (j * k + i) * sizeof(float), sizeof(float));
        }
    }
}

/* Copy the weights of a single output, which no lanes share. */
static void place_single(le_matrix *matrix, const le_weights *given) {
    float *floats = matrix->weights;
    for (size_t i = 0; i < matrix->k; i++) {
        if (given->scales == NULL) memcpy(floats + i, given->numbers + i * sizeof(float), sizeof(float));
        else floats[i] = (float)((const int8_t *)given->numbers)[i] * given->scales[0];
    }
}

/* Lay out the weights of a matrix of which all is stored. */
static bool pack_all(le_arena *arena, le_matrix *matrix, form kind, const layout *p,
                     const le_weights *given) {
    const bool single = given->m == 1 && kind == FLOATS;
    const size_t count = single ? given->k + L : matrix->padded * matrix->units;
    matrix->weights = le_arena_take(arena, count, kind == WIDENED ? 1 : sizeof(float));
    if (matrix->weights == NULL) return false;
    const bool split = p->groups == 1 || p->group == 5;
    matrix->one = split ? PRODUCT[kind][p->group - 1].split : PRODUCT[kind][p->group - 1].one;
    if (single) matrix->one = one_output;
    matrix->many = single || split ? row_by_row : PRODUCT[kind][p->group - 1].many;
    if (single) place_single(matrix, given);
    else
        for (size_t j = 0; j < given->m; j++) place_weights(matrix, kind, p, place_of(p, j), given, j);
    return true;
}

/* Copy block `from`, whose first output is `row`, to be number `to`. */
static void place_block(le_matrix *matrix, form kind, const le_weights *given, size_t row, size_t from,
                        size_t to) {
    const float *floats = (const float *)given->numbers + from * LE_BAND;
    const int8_t *bytes = (const int8_t *)given->numbers + from * LE_BAND;
    float *to_floats = (float *)matrix->weights + to * LE_BAND;
    if (kind == WIDENED) {
        memcpy((int8_t *)matrix->weights + to * LE_BAND, bytes, LE_BAND);
    } else if (given->scales == NULL) {
        memcpy(to_floats, floats, LE_BAND * sizeof *floats);
    } else {
        for (size_t i = 0; i < LE_BAND; i++) to_floats[i] = (float)bytes[i] * given->scales[row + i];
    }
}

/* Copy int8 block `from` to be the one of band `band` of a group in its block number `to`. */
static void place_block8(le_matrix *matrix, const le_weights *given, size_t from, size_t to, size_t band,
                         int32_t *sums) {
    const size_t size = LE_INT8_BAND * LE_INT8_COLUMNS;
    const int8_t *weight = (const int8_t *)given->numbers + from * size;
    int8_t *group = (int8_t *)matrix->weights + to * GROUP_BANDS * size;
    for (size_t i = 0; i < size; i++) {
        const size_t output = i / LE_INT8_COLUMNS, lane = band * LE_INT8_BAND + output;
        int8_t *vector = group + lane / L * L * LE_INT8_COLUMNS;
        vector[int8_place(lane % L, i % LE_INT8_COLUMNS, L, matrix->seven)] = weight[i];
        sums[output] += weight[i];
    }
}

/* A band of a file, by the number of its blocks. */
typedef struct {
    uint32_t blocks, band;
} counted_band;

static int by_count(const void *a, const void *b) {
    const counted_band *left = a, *right = b;
    if (left->blocks != right->blocks) return left->blocks < right->blocks ? -1 : 1;
    return left->band < right->band ? -1 : 1;
}

/* Return the bands of a matrix, those of equally many blocks side by side: a processor then guesses when a
   band ends. NULL where there is no memory. */
static counted_band *sorted_bands(const uint32_t *first, size_t bands) {
    counted_band *sorted = le_zeros(bands, sizeof *sorted);
    if (sorted == NULL) return NULL;
    for (size_t b = 0; b < bands; b++) sorted[b] = (counted_band){first[b + 1] - first[b], (uint32_t)b};
    qsort(sorted, bands, sizeof *sorted, by_count);
    return sorted;
}

/* Allocate the weights and the lists of a matrix in blocks. */
static bool take_blocks(le_arena *arena, le_matrix *matrix, size_t blocks, size_t bytes, size_t places) {
    matrix->weights = le_arena_take(arena, blocks, bytes);
    matrix->first = le_arena_take(arena, matrix->bands + 1, sizeof(uint32_t));
    matrix->place = le_arena_take(arena, places, sizeof(uint32_t));
    matrix->column = le_arena_take(arena, blocks, sizeof(uint16_t));
    return matrix->weights != NULL && matrix->first != NULL && matrix->place != NULL &&
           matrix->column != NULL;
}

/* Lay out the weights of a matrix in blocks, band after band. */
static bool pack_blocks(le_arena *arena, le_matrix *matrix, form kind, const layout *p,
                        const le_weights *given, const counted_band *sorted) {
    const uint32_t *first = given->blocks.first;
    const size_t vectors = BAND_VECTORS;
    matrix->bands = given->m / LE_BAND;
    const size_t blocks = first[matrix->bands] - first[0], size = kind == FLOATS ? sizeof(float) : 1;
    if (!take_blocks(arena, matrix, blocks, LE_BAND * size, matrix->bands * vectors)) return false;
    uint32_t to = 0;
    for (size_t b = 0; b < matrix->bands; b++) {
        const size_t band = sorted[b].band, row = band * LE_BAND;
        for (size_t i = 0; i < vectors; i++)
            matrix->place[b * vectors + i] = (uint32_t)place_of(p, row + i * L);
        for (size_t i = first[band] - first[0]; i < first[band + 1] - first[0]; i++, to++) {
            matrix->column[to] = given->blocks.column[i];
            place_block(matrix, kind, given, row, i, to);
        }
        matrix->first[b + 1] = to;
    }
    return true;
}

/* The same for quantized inputs, in groups of bands. Bands with fewer blocks than others of their group get
   zeros; the last band is repeated where a group has too few. */
static bool pack_blocks8(le_arena *arena, le_matrix *matrix, const layout *p, const le_weights *given,
                         const counted_band *sorted) {
    const uint32_t *first = given->blocks.first;
    const size_t bands = given->m / LE_INT8_BAND, groups = (bands + GROUP_BANDS - 1) / GROUP_BANDS;
    size_t blocks = 0;
    for (size_t g = 0; g < groups; g++) blocks += sorted[least((g + 1) * GROUP_BANDS, bands) - 1].blocks;
    matrix->bands = groups;
    if (!take_blocks(arena, matrix, blocks * GROUP_BANDS, LE_INT8_BAND * LE_INT8_COLUMNS, groups * SEGMENTS))
        return false;
    for (size_t i = 0; i < groups * GROUP_BANDS; i++) {
        const size_t g = i / GROUP_BANDS, at = least(i, bands - 1), row = sorted[at].band * LE_INT8_BAND;
        int32_t *sums = matrix->sums + i * LE_INT8_BAND;
        memcpy(matrix->scales + i * LE_INT8_BAND, given->scales + row, LE_INT8_BAND * sizeof(float));
        if (given->bias != NULL)
            memcpy(matrix->bias + i * LE_INT8_BAND, given->bias + row, LE_INT8_BAND * sizeof(float));
        for (size_t j = 0; j < LE_INT8_BAND; j += SEGMENT)
            matrix->place[(i * LE_INT8_BAND + j) / SEGMENT] = (uint32_t)place_of(p, row + j);
        const size_t start = first[sorted[at].band] - first[0];
        for (size_t j = 0; j < sorted[at].blocks; j++) {
            const size_t to = matrix->first[g] + j;
            matrix->column[to * GROUP_BANDS + i % GROUP_BANDS] =
                (uint16_t)(given->blocks.column[start + j] / LE_INT8_COLUMNS);
            place_block8(matrix, given, start + j, to, i % GROUP_BANDS, sums);
        }
        matrix->first[g + 1] = matrix->first[g] + sorted[at].blocks;
    }
    return true;
}

/* Choose the form of some weights. int8 ones whose inputs are in float32 stay as they are where floats would
   not fit the cache. */
static form form_of(const le_arena *arena, const le_weights *given) {
    if (given->quantized) return SEVEN && fit_seven_bits(given) ? SEVEN_BITS : QUANTIZED;
    const bool narrow = given->scales != NULL && KEEPS_INT8 && arena->size >= LE_FAR / 4;
    return narrow ? WIDENED : FLOATS;
}

/* Place the biases and scales of a matrix, those of blocks of quantized inputs excepted. */
static bool pack_vectors(le_matrix *matrix, form kind, const layout *p, const le_weights *given) {
    const bool sparse = given->blocks.first != NULL, scaled = kind != FLOATS, quantized = kind >= QUANTIZED;
    const size_t lanes = matrix->padded + (sparse ? GROUP_VECTORS * L : 0);
    matrix->bias = le_zeros(lanes, sizeof(float));
    matrix->scales = scaled ? le_zeros(lanes, sizeof(float)) : NULL;
    matrix->sums = quantized ? le_zeros(lanes, sizeof(int32_t)) : NULL;
    if (matrix->bias == NULL || (scaled && matrix->scales == NULL) || (quantized && matrix->sums == NULL))
        return false;
    if (quantized && sparse) return true;
    for (size_t j = 0; j < given->m; j++) {
        const size_t index = place_of(p, j);
        if (given->bias != NULL) matrix->bias[index] = given->bias[j];
        if (scaled) matrix->scales[index] = given->scales[j];
    }
    return true;
}

/* Lay out the weights of a matrix in blocks. */
static bool pack_sparse(le_arena *arena, le_matrix *matrix, form kind, const layout *p,
                        const le_weights *given) {
    matrix->one = BLOCK_PRODUCT[kind].one;
    matrix->many = BLOCK_PRODUCT[kind].many;
    const size_t band = kind >= QUANTIZED ? LE_INT8_BAND : LE_BAND;
    counted_band *sorted = sorted_bands(given->blocks.first, given->m / band);
    if (sorted == NULL) return false;
    const bool done = kind >= QUANTIZED ? pack_blocks8(arena, matrix, p, given, sorted)
                                        : pack_blocks(arena, matrix, kind, p, given, sorted);
    free(sorted);
    return done;
}

static bool pack(le_arena *arena, le_matrix *matrix, const le_weights *given) {
    const form kind = form_of(arena, given);
    const size_t unit = given->blocks.first == NULL ? UNIT : LE_INT8_COLUMNS;
    const layout p = spread(given->m, given->gates);
    *matrix = (le_matrix){.k = given->k,
                          .m = given->m,
                          .tail = p.tail,
                          .units = kind >= QUANTIZED ? (given->k + unit - 1) / unit * unit / 4 : given->k,
                          .groups = p.groups,
                          .padded = p.groups * p.group * L,
                          .seven = kind == SEVEN_BITS};
    if (!pack_vectors(matrix, kind, &p, given)) return false;
    if (given->blocks.first == NULL) return pack_all(arena, matrix, kind, &p, given);
    return pack_sparse(arena, matrix, kind, &p, given);
}

/* --- Cells ------------------------------------------------------------------------------------------ */

/* Apply a function of a GRU or RNN. */
INLINE vf gate_of(const le_op *op, const size_t i, vf x) {
    if (op->usual) return i == 0 ? sigmoid(x) : vtanh(x);
    return apply(&op->act[i], x);
}

/* Load a vector of a gate where the gates lie `apart`. */
INLINE vf gate_at(const float *p, size_t apart) {
#if LE_LANES == 16
    if (apart == 4) return (vf)_mm512_zextps128_ps512(_mm_loadu_ps(p));
    if (apart == 8) return (vf)_mm512_zextps256_ps512(_mm256_loadu_ps(p));
#elif LE_LANES == 8
    if (apart == 4) return (vf)_mm256_zextps128_ps256(_mm_loadu_ps(p));
#endif
    (void)apart;
    return load(p);
}

/* Call CELLS(count, u, apart) for one or two vectors of units, from unit u on; the gates of the last one lie
   `apart`. Two at a time, as a processor looks ahead for less than one takes. */
#define EACH_TWO(matrix, CELLS)                                                                              \
    {                                                                                                        \
        const size_t units = (matrix)->k;                                                                    \
        for (size_t u = 0; u < units; u += 2 * L) {                                                          \
            if (units - u > L) CELLS(2, u, units - u < 2 * L ? (matrix)->tail : L);                          \
            else CELLS(1, u, units - u < L ? (matrix)->tail : L);                                            \
        }                                                                                                    \
    }

/* Gates of the usual LSTM, in ONNX's order: input, output, forget, cell. */
INLINE void lstm_cells(const size_t count, const float *g, const float *s, const float *c, float *h,
                       float *new_c, size_t apart) {
    vf i[2], o[2], f[2], z[2], now[2];
    EACH(n, count) {
        const size_t stride = n + 1 < count ? L : apart, at = 4 * L * n;
        i[n] = gate_at(g + at, stride) + gate_at(s + at, stride);
        o[n] = gate_at(g + at + stride, stride) + gate_at(s + at + stride, stride);
        f[n] = gate_at(g + at + 2 * stride, stride) + gate_at(s + at + 2 * stride, stride);
        z[n] = gate_at(g + at + 3 * stride, stride) + gate_at(s + at + 3 * stride, stride);
    }
#if FUSED
    vf top[2], below[2];
    EACH(n, count) f[n] = one_and_exp(f[n]);
    EACH(n, count) i[n] = one_and_exp(i[n]);
    EACH(n, count) top[n] = tanh_parts(z[n], &below[n]);
    EACH(n, count) now[n] = ratio(load(c + n * L), f[n]) + ratio(top[n], below[n] * i[n]);
    EACH(n, count) o[n] = one_and_exp(o[n]);
    EACH(n, count) top[n] = tanh_parts(now[n], &below[n]);
    EACH(n, count) store(h + n * L, ratio(top[n], below[n] * o[n]));
#else
    EACH(n, count) now[n] = madd(sigmoid(f[n]), load(c + n * L), sigmoid(i[n]) * vtanh(z[n]));
    EACH(n, count) store(h + n * L, sigmoid(o[n]) * vtanh(now[n]));
#endif
    EACH(n, count) store(new_c + n * L, now[n]);
}

/* Take one step of a row from the gates' sums over x and those over h. */
NOINLINE void lstm_usual(const le_op *op, const float *g, const float *s, const float *c, float *h,
                         float *new_c){
#define CELLS(count, u, apart) lstm_cells(count, g + 4 * u, s + 4 * u, c + u, h + u, new_c + u, apart)
    EACH_TWO(&op -> r, CELLS)
#undef CELLS
}

/* The same with other functions. */
NOINLINE
    void lstm_other(const le_op *op, const float *g, const float *s, const float *c, float *h, float *new_c) {
    const size_t units = op->r.k;
    for (size_t u = 0; u < units; u += L, g += 4 * L, s += 4 * L) {
        const size_t apart = units - u < L ? op->r.tail : L;
        const vf i = apply(&op->act[0], load(g) + load(s)),
                 o = apply(&op->act[0], load(g + apart) + load(s + apart));
        const vf f = apply(&op->act[0], load(g + 2 * apart) + load(s + 2 * apart));
        const vf z = apply(&op->act[1], load(g + 3 * apart) + load(s + 3 * apart));
        const vf now = madd(f, load(c + u), i * z);
        store(h + u, o * apply(&op->act[2], now));
        store(new_c + u, now);
    }
}

/* Gates of the usual GRU with linear_before_reset, in ONNX's order: update, reset, new. */
INLINE void gru_cells(const size_t count, const float *g, const float *s, const float *h, float *new_h,
                      size_t apart) {
    vf update[2], reset[2], n[2];
    EACH(v, count) {
        const size_t stride = v + 1 < count ? L : apart, at = 3 * L * v;
        update[v] = gate_at(g + at, stride) + gate_at(s + at, stride);
        reset[v] = gate_at(g + at + stride, stride) + gate_at(s + at + stride, stride);
    }
    EACH(v, count) reset[v] = sigmoid(reset[v]);
    EACH(v, count) {
        const size_t stride = v + 1 < count ? L : apart, at = 3 * L * v + 2 * stride;
        n[v] = madd(reset[v], gate_at(s + at, stride), gate_at(g + at, stride));
    }
    EACH(v, count) update[v] = sigmoid(update[v]);
    EACH(v, count) n[v] = vtanh(n[v]);
    EACH(v, count) store(new_h + v * L, madd(update[v], load(h + v * L), (1.f - update[v]) * n[v]));
}

NOINLINE void gru_usual(const le_op *op, const float *g, float *s, const float *h, float *new_h){
#define CELLS(count, u, apart) gru_cells(count, g + 3 * u, s + 3 * u, h + u, new_h + u, apart)
    EACH_TWO(&op -> r, CELLS)
#undef CELLS
}

/* The same with other functions. Without linear_before_reset s has two gates: it takes the update, and new_h
   reset * h. */
NOINLINE void gru_other(const le_op *op, const float *g, float *s, const float *h, float *new_h) {
    const bool before = op->flags & 1;
    const size_t units = op->r.k;
    for (size_t u = 0; u < units; u += L, g += 3 * L, s += (before ? 3 : 2) * L) {
        const size_t apart = units - u < L ? op->r.tail : L;
        const vf update = gate_of(op, 0, load(g) + load(s)), old = load(h + u);
        const vf reset = gate_of(op, 0, load(g + apart) + load(s + apart));
        if (before) {
            const vf n = gate_of(op, 1, madd(reset, load(s + 2 * apart), load(g + 2 * apart)));
            store(new_h + u, madd(update, old, (1.f - update) * n));
        } else {
            store(s, update);
            store(new_h + u, reset * old);
        }
    }
}

/* Take the step of some rows to its end, where the new gate's product takes reset * h, in `hidden`. */
NOINLINE void gru_end(const le_op *op, const le_workspace *ws, const float *g, const float *s, const float *h,
                      float *new_h, size_t stride, size_t rows) {
    float *fresh = ws->hidden + rows * stride;
    product(&op->n, &(le_rows){ws->hidden, stride, fresh, op->n.padded}, ws, rows);
    for (; rows > 0;
         rows--, g += op->w.padded, s += op->r.padded, h += stride, new_h += stride, fresh += op->n.padded) {
        for (size_t u = 0; u < op->r.k; u += L) {
            const vf update = load(s + 2 * u);
            const float *new = g + 3 * u + 2 * (op->r.k - u < L ? op->w.tail : L);
            const vf n = gate_of(op, 1, load(new) + load(fresh + u));
            store(new_h + u, madd(update, load(h + u), (1.f - update) * n));
        }
    }
}

NOINLINE void rnn_row(const le_op *op, const float *g, const float *s, float *new_h) {
    for (size_t u = 0; u < op->r.k; u += L) store(new_h + u, gate_of(op, 0, load(g + u) + load(s + u)));
}

/* --- Operations ------------------------------------------------------------------------------------- */

INLINE size_t stride_of(const lstm_edge_program *program, uint32_t buffer) {
    return program->spans[buffer].bytes / sizeof(float);
}

INLINE float *rows_from(const lstm_edge_program *program, const le_workspace *ws, uint32_t buffer,
                        size_t first) {
    return (float *)(ws->buffer[buffer] + first * program->spans[buffer].bytes);
}

/* The products with h of some rows. */
INLINE void recur(const lstm_edge_program *program, const le_op *op, const le_workspace *ws, const float *h,
                  float *sums, size_t rows) {
    const size_t stride = stride_of(program, op->h);
    product(&op->r, &(le_rows){h, stride, sums, op->r.padded}, ws, rows);
}

/* Take the last recurrent operation's product with h before its turn: le_workspace says why. */
static void look_ahead(const lstm_edge_program *program, const le_workspace *ws) {
    const le_op *op = program->last_recurrent;
    recur(program, op, ws, rows_from(program, ws, op->h, 0), ws->ahead, 1);
}

/* The rows of a layer's step: gates' sums over x and over h, old states and new ones, and how far apart the
   rows of each lie. */
typedef struct {
    const float *g;
    float *s;
    const float *h, *c;
    float *new_h, *new_c; /* c and new_c: of an LSTM */
    size_t width, r_width, stride;
} cells;

/* Take a step of some rows from the gates' sums to the new states. */
INLINE void end_step(const le_op *op, const le_workspace *ws, const cells *all, const size_t rows) {
    const bool lstm = op->code == LE_LSTM, wait = op->code == LE_GRU && !(op->flags & 1);
    for (size_t r = 0; r < rows; r++) {
        const size_t at = r * all->stride;
        const float *g = all->g + r * all->width, *h = all->h + at;
        float *s = all->s + r * all->r_width, *new_h = all->new_h + at;
        if (lstm) (op->usual ? lstm_usual : lstm_other)(op, g, s, all->c + at, new_h, all->new_c + at);
        else if (op->code == LE_RNN) rnn_row(op, g, s, new_h);
        else if (wait) gru_other(op, g, s, h, ws->hidden + at);
        else (op->usual ? gru_usual : gru_other)(op, g, s, h, new_h);
    }
    if (wait) gru_end(op, ws, all->g, all->s, all->h, all->new_h, all->stride, rows);
}

INLINE void recur_for(const lstm_edge_program *program, const le_op *op, le_workspace *ws, size_t first,
                      const size_t rows, const size_t steps) {
    const bool lstm = op->code == LE_LSTM, ahead = ws->is_ahead && op == program->last_recurrent;
    const bool before = ws->backward && !ahead;
    cells all = {.g = ws->gates,
                 .s = ahead ? ws->ahead : ws->more_gates,
                 .h = rows_from(program, ws, op->h, first),
                 .c = lstm ? rows_from(program, ws, op->c, first) : NULL,
                 .new_h = rows_from(program, ws, op->out, first),
                 .new_c = lstm ? rows_from(program, ws, op->next_c, first) : NULL,
                 .width = op->w.padded,
                 .r_width = op->r.padded,
                 .stride = stride_of(program, op->out)};
    le_rows x = {rows_from(program, ws, op->in, first), stride_of(program, op->in), ws->gates, all.width};
    /* A product that takes row by row anyway is part of each step, where it fills the time that the product
       with h waits for h. */
    const bool with_h = op->w.many == row_by_row;
    if (before) recur(program, op, ws, all.h, all.s, rows);
    product(&op->w, &x, ws, with_h ? rows : rows * steps);
    for (size_t step = 0; step < steps; step++) {
        if (step > 0) ws->backward = !program->near && !ws->backward;
        if (step > 0 && with_h) {
            x.x += rows * x.stride;
            x.y += rows * x.y_stride;
            product(&op->w, &x, ws, rows);
        }
        if (step > 0 || !(before || ahead)) recur(program, op, ws, all.h, all.s, rows);
        end_step(op, ws, &all, rows);
        all.g += rows * all.width;
        all.h = all.new_h;
        all.new_h += rows * all.stride;
        if (lstm) {
            all.c = all.new_c;
            all.new_c += rows * all.stride;
        }
    }
}

static void recurrent(const lstm_edge_program *program, const le_op *op, le_workspace *ws, size_t first,
                      size_t rows, size_t steps) {
    if (rows * steps == 1) recur_for(program, op, ws, 0, 1, 1);
    else recur_for(program, op, ws, first, rows, steps);
}

static void linear(const lstm_edge_program *program, const le_op *op, const le_workspace *ws, size_t first,
                   size_t rows) {
    const size_t repeat = op->size[0], in = stride_of(program, op->in), out = stride_of(program, op->out);
    const float *x = rows_from(program, ws, op->in, first);
    float *y = rows_from(program, ws, op->out, first);
    if (repeat * rows == 1) {
        op->w.one(&op->w, x, y, ws);
        return;
    }
    if (repeat == 1) {
        product(&op->w, &(le_rows){x, in, y, out}, ws, rows);
        return;
    }
    for (size_t part = 0; part < repeat; part++) {
        product(&op->w, &(le_rows){x + part * op->w.k, in, ws->gates, op->w.padded}, ws, rows);
        for (size_t r = 0; r < rows; r++) {
            memcpy(y + r * out + part * op->w.m, ws->gates + r * op->w.padded, op->w.m * sizeof(float));
        }
    }
}

static void binary(const lstm_edge_program *program, const le_op *op, const le_workspace *ws, size_t first,
                   size_t rows) {
    const le_binary kind = (le_binary)op->size[0];
    const size_t out = stride_of(program, op->out);
    const bool swap = op->flags & 1;
    for (size_t r = first; r < first + rows; r++) {
        const float *a = rows_from(program, ws, op->in, r);
        const float *b = op->h == LE_NONE ? op->first : rows_from(program, ws, op->h, r);
        float *y = rows_from(program, ws, op->out, r);
        for (size_t i = 0; i < out; i += L) {
            const vf left = op->size[1] ? load(a + i) : set1(a[0]);
            const vf right = op->size[2] ? load(b + i) : set1(b[0]);
            store(y + i, swap ? combine(kind, right, left) : combine(kind, left, right));
        }
    }
}

/* Whole numbers wrap, and what is divided by 0 is 0. */
static int64_t combine_whole(le_binary kind, int64_t a, int64_t b) {
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

NOINLINE void binary_whole(const lstm_edge_program *program, const le_op *op, const le_workspace *ws,
                           size_t first, size_t rows) {
    for (size_t r = first; r < first + rows; r++) {
        const int64_t *a = (const int64_t *)rows_from(program, ws, op->in, r);
        const int64_t *b = (const int64_t *)(op->h == LE_NONE ? op->first : rows_from(program, ws, op->h, r));
        int64_t *y = (int64_t *)rows_from(program, ws, op->out, r);
        for (size_t i = 0; i < program->spans[op->out].width; i++) {
            const int64_t left = a[op->size[1] ? i : 0], right = b[op->size[2] ? i : 0];
            y[i] = op->flags & 1 ? combine_whole((le_binary)op->size[0], right, left)
                                 : combine_whole((le_binary)op->size[0], left, right);
        }
    }
}

static void softmax_of(const float *x, float *y, size_t length, bool logarithm) {
    vf top = set1(-INFINITY), odd = {0};
    for (size_t i = 0; i < length; i += L) {
        const vf v = load_some(x + i, length - i, -INFINITY);
        top = blend(v > top, v, top);
        odd += blend(v != v, v, (vf){0});
    }
    const float most = largest_of(top) + sum(odd); /* NaN where one is in it */
    vf total = {0};
    for (size_t i = 0; i < length; i += L) total += vexp(load_some(x + i, length - i, -INFINITY) - most);
    const float all = sum(total), shift = logarithm ? logf(all) : 0.f;
    for (size_t i = 0; i < length; i += L) {
        vf v = load(x + i) - most;
        v = logarithm ? v - shift : vexp(v) / all;
        store_some(y + i, v, length - i);
    }
}

static void normalize(const le_op *op, const float *x, float *y, size_t length) {
    const float share = 1.f / (float)length;
    vf total = {0};
    for (size_t i = 0; i < length; i += L) total += load_some(x + i, length - i, 0.f);
    const float mean = sum(total) * share;
    vf squares = {0};
    for (size_t i = 0; i < length; i += L) {
        const vf d = load_some(x + i, length - i, mean) - mean;
        squares = madd(d, d, squares);
    }
    const float factor = 1.f / sqrtf(sum(squares) * share + op->epsilon);
    for (size_t i = 0; i < length; i += L) {
        vf v = (load(x + i) - mean) * factor;
        if (op->first != NULL) v *= load(op->first + i);
        if (op->second != NULL) v += load(op->second + i);
        store_some(y + i, v, length - i);
    }
}

/* The index of a past's oldest frame, which the caller keeps. */
INLINE size_t oldest(const float *past, size_t frames, size_t width) {
    float index;
    memcpy(&index, past + frames * width, sizeof index);
    return index >= 0.f && index < (float)frames ? (size_t)index : 0;
}

/* A past stands as it was before the first of the steps that run at once: later ones find their frames in x.
 */
NOINLINE void window(const lstm_edge_program *program, const le_op *op, const le_workspace *ws, size_t first,
                     size_t rows, size_t steps) {
    const size_t new = op->size[5], width = program->spans[op->in].width / new, frames = op->size[1];
    const size_t apart = op->size[3], count = op->size[4];
    float *const *past = ws->past + op->size[0] * ws->capacity;
    for (size_t s = 0; s < steps; s++) {
        for (size_t r = 0; r < rows; r++) {
            float *y = rows_from(program, ws, op->out, first + s * rows + r);
            const size_t start = oldest(past[r], frames, width);
            size_t at = op->size[2] + (first / rows + s) * new;
            for (size_t i = 0, run; i < count; i += run, at += run * apart, y += run * width) {
                const float *from;
                if (at < frames) {
                    const size_t index = start + at < frames ? start + at : start + at - frames;
                    from = past[r] + index * width;
                    run = least(frames - at, frames - index);
                } else {
                    const size_t step = new == 1 ? at - frames : (at - frames) / new,
                                 frame = at - frames - step * new;
                    from = rows_from(program, ws, op->in, step * rows + r) + frame * width;
                    run = new - frame;
                }
                run = apart == 1 ? least(run, count - i) : 1;
                memcpy(y, from, run * width * sizeof(float));
            }
        }
    }
}

NOINLINE void push(const lstm_edge_program *program, const le_op *op, const le_workspace *ws, size_t rows,
                   size_t steps) {
    const size_t new = op->size[5], width = program->spans[op->in].width / new, frames = op->size[1],
                 all = steps * new;
    for (size_t r = 0; r < rows; r++) {
        float *past = ws->past[op->size[0] * ws->capacity + r];
        size_t at = all > frames ? all - frames : 0, index = (oldest(past, frames, width) + at) % frames;
        for (size_t run; at < all; at += run) {
            const size_t step = new == 1 ? at : at / new, frame = at - step * new;
            run = least(new - frame, frames - index);
            memcpy(past + index * width, rows_from(program, ws, op->in, step * rows + r) + frame * width,
                   run * width * sizeof(float));
            index += run;
            if (index == frames) index = 0;
        }
        const float now = (float)index;
        memcpy(past + frames * width, &now, sizeof now);
    }
}

NOINLINE void depthwise(const lstm_edge_program *program, const le_op *op, const le_workspace *ws,
                        size_t first, size_t rows) {
    const size_t m = program->spans[op->out].width, padded = (m + L - 1) / L * L;
    for (size_t r = first; r < first + rows; r++) {
        const float *x = rows_from(program, ws, op->in, r);
        float *y = rows_from(program, ws, op->out, r);
        for (size_t i = 0; i < m; i += L) {
            vf v = op->first == NULL ? load(x + i) : op->second == NULL ? (vf){0} : load(op->second + i);
            for (size_t k = 0; k < op->size[0]; k++) {
                const vf next = load(x + k * m + i);
                if (op->first == NULL) v = combine(LE_MAXIMUM, v, next);
                else v = madd(next, load(op->first + k * padded + i), v);
            }
            store(y + i, v);
        }
    }
}

/* A float truncated to int64, or to int32 where it is narrow; the least number where that cannot hold it. */
static int64_t truncated(float x, bool narrow) {
    const float end = narrow ? 0x1p31f : 0x1p63f;
    if (x >= -end && x < end) return (int64_t)x;
    return narrow ? INT32_MIN : INT64_MIN;
}

static int64_t whole_number(const char *p, lstm_edge_type type, size_t i) {
    switch (type) {
    case LSTM_EDGE_INT64: return ((const int64_t *)p)[i];
    case LSTM_EDGE_INT32: return ((const int32_t *)p)[i];
    case LSTM_EDGE_INT16: return ((const int16_t *)p)[i];
    case LSTM_EDGE_INT8: return ((const int8_t *)p)[i];
    default: return ((const uint8_t *)p)[i];
    }
}

/* Write a stored row to every row of the result. */
NOINLINE void constant_rows(const lstm_edge_program *program, const le_op *op, const le_workspace *ws,
                            size_t first, size_t rows) {
    float *y = rows_from(program, ws, op->out, first);
    const size_t stride = stride_of(program, op->out);
    for (size_t r = 0; r < rows; r++)
        memcpy(y + r * stride, op->first, program->spans[op->out].width * sizeof(float));
}

NOINLINE void unary(const lstm_edge_program *program, const le_op *op, const le_workspace *ws, size_t first,
                    size_t rows) {
    const float *x = rows_from(program, ws, op->in, first);
    float *y = rows_from(program, ws, op->out, first);
    const size_t count = rows * stride_of(program, op->out);
    if (op->act[0].kind == LE_RELU) {
        for (size_t i = 0; i < count; i += L) store(y + i, largest((vf){0}, load(x + i)));
    } else {
        for (size_t i = 0; i < count; i += L) store(y + i, apply(&op->act[0], load(x + i)));
    }
}

/* Choose between two operands, element by element. */
NOINLINE void choose(const lstm_edge_program *program, const le_op *op, const le_workspace *ws, size_t first,
                     size_t rows) {
    const float *condition = rows_from(program, ws, op->in, first);
    const float *a = rows_from(program, ws, op->h, first), *b = rows_from(program, ws, op->c, first);
    float *y = rows_from(program, ws, op->out, first);
    const size_t count = rows * stride_of(program, op->out);
    for (size_t i = 0; i < count; i += L)
        store(y + i, blend(load(condition + i) != (vf){0}, load(a + i), load(b + i)));
}

/* Look up rows of a table. The indices are in the table: they were checked before the call. */
static void gather(const le_op *op, const le_span *in, const char *indices, float *y) {
    const size_t length = op->size[0], width = op->size[1];
    for (size_t i = 0; i < in->width; i++) {
        const int64_t index = whole_number(indices, in->type, i);
        const size_t row = (size_t)((uint64_t)index + (index < 0 ? length : 0)), at = row * width;
        float *to = y + i * width;
        if (op->second == NULL) {
            memcpy(to, op->first + at, width * sizeof(float));
        } else {
            for (size_t j = 0; j < width; j++) to[j] = ((const int8_t *)op->first)[at + j] * op->second[row];
        }
    }
}

/* Copy stretches of equal length. */
static void copy(const le_op *op, size_t size, const char *x, char *y) {
    for (size_t i = 0; i < op->size[3]; i++) {
        memcpy(y + (op->size[1] + i * op->size[5]) * size, x + (op->size[0] + i * op->size[4]) * size,
               op->size[2] * size);
    }
}

static void cast_to_float(const le_span *in, size_t width, const char *from, float *y) {
    for (size_t i = 0; i < width; i++) {
        if (in->type == LSTM_EDGE_FLOAT32) y[i] = ((const float *)from)[i];
        else y[i] = (float)whole_number(from, in->type, i);
    }
}

static void cast_to_whole(const le_span *in, size_t width, bool narrow, const char *from, int64_t *y) {
    for (size_t i = 0; i < width; i++) {
        if (in->type == LSTM_EDGE_FLOAT32) {
            y[i] = truncated(((const float *)from)[i], narrow);
        } else {
            const int64_t number = whole_number(from, in->type, i);
            y[i] = narrow ? (int32_t)(uint32_t)number : number;
        }
    }
}

/* Run an operation that takes one row at a time. */
NOINLINE void run_by_row(const lstm_edge_program *program, const le_op *op, const le_workspace *ws,
                         size_t first, size_t rows) {
    const le_span *in = &program->spans[op->in], *out = &program->spans[op->out];
    const size_t length = op->size[0];
    for (size_t r = first; r < first + rows; r++) {
        const char *from = ws->buffer[op->in] + r * in->bytes;
        const float *x = (const float *)from;
        float *y = rows_from(program, ws, op->out, r);
        switch (op->code) {
        case LE_SOFTMAX:
            for (size_t i = 0; i < in->width; i += length) softmax_of(x + i, y + i, length, op->flags & 1);
            break;
        case LE_NORMALIZE:
            for (size_t i = 0; i < in->width; i += length) normalize(op, x + i, y + i, length);
            break;
        case LE_GATHER: gather(op, in, from, y); break;
        case LE_COPY: copy(op, le_size_of(in->type), from, (char *)y); break;
        default: /* LE_CAST */
            if (out->type == LSTM_EDGE_INT64)
                cast_to_whole(in, out->width, op->flags & 1, from, (int64_t *)y);
            else cast_to_float(in, out->width, from, y);
        }
    }
}

NOINLINE void run_other(const lstm_edge_program *program, const le_op *op, const le_workspace *ws,
                        size_t first, size_t rows, size_t steps) {
    const size_t all = rows * steps;
    switch (op->code) {
    case LE_CONSTANT: constant_rows(program, op, ws, first, all); break;
    case LE_UNARY: unary(program, op, ws, first, all); break;
    case LE_BINARY:
        if (program->spans[op->out].type == LSTM_EDGE_INT64) binary_whole(program, op, ws, first, all);
        else binary(program, op, ws, first, all);
        break;
    case LE_WHERE: choose(program, op, ws, first, all); break;
    case LE_WINDOW: window(program, op, ws, first, rows, steps); break;
    case LE_PUSH: push(program, op, ws, rows, steps); break;
    case LE_DEPTHWISE: depthwise(program, op, ws, first, all); break;
    default: run_by_row(program, op, ws, first, all);
    }
}

static void run(const lstm_edge_program *program, const le_op *op, le_workspace *ws, size_t first,
                size_t rows, size_t steps) {
    if (op->code == LE_LINEAR) linear(program, op, ws, first, rows * steps);
    else if (op->code == LE_LSTM || op->code == LE_GRU || op->code == LE_RNN)
        recurrent(program, op, ws, first, rows, steps);
    else run_other(program, op, ws, first, rows, steps);
}

#define JOIN(a, b) a##b
#define NAME(isa)  JOIN(le_kernels_, isa)
extern const le_kernels NAME(LE_ISA);
const le_kernels NAME(LE_ISA) = {LE_NAME, LE_LANES, pack, look_ahead, run};
