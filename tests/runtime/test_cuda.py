"""On a machine with an NVIDIA GPU and onnxruntime-gpu:
``pytest -m cuda tests/runtime``."""

import numpy as np
import pytest

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import ProviderError
from lstm_edge_runtime.ort import CUDA, import_onnxruntime


@pytest.fixture
def gpu(path):
    """Open a file of ``data/`` on the GPU, or skip with the reason."""

    def give(name: str):
        try:
            return load(path(name), device="cuda")
        except ProviderError as error:
            pytest.skip(f"no usable CUDA provider: {error}")

    if CUDA not in import_onnxruntime().get_available_providers():
        pytest.skip("this onnxruntime wheel has no CUDA provider")
    return give


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_stream_on_the_gpu_equals_one_on_the_cpu(gpu, opened, name):
    on_gpu = gpu(name).stream()
    on_cpu = opened(name).stream()
    rng = np.random.default_rng(5)
    for part in (1, 1, 5, 1, 9, 0, 9, 1):
        if part == 0:  # a new start, on both
            on_gpu.reset()
            on_cpu.reset()
            continue
        x = rng.normal(size=(part, 3)).astype(np.float32)
        x = x[0] if part == 1 else x
        sample = {"x": x, "gain": x[..., :1]} if name == "gru" else x
        results = [
            (stream.step if part == 1 else stream.process)(sample)
            for stream in (on_gpu, on_cpu)
        ]
        for key in results[1] if name == "gru" else ():
            np.testing.assert_allclose(results[0][key], results[1][key], atol=1e-4)
        if name == "lstm":
            np.testing.assert_allclose(*results, atol=1e-4)
        kept = on_gpu.state
        on_gpu.reset()
        on_gpu.restore(kept)
    for key, value in on_cpu.state.items():
        np.testing.assert_allclose(on_gpu.state[key], value, atol=1e-4)


@pytest.mark.cuda
def test_a_batch_on_the_gpu_equals_one_on_the_cpu(gpu, opened):
    on_gpu = gpu("lstm").streams(5)
    on_cpu = opened("lstm").streams(5)
    ids = [on_gpu.add() for _ in range(5)]
    assert ids == [on_cpu.add() for _ in range(5)]
    rng = np.random.default_rng(7)
    for count in (5, 3, 5, 1):
        some = rng.permutation(ids)[:count]
        x = rng.normal(size=(count, 3)).astype(np.float32)
        np.testing.assert_allclose(
            on_gpu.step(x, some), on_cpu.step(x, some), atol=1e-4
        )


@pytest.mark.cuda
def test_the_golden_case_holds_on_the_gpu(gpu, sessions):
    model = gpu("lstm")
    assert model.device == "cuda"
    assert sessions[-1].get_provider_options()[CUDA]["use_tf32"] == "0"
    model.selftest().require()
