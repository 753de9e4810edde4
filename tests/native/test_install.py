"""A project in C finds the library in each of the ways that CMake and pkg-config have,
in a prefix that was moved after its installation."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from lstm_edge_runtime import load

pytestmark = pytest.mark.system

NATIVE = Path(__file__).parents[2] / "native"
PROGRAM = Path(__file__).parents[1] / "runtime" / "data" / "lstm.lep"
USER = r"""
#include <lstm_edge.h>
#include <stdio.h>

int main(int count, char **words) {
    if (count != 2) return 2;
    lstm_edge_program *program = lstm_edge_open(words[1]);
    if (!program) return puts(lstm_edge_last_error()), 1;
    lstm_edge_stream *stream = lstm_edge_stream_new(program);
    float *x = lstm_edge_input(stream, 0);
    for (size_t k = 0; k < 3; k++) x[k] = (float)k / 4;
    if (lstm_edge_step(stream)) return 1;
    printf("%.6f\n", (double)lstm_edge_output(stream, 0)[0]);
    lstm_edge_stream_free(stream);
    lstm_edge_free(program);
    return 0;
}
"""
WAYS = {
    "find_package": "find_package(lstm_edge 0.1 REQUIRED)",
    "add_subdirectory": f"add_subdirectory({NATIVE} lstm_edge)",
    "FetchContent": f"""
include(FetchContent)
FetchContent_Declare(lstm_edge SOURCE_DIR {NATIVE})
FetchContent_MakeAvailable(lstm_edge)""",
}
"""Lines of a CMakeLists.txt that give the target."""


def run(*command, **options):
    ran = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, **options
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module", params=["ON", "OFF"], ids=["shared", "static"])
def prefix(request, find_program, tmp_path_factory):
    """Return a folder that holds an installation, and whether it is shared."""
    find_program("cmake")
    find_program("cc")
    folder = tmp_path_factory.mktemp("install")
    shared = f"-DBUILD_SHARED_LIBS={request.param}"
    first = f"-DCMAKE_INSTALL_PREFIX={folder / 'first'}"
    run("cmake", "-S", NATIVE, "-B", folder / "build", shared, first)
    run("cmake", "--build", folder / "build", "--parallel", "2")
    run("cmake", "--install", folder / "build")
    return (folder / "first").rename(folder / "moved"), shared


@pytest.fixture
def answer():
    """Return what the user's program must print."""
    sample = np.arange(3, dtype=np.float32) / 4
    return f"{load(PROGRAM).stream().step(sample).reshape(-1)[0]:.6f}\n"


@pytest.mark.parametrize("way", WAYS)
def test_cmake_finds_the_library(way, prefix, tmp_path, answer):
    folder, shared = prefix
    (tmp_path / "user.c").write_text(USER)
    (tmp_path / "CMakeLists.txt").write_text(f"""
cmake_minimum_required(VERSION 3.18)
project(user C)
{WAYS[way]}
add_executable(user user.c)
target_link_libraries(user PRIVATE lstm_edge::lstm_edge)
if(TARGET stream OR TARGET fuzz)
  message(FATAL_ERROR "targets of the library's own tests")
endif()
""")
    build = tmp_path / "build"
    run("cmake", "-S", tmp_path, "-B", build, f"-DCMAKE_PREFIX_PATH={folder}", shared)
    run("cmake", "--build", build, "--parallel", "2")
    assert run(build / "user", PROGRAM) == answer


def test_pkg_config_finds_the_library(prefix, find_program, tmp_path, answer):
    find_program("pkg-config")
    folder, shared = prefix
    (file,) = folder.rglob("lstm_edge.pc")
    environment = {"PKG_CONFIG_PATH": str(file.parent), "PATH": "/usr/bin:/bin"}
    form = [] if shared.endswith("ON") else ["--static"]
    flags = run("pkg-config", "--cflags", "--libs", *form, "lstm_edge", env=environment)
    (tmp_path / "user.c").write_text(USER)
    run("cc", tmp_path / "user.c", "-o", tmp_path / "user", *flags.split())
    path = {"LD_LIBRARY_PATH": str(file.parents[1])}
    assert run(tmp_path / "user", PROGRAM, env=path) == answer
