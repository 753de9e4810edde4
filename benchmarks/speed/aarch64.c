/* Run a program CALLS times: aarch64 FILE CALLS ROWS STEPS. One row and step is a step of a stream, one row a
 * chunk, one step a tick. */
#include <stdlib.h>

#include "lstm_edge.h"

static lstm_edge_rows rows_of(size_t rows, size_t numbers) {
    return (lstm_edge_rows){calloc(rows, numbers * sizeof(float)), numbers * sizeof(float), 0};
}

static int tick(const lstm_edge_program *program, size_t rows, const lstm_edge_rows *x,
                const lstm_edge_rows *y) {
    lstm_edge_rows states[16];
    for (size_t i = 0; i < lstm_edge_count(program, LSTM_EDGE_STATE); i++) {
        lstm_edge_port state;
        lstm_edge_describe(program, LSTM_EDGE_STATE, i, &state);
        states[i] = rows_of(rows, state.width);
    }
    return lstm_edge_run(program, rows, 1, NULL, x, states, y) != LSTM_EDGE_OK;
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    lstm_edge_program *program = lstm_edge_open(argv[1]);
    lstm_edge_stream *stream = program == NULL ? NULL : lstm_edge_stream_new(program);
    if (stream == NULL) return 1;
    const size_t rows = (size_t)atol(argv[3]), steps = (size_t)atol(argv[4]);
    lstm_edge_port input, output;
    lstm_edge_describe(program, LSTM_EDGE_INPUT, 0, &input);
    lstm_edge_describe(program, LSTM_EDGE_OUTPUT, 0, &output);
    const lstm_edge_rows x = rows_of(rows * steps, input.width), y = rows_of(rows * steps, output.width);
    const void *const inputs[] = {x.data};
    float *const outputs[] = {y.data};
    for (size_t i = 0; i < rows * steps * input.width; i++)
        ((float *)x.data)[i] = (float)(i * 37 % 101) / 50 - 1;
    int failed = 0;
    for (long call = atol(argv[2]); call > 0 && !failed; call--) {
        if (rows > 1) failed = tick(program, rows, &x, &y);
        else if (steps > 1) failed = lstm_edge_chunk(stream, inputs, steps, outputs) != LSTM_EDGE_OK;
        else failed = lstm_edge_step(stream) != LSTM_EDGE_OK;
    }
    return failed;
}
