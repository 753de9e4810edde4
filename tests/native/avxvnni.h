/* AVX-VNNI on a machine without it: its only instruction, and the bit that says that it is there. */
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#define __get_cpuid_count(leaf, subleaf, a, b, c, d) (*(a) = 1u << 4, *(b) = *(c) = *(d) = 0, 1)

#if defined(__AVXVNNI__)
/* Add to each of eight sums four products of an unsigned and a signed byte. */
static inline __m256i emulated_dpbusd(__m256i total, __m256i bytes, __m256i weights) {
    const __m256i ones = _mm256_set1_epi16(1), low = _mm256_set1_epi16(0x00FF);
    const __m256i even =
        _mm256_mullo_epi16(_mm256_and_si256(bytes, low), _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8));
    const __m256i odd = _mm256_mullo_epi16(_mm256_srli_epi16(bytes, 8), _mm256_srai_epi16(weights, 8));
    return _mm256_add_epi32(total,
                            _mm256_add_epi32(_mm256_madd_epi16(even, ones), _mm256_madd_epi16(odd, ones)));
}
#define _mm256_dpbusd_avx_epi32 emulated_dpbusd
#endif
#endif
