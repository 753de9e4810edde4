/*
 * Stream through a program: a line of numbers on standard input is a sample, a line on standard output a
 * frame.
 *
 *     cc -I native/include native/examples/stream.c -L build -llstm_edge -o stream
 *     ./stream har.lep < samples.txt
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "lstm_edge.h"

static int fail(const char *what) {
    fprintf(stderr, "error: %s: %s\n", what, lstm_edge_last_error());
    return 2;
}

/* Replay the golden case; return the status to end with if it fails, else 0. */
static int check_golden(const lstm_edge_program *program) {
    double worst;
    const lstm_edge_status golden = lstm_edge_selftest(program, &worst);
    if (golden == LSTM_EDGE_NO_GOLDEN) return 0;
    if (golden != LSTM_EDGE_OK) return fail("selftest");
    fprintf(stderr, "%s: golden case at %.3g of its limit\n", lstm_edge_isa(), worst);
    return worst > 1;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: stream PROGRAM.lep < samples\n");
        return 2;
    }
    lstm_edge_program *program = lstm_edge_open(argv[1]);
    if (program == NULL) return fail(argv[1]);
    const int failed = check_golden(program);
    if (failed != 0) return failed;
    lstm_edge_port input, output;
    if (lstm_edge_describe(program, LSTM_EDGE_INPUT, 0, &input) != LSTM_EDGE_OK ||
        lstm_edge_describe(program, LSTM_EDGE_OUTPUT, 0, &output) != LSTM_EDGE_OK) {
        return fail(argv[1]);
    }
    const bool is_simple = lstm_edge_count(program, LSTM_EDGE_INPUT) == 1 &&
                           lstm_edge_count(program, LSTM_EDGE_OUTPUT) == 1 && input.type == LSTM_EDGE_FLOAT32;
    if (!is_simple) {
        fprintf(stderr,
                "error: %s: other than one input of float32 and one output, which this example takes\n",
                argv[1]);
        return 2;
    }
    lstm_edge_stream *stream = lstm_edge_stream_new(program);
    if (stream == NULL) return fail("stream");
    float *x = lstm_edge_input(stream, 0);
    const float *y = lstm_edge_output(stream, 0);
    for (;;) {
        for (size_t i = 0; i < input.width; i++) {
            if (scanf("%f", &x[i]) != 1) goto done;
        }
        if (lstm_edge_step(stream) != LSTM_EDGE_OK) return fail("step");
        const size_t count = lstm_edge_frames(stream, 0) * output.width; /* 0 if no frame is complete yet */
        for (size_t i = 0; i < count; i++)
            printf("%.9g%c", (double)y[i], (i + 1) % output.width ? ' ' : '\n');
    }
done:
    lstm_edge_stream_free(stream);
    lstm_edge_free(program);
    return 0;
}
