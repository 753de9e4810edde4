/* On the board: the self-test, one prediction, and its cost. The network is called har. */
#include "board.h"

#include <stddef.h>

#include "har.h"

#define STEPS 100
#define LOOPS 500000

static har_state state;
static float x[HAR_INPUTS];
static float y[HAR_OUTPUTS];

static void print(const char *text, uint32_t value, const char *unit)
{
    board_print(text);
    board_print_number(value);
    board_print(unit);
}

/* Two instructions per iteration, to calibrate ticks per instruction. */
static void loop(void)
{
    uint32_t turns = LOOPS;
    __asm__ volatile("1: subs %0, #1\n\tbne 1b" : "+l"(turns) : : "cc");
}

int main(void)
{
    int passed, best = 0;
    float difference = har_selftest(&passed);

    board_print(passed ? "self-test passed" : "self-test FAILED");
    print(", largest difference ", (uint32_t)(difference * 1e9f), "e-9\n");

    har_reset(&state);
    uint32_t start = board_ticks();
    for (int step = 0; step < STEPS; ++step) {
        if (har_step(&state, x, y) != 0) { /* fill x from a sensor here */
            board_print("an input is out of range\n");
            return 1;
        }
    }
    uint32_t ticks = board_ticks() - start;
    for (int i = 1; i < HAR_OUTPUTS; ++i) {
        best = y[i] > y[best] ? i : best;
    }
    print("prediction ", (uint32_t)best, "");
#ifdef HAR_LABELS
    board_print(", ");
    board_print(har_labels[best]);
#endif
    start = board_ticks();
    loop();
    uint32_t calibration = board_ticks() - start;

    print("\nticks of ", STEPS, " steps: ");
    print("", ticks, "\n");
    print("ticks of ", 2 * LOOPS, " instructions: ");
    print("", calibration, "\n");
    print("flash ", board_flash(), " bytes\n");
    print("RAM ", board_ram() + board_stack(), " bytes");
    print(", of that stack ", board_stack(), "\n");
    return !passed;
}
