/*
 * Play a sound with FOLDER/first.lep and FOLDER/second.lep: crossfade FOLDER FADE FRAMES [AT MODEL]... < floats > floats.
 * Before the sample AT, MODEL (0 or 1) is selected. Blocks have 1, 2, 3, ... samples, and are processed in place, on a
 * thread that Linux ends at its first system call, and that may not allocate or lock. With PLUGIN the examples' plug-in plays them, as a host would.
 */
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>
#if defined(__linux__)
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "counted.h"
#endif

#ifdef PLUGIN
#define AMPLIFIER_URI "urn:test"
#include "../../examples/lv2/amplifier.cpp"

struct Player {
    Player(const std::string &folder, std::size_t fade) {
        handle = plugin->instantiate(plugin, static_cast<double>(fade) / FADE, folder.c_str(), nullptr);
        if (handle == nullptr) std::exit(3);
        plugin->connect_port(handle, MODEL, &model);
        plugin->activate(handle);
    }
    ~Player() { plugin->cleanup(handle); }
    void select(int chosen) { model = static_cast<float>(chosen); }
    void process(float *in, float *out, std::size_t frames) {
        plugin->connect_port(handle, IN, in);
        plugin->connect_port(handle, OUT, out);
        plugin->run(handle, static_cast<std::uint32_t>(frames));
    }
    const LV2_Descriptor *plugin = lv2_descriptor(0);
    LV2_Handle handle = nullptr;
    float model = 0;
};
#else
#include "../../examples/lv2/crossfade.hpp"

struct Player : Crossfade {
    Player(const std::string &folder, std::size_t fade)
        : Crossfade(lstm_edge::Program((folder + "/first.lep").c_str()), lstm_edge::Program((folder + "/second.lep").c_str()),
                    fade) {}
};
#endif

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    try {
        Player player(argv[1], std::strtoul(argv[2], nullptr, 10));
        std::vector<float> sound(std::strtoul(argv[3], nullptr, 10));
        if (std::fread(sound.data(), sizeof(float), sound.size(), stdin) != sound.size()) return 2;
        std::atomic<bool> done{false};
        std::atomic<long> thread{0};
        std::thread audio([&] {
#if defined(__linux__)
            thread = syscall(SYS_gettid);
            if (prctl(PR_SET_SECCOMP, 1) != 0) std::abort();
            armed = 1;
#endif
            std::size_t at = 0, block = 0;
            for (int next = 4; at < sound.size(); next += 2) {
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
            done = true;
#if defined(__linux__)
            armed = 0;
            syscall(SYS_exit, 0);
#endif
        });
        audio.detach();
        while (!done) {
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
#if defined(__linux__)
            if (!done && thread != 0 && syscall(SYS_tgkill, getpid(), thread.load(), 0) != 0) {
                std::fprintf(stderr, "a block made a system call\n");
                std::_Exit(4);
            }
#endif
        }
#if defined(__linux__)
        if (calls != 0) {
            std::fprintf(stderr, "a block allocated or took a lock\n");
            return 5;
        }
#endif
        std::fwrite(sound.data(), sizeof(float), sound.size(), stdout);
        return 0;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 3;
    }
}
