"""Model repositories for Triton: the Python backend in a real server, the other against Triton's own schema.

The server is the CPU one in the wheel of nvidia-pytriton. ``LSTM_EDGE_TRITON`` names a folder made by
``pip install --no-deps --target FOLDER "nvidia-pytriton==0.7.*" "numpy<2" tritonclient``.
"""

import importlib.util
import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.error
import urllib.request
import venv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper, numpy_helper

from lstm_edge_exporters.targets.triton import to_triton
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import ContractError, InputError, UnsupportedError
from lstm_edge_runtime.manifest import KEY, Manifest, StateSpec, Task, TensorSpec, Trained

FOLDER = Path(os.environ.get("LSTM_EDGE_TRITON", "no such folder"))
DATA = Path(__file__).parents[3] / "runtime" / "data"
LABELS = ("rest", "walk", "run")
IDLE = 3


@pytest.fixture(scope="module")
def har(tmp_path_factory):
    """An LSTM whose cell state does not begin at zero."""
    rng = np.random.default_rng(0)
    shapes = {"W": (1, 32, 3), "R": (1, 32, 8), "B": (1, 64), "K": (8, 3)}
    stored = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["xt", "W", "R", "B", "", "h_0", "c_0"], ["", "h_n", "c_n"], hidden_size=8),
        helper.make_node("Constant", [], ["axis"], value=numpy_helper.from_array(np.array([0]))),
        helper.make_node("Squeeze", ["h_n", "axis"], ["h"]),
        helper.make_node("MatMul", ["h", "K"], ["logits"]),
    ]

    def info(name, axes):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, axes)

    states = {"h_0": "h_n", "c_0": "c_n"}
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", ["N", "L", 3]), *(info(name, [1, "N", 8]) for name in states)],
        [info("logits", ["N", 3]), *(info(name, [1, "N", 8]) for name in states.values())],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    contract = Manifest(
        inputs=(TensorSpec("x", "float32", ("N", "L", 3)),),
        outputs=(TensorSpec("logits", "float32", ("N", 3)),),
        states=(
            StateSpec("h_0", "h_n", "float32", (1, "N", 8)),
            StateSpec("c_0", "c_n", "float32", (1, "N", 8), 0.25),
        ),
        task=Task("classification", "logits", LABELS),
    )
    model.metadata_props.add(key=KEY, value=contract.to_json())
    path = tmp_path_factory.mktemp("triton") / "har.onnx"
    onnx.save(model, path)
    return path


def _parsed(repository):
    """The configuration as Triton's own schema reads it."""
    path = FOLDER / "tritonclient" / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, text_format.Parse(repository.contents["config.pbtxt"].decode(), module.ModelConfig())


@pytest.fixture(scope="module")
def _pytriton():
    if not (FOLDER / "pytriton").exists():
        stop = pytest.fail if "triton" in os.environ.get("LSTM_EDGE_REQUIRE", "").split() else pytest.skip
        stop("LSTM_EDGE_TRITON names no folder with nvidia-pytriton, numpy<2 and tritonclient")


@pytest.mark.usefixtures("_pytriton")
def test_the_onnxruntime_backend_s_configuration_is_of_triton_s_schema(har):
    repository = to_triton(har, "onnxruntime")
    schema, config = _parsed(repository)
    assert (config.name, config.backend, config.max_batch_size) == ("har", "onnxruntime", 0)
    assert [(each.name, each.data_type, list(each.dims)) for each in config.input] == [
        ("x", schema.TYPE_FP32, [1, -1, 3])
    ]
    (output,) = config.output
    assert (output.name, list(output.dims), output.label_filename) == ("logits", [1, 3], "labels.txt")
    assert repository.contents["labels.txt"].decode().split() == list(LABELS)
    found = {}
    for state in config.sequence_batching.state:
        (initial,) = state.initial_state
        content = repository.contents[f"initial_state/{initial.data_file}"]
        assert (state.data_type, initial.data_type) == (schema.TYPE_FP32, schema.TYPE_FP32)
        found[state.input_name] = (
            state.output_name,
            list(state.dims),
            np.frombuffer(content, "<f4").reshape(list(initial.dims)),
        )
    assert {name: (output, dims) for name, (output, dims, _) in found.items()} == {
        "h_0": ("h_n", [1, 1, 8]),
        "c_0": ("c_n", [1, 1, 8]),
    }
    np.testing.assert_array_equal(found["h_0"][2], np.zeros((1, 1, 8)))
    np.testing.assert_array_equal(found["c_0"][2], np.full((1, 1, 8), 0.25))
    assert repository.contents["1/model.onnx"] == har.read_bytes()


def test_a_file_that_triton_can_t_name_or_stream_is_refused(har, tmp_path):
    spaced = shutil.copy(har, tmp_path / "my model.onnx")
    with pytest.raises(InputError, match="rename it"):
        to_triton(spaced)
    with pytest.raises(InputError, match="expected one of python, onnxruntime"):
        to_triton(har, "tensorrt")
    model = onnx.load(har)
    contract = Manifest.from_json(model.metadata_props[0].value)
    model.metadata_props[0].value = contract._replace(unstreamable="it is bidirectional").to_json()
    onnx.save(model, tmp_path / "both.onnx")
    with pytest.raises(ContractError, match="bidirectional"):
        to_triton(tmp_path / "both.onnx")


def test_a_repository_holds_several_models_and_other_files_are_not_lost(har, tmp_path):
    to_triton(har).save(tmp_path / "models")
    other = shutil.copy(har, tmp_path / "other.onnx")
    to_triton(other, "onnxruntime").save(tmp_path / "models")
    to_triton(har).save(tmp_path / "models")
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["har", "other"]
    (tmp_path / "models" / "har" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt"):
        to_triton(har).save(tmp_path / "models")


class Tensor:
    """As much of the Python backend's tensor as the model uses."""

    def __init__(self, name, array):
        self.name, self._array = name, np.asarray(array)

    def as_numpy(self):
        return self._array


def _served(path, folder, monkeypatch, every="never"):
    """The model of the Python backend, with as much of its module as the model uses."""
    utils = SimpleNamespace(
        Tensor=Tensor,
        InferenceResponse=lambda output_tensors: output_tensors,
        get_input_tensor_by_name=lambda request, name: Tensor(name, request[name]),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    served = runpy.run_path(str(folder / "1" / "model.py"))["TritonPythonModel"]()
    config = {
        "sequence_batching": {
            "max_sequence_idle_microseconds": "60000000",
            "oldest": {"max_candidate_sequences": 2},
        },
        "parameters": {"reset_every": {"string_value": every}},
        "input": [{"name": "x"}],
        "output": [{"name": spec.name} for spec in load(path).outputs],
    }
    served.initialize(
        {"model_config": json.dumps(config), "model_repository": str(folder), "model_version": "1"}
    )
    return served


@pytest.mark.parametrize("every", ["7", "never"])
def test_a_file_from_reset_starts_again_with_each_window_in_the_python_backend(
    har, tmp_path, monkeypatch, every
):
    model = onnx.load(har)
    contract = Manifest.from_json(model.metadata_props[0].value)
    model.metadata_props[0].value = contract._replace(trained=Trained(False, 7, 1.0)).to_json()
    onnx.save(model, tmp_path / "har.onnx")
    assert (
        'key: "reset_every" value { string_value: "never" }'
        in to_triton(har).contents["config.pbtxt"].decode()
    )
    made = to_triton(tmp_path / "har.onnx")
    assert 'key: "reset_every" value { string_value: "7" }' in made.contents["config.pbtxt"].decode()
    served = _served(tmp_path / "har.onnx", made.save(tmp_path / "models"), monkeypatch, every)
    x = np.random.default_rng(2).normal(size=(30, 3)).astype(np.float32)
    stream = load(tmp_path / "har.onnx").stream(reset_every="never" if every == "never" else 7)
    for first in range(0, 30, 5):
        chunk = x[first : first + 5]
        request = {"x": chunk[None], "START": [first == 0], "END": [False], "CORRID": [17]}
        ((answer,),) = served.execute([request])
        np.testing.assert_allclose(answer.as_numpy()[0], stream.process(chunk), atol=1e-6)


@pytest.mark.parametrize("name", ["late", "strided"])
def test_a_response_has_the_frames_that_its_samples_complete(name, tmp_path, monkeypatch):
    path, sizes = DATA / f"{name}.onnx", (1, 2, 5, 1, 11)
    config = to_triton(path).contents["config.pbtxt"].decode()
    assert 'name: "logits" data_type: TYPE_FP32 dims: [-1, 3]' in config
    with pytest.raises(UnsupportedError, match=r"behind, which Triton.* use the python backend"):
        to_triton(path, "onnxruntime")
    served = _served(path, to_triton(path).save(tmp_path / "models"), monkeypatch)
    xs = np.random.default_rng(2).normal(size=(2, 20, 3)).astype(np.float32)
    streams, first = [load(path).stream(), load(path).stream()], [0, 0]
    for step, size in enumerate((*sizes, *sizes)):  # one sequence starts 8 samples after the other
        at = [row for row in (0, 1) if first[row] + size <= 20 and (row == 0 or step > 2)]
        requests = [
            {
                "x": xs[row, first[row] : first[row] + size][None],
                "START": [first[row] == 0],
                "END": [False],
                "CORRID": [row],
            }
            for row in at
        ]
        for row, answer in zip(at, served.execute(requests), strict=True):
            expected = streams[row].process(xs[row, first[row] : first[row] + size])
            given = expected if isinstance(expected, dict) else {"logits": expected}
            assert [each.name for each in answer] == list(given)
            for tensor in answer:
                frames = given[tensor.name]
                array = tensor.as_numpy()
                if frames is None:
                    assert (array.shape, array.dtype) == ((0, 2), np.float32)
                else:
                    assert array.shape == (1, *frames.shape)
                    np.testing.assert_allclose(array[0], frames, atol=1e-6)
            first[row] += size


def _environment(folder):
    """An environment with numpy 1, which this server's Python backend was built for."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in ("onnxruntime", "flatbuffers", "google", "packaging", "lstm_edge_runtime"):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            (site / name).symlink_to(next(iter(spec.submodule_search_locations)))
    for path in FOLDER.glob("numpy*"):
        (site / path.name).symlink_to(path.resolve())
    return folder / "bin"


class Server:
    """A running server and its client."""

    def __init__(self, folder, repository):
        wheel = FOLDER.resolve() / "pytriton" / "tritonserver"
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        library = Path(sysconfig.get_config_var("LIBDIR")) / str(sysconfig.get_config_var("INSTSONAME"))
        if library.suffix == ".a" or not library.exists():
            pytest.skip(f"this Python has no shared library, which the Python backend needs ({library})")
        stub = wheel / "python_backend_stubs" / version / "triton_python_backend_stub"
        if not stub.exists():
            pytest.skip(f"the wheel has no Python backend for Python {version}")
        backend = folder / "backends" / "python"
        backend.mkdir(parents=True)
        for path in (stub, *(wheel / "backends" / "python").glob("*triton_python*")):
            shutil.copy(path, backend)
        (backend / stub.name).chmod(0o755)
        (wheel / "bin" / "tritonserver").chmod(0o755)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        libraries = [library.parent, wheel.parents[1] / "nvidia_pytriton.libs"]
        environment = {
            **os.environ,
            "PATH": f"{_environment(folder / 'venv')}:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "OMP_NUM_THREADS": "1",
        }
        options = {
            "model-repository": repository,
            "backend-directory": folder / "backends",
            "cache-directory": wheel / "caches",
            "http-address": "127.0.0.1",
            "http-port": self._port,
            "allow-grpc": "false",
            "allow-metrics": "false",
        }
        self._log = folder / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [wheel / "bin" / "tritonserver", *(f"--{name}={value}" for name, value in options.items())],
                env=environment,
                stdout=log,
                stderr=log,
            )
        limit = time.monotonic() + 120
        while not self._ready():
            assert self._process.poll() is None, self._log.read_text()[-4000:]
            assert time.monotonic() < limit, self._log.read_text()[-4000:]
            time.sleep(0.2)

    def _ready(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/v2/models/har/ready") as answer:
                return answer.status == 200
        except OSError:
            return False

    def infer(self, sequence, x, *, start=False, end=False):
        """Send samples ``(L, I)`` of a sequence; gives the logits ``(C,)``, or the server's error."""
        answer = self.outputs("har", sequence, x, start=start, end=end)
        if isinstance(answer, str):
            return answer
        assert answer["logits"].shape == (1, 3)
        return answer["logits"][0]

    def outputs(self, model, sequence, x, *, start=False, end=False):
        """Send samples ``(L, I)`` of a sequence; gives each output, or the server's error."""
        body = {
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [1, *x.shape], "data": x.reshape(-1).tolist()}
            ],
            "parameters": {"sequence_id": sequence, "sequence_start": start, "sequence_end": end},
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/v2/models/{model}/infer", json.dumps(body).encode()
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                outputs = json.load(answer)["outputs"]
        except urllib.error.HTTPError as error:
            return json.load(error)["error"]
        assert {each["datatype"] for each in outputs} == {"FP32"}
        return {each["name"]: np.array(each["data"], np.float32).reshape(each["shape"]) for each in outputs}

    def stop(self):
        self._process.terminate()
        self._process.wait(timeout=60)


@pytest.fixture(scope="module")
def server(har, tmp_path_factory, _pytriton):
    folder = tmp_path_factory.mktemp("server")
    config = to_triton(har).save(folder / "models") / "config.pbtxt"
    text = config.read_text()
    assert "max_sequence_idle_microseconds: 60000000" in text
    config.write_text(text.replace("microseconds: 60000000", f"microseconds: {IDLE * 1_000_000}"))
    to_triton(DATA / "strided.onnx").save(folder / "models")
    running = Server(folder, folder / "models")
    yield running
    running.stop()


def _chunks(seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(int(rng.choice([1, 1, 1, 4, 9])), 3)).astype(np.float32) for _ in range(25)]


def test_interleaved_sequences_equal_streams_bit_for_bit(har, server):
    got = {seed: [] for seed in range(1, 9)}
    wall = threading.Barrier(len(got))

    def send(seed):
        wall.wait()
        for place, chunk in enumerate(_chunks(seed)):
            got[seed].append(server.infer(seed, chunk, start=place == 0, end=place == 24))

    threads = [threading.Thread(target=send, args=(seed,)) for seed in got]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    with load(har) as model:
        for seed, answers in got.items():
            stream = model.stream()
            for chunk, answer in zip(_chunks(seed), answers, strict=True):
                np.testing.assert_array_equal(answer, stream.process(chunk))


def test_the_server_passes_on_responses_without_a_frame(server):
    x = np.random.default_rng(5).normal(size=(31, 3)).astype(np.float32)
    with load(DATA / "strided.onnx") as model:
        stream = model.stream()
        for start, end in ((0, 3), (3, 8), (8, 9), (9, 31)):
            expected = stream.process(x[start:end])
            got = server.outputs("strided", 7, x[start:end], start=start == 0, end=end == 31)
            np.testing.assert_allclose(got["logits"], expected["logits"][None], atol=1e-6)
            if expected["last"] is None:
                assert got["last"].shape == (0, 2)
            else:
                np.testing.assert_allclose(got["last"], expected["last"][None], atol=1e-6)


@pytest.mark.system
def test_start_end_and_silence_free_a_sequence_s_state(har, server):
    chunks = _chunks(99)
    with load(har) as model:
        stream = model.stream()
        first, second = stream.process(chunks[0]), stream.process(chunks[1])
        np.testing.assert_array_equal(server.infer(50, chunks[0], start=True), first)
        np.testing.assert_array_equal(server.infer(50, chunks[1]), second)
        np.testing.assert_array_equal(server.infer(50, chunks[0], start=True), first)  # begins again
        np.testing.assert_array_equal(server.infer(50, chunks[1], end=True), second)
        assert "50" in server.infer(50, chunks[1])  # ended
        assert "51" in server.infer(51, chunks[0])  # never began
        np.testing.assert_array_equal(server.infer(52, chunks[0], start=True), first)
        time.sleep(2 * IDLE)
        assert "52" in server.infer(52, chunks[1])
        np.testing.assert_array_equal(server.infer(52, chunks[0], start=True, end=True), first)
