/*
 * An LV2 plug-in that plays two networks, first.lep and second.lep in its bundle, and changes between them by its
 * control "model" without a click. run() neither allocates nor locks.
 */
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include <lv2/core/lv2.h>

#include "crossfade.hpp"

namespace {

constexpr double FADE = 0.02; /* seconds */

enum Port : std::uint32_t { IN = 0, OUT = 1, MODEL = 2 };

/* Refuse a network whose manifest has another sampling rate than the host: it would sound different. */
void check_rate(const lstm_edge::Program &program, double rate) {
    constexpr const char *KEY = "\"sampling_rate\":";
    const char *manifest = program.manifest(), *found = manifest ? std::strstr(manifest, KEY) : nullptr;
    const double own = found ? std::strtod(found + std::strlen(KEY), nullptr) : 0; /* 0 for null: unknown */
    if (own > 0 && own != rate) {
        throw std::runtime_error("the network is for " + std::to_string(own) + " Hz, the host runs at " +
                                 std::to_string(rate));
    }
}

struct Amplifier {
    Amplifier(const std::string &bundle, double rate)
        : first((bundle + "/first.lep").c_str()), second((bundle + "/second.lep").c_str()),
          player(first, second, static_cast<std::size_t>(FADE * rate)) {
        check_rate(first, rate);
        check_rate(second, rate);
    }

    lstm_edge::Program first, second;
    Crossfade player;
    const float *in = nullptr, *model = nullptr;
    float *out = nullptr;
};

LV2_Handle instantiate(const LV2_Descriptor *, double rate, const char *bundle, const LV2_Feature *const *) {
    try {
        return new Amplifier(bundle, rate);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "amplifier: %s\n", error.what());
        return nullptr;
    }
}

void connect_port(LV2_Handle handle, std::uint32_t port, void *data) {
    Amplifier &amplifier = *static_cast<Amplifier *>(handle);
    if (port == IN) amplifier.in = static_cast<const float *>(data);
    if (port == OUT) amplifier.out = static_cast<float *>(data);
    if (port == MODEL) amplifier.model = static_cast<const float *>(data);
}

void select(Amplifier &amplifier) {
    if (amplifier.model) amplifier.player.select(*amplifier.model > 0.5f ? 1 : 0);
}

void activate(LV2_Handle handle) {
    Amplifier &amplifier = *static_cast<Amplifier *>(handle);
    select(amplifier);
    amplifier.player.reset();
}

void run(LV2_Handle handle, std::uint32_t frames) {
    Amplifier &amplifier = *static_cast<Amplifier *>(handle);
    select(amplifier);
    amplifier.player.process(amplifier.in, amplifier.out, frames);
}

void cleanup(LV2_Handle handle) { delete static_cast<Amplifier *>(handle); }

const LV2_Descriptor descriptor = {AMPLIFIER_URI, instantiate, connect_port, activate, run, nullptr, cleanup, nullptr};

} // namespace

LV2_SYMBOL_EXPORT const LV2_Descriptor *lv2_descriptor(std::uint32_t index) {
    return index == 0 ? &descriptor : nullptr;
}
