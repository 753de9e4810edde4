/* The processor's floating-point mode. */
#ifndef LE_MODE_H
#define LE_MODE_H

#include <stdint.h>

/*
 * le_enter() begins a call and returns the caller's mode, le_leave() restores it. In between numbers below
 * 2^-126 are zero, as they slow a processor down up to a hundred times, and results do not depend on the
 * caller's mode. RISC-V has a rounding mode alone.
 */
#if defined(__x86_64__)
typedef unsigned le_mode;
/* Changing the flags of past exceptions takes a processor up to 100 ns, and reading them waits for all
   arithmetic: those of inexact, tiny and denormal numbers (0x32) are set from the start of a call on, and the
   others stay as they are. */
static inline le_mode le_enter(void) {
    const le_mode mode = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr((mode & 0x3fu) |
                           0x9ff2u); /* flush results and operands, round to nearest, no traps */
    return mode;
}
static inline void le_leave(le_mode mode) { __builtin_ia32_ldmxcsr(mode | 0x32u); }
#elif defined(__aarch64__)
typedef uint64_t le_mode;
static inline void le_leave(le_mode mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
static inline le_mode le_enter(void) {
    le_mode mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    le_leave((le_mode)1 << 24);
    return mode;
}
#elif defined(__arm__) && defined(__VFP_FP__) && !defined(__SOFTFP__)
typedef uint32_t le_mode;
static inline le_mode le_get_mode(void) {
    le_mode mode;
    __asm__ volatile("vmrs %0, fpscr" : "=r"(mode));
    return mode;
}
/* The flags of past exceptions and of the last comparison, which share the register, stay. */
static inline void le_leave(le_mode mode) {
    const le_mode flags = 0xf800009fu;
    __asm__ volatile("vmsr fpscr, %0" : : "r"((mode & ~flags) | (le_get_mode() & flags)));
}
static inline le_mode le_enter(void) {
    const le_mode mode = le_get_mode();
    le_leave((le_mode)1 << 24);
    return mode;
}
#elif defined(__riscv_flen)
typedef unsigned long le_mode;
static inline void le_leave(le_mode mode) { __asm__ volatile("fsrm %0" : : "r"(mode)); }
static inline le_mode le_enter(void) {
    le_mode mode;
    __asm__ volatile("frrm %0" : "=r"(mode));
    le_leave(0); /* round to nearest */
    return mode;
}
#else
typedef int le_mode;
static inline le_mode le_enter(void) { return 0; }
static inline void le_leave(le_mode mode) { (void)mode; }
#endif

#endif
