/*
 * lstm_edge.hpp: lstm_edge.h for C++17. Opening programs and streams throws lstm_edge::Error; nothing else
 * throws or locks, or allocates for blocks of at most the frames that a stream has room for.
 *
 *     lstm_edge::Program program("amp.lep");
 *     lstm_edge::Stream stream(program, 512);          // room for blocks of up to 512 frames
 *     void audio(const float *in, float *out, std::size_t frames) noexcept {
 *         stream.process(in, out, frames);             // a block of any size; states go on
 *     }
 *
 * Where results have a delay, or come once a unit of several samples, a call gives stream.frames() of them,
 * and stream.latency() returns the delay in samples.
 */
#ifndef LSTM_EDGE_HPP
#define LSTM_EDGE_HPP

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>

#include "lstm_edge.h"

namespace lstm_edge {

/* Why a program or a stream can't be had. */
class Error : public std::runtime_error {
  public:
    Error() : std::runtime_error(lstm_edge_last_error()), status(lstm_edge_last_status()) {}
    const lstm_edge_status status;
};

/* A view of `size` elements. */
template <typename T> struct Span {
    T *data;
    std::size_t size;
    T &operator[](std::size_t index) const noexcept { return data[index]; }
    T *begin() const noexcept { return data; }
    T *end() const noexcept { return data + size; }
};

/* A program: immutable, shared by any number of streams and threads. */
class Program {
  public:
    /* Open a program file. Throws Error. */
    explicit Program(const char *path) : handle_(lstm_edge_open(path), lstm_edge_free) { require(); }
    /* Make one of a file's content, which is not needed afterwards. Throws Error. */
    Program(const void *data, std::size_t size) : handle_(lstm_edge_load(data, size), lstm_edge_free) {
        require();
    }

    std::size_t count(lstm_edge_kind kind) const noexcept { return lstm_edge_count(handle_.get(), kind); }
    /* Describe an input, output or state; its width is 0 if there is none of this index. */
    lstm_edge_port port(lstm_edge_kind kind, std::size_t index = 0) const noexcept {
        lstm_edge_port result{};
        lstm_edge_describe(handle_.get(), kind, index, &result);
        return result;
    }
    /* Number of steps per result, and the delay of results in steps; see lstm_edge_delay. */
    std::size_t unit() const noexcept { return lstm_edge_unit(handle_.get()); }
    std::size_t latency() const noexcept { return lstm_edge_delay(handle_.get()); }
    /* The index of an input, output or state by its name; count() if there is none. */
    std::size_t find(lstm_edge_kind kind, const char *name) const noexcept {
        return lstm_edge_find(handle_.get(), kind, name);
    }
    /* The manifest of the ONNX file (JSON), or a null pointer. */
    const char *manifest() const noexcept { return lstm_edge_manifest(handle_.get()); }
    /* Replay the golden case: the largest difference as a fraction of its limit. Throws Error without one. */
    double selftest() const {
        double worst = 0;
        if (lstm_edge_selftest(handle_.get(), &worst) != LSTM_EDGE_OK) throw Error();
        return worst;
    }
    lstm_edge_program *get() const noexcept { return handle_.get(); }

  private:
    void require() const {
        if (!handle_) throw Error();
    }
    std::unique_ptr<lstm_edge_program, void (*)(lstm_edge_program *)> handle_;
};

/* One source of samples with its states; it belongs to one thread at a time and keeps what it needs of the
 * program. */
class Stream {
  public:
    /* Open a stream at the reset state, with room for blocks of up to `max_frames` steps. Throws Error. */
    explicit Stream(const Program &program, std::size_t max_frames = 1)
        : handle_(lstm_edge_stream_new(program.get()), lstm_edge_stream_free), program_(program.get()) {
        if (!handle_ || lstm_edge_prepare(handle_.get(), max_frames) != LSTM_EDGE_OK) throw Error();
    }

    /* Where the next step's sample goes, for an input of type T (its type is in Program::port). */
    template <typename T = float> Span<T> input(std::size_t index = 0) noexcept {
        return {static_cast<T *>(lstm_edge_input(handle_.get(), index)), width(LSTM_EDGE_INPUT, index)};
    }
    /* Where step leaves an output. */
    Span<const float> output(std::size_t index = 0) const noexcept {
        return {lstm_edge_output(handle_.get(), index), width(LSTM_EDGE_OUTPUT, index)};
    }
    /* A state, to read or write between calls; T is std::int64_t for a counter of steps (its type is in
     * Program::port). */
    template <typename T = float> Span<T> state(std::size_t index) noexcept {
        return {reinterpret_cast<T *>(lstm_edge_state(handle_.get(), index)), width(LSTM_EDGE_STATE, index)};
    }
    /* Take one time step, from the inputs' memory to the outputs'. */
    lstm_edge_status step() noexcept { return lstm_edge_step(handle_.get()); }
    /*
     * Take `frames` time steps of a network with one float input and one output:
     * in (frames, width of the input), out (frames, width of the output), or (width) for an output of the
     * last step. Where results have a delay or come in units, frames() is their number in out; see
     * lstm_edge_chunk for its room.
     */
    lstm_edge_status process(const float *in, float *out, std::size_t frames) noexcept {
        const void *inputs[] = {in};
        float *outputs[] = {out};
        return process(inputs, outputs, frames);
    }
    /* The same with an array for each input and each output; see lstm_edge_chunk. */
    lstm_edge_status process(const void *const *inputs, float *const *outputs, std::size_t frames) noexcept {
        return lstm_edge_chunk(handle_.get(), inputs, frames, outputs);
    }
    /* Frames of an output that the last step or process wrote; see lstm_edge_frames. */
    std::size_t frames(std::size_t output = 0) const noexcept {
        return lstm_edge_frames(handle_.get(), output);
    }
    /* Delay of the results, in steps. */
    std::size_t latency() const noexcept { return lstm_edge_delay(program_); }
    /* Save everything that the stream continues from; see lstm_edge_save. */
    std::size_t save(void *buffer, std::size_t size) const noexcept {
        return lstm_edge_save(handle_.get(), buffer, size);
    }
    /* Continue from a saved stream; after an error the stream is unchanged. */
    lstm_edge_status restore(const void *data, std::size_t size) noexcept {
        return lstm_edge_restore(handle_.get(), data, size);
    }
    /* Put every state back to its reset value. */
    void reset() noexcept { lstm_edge_reset(handle_.get()); }
    /* Reset the state after so many steps, instead of as the program says; 0 for never. */
    void reset_every(std::uint64_t steps) noexcept { lstm_edge_set_reset_every(handle_.get(), steps); }

  private:
    std::size_t width(lstm_edge_kind kind, std::size_t index) const noexcept {
        lstm_edge_port port{};
        lstm_edge_describe(program_, kind, index, &port);
        return port.width;
    }
    std::unique_ptr<lstm_edge_stream, void (*)(lstm_edge_stream *)> handle_;
    const lstm_edge_program *program_; /* the stream keeps it alive */
};

} // namespace lstm_edge

#endif
