import gc
import mmap
import re
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import (
    ContractError,
    FileFormatError,
    InputError,
    ManifestError,
    MissingDependencyError,
    NotFoundError,
    ProviderError,
    UnsupportedError,
    install_command,
)


def with_manifest(proto, manifest):
    """Return a file with its digest, as the exporters write it; they need onnx."""
    pytest.importorskip("onnx_ir")
    from lstm_edge_exporters.graph import with_manifest

    return with_manifest(proto, manifest)


SEALED = (Path(__file__).parent / "data" / "lstm.onnx").read_bytes()
"""A file with a digest, as every exported file has."""
X = np.linspace(-1, 1, 30, dtype=np.float32).reshape(2, 5, 3)


def logits(model):
    return model.run(X)[0]["logits"]


def test_path_string_bytes_memoryview_and_memory_map_give_the_same_model(path):
    expected = logits(load(path("lstm")))
    content = path("lstm").read_bytes()
    with (
        path("lstm").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        for source in (
            str(path("lstm")),
            content,
            bytearray(content),
            memoryview(content),
            mapped,
        ):
            model = load(source)
            np.testing.assert_array_equal(logits(model), expected)
            assert model.identity == load(content).identity


def test_no_file_a_folder_and_an_empty_file_are_refused_by_name(tmp_path):
    with pytest.raises(NotFoundError, match=r"none\.onnx does not exist"):
        load(tmp_path / "none.onnx")
    with pytest.raises(FileFormatError, match="it is a folder"):
        load(tmp_path)
    for no_path in (None, 5):
        with pytest.raises(InputError, match="expected a path, or a file's bytes"):
            load(no_path)
    with pytest.raises(FileFormatError, match="can't be read"):
        load("a\0b")
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(FileFormatError, match=r"empty\.onnx is empty"):
        load(tmp_path / "empty.onnx")
    (tmp_path / "cut.onnx").write_bytes(SEALED[:-1])
    with pytest.raises(FileFormatError, match=r"cut\.onnx: truncated, or not an ONNX"):
        load(tmp_path / "cut.onnx")


@pytest.mark.parametrize(
    "content",
    [
        SEALED[: len(SEALED) // 2],
        SEALED[:100],
        b"\x89PNG\r\n\x1a\n" * 9,
        b"time,ax\n1,2\n",
    ],
)
def test_a_truncated_or_foreign_file_is_not_said_to_lack_a_manifest(content, tmp_path):
    (tmp_path / "e").write_bytes(content)
    with pytest.raises(
        FileFormatError, match="e: truncated, or not an ONNX file"
    ) as error:
        load(tmp_path / "e")
    assert not isinstance(error.value, ManifestError)


def test_an_edited_file_is_named_whatever_its_name(tmp_path):
    content = bytearray(SEALED)
    content[content.index(b"Squeeze")] ^= 1
    (tmp_path / "e").write_bytes(content)
    with pytest.raises(FileFormatError, match="e: damaged, or edited after it was"):
        load(tmp_path / "e")


@settings(deadline=None, max_examples=100)
@given(junk=st.binary(min_size=1, max_size=300))
def test_bytes_that_are_no_model_are_refused_and_nothing_else_happens(junk):
    with pytest.raises(
        (FileFormatError, ContractError, MissingDependencyError)
    ):  # or a native program
        load(junk)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_a_file_that_was_damaged_does_not_reach_onnxruntime(data):
    content = bytearray(SEALED)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(1, len(SEALED) - 1))
        kind = data.draw(
            st.sampled_from(["bit", "zeros", "cut", "truncated", "doubled"])
        )
        end = max(start, min(start + data.draw(st.integers(1, 40)), len(content)))
        if kind == "bit" and start < len(content):
            content[start] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "zeros":
            content[start:end] = bytes(end - start)
        elif kind in ("cut", "truncated"):
            del content[start : end if kind == "cut" else None]
        else:
            content[start:start] = content[start:end]
    if bytes(content) != SEALED:
        with pytest.raises((FileFormatError, ManifestError)) as caught:
            load(bytes(content))
        assert "onnxruntime" not in str(caught.value)


@pytest.mark.parametrize(
    "location", ["w.bin", "../w.bin", "/etc/hostname", "*/_ORT_MEM_ADDR_/*"]
)
def test_a_file_with_weights_in_another_one_is_refused(location):
    onnx = pytest.importorskip("onnx")
    proto = onnx.load_from_string(SEALED)
    onnx.external_data_helper.set_external_data(proto.graph.initializer[0], location)
    proto.graph.initializer[0].ClearField("raw_data")
    with pytest.raises(UnsupportedError, match="its weights are in another file"):
        load(with_manifest(proto, load(SEALED).manifest))


def test_a_declared_state_output_that_is_missing_is_an_error_at_load(path):
    with pytest.raises(ContractError, match="h_last is missing in the graph"):
        load(path("broken"))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"threads": 0}, "threads is 0"),
        ({"threads": 2**31}, "expected a whole number from 1 to 1024"),
        ({"threads": "many"}, "threads is 'many'"),
        ({"device": "tpu"}, "device is 'tpu'"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_came(path, argument, message):
    with pytest.raises(InputError, match=message):
        load(path("lstm"), **argument)


def run_alone(program: str, *arguments: object, **environment: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-I", "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env=environment or None,
    )
    return ran.stdout


def test_the_runtime_streams_with_torch_onnx_click_and_rich_absent(path):
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'onnx', 'click',"
        " 'rich', 'onnxscript']))\nimport lstm_edge_runtime as r\nm ="
        " r.load(sys.argv[1]); m.selftest().require(); s = m.stream(); b ="
        " m.streams(2); i = b.add()\nassert (s.step([1, 2, 3]) == b.step([[1, 2, 3]],"
        " [i])[0]).all()\nprint(m.predict([[[1, 2, 3]]]).labels)"
    )
    assert run_alone(program, path("lstm")).startswith("('")


def test_numpy_knows_its_floats_as_before_once_denormals_are_flushed(path):
    program = (
        "import sys, warnings; warnings.simplefilter('error')\nimport lstm_edge_runtime"
        " as r, numpy as np\nr.load(sys.argv[1],"
        " device='cpu')\nprint(*(any(np.finfo(kind).smallest_subnormal.tobytes()) for"
        " kind in ('f2', 'f4', 'f8')))"
    )
    assert run_alone(program, path("lstm")) == "True True True\n"


def test_without_onnxruntime_the_error_names_the_extra(path):
    program = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "import lstm_edge_runtime as r\n"
        "from lstm_edge_runtime.errors import MissingDependencyError\n"
        "try: r.load(sys.argv[1])\n"
        "except MissingDependencyError as error: print(error)"
    )
    assert install_command("cpu") in run_alone(program, path("lstm"))


@pytest.mark.parametrize("name", ["lstm", "late"])
def test_a_closed_model_keeps_no_session(path, name, sessions):
    with load(path(name)) as model:
        model.stream()
        kept = [weakref.ref(session) for session in sessions]
        sessions.clear()
    gc.collect()
    assert [reference() for reference in kept] == [None] * len(kept)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_cuda_that_does_not_start_is_an_error_with_the_wheel_to_install(
    path, monkeypatch
):
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        with pytest.raises(ProviderError, match=re.escape(install_command("cuda"))):
            load(path("lstm"), device="cuda")
    offered = ["CUDAExecutionProvider", *ort.get_available_providers()]
    monkeypatch.setattr(ort, "get_available_providers", lambda: offered)
    with pytest.raises(ProviderError, match="did not start"):
        load(path("lstm"), device="cuda")


def test_threads_are_those_asked_for_and_do_not_spin(path, sessions):
    for threads in (1, 2):
        load(path("lstm"), threads=threads)
        options = sessions[-1].get_session_options()
        assert options.intra_op_num_threads == threads
        assert (
            options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        )


def test_a_file_without_a_manifest_is_sent_to_lift(path):
    onnx = pytest.importorskip("onnx")
    bare = onnx.load(path("lstm"))
    del bare.metadata_props[:]
    with pytest.raises(
        ManifestError, match="has no manifest; make one with: lstm-edge lift"
    ):
        load(bare.SerializeToString())
