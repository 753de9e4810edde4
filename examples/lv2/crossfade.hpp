/*
 * crossfade.hpp: play one of two models and change between them without a click.
 *
 *     Crossfade player(clean, lead, 960);       // a change takes 960 samples, 20 ms at 48 kHz
 *     player.select(1);                         // from the next block on; at any time
 *     player.process(in, out, frames);          // in the audio thread
 *
 * Both models run on the same input while a change goes on, and the output moves from one to the other along a line.
 * A model starts at its reset state when a change to it begins: export with --rest, so that it has no transient.
 */
#ifndef CROSSFADE_HPP
#define CROSSFADE_HPP

#include <algorithm>
#include <array>
#include <cstddef>
#include <stdexcept>

#include "lstm_edge.hpp"

class Crossfade {
  public:
    /* Throws lstm_edge::Error, or std::invalid_argument for a model that is not from one sample to one sample. */
    Crossfade(const lstm_edge::Program &first, const lstm_edge::Program &second, std::size_t fade)
        : streams_{opened(first), opened(second)}, step_(1.0f / static_cast<float>(std::max<std::size_t>(fade, 1))) {}

    void select(int model) noexcept { target_ = model != 0 ? 1.0f : 0.0f; }

    /* Process a block of any size, also in place. Neither allocates nor locks. */
    void process(const float *in, float *out, std::size_t frames) noexcept {
        while (frames > 0) {
            const std::size_t count = std::min(frames, BLOCK);
            run(0, in, count);
            run(1, in, count);
            for (std::size_t i = 0; i < count; i++) {
                share_ += std::clamp(target_ - share_, -step_, step_);
                out[i] = blocks_[0][i] + share_ * (blocks_[1][i] - blocks_[0][i]);
            }
            in += count, out += count, frames -= count;
        }
    }

    /* Start again from silence. */
    void reset() noexcept {
        share_ = target_;
        for (lstm_edge::Stream &stream : streams_) stream.reset();
    }

  private:
    static constexpr std::size_t BLOCK = 256;

    static lstm_edge::Stream opened(const lstm_edge::Program &program) {
        const lstm_edge_port in = program.port(LSTM_EDGE_INPUT), out = program.port(LSTM_EDGE_OUTPUT);
        if (program.count(LSTM_EDGE_INPUT) != 1 || in.width != 1 || in.type != LSTM_EDGE_FLOAT32 ||
            program.count(LSTM_EDGE_OUTPUT) != 1 || out.width != 1 || !out.every_step) {
            throw std::invalid_argument("expected a model with one input x (N, L, 1) and one output (N, L, 1)");
        }
        return lstm_edge::Stream(program, BLOCK);
    }

    /* Run a model that is heard in this block; one that is not starts again when it is. */
    void run(std::size_t model, const float *in, std::size_t count) noexcept {
        const float silent = model == 0 ? 1.0f : 0.0f;
        const bool heard = share_ != silent || target_ != silent;
        if (heard) {
            if (!heard_[model]) streams_[model].reset();
            streams_[model].process(in, blocks_[model].data(), count);
        }
        heard_[model] = heard;
    }

    std::array<lstm_edge::Stream, 2> streams_;
    std::array<std::array<float, BLOCK>, 2> blocks_{};
    std::array<bool, 2> heard_{};
    float step_, share_ = 0.0f, target_ = 0.0f; /* share_: of the second model in the output, 0 to 1 */
};

#endif
