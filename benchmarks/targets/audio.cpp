/*
 * Nanoseconds per sample of LSTM(1, H) with a linear layer to one output, in blocks of 500 samples:
 * NeuralAudio, RTNeural (Eigen, sizes at compile time), and a program of this project.
 *
 *     audio WEIGHTS PROGRAM.lep       with H defined when it is compiled
 *
 * WEIGHTS are float32: W (4H), R (4H, H), bias (4H), the linear layer's weight (H) and bias, gates i, f, g,
 * o. Prints a line per contestant: name, median nanoseconds, largest difference from the program.
 */
#include <RTNeural/RTNeural.h>
#include <lstm_edge.h>

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <NeuralAudio/LSTM.h>

constexpr size_t BLOCK = 500;
constexpr int REPEATS = 400;
using Block = std::vector<float>;

struct Weights {
    std::vector<float> input = std::vector<float>(4 * H);
    std::vector<float> hidden = std::vector<float>(4 * H * H);
    std::vector<float> bias = std::vector<float>(4 * H);
    std::vector<float> head = std::vector<float>(H + 1);

    explicit Weights(const char *path) {
        std::FILE *file = std::fopen(path, "rb");
        for (auto *array : {&input, &hidden, &bias, &head})
            if (!file || std::fread(array->data(), sizeof(float), array->size(), file) != array->size())
                std::exit(2);
        std::fclose(file);
    }
};

struct Contestant {
    std::string name;
    std::function<void(const Block &, Block &)> process;
    std::vector<double> times = {};
    double apart = 0;
};

static auto neural_audio(const Weights &weights) {
    NeuralAudio::LSTMDef definition;
    std::vector<float> columns(4 * H * H);
    for (int row = 0; row < 4 * H; row++)
        for (int column = 0; column < H; column++)
            columns[column * 4 * H + row] = weights.hidden[row * H + column];
    definition.Layers = {{weights.input, columns, weights.bias}};
    definition.HeadWeights.assign(weights.head.begin(), weights.head.end() - 1);
    definition.HeadBias = weights.head.back();
    auto model = std::make_shared<NeuralAudio::LSTMModelT<1, H>>();
    model->SetWeights(definition);
    return [model](const Block &x, Block &y) { model->Process(x.data(), y.data(), BLOCK); };
}

static auto rt_neural(const Weights &weights) {
    using Model =
        RTNeural::ModelT<float, 1, 1, RTNeural::LSTMLayerT<float, 1, H>, RTNeural::DenseT<float, H, 1>>;
    auto model = std::make_shared<Model>();
    auto &layer = model->template get<0>();
    std::vector<std::vector<float>> hidden(H, std::vector<float>(4 * H));
    for (int row = 0; row < 4 * H; row++)
        for (int column = 0; column < H; column++) hidden[column][row] = weights.hidden[row * H + column];
    layer.setWVals({weights.input});
    layer.setUVals(hidden);
    layer.setBVals(weights.bias);
    auto &head = model->template get<1>();
    head.setWeights({{weights.head.begin(), weights.head.end() - 1}});
    head.setBias(&weights.head.back());
    model->reset();
    return [model](const Block &x, Block &y) {
        for (size_t index = 0; index < BLOCK; index++) y[index] = model->forward(&x[index]);
    };
}

enum class Calls { steps, steps_in_a_block, chunk };

static auto ours(lstm_edge_program *program, Calls calls) {
    lstm_edge_stream *stream = lstm_edge_stream_new(program);
    lstm_edge_prepare(stream, BLOCK);
    auto *input = static_cast<float *>(lstm_edge_input(stream, 0));
    const float *output = lstm_edge_output(stream, 0);
    return [=](const Block &x, Block &y) {
        if (calls == Calls::chunk) {
            const void *inputs[] = {x.data()};
            float *outputs[] = {y.data()};
            lstm_edge_chunk(stream, inputs, BLOCK, outputs);
            return;
        }
        const bool in_a_block = calls == Calls::steps_in_a_block;
        if (in_a_block) lstm_edge_begin(stream);
        for (size_t index = 0; index < BLOCK; index++) {
            *input = x[index];
            lstm_edge_step(stream);
            y[index] = *output;
        }
        if (in_a_block) lstm_edge_end(stream);
    };
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    const Weights weights(argv[1]);
    lstm_edge_program *program = lstm_edge_open(argv[2]);
    if (!program) return 2;
    std::vector<Contestant> contestants = {
        {"lstm-edge, step by step", ours(program, Calls::steps)},
        {"lstm-edge, steps between begin and end", ours(program, Calls::steps_in_a_block)},
        {"lstm-edge, chunk", ours(program, Calls::chunk)},
        {"NeuralAudio", neural_audio(weights)},
        {"RTNeural", rt_neural(weights)},
    };
    std::mt19937 random(4);
    std::normal_distribution<float> normal;
    Block x(BLOCK), expected(BLOCK), y(BLOCK);
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        for (auto &sample : x) sample = normal(random);
        for (auto &contestant : contestants) {
            const auto start = std::chrono::steady_clock::now();
            contestant.process(x, y);
            const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
            contestant.times.push_back(time.count() / BLOCK);
            if (&contestant == &contestants[0]) expected = y;
            for (size_t index = 0; index < BLOCK; index++)
                contestant.apart = std::max(contestant.apart, std::fabs(double(y[index]) - expected[index]));
        }
    }
    for (auto &contestant : contestants) {
        auto &times = contestant.times;
        std::nth_element(times.begin(), times.begin() + REPEATS / 2, times.end());
        std::printf("%s\t%.1f\t%.1g\n", contestant.name.c_str(), times[REPEATS / 2], contestant.apart);
    }
}
