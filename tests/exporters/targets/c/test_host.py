"""C on this machine: networks against onnxruntime, sample by sample, under warnings and
sanitizers."""

import re
from itertools import product

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.graph import with_manifest
from lstm_edge_exporters.targets.c import to_c
from lstm_edge_exporters.targets.native import to_native
from lstm_edge_exporters.verify.compare import limit_for
from lstm_edge_runtime import load
from lstm_edge_runtime.checks import read_manifest
from lstm_edge_runtime.errors import InputError

from .conftest import NETWORKS, calls_of, driver, sources, streamed

pytestmark = pytest.mark.system

CHECK = (
    '#include "net.h"\nint main(void) { int passed; net_selftest(&passed); return'
    " !passed; }\n"
)
STRICT = (
    "-std=c99",
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-pedantic",
    "-Werror",
    "-O1",
    "-g",
)
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.fixture
def results(find_program, run, tmp_path):
    """Return a function that compiles a folder and returns its results for the
    calls."""

    def execute(folder, given, *options, compiler="gcc"):
        (tmp_path / "main.c").write_text(driver(folder))
        command = [
            find_program(compiler),
            *STRICT,
            *options,
            *sources(folder),
            tmp_path / "main.c",
            "-lm",
        ]
        run(*command, "-o", tmp_path / "main")
        return np.frombuffer(run(tmp_path / "main", given=given), np.float32)

    return execute


@pytest.mark.parametrize(
    ("compiler", "name"),
    [*product(["gcc"], NETWORKS), *product(["clang"], ["demo", "int8"])],
)
def test_c_computes_what_onnxruntime_does(compiler, name, network, folder_of, results):
    with load(network(name)) as model:
        inputs, given = calls_of(model, 20)
        expected = streamed(model, inputs)
    got = results(folder_of(name), given, *SANITIZED, compiler=compiler).reshape(
        expected.shape
    )
    floor = (
        0.01 if name == "int8" else 1e-6
    )  # one level of int8; 20 steps of float32 rounding
    assert np.abs(got - expected).max() <= 8 * floor + limit_for(expected)


def test_blocks_of_int8_compute_what_the_program_does(
    in_int8, results, find_program, tmp_path
):
    """To the bit, but for the functions: sums of int8 are exact."""
    find_program("gcc")
    path = in_int8("sparse_int8")
    x = np.random.default_rng(1).normal(size=(20, 8)).astype(np.float32)
    with load(to_native(path)) as model:
        stream = model.stream()
        expected = np.stack([stream.step(row) for row in x])
    folder = to_c(path, name="net").save(tmp_path / "net")
    assert "lc_int8_scaled_blocks" in (folder / "src/net.c").read_text()
    got = results(folder, x.tobytes(), *SANITIZED).reshape(expected.shape)
    assert np.abs(got - expected).max() <= 1e-3


@pytest.mark.parametrize("name", ["strided", "means"])
def test_a_stream_in_units_computes_what_onnxruntime_does(
    name, network, folder_of, results
):
    with load(network(name)) as model:
        inputs, given = calls_of(model, 60)
        expected = model.stream().process(inputs["x"][0])
        delay = model.manifest.delays.get(model.outputs[0].name, 0)
    got = results(folder_of(name), given, *SANITIZED).reshape(-1, expected.shape[-1])[
        delay:
    ]
    assert ("NET_DELAY 1 " in (folder_of(name) / "src/net.h").read_text()) == (
        delay == 1
    )
    assert np.abs(got - expected[: len(got)]).max() <= 8e-6 + limit_for(expected)


def test_a_cell_carries_its_states_from_step_to_step(network, folder_of, results):
    x = np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)
    with load(network("cell")) as model:
        stream = model.stream()
        expected = np.stack([stream.step(row) for row in x])
    got = results(folder_of("cell"), x.tobytes(), *SANITIZED).reshape(expected.shape)
    assert np.abs(got - expected).max() <= 8e-6 + limit_for(expected)


class Counting(nn.Module):
    """Counts steps in two whole numbers, and adds them to the input."""

    def forward(self, x, n):
        return x + n.to(x.dtype), n + 1


RESETS = {"two numbers": [[3, -5]], "one number for both": 4}


@pytest.mark.parametrize("name", RESETS)
def test_a_state_of_whole_numbers_starts_at_its_reset_value(
    name, find_program, results, tmp_path
):
    find_program("gcc")
    config = ExportConfig(
        inputs={"x": ("N", 2), "n": ("N", 2)},
        outputs=("y", "n_next"),
        states={"n": "n_next"},
    )
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    n = torch.zeros(3, 2, dtype=torch.int64)
    proto = onnx.load_from_string(export(Counting(), (x, n), config).model)
    manifest = read_manifest(proto.metadata_props[0].value)
    reset = np.array(RESETS[name])
    (state,) = manifest.states
    states = (state._replace(reset=reset if reset.ndim else int(reset)),)
    path = tmp_path / "counting.onnx"
    path.write_bytes(with_manifest(proto, manifest._replace(states=states)))
    rows = np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)
    with load(path) as model:
        stream = model.stream()
        expected = np.stack([stream.step(row) for row in rows])
    folder = to_c(path, name="net").save(tmp_path / "net")
    got = results(folder, rows.tobytes(), *SANITIZED).reshape(expected.shape)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", ["lc", "lstm_edge_core"])
def test_a_name_of_the_core_is_refused(name, network):
    with pytest.raises(InputError, match="a name of the core that comes with it"):
        to_c(network("demo"), name=name)


def test_the_linker_sees_prefixed_names_only_and_nothing_that_allocates(
    folder_of, find_program, run, tmp_path
):
    folder = folder_of("demo")
    objects = []
    for source in (folder / "src").glob("*.c"):
        objects.append(tmp_path / f"{source.stem}.o")
        run(
            find_program("gcc"),
            *STRICT,
            f"-I{folder / 'src'}",
            "-c",
            source,
            "-o",
            objects[-1],
        )
    lines = [
        line.split()
        for line in run(find_program("nm"), "-g", *objects).decode().splitlines()
    ]
    assert all(line[2].startswith(("net_", "lc_")) for line in lines if len(line) == 3)
    wanted = {line[1] for line in lines if len(line) == 2 and line[0] == "U"}
    assert not wanted & {"malloc", "calloc", "free", "printf", "fopen", "puts"}
    sections = run(find_program("size"), "-A", *objects).decode()
    assert set(re.findall(r"^\.(?:bss|data)\s+(\d+)", sections, re.MULTILINE)) == {"0"}


PROGRAMS = {
    "states are independent, can be copied and are reset": (
        "demo",
        """
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
""",
    ),
    "a token outside of its table is told and changes no state": (
        "tagger",
        """
    const int32_t strange[] = {30, 500, -31, INT32_MIN};
    net_state state, before;
    int32_t token[1] = {7};
    float next[NET_OUTPUTS_next], last[NET_OUTPUTS_last], expected[NET_OUTPUTS_last];
    net_reset(&state);
    if (state.h_0[0] == 0.0f) return 5; /* a learned start */
    if (net_step(&state, token, next, last) != 0) return 1;
    before = state;
    for (int i = 0; i < 4; ++i) {
        token[0] = strange[i];
        if (net_step(&state, token, next, last) != 1) return 2;
        if (memcmp(&state, &before, sizeof state) != 0) return 3;
    }
    token[0] = 29;
    if (net_step(&state, token, next, expected) != 0) return 4;
    token[0] = -1; /* the last row, as in ONNX */
    return net_step(&before, token, next, last) != 0 || memcmp(last, expected, sizeof last) != 0;
""",
    ),
    "labels are names": (
        "demo",
        (
            "    return NET_LABELS != 4 || strcmp(net_labels[NET_LABEL_Walking],"
            ' "Walking") != 0;\n'
        ),
    ),
    "members and a counter have names": (
        "means",
        """
    net_state state;
    float x[NET_INPUTS] = {0}, y[NET_OUTPUTS];
    net_reset(&state);
    if (NET_UNIT != 3 || NET_INPUTS != 9) return 1;
    net_step(&state, x, y);
    net_step(&state, x, y);
    return state.count_0[0] != 6 || sizeof state.h_0 != 6 * sizeof(float);
""",
    ),
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_a_program_sees(what, folder_of, find_program, run, tmp_path):
    name, body = PROGRAMS[what]
    (tmp_path / "main.c").write_text(
        f'#include "net.h"\n#include <string.h>\nint main(void)\n{{{body}}}\n'
    )
    command = [find_program("gcc"), *STRICT, *SANITIZED, *sources(folder_of(name))]
    run(*command, tmp_path / "main.c", "-lm", "-o", tmp_path / "main")
    run(tmp_path / "main")


def fails_when(folder, number, value, find_program, run, tmp_path):
    """Replace a number of the code, found by a pattern: the self-test must fail."""
    code = (folder / "src/net.c").read_text()
    match = re.search(number, code)
    (tmp_path / "net.c").write_text(code[: match.start()] + value + code[match.end() :])
    (tmp_path / "main.c").write_text(CHECK)
    files = [source for source in sources(folder) if not str(source).endswith("/net.c")]
    made = [tmp_path / "net.c", tmp_path / "main.c", "-lm", "-o", tmp_path / "m"]
    run(find_program("gcc"), *STRICT, *files, *made)
    run(tmp_path / "m", code=1)


def test_a_weight_that_is_wrong_fails_the_self_test(
    folder_of, find_program, run, tmp_path
):
    fails_when(
        folder_of("demo"),
        r"(?<== \{\n    )\S+(?=,)",
        "9.0f",
        find_program,
        run,
        tmp_path,
    )


def test_the_self_test_holds_each_channel_to_its_own_limit(find_program, run, tmp_path):
    class Units(nn.Module):
        """A pressure in Pa and an angle in rad, in one output."""

        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 8, batch_first=True)
            self.fc = nn.Linear(8, 2)
            self.register_buffer("scale", torch.tensor([500.0, 0.01]))
            self.register_buffer("center", torch.tensor([101325.0, 0.02]))

        def forward(self, x):
            return self.fc(self.lstm(x)[0]) * self.scale + self.center

    torch.manual_seed(0)
    artifact = export(Units().eval(), torch.randn(2, 5, 3))
    artifact.save(tmp_path / "units.onnx")
    folder = to_c(tmp_path / "units.onnx", name="net").save(tmp_path / "c")
    # 0.005 rad, less than the limit of the pressure
    fails_when(
        folder, r"101325\.0f, 0\.02f", "101325.0f, 0.025f", find_program, run, tmp_path
    )


def test_cmake_takes_the_folder_into_a_project_of_cpp(
    folder_of, find_program, run, tmp_path
):
    (tmp_path / "app").mkdir()
    (tmp_path / "app/CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(app C CXX)\n"
        f'add_subdirectory("{folder_of("demo")}" net)\n'
        "add_executable(app app.cpp)\ntarget_link_libraries(app net)\n"
    )
    (tmp_path / "app/app.cpp").write_text(CHECK.replace("(void)", "()"))
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


def test_the_folder_is_a_component_of_esp_idf(folder_of, find_program, run, tmp_path):
    folder = folder_of("demo")
    (tmp_path / "mock.cmake").write_text(
        f'{IDF}\ninclude("{folder / "CMakeLists.txt"}")\n'
    )
    output = run(find_program("cmake"), "-P", tmp_path / "mock.cmake").decode()
    assert set(re.findall(r"src/(\w+)\.c", output)) == {
        "net",
        "net_selftest",
        "lstm_edge_core",
    }
