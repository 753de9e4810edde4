/*
 * Play a sound with two programs: crossfade FIRST SECOND FADE FRAMES [AT MODEL]... < floats > floats. Before the sample
 * AT, MODEL (0 or 1) is selected. Blocks have 1, 2, 3, ... samples, and are processed in place.
 */
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../../examples/lv2/crossfade.hpp"

int main(int argc, char **argv) {
    if (argc < 5) return 2;
    try {
        const lstm_edge::Program first(argv[1]), second(argv[2]);
        Crossfade player(first, second, std::strtoul(argv[3], nullptr, 10));
        std::vector<float> sound(std::strtoul(argv[4], nullptr, 10));
        if (std::fread(sound.data(), sizeof(float), sound.size(), stdin) != sound.size()) return 2;
        std::size_t at = 0, block = 0;
        for (int next = 5; at < sound.size(); next += 2) {
            const bool last = next + 1 >= argc;
            const std::size_t end = last ? sound.size() : std::strtoul(argv[next], nullptr, 10);
            while (at < end) {
                block++;
                const std::size_t count = std::min(block, end - at);
                player.process(&sound[at], &sound[at], count);
                at += count;
            }
            if (!last) player.select(std::atoi(argv[next + 1]));
        }
        std::fwrite(sound.data(), sizeof(float), sound.size(), stdout);
        return 0;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 3;
    }
}
