/* Start-up and semihosting for a Cortex-M: no vendor's files, no system calls. */
#include "board.h"

#include <stddef.h>

extern uint32_t _data_begin[], _data_end[], _data_load[], _bss_begin[], _bss_end[], _stack_top[];
extern char _flash_used[];

int main(void);

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define SYSTICK_CONTROL REGISTER(0xE000E010)
#define SYSTICK_RELOAD REGISTER(0xE000E014)
#define SYSTICK_VALUE REGISTER(0xE000E018)
#define COPROCESSOR_ACCESS REGISTER(0xE000ED88)
#define SYSTICK_MAX 0xFFFFFFu
#define UNUSED_STACK 0xDEADBEEFu

/* Semihosting: the debugger, or QEMU, does what register r0 says with the block that r1 points to. */
static void semihost(uint32_t operation, const void *block)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = block;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
}

void board_print(const char *text)
{
    semihost(0x04, text); /* SYS_WRITE0 */
}

void board_print_number(uint32_t value)
{
    char digits[11];
    char *digit = &digits[10];
    *digit = '\0';
    do {
        *--digit = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    board_print(digit);
}

_Noreturn void board_exit(int failed)
{
    const uint32_t block[2] = {0x20026u /* ADP_Stopped_ApplicationExit */, (uint32_t)failed};
    semihost(0x20, block); /* SYS_EXIT_EXTENDED */
    for (;;) {
    }
}

uint32_t board_ticks(void)
{
    return SYSTICK_MAX - SYSTICK_VALUE;
}

uint32_t board_flash(void)
{
    return (uint32_t)(uintptr_t)_flash_used;
}

uint32_t board_ram(void)
{
    return (uint32_t)((char *)_bss_end - (char *)_data_begin);
}

uint32_t board_stack(void)
{
    const uint32_t *word = _bss_end;
    while (*word == UNUSED_STACK) {
        ++word;
    }
    return (uint32_t)((char *)_stack_top - (char *)word);
}

_Noreturn void reset(void)
{
    for (size_t i = 0; &_data_begin[i] < _data_end; ++i) {
        _data_begin[i] = _data_load[i];
    }
    for (uint32_t *word = _bss_begin; word < _bss_end; ++word) {
        *word = 0;
    }
    for (volatile uint32_t *word = _bss_end; word < (uint32_t *)__builtin_frame_address(0) - 16; ++word) {
        *word = UNUSED_STACK;
    }
#ifdef __ARM_FP
    COPROCESSOR_ACCESS |= 0xFu << 20;
    __asm__ volatile("dsb\n\tisb");
#endif
    SYSTICK_RELOAD = SYSTICK_MAX;
    SYSTICK_VALUE = 0;
    SYSTICK_CONTROL = 5; /* on, from the processor's clock, without interrupts */
    board_exit(main());
}

static void fault(void)
{
    board_print("fault\n");
    board_exit(1);
}

__attribute__((section(".vectors"), used)) static const uintptr_t vectors[16] = {
    (uintptr_t)_stack_top, (uintptr_t)reset, (uintptr_t)fault, (uintptr_t)fault,
    (uintptr_t)fault,      (uintptr_t)fault, (uintptr_t)fault,
};
