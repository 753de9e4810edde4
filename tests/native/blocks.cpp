/* Stream a chunk through lstm_edge.hpp in blocks of 1, 2, 3, ... frames: blocks PROGRAM FRAMES < floats > floats. */
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include "lstm_edge.hpp"

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    try {
        const lstm_edge::Program program(argv[1]);
        lstm_edge::Stream opened(program, 7);
        lstm_edge::Stream stream = std::move(opened);
        const std::size_t frames = std::strtoul(argv[2], nullptr, 10), in = stream.input().size, out = stream.output().size;
        std::vector<float> x(frames * in), y(frames * out), once(frames * out);
        if (std::fread(x.data(), sizeof(float), x.size(), stdin) != x.size()) return 2;
        for (std::size_t at = 0, block = 1; at < frames; at += block, block++) {
            if (block > frames - at) block = frames - at;
            if (stream.process(x.data() + at * in, y.data() + at * out, block) != LSTM_EDGE_OK) return 1;
        }
        stream.reset();
        for (std::size_t i = 0; i < in; i++) stream.input()[i] = x[i];
        if (stream.step() != LSTM_EDGE_OK) return 1;
        for (std::size_t i = 0; i < out; i++) {
            if (stream.output()[i] != y[i]) return 1; /* reset is a new stream */
        }
        std::fwrite(y.data(), sizeof(float), y.size(), stdout);
        return 0;
    } catch (const lstm_edge::Error &error) {
        std::fprintf(stderr, "%d %s\n", error.status, error.what());
        return 3;
    }
}
