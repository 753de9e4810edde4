/* The processor's floating-point mode. */
#ifndef LE_MODE_H
#define LE_MODE_H

#include <stdint.h>

/*
 * The floating-point mode of a call: numbers below 2^-126 are zero, as they slow a processor down up to a hundred
 * times, and results do not depend on the mode that other code of the process left behind. RISC-V has a rounding alone.
 */
#if defined(__x86_64__)
typedef unsigned le_mode;
static inline le_mode le_get_mode(void) { return __builtin_ia32_stmxcsr(); }
/* The flags of past exceptions stay: a processor takes about 100 ns to change them. */
static inline void le_set_mode(le_mode mode) { __builtin_ia32_ldmxcsr((mode & ~0x3fu) | (le_get_mode() & 0x3fu)); }
#define LE_FLUSH 0x9fc0u /* flush results and operands, round to nearest, no traps */
#elif defined(__aarch64__)
typedef uint64_t le_mode;
static inline le_mode le_get_mode(void) {
    le_mode mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static inline void le_set_mode(le_mode mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
#define LE_FLUSH ((le_mode)1 << 24)
#elif defined(__arm__) && defined(__VFP_FP__) && !defined(__SOFTFP__)
typedef uint32_t le_mode;
static inline le_mode le_get_mode(void) {
    le_mode mode;
    __asm__ volatile("vmrs %0, fpscr" : "=r"(mode));
    return mode;
}
/* The flags of past exceptions and of the last comparison, which share the register, stay. */
static inline void le_set_mode(le_mode mode) {
    const le_mode flags = 0xf800009fu;
    __asm__ volatile("vmsr fpscr, %0" : : "r"((mode & ~flags) | (le_get_mode() & flags)));
}
#define LE_FLUSH ((le_mode)1 << 24)
#elif defined(__riscv_flen)
typedef unsigned long le_mode;
static inline le_mode le_get_mode(void) {
    le_mode mode;
    __asm__ volatile("frrm %0" : "=r"(mode));
    return mode;
}
static inline void le_set_mode(le_mode mode) { __asm__ volatile("fsrm %0" : : "r"(mode)); }
#define LE_FLUSH 0ul /* round to nearest */
#else
typedef int le_mode;
static inline le_mode le_get_mode(void) { return 0; }
static inline void le_set_mode(le_mode mode) { (void)mode; }
#define LE_FLUSH 0
#endif

#endif
