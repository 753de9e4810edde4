/* On the board: the self-test, one prediction, and its cost. The network is called har. */
#include "board.h"

#include <stddef.h>

#include "har.h"

#define STEPS 100
#define INSTRUCTIONS 1000000
#define TEXT_OF(number) #number
#define TEXT(number) TEXT_OF(number)

static har_state state;
static float x[HAR_INPUTS];
static float y[HAR_OUTPUTS];

static void print(const char *text, uint32_t value)
{
    board_print(text);
    board_print_number(value);
}

/* Two instructions per turn, to calibrate ticks per instruction. */
static void loop(void)
{
    uint32_t turns = INSTRUCTIONS / 2;
    __asm__ volatile("1: subs %0, #1\n\tbne 1b" : "+l"(turns) : : "cc");
}

int main(void)
{
    int passed, best = 0;
    float difference = har_selftest(&passed);

    board_print(passed ? "self-test passed" : "self-test FAILED");
    print(", largest difference ", (uint32_t)(difference * 1e9f));

    har_reset(&state);
    uint32_t start = board_ticks();
    for (int step = 0; step < STEPS; ++step) {
        if (har_step(&state, x, y)) { /* fill x from a sensor here */
            board_print("e-9\na step failed\n");
            return 1;
        }
    }
    uint32_t ticks = board_ticks() - start;
    for (int i = 1; i < HAR_OUTPUTS; ++i) {
        best = y[i] > y[best] ? i : best;
    }
    print("e-9\nprediction ", (uint32_t)best);
#ifdef HAR_LABELS
    board_print(", ");
    board_print(har_labels[best]);
#endif
    start = board_ticks();
    loop();
    uint32_t calibration = board_ticks() - start;

    print("\nticks of " TEXT(STEPS) " steps: ", ticks);
    print("\nticks of " TEXT(INSTRUCTIONS) " instructions: ", calibration);
    print("\nflash ", board_flash());
    print(" bytes\nRAM ", board_ram() + board_stack());
    print(" bytes, of that stack ", board_stack());
    board_print("\n");
    return !passed;
}
