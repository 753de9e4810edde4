import asyncio
import csv
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lstm_edge.results import MainFrames
from lstm_edge_runtime import load
from lstm_edge_runtime.hold import Hold
from lstm_edge_runtime.manifest import Trained

LABELS = ("rest", "walk", "run, fast")
EXAMPLES = Path(__file__).parents[3] / "examples"
NAMES = ("acc_x", "acc_y", "acc_z", "gyr_x", "gyr_y", "gyr_z")


def run(name, *arguments):
    return subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def imported(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def imu(make):
    """A file for six channels of an IMU."""
    return make("imu", features=6, feature_names=NAMES, golden=False)


def test_the_imu_reader_says_each_change_of_activity(imu, tmp_path):
    samples = np.random.default_rng(7).normal(size=(60, 6)).astype(np.float32) * 3
    with (tmp_path / "r.csv").open("w", newline="") as file:
        csv.writer(file).writerows([NAMES, *samples.tolist()])
    out = run("imu_reader", imu.path, "--replay", tmp_path / "r.csv", "--rate", 1000).splitlines()
    stream = load(imu.path, device="cpu").stream()
    labels = ("rest", "walk", "run, fast")
    said, expected = None, []
    for step, sample in enumerate(samples, start=1):
        label = labels[int(stream.step(sample).argmax())]
        if label != said:
            expected.append(f"{step / 1000:8.2f} s  {label}")
        said = label
    assert len(expected) > 2
    assert out[:-1] == expected
    assert out[-1].startswith("60 samples, ")


def test_the_imu_reader_reads_the_kernels_folder_in_its_units(tmp_path):
    reader = imported("imu_reader")
    for index, axis in enumerate("xyz"):
        (tmp_path / f"in_accel_{axis}_raw").write_text(f"{index + 1}\n")
        (tmp_path / f"in_anglvel_{axis}_raw").write_text(f"{-index}\n")
        (tmp_path / f"in_anglvel_{axis}_scale").write_text("0.5\n")
    (tmp_path / "in_accel_scale").write_text("0.01\n")
    read = reader.read_iio(tmp_path, NAMES)
    np.testing.assert_allclose(read(), [0.01, 0.02, 0.03, 0, -0.5, -1], rtol=1e-6)
    (tmp_path / "in_accel_x_raw").write_text("100")
    assert read()[0] == np.float32(1)


def test_a_stream_is_handed_over_between_two_processes_without_a_difference(har):
    out = run("hand_over", har.path)
    assert "process A: 120 samples, handed over" in out
    assert "process B: 80 more samples" in out
    assert out.endswith("single process: 0\n")


async def _served(gateway_module, made, sources, *, capacity=8, waiting=4, **options):
    """Send each source's samples in bursts over its own connection; gives what each got, and the ticks."""
    gateway = gateway_module.Gateway(load(made.path, device="cpu"), capacity, waiting, **options)
    server = await asyncio.start_server(gateway.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    ticking = asyncio.create_task(gateway.compute())

    async def source(samples):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for sample in samples:
            text = sample if isinstance(sample, str) else ",".join(map(str, sample))
            writer.write(f"{text}\n".encode())
        writer.write_eof()
        lines = (await reader.read()).decode().splitlines()
        writer.close()
        await writer.wait_closed()
        return lines

    found = await asyncio.wait_for(asyncio.gather(*map(source, sources)), 30)
    ticking.cancel()
    server.close()
    await server.wait_closed()
    return found, gateway


def test_the_gateway_gives_every_source_what_a_stream_of_its_own_gives(har):
    random = np.random.default_rng(8)
    sources = [random.normal(size=(length, 3)).astype(np.float32) for length in (30, 7, 1, 22, 13)]
    found, gateway = asyncio.run(_served(imported("gateway"), har, sources))
    model = load(har.path, device="cpu")
    for lines, samples in zip(found, sources, strict=True):
        stream = model.stream()
        expected = [float(stream.step(sample).max()) for sample in samples]
        np.testing.assert_allclose([float(line.split(",")[-1]) for line in lines], expected, atol=1e-5)
    assert gateway.ticks < sum(map(len, sources))  # sources shared calls
    assert len(gateway.batch) == 0


@pytest.mark.parametrize(("given", "every"), [(None, 6), (4, 4), ("never", "never")])
def test_the_gateway_starts_again_with_each_window_and_holds_labels(make, given, every):
    made = make("from_reset", trained=Trained(False, 6, 1.0))
    sources = [
        np.random.default_rng(length).normal(size=(length, 3)).astype(np.float32) for length in (30, 7)
    ]
    found, _ = asyncio.run(_served(imported("gateway"), made, sources, hold=3, reset_every=given))
    model = load(made.path, device="cpu")
    for lines, samples in zip(found, sources, strict=True):
        stream, hold = model.stream(reset_every=every), Hold(3)
        for line, sample in zip(lines, samples, strict=True):
            logits = stream.step(sample)
            hold.take(int(logits.argmax()))
            label, _, value = line.rpartition(",")
            assert label == ("" if hold.label < 0 else LABELS[hold.label])
            assert (value == "") == (hold.label < 0)
            if value:
                assert float(value) == pytest.approx(float(logits[hold.label]), abs=1e-5)


@pytest.mark.parametrize("name", ["late", "strided"])
def test_the_gateway_says_which_sample_a_late_result_is_of(name):
    made = SimpleNamespace(path=Path(__file__).parents[2] / "runtime" / "data" / f"{name}.onnx")
    sources = [np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32) for n in (3, 26)]
    found, _ = asyncio.run(_served(imported("gateway"), made, sources))
    model = load(made.path, device="cpu")
    for lines, samples in zip(found, sources, strict=True):
        stream, frames = model.stream(), MainFrames(model)
        for number, (line, sample) in enumerate(zip(lines, samples, strict=True), 1):
            label, value, of = line.split(",")
            found = list(frames.of(stream.step(sample), number))
            assert (value == "") == (of == "") == (not found)
            for _, step, logits in found:
                assert label == model.manifest.task.labels[logits.argmax()]
                assert (float(value), int(of)) == (pytest.approx(float(logits.max()), abs=1e-5), step)


def test_the_gateway_answers_a_bad_line_and_a_source_too_many(har):
    gateway = imported("gateway")
    (lines,), _ = asyncio.run(_served(gateway, har, [["1,2", "nan,1,1", "\xff", "1,2,3"]]))
    assert [line.startswith("error: expected 3 numbers") for line in lines] == [True, True, True, False]
    found, _ = asyncio.run(_served(gateway, har, [["1,2,3"] * 50, ["1,2,3"] * 50], capacity=1, waiting=1))
    assert sorted(map(len, found)) == [1, 50]


def test_the_gateway_lets_a_source_go_while_others_are_busy(har):
    async def serve():
        gateway = imported("gateway").Gateway(load(har.path, device="cpu"), 4, 8)
        server = await asyncio.start_server(gateway.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        ticking = asyncio.create_task(gateway.compute())
        busy, feed = await asyncio.open_connection("127.0.0.1", port)

        async def flood():
            while True:
                feed.write(b"1,2,3\n" * 200)
                await feed.drain()
                await busy.read(1 << 16)

        flooding = asyncio.create_task(flood())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"1,2,3\n")
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 20)
        left = len(gateway.batch)
        flooding.cancel()
        for one in (writer, feed):
            one.close()
        while len(gateway.batch):
            await asyncio.sleep(0.01)
        ticking.cancel()
        server.close()
        return answer, left

    answer, left = asyncio.run(serve())
    assert answer.count(b"\n") == 1
    assert left == 1


def test_the_imu_reader_refuses_a_file_without_classes(make, tmp_path):
    made = make("reg-imu", task="regression")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run("imu_reader", made.path, "--replay", tmp_path / "none.csv")
    assert caught.value.returncode == 2
