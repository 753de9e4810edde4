/*
 * Print the outputs of programs as bits: ticks FILE... runs ticks of 1 to 13 rows of the first input, each
 * from zero states. Ends with 1 if a row's output depends on the others.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lstm_edge.h"

enum { ROWS = 13, STEPS = 3 };

static lstm_edge_rows rows_of(size_t numbers, size_t steps) {
    const size_t bytes = numbers * sizeof(float);
    return (lstm_edge_rows){calloc(ROWS * steps, bytes), steps * bytes, bytes};
}

/* Run `rows` rows from zero states; write the last step's outputs. */
static int tick(const lstm_edge_program *program, size_t rows, const lstm_edge_rows *x, lstm_edge_rows *y) {
    const size_t count = lstm_edge_count(program, LSTM_EDGE_STATE);
    lstm_edge_rows *states = calloc(count + 1, sizeof *states);
    for (size_t i = 0; i < count; i++) {
        lstm_edge_port state;
        lstm_edge_describe(program, LSTM_EDGE_STATE, i, &state);
        states[i] = rows_of(state.width, 1);
    }
    const lstm_edge_status status = lstm_edge_run(program, rows, STEPS, NULL, x, states, y);
    for (size_t i = 0; i < count; i++) free(states[i].data);
    free(states);
    return status != LSTM_EDGE_OK;
}

static int compare_ticks(const lstm_edge_program *program) {
    lstm_edge_port input, output;
    lstm_edge_describe(program, LSTM_EDGE_INPUT, 0, &input);
    lstm_edge_describe(program, LSTM_EDGE_OUTPUT, 0, &output);
    const lstm_edge_rows x = rows_of(input.width, STEPS);
    for (size_t i = 0; i < ROWS * STEPS * input.width; i++)
        ((float *)x.data)[i] = (float)(i * 37 % 101) / 50 - 1;
    lstm_edge_rows all = rows_of(output.width, STEPS), some = rows_of(output.width, STEPS);
    int failed = tick(program, ROWS, &x, &all);
    for (size_t rows = 1; rows < ROWS && !failed; rows++) {
        failed = tick(program, rows, &x, &some) || memcmp(some.data, all.data, rows * all.row_stride) != 0;
    }
    for (size_t i = 0; i < ROWS * STEPS * output.width; i++) printf("%08x\n", ((unsigned *)all.data)[i]);
    free(x.data);
    free(all.data);
    free(some.data);
    return failed;
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        lstm_edge_program *program = lstm_edge_open(argv[i]);
        if (program == NULL || compare_ticks(program)) {
            fprintf(stderr, "%s: %s\n", argv[i], lstm_edge_last_error());
            return 1;
        }
        lstm_edge_free(program);
    }
    printf("%s\n", lstm_edge_isa());
    return 0;
}
