"""C on this machine: every network against onnxruntime, sample by sample, under warnings and sanitizers."""

import json
import os
import platform
import re
import subprocess
import sys
from itertools import product

import numpy as np
import onnx
import pytest
import torch
from ruamel.yaml import YAML

from lstm_edge_exporters import QuantizeConfig, export, quantize
from lstm_edge_exporters.targets.c import to_c
from lstm_edge_exporters.targets.native.convert import to_native
from lstm_edge_runtime import load
from lstm_edge_runtime.native.library import installed
from lstm_edge_runtime.tolerance import limit_for

from .conftest import LABELS, NETWORKS

pytestmark = pytest.mark.system

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror")
STRICT = ("-std=c99", *WARNINGS, "-O1", "-g")
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def sources(folder):
    return [f"-I{folder / 'src'}", *sorted((folder / "src").glob("*.c"))]


def drawn(model, steps):
    """Random inputs for ``steps`` steps at batch 1, by name."""
    rng = np.random.default_rng(1)
    inputs = {}
    for spec in model.inputs:
        if spec.name != model.manifest.lengths:
            shape = [{"N": 1, "L": steps}.get(axis, axis) for axis in spec.axes]
            whole = np.dtype(spec.dtype).kind == "i"
            inputs[spec.name] = (
                rng.integers(0, 30, shape) if whole else rng.normal(size=shape).astype(spec.dtype)
            )
    return inputs


def streamed(model, inputs, chunk=1):
    """What onnxruntime gives for each chunk, states carried: all outputs in a row."""
    axes = {spec.name: spec.axes.index("L") for spec in model.inputs if spec.name in inputs}
    steps, state, rows = inputs[next(iter(axes))].shape[next(iter(axes.values()))], None, []
    for start in range(0, steps, chunk):
        part = {name: array.take(range(start, start + chunk), axes[name]) for name, array in inputs.items()}
        outputs, state = model.run(part, state)
        rows.append(np.concatenate([outputs[spec.name].reshape(-1) for spec in model.outputs]))
    return np.stack(rows)


def as_text(model, inputs, chunk=1):
    """The numbers that ``examples/main.c`` reads: call by call, input by input."""
    lines, names = [], list(inputs)
    axes = {spec.name: spec.axes.index("L") for spec in model.inputs if spec.name in inputs}
    for start in range(0, inputs[names[0]].shape[axes[names[0]]], chunk):
        for name in names:
            part = inputs[name].take(range(start, start + chunk), axes[name])
            lines.append(" ".join(repr(value) for value in part.reshape(-1).tolist()))
    return "\n".join(lines)


def numbers(text):
    return np.array(
        [[float(word) for word in re.sub(r"[A-Za-z]+$", "", line).split()] for line in text.splitlines()]
    )


@pytest.mark.parametrize(
    ("compiler", "name"),
    [*product(["gcc"], NETWORKS), *product(["clang"], ["demo", "int8", "unbatched"])],
)
def test_c_computes_what_onnxruntime_does(compiler, name, network, folder_of, find_program, run, tmp_path):
    program, folder = tmp_path / "main", folder_of(name)
    run(
        find_program(compiler),
        *STRICT,
        *SANITIZED,
        *sources(folder),
        folder / "examples/main.c",
        "-lm",
        "-o",
        program,
    )
    with load(network(name)) as model:
        inputs = drawn(model, 20)
        expected = streamed(model, inputs)
        got = numbers(run(program, given=as_text(model, inputs)))
    floor = 0.01 if name == "int8" else 1e-6  # one level of int8; 20 steps of float32 rounding
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= limit_for(expected, floor)


@pytest.mark.parametrize(("name", "chunk"), [("demo", 10), ("tagger", 4), ("projected", 5)])
def test_a_chunk_is_what_its_steps_are(name, chunk, network, folder_of, find_program, run, tmp_path):
    """The golden case of 12 steps can't be cut into tens: that folder records one."""
    program, folder = tmp_path / "main", folder_of(name, chunk)
    run(
        find_program("gcc"),
        *STRICT,
        *SANITIZED,
        *sources(folder),
        folder / "examples/main.c",
        "-lm",
        "-o",
        program,
    )
    with load(network(name)) as model:
        inputs = drawn(model, 3 * chunk)
        expected = streamed(model, inputs, chunk)
        got = numbers(run(program, given=as_text(model, inputs, chunk)))
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= limit_for(expected, 1e-6)


def test_the_linker_sees_the_networks_own_names_only_and_nothing_that_allocates(
    folder_of, find_program, run, tmp_path
):
    folder, objects = folder_of("demo"), []
    for source in (folder / "src").glob("*.c"):
        objects.append(tmp_path / f"{source.stem}.o")
        run(find_program("gcc"), *STRICT, f"-I{folder / 'src'}", "-c", source, "-o", objects[-1])
    lines = [line.split() for line in run(find_program("nm"), "-g", *objects).splitlines()]
    defined = {line[2]: line[1] for line in lines if len(line) == 3}
    wanted = {line[1] for line in lines if len(line) == 2 and line[0] == "U"}
    assert set(defined) == {
        "net_labels",
        "net_features",
        "net_reset",
        "net_step",
        "net_step_with",
        "net_selftest",
    }
    assert not wanted & {"malloc", "calloc", "free", "printf", "fopen", "puts"}
    sections = run(find_program("size"), "-A", *objects)
    assert set(re.findall(r"^(\.bss|\.data)\s+(\d+)", sections, re.MULTILINE)) == {
        (".bss", "0"),
        (".data", "0"),
    }


STATES = """
#include "net.h"
#include <string.h>
int main(void)
{
    net_state a, b, copy;
    float x[NET_INPUTS] = {1, 2, 3, 4, 5, 6}, z[NET_INPUTS] = {-1, 0, 4, -2, 1, 0};
    float first[NET_OUTPUTS], second[NET_OUTPUTS], alone[NET_OUTPUTS];
    net_reset(&a);
    net_step(&a, x, first);
    copy = a;
    net_step(&a, x, alone);
    net_reset(&b);
    net_reset(&a);
    for (int i = 0; i < 2; ++i) {
        net_step(&a, x, first);
        net_step(&b, z, second);
    }
    if (memcmp(first, alone, sizeof first) != 0) return 1;
    if (memcmp(second, alone, sizeof second) == 0) return 2;
    net_step(&copy, x, second);
    return memcmp(second, alone, sizeof second) == 0 ? 0 : 3;
}
"""


def test_states_are_independent_and_can_be_copied_and_reset(folder_of, find_program, run, tmp_path):
    (tmp_path / "states.c").write_text(STATES)
    command = [find_program("gcc"), *STRICT, *SANITIZED, *sources(folder_of("demo"))]
    run(*command, tmp_path / "states.c", "-lm", "-o", tmp_path / "states")
    run(tmp_path / "states")


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_the_class_in_cpp_wraps_the_functions_and_refuses_arrays_of_another_size(
    compiler, folder_of, find_program, run, tmp_path
):
    folder = folder_of("demo")
    run(
        find_program("gcc"),
        *STRICT,
        f"-I{folder / 'src'}",
        "-c",
        folder / "src/net.c",
        "-o",
        tmp_path / "net.o",
    )
    text = (
        '#include "net.hpp"\n#include <cstring>\n'
        "int main() {\n"
        "    net_stream one, other;\n"
        "    float x[SIZE] = {1, 2, 3}, y[NET_OUTPUTS], c[NET_OUTPUTS];\n"
        "    net_state state;\n    net_reset(&state);\n"
        "    for (int i = 0; i < 3; ++i) { one.step(x, y); net_step(&state, x, c); }\n"
        "    if (std::memcmp(&one.state(), &state, sizeof state) || std::memcmp(y, c, sizeof y)) return 1;\n"
        "    one.reset();\n"
        "    return std::memcmp(&one.state(), &other.state(), sizeof state) != 0;\n}\n"
    )
    (tmp_path / "main.cpp").write_text(text)
    strict = ["-std=c++11", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{folder / 'src'}"]
    command = [find_program(compiler), *strict, tmp_path / "main.cpp", tmp_path / "net.o", "-lm"]
    run(*command, "-DSIZE=NET_INPUTS", "-o", tmp_path / "main")
    run(tmp_path / "main")
    run(*command, "-DSIZE=5", "-o", tmp_path / "main", code=1)
    network = ["-std=c++11", *WARNINGS, "-x", "c++", "-c", folder / "src/net.c", "-o", tmp_path / "cpp.o"]
    for options in ((), ("-march=haswell",), ("-march=skylake-avx512",)):
        if not options or platform.machine() == "x86_64":
            run(find_program(compiler), *network, *options)


@pytest.mark.parametrize("kind", ["GRU", "RNN"])
def test_a_direction_that_is_written_out_is_taken_as_the_default(kind, find_program, tmp_path):
    find_program("cc", "gcc", "clang")
    torch.manual_seed(0)
    module = getattr(torch.nn, kind)(3, 4, batch_first=True)
    export(module.eval(), torch.randn(2, 5, 3)).save(tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    (node,) = (node for node in model.graph.node if node.op_type == kind)
    written = [each for each in node.attribute if each.name == "direction"]
    if not written:
        node.attribute.append(onnx.helper.make_attribute("direction", "forward"))
        onnx.save(model, tmp_path / "net.onnx")
    assert to_c(tmp_path / "net.onnx").worst.ok


class Recurrent(torch.nn.Module):
    """Enough hidden units that float32 weights would fill a small stack."""

    def __init__(self, kind):
        super().__init__()
        self.rnn = getattr(torch.nn, kind)(8, 32, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]


@pytest.mark.parametrize(("kind", "weights_only"), [("GRU", False), ("LSTM", True)])
def test_weights_that_are_stored_in_int8_stay_so_in_flash(kind, weights_only, find_program, tmp_path):
    find_program("cc", "gcc", "clang")
    torch.manual_seed(0)
    export(Recurrent(kind).eval(), torch.randn(2, 5, 8)).save(tmp_path / "m.onnx")
    small = quantize(tmp_path / "m.onnx", QuantizeConfig(target="arm", weights_only=weights_only))
    small.save(tmp_path / "small.onnx", force=True)
    made, weights = to_c(tmp_path / "small.onnx"), 32 * 40 * (3 if kind == "GRU" else 4)
    assert weights < made.sizes.constants < 1.4 * weights
    assert ("le_product8(le" in made.files["src/small.c"]) == (installed() and not weights_only)
    assert made.sizes.stack < 2048
    if installed():
        assert len(to_native(tmp_path / "small.onnx")) < (tmp_path / "small.onnx").stat().st_size + weights


TOKENS = """
#include "net.h"
#include <string.h>
int main(void)
{
    const int64_t strange[] = {30, 500, -31, 4294967299LL, INT64_MIN};
    net_state state, before;
    int64_t token[1] = {7};
    float next[NET_OUTPUTS_next_], last[NET_OUTPUTS_last], expected[NET_OUTPUTS_last];
    net_reset(&state);
    if (net_step(&state, token, next, last) != 0) return 1;
    before = state;
    for (int i = 0; i < 5; ++i) {
        token[0] = strange[i];
        if (net_step(&state, token, next, last) != 1) return 2;
        if (memcmp(&state, &before, sizeof state) != 0) return 3;
    }
    token[0] = 29;
    if (net_step(&state, token, next, expected) != 0) return 4;
    token[0] = -1; /* the last row, as in ONNX */
    return net_step(&before, token, next, last) != 0 || memcmp(last, expected, sizeof last) != 0;
}
"""


def test_a_token_out_of_range_is_told_and_changes_no_state(folder_of, find_program, run, tmp_path):
    (tmp_path / "tokens.c").write_text(TOKENS)
    command = [find_program("gcc"), *STRICT, *SANITIZED, *sources(folder_of("tagger"))]
    run(*command, tmp_path / "tokens.c", "-lm", "-o", tmp_path / "tokens")
    run(tmp_path / "tokens")


def assert_caught(folder, weight, value, find_program, run, tmp_path):
    """Put ``value`` in the place of a weight, found by a pattern: the self-test must fail."""
    code = (folder / "src/net.c").read_text()
    place = re.search(weight, code)
    changed = tmp_path / "net.c"
    changed.write_text(code[: place.start()] + value + code[place.end() :])
    files = [changed, folder / "src/net_selftest.c", folder / "examples/main.c"]
    run(find_program("gcc"), *STRICT, f"-I{folder / 'src'}", *files, "-lm", "-o", tmp_path / "main")
    run(tmp_path / "main", code=1)


def test_a_weight_that_is_wrong_fails_the_self_test(folder_of, find_program, run, tmp_path):
    weight = r"(?<=_bias\[4\] LE_ALIGNED = \{)\s*\S+(?=,)"
    assert_caught(folder_of("demo"), weight, "9.0f", find_program, run, tmp_path)


class Units(torch.nn.Module):
    """A pressure in Pa and an angle in rad, in one output."""

    def __init__(self):
        super().__init__()
        self.lstm, self.fc = torch.nn.LSTM(3, 8, batch_first=True), torch.nn.Linear(8, 2)
        self.register_buffer("scale", torch.tensor([500.0, 0.01]))
        self.register_buffer("center", torch.tensor([101325.0, 0.02]))

    def forward(self, x):
        return self.fc(self.lstm(x)[0]) * self.scale + self.center


def test_the_self_test_holds_each_channel_to_its_own_limit(find_program, run, tmp_path):
    torch.manual_seed(0)
    artifact = export(Units().eval(), torch.randn(2, 5, 3))
    artifact.save(tmp_path / "units.onnx")
    folder = to_c(tmp_path / "units.onnx", name="net").save(tmp_path / "c")
    # 0.005 rad, less than the limit of the pressure
    assert artifact.manifest.golden.limits["output"].max() > 0.005
    assert_caught(folder, r"101325\.0f, 0\.02f", "101325.0f, 0.025f", find_program, run, tmp_path)


def test_cmake_builds_and_tests_the_folder(folder_of, find_program, run, tmp_path):
    cmake = find_program("cmake")
    run(cmake, "-S", folder_of("demo"), "-B", tmp_path)
    run(cmake, "--build", tmp_path)
    assert "100% tests passed" in run(find_program("ctest"), "--test-dir", tmp_path)


def test_cmake_takes_the_folder_into_a_project(folder_of, find_program, run, tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app/CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(app C)\n"
        f'add_subdirectory("{folder_of("demo")}" net)\n'
        "add_executable(app app.c)\ntarget_link_libraries(app net)\n"
    )
    (tmp_path / "app/app.c").write_text(
        '#include "net.h"\nint main(void) { int ok; net_selftest(&ok); return !ok; }\n'
    )
    cmake = find_program("cmake")
    run(cmake, "-S", tmp_path / "app", "-B", tmp_path / "build")
    run(cmake, "--build", tmp_path / "build")
    run(tmp_path / "build/app")


IDF = """
set(ESP_PLATFORM 1)
function(idf_component_register)
  cmake_parse_arguments(idf "" "" "SRCS;INCLUDE_DIRS" ${ARGN})
  message(STATUS "${idf_SRCS};${idf_INCLUDE_DIRS}")
endfunction()
"""
ZEPHYR = """
function(zephyr_library_named)
endfunction()
function(zephyr_library_sources)
  message(STATUS "${ARGN}")
endfunction()
function(zephyr_include_directories)
  message(STATUS "${ARGN}")
endfunction()
"""


@pytest.mark.parametrize(("mock", "file"), [(IDF, "CMakeLists.txt"), (ZEPHYR, "zephyr/CMakeLists.txt")])
def test_the_folder_is_a_component_of_esp_idf_and_a_module_of_zephyr(
    mock, file, folder_of, find_program, run, tmp_path
):
    folder = folder_of("demo")
    (tmp_path / "mock.cmake").write_text(f'{mock}\ninclude("{folder / file}")\n')
    said = run(find_program("cmake"), "-P", tmp_path / "mock.cmake").replace("-- ", "").replace("\n", ";")
    named = {path for path in said.split(";") if "src" in path}
    assert {(folder / file).parent.joinpath(path).resolve() for path in named} == {
        folder / "src", folder / "src/net.c", folder / "src/net_selftest.c",
    }  # fmt: skip
    module = YAML().load(folder / "zephyr/module.yml")
    assert (module["name"], module["build"]["cmake"]) == ("net", "zephyr")
    assert YAML().load(folder / "idf_component.yml")["version"]


ARDUINO = """
#include <cstdio>
#include <cstdlib>
struct { void begin(long) {} void print(const char *t) { std::printf("%s", t); }
         void println(float v, int) { std::printf("%g\\n", v); }
         void println(const char *t) { std::printf("%s\\n", t); } } Serial;
void delay(unsigned long ms) { std::printf("%lu ms\\n", ms); }
#include SKETCH
int main() { setup(); loop(); loop(); }
"""


def test_the_folder_is_an_arduino_and_a_platformio_library(folder_of, find_program, run, tmp_path):
    folder = folder_of("demo")
    properties = dict(line.split("=", 1) for line in (folder / "library.properties").read_text().splitlines())
    assert {
        "name",
        "version",
        "author",
        "maintainer",
        "sentence",
        "paragraph",
        "category",
        "url",
        "architectures",
    } <= set(properties)
    manifest = json.loads((folder / "library.json").read_text())
    assert (manifest["name"], manifest["version"]) == ("net", properties["version"])
    assert [(folder / "src" / header).is_file() for header in manifest["headers"]] == [True, True]

    (tmp_path / "board.cpp").write_text(ARDUINO)
    run(
        find_program("gcc"),
        *STRICT,
        f"-I{folder / 'src'}",
        "-c",
        folder / "src/net.c",
        "-o",
        tmp_path / "net.o",
    )
    run(
        find_program("gcc"),
        *STRICT,
        f"-I{folder / 'src'}",
        "-c",
        folder / "src/net_selftest.c",
        "-o",
        tmp_path / "test.o",
    )
    sketch = f'-DSKETCH="{folder / "examples/net_serial/net_serial.ino"}"'
    strict = ["-std=c++11", "-Wall", "-Wextra", "-Werror", f"-I{folder / 'src'}", sketch]
    run(
        find_program("g++"),
        *strict,
        *sorted(tmp_path.glob("*.[o]")),
        tmp_path / "board.cpp",
        "-lm",
        "-o",
        tmp_path / "b",
    )
    said = run(tmp_path / "b").splitlines()
    assert said[0].startswith("self-test passed")
    assert said[2] == said[4] == "100 ms"
    assert {said[1], said[3]} <= set(LABELS)


def test_words_of_the_file_arrive_as_they_are(network, find_program, run, tmp_path):
    import onnx

    model = onnx.load(network("unbatched"))
    entry = next(each for each in model.metadata_props if each.key == "lstm_edge")
    manifest = json.loads(entry.value)
    manifest["task"]["units"] = units = ["m/s²", 'a "quote" \\ and ??/ */', "°C"]
    manifest["signal"]["sampling_rate"] = 12.5
    manifest["trained"] = {"carry": False, "window": 40, "reset": 1.0}
    entry.value = json.dumps(manifest)
    onnx.save(model, tmp_path / "words.onnx")
    folder = to_c(tmp_path / "words.onnx").save(tmp_path / "words_c")
    (tmp_path / "print.c").write_text(
        '#include "words.h"\n#include <stdio.h>\n'
        "int main(void) { for (int i = 0; i < 3; ++i) puts(words_units[i]);"
        ' printf("%g %d ", (double)WORDS_SAMPLING_RATE, WORDS_RESET_EVERY);'
        ' printf("%d %d %d\\n", WORDS_CHUNK, WORDS_INPUTS, WORDS_OUTPUTS);'
        " return 0; }\n"
    )
    run(find_program("gcc"), *STRICT, *sources(folder), tmp_path / "print.c", "-lm", "-o", tmp_path / "print")
    assert run(tmp_path / "print").splitlines() == [*units, "12.5 40 1 3 3"]


def test_the_same_file_gives_the_same_bytes_in_every_process(network, folder_of, tmp_path):
    for seed in ("1", "2"):
        script = (
            "import sys; from lstm_edge_exporters.targets.c import to_c\n"
            "to_c(sys.argv[1], name='net').save(sys.argv[2])"
        )
        command = [sys.executable, "-c", script, network("layers"), tmp_path / seed]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
    folders = [folder_of("layers"), tmp_path / "1", tmp_path / "2"]
    contents = [{str(p.relative_to(f)): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in folders]
    assert contents[0] == contents[1] == contents[2]
