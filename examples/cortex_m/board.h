/* What a program needs of the board: text to the debugger, a counter of instructions, the depth of the stack. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

void board_print(const char *text);
void board_print_number(uint32_t value);
_Noreturn void board_exit(int failed);

/* Processor clock ticks since the start. */
uint32_t board_ticks(void);

/* Bytes of flash; of RAM besides the stack; of stack at its deepest so far. */
uint32_t board_flash(void);
uint32_t board_ram(void);
uint32_t board_stack(void);

#endif
