/* Which kernels run: the best that this machine has, or what LSTM_EDGE_ISA names. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#if defined(LE_HAS_AVXVNNI)
#include <cpuid.h>
#endif
#if defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__aarch64__) && defined(_WIN32)
#include <windows.h>
#elif defined(__aarch64__) && (defined(__linux__) || defined(__FreeBSD__) || defined(__OpenBSD__))
#include <sys/auxv.h>
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#ifndef HWCAP2_I8MM
#define HWCAP2_I8MM (1 << 13)
#endif
#endif

#include "kernels.h"

static bool always(void) { return true; }

#if defined(__x86_64__)
static bool has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
static bool has_vnni(void) { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
#if defined(LE_HAS_AVXVNNI)
static bool has_avxvnni(void) {
    unsigned a, b, c, d;
    return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1u);
}
extern const le_kernels le_kernels_avxvnni;
#endif
extern const le_kernels le_kernels_avx512vnni, le_kernels_avx512, le_kernels_avx2, le_kernels_sse2;
static const struct {
    const le_kernels *kernels;
    bool (*here)(void);
} choices[] = {{&le_kernels_avx512vnni, has_vnni},
               {&le_kernels_avx512, has_avx512},
#if defined(LE_HAS_AVXVNNI)
               {&le_kernels_avxvnni, has_avxvnni},
#endif
               {&le_kernels_avx2, has_avx2},
               {&le_kernels_sse2, always}};
#elif defined(__aarch64__)
static bool has_dotprod(void) {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__FreeBSD__) || defined(__OpenBSD__)
    unsigned long features = 0;
    return elf_aux_info(AT_HWCAP, &features, sizeof features) == 0 && (features & HWCAP_ASIMDDP) != 0;
#elif defined(__APPLE__)
    int found = 0;
    size_t size = sizeof found;
    return sysctlbyname("hw.optional.arm.FEAT_DotProd", &found, &size, NULL, 0) == 0 && found;
#elif defined(_WIN32)
    return IsProcessorFeaturePresent(43); /* PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE */
#else
    return false;
#endif
}
#if defined(LE_HAS_I8MM)
static bool has_i8mm(void) { return has_dotprod() && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0; }
extern const le_kernels le_kernels_neon_i8mm;
#endif
extern const le_kernels le_kernels_neon_dotprod, le_kernels_neon;
static const struct {
    const le_kernels *kernels;
    bool (*here)(void);
} choices[] = {
#if defined(LE_HAS_I8MM)
    {&le_kernels_neon_i8mm, has_i8mm},
#endif
    {&le_kernels_neon_dotprod, has_dotprod},
    {&le_kernels_neon, always}};
#elif defined(__wasm__)
extern const le_kernels le_kernels_wasm;
static const struct {
    const le_kernels *kernels;
    bool (*here)(void);
} choices[] = {{&le_kernels_wasm, always}};
#else
extern const le_kernels le_kernels_generic;
static const struct {
    const le_kernels *kernels;
    bool (*here)(void);
} choices[] = {{&le_kernels_generic, always}};
#endif

static const le_kernels *chosen;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void choose(void) {
    const char *wanted = getenv("LSTM_EDGE_ISA");
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
        const bool named = wanted == NULL || *wanted == '\0' || strcmp(wanted, choices[i].kernels->name) == 0;
        if (named && choices[i].here()) {
            chosen = choices[i].kernels;
            return;
        }
    }
}

const le_kernels *le_choose(void) {
    pthread_once(&once, choose);
    return chosen;
}
