"""Number of devices at 100 Hz that one core serves through the MQTT gateway; real broker and connections.

    python -m benchmarks.targets.mqtt_gateway [MODEL.onnx]

Needs mosquitto and paho-mqtt. The gateway is pinned to core 0, broker and devices to core 1. In each round
the devices send at their rate for some seconds; the gateway keeps up where its answers are less than half a
second behind at the end. Its own processor time for each sample, which the others do not change, stands
beside.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, parser, print_machine, table

sys.path.insert(0, str(ROOT / "tests" / "examples"))
from mqtt_devices import Devices

from lstm_edge_runtime import load

SECONDS = 4


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(model: Path, devices: int, rate: float, folder: Path) -> tuple[float, float]:
    """Return the seconds behind at the end, and the gateway's CPU time per sample in us."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "mosquitto.conf"
    config.write_text(
        f"user root\nlistener {port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 0\n"
        "max_queued_messages 0\n"
    )
    broker = subprocess.Popen(["taskset", "-c", "1", "mosquitto", "-c", config], stderr=subprocess.DEVNULL)
    program = ["taskset", "-c", "0", sys.executable, ROOT / "examples" / "mqtt_gateway.py", model]
    options = ["--broker", f"127.0.0.1:{port}", "--state", folder / "gateway.npz"]
    time.sleep(0.5)
    gateway = subprocess.Popen([*program, *options], stdout=subprocess.PIPE, text=True)
    try:
        assert gateway.stdout is not None
        assert gateway.stdout.readline() == "connected\n"
        (spec,) = load(model, device="cpu").inputs
        rng = np.random.default_rng(0)
        samples = rng.normal(size=(devices, int(SECONDS * rate), int(spec.axes[-1]))).astype(np.float32)
        simulated = Devices(port, samples, rate=rate)
        simulated.run(until=devices, timeout=60)  # all are connected
        begun, before = time.monotonic(), _cpu_seconds(gateway.pid)
        simulated.run(until=samples.shape[0] * samples.shape[1], timeout=120)
        behind = time.monotonic() - begun - SECONDS
        cost = (_cpu_seconds(gateway.pid) - before) / (samples.shape[0] * (samples.shape[1] - 1))
        return behind, cost * 1e6
    finally:
        for process in (gateway, broker):
            process.terminate()
            process.wait()
        (folder / "gateway.npz").unlink(missing_ok=True)


def main() -> None:
    """Print a row for each number of devices."""
    arguments = parser(__doc__)
    arguments.add_argument("model", nargs="?", type=Path, default=ROOT / "tests/runtime/data/lstm.onnx")
    arguments.add_argument("--rate", type=float, default=100, help="samples per second of each device")
    arguments.add_argument("--devices", type=int, nargs="*", default=[5, 10, 20, 40, 80])
    options = arguments.parse_args()
    os.sched_setaffinity(0, {1})
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for devices in options.devices:
            behind, cost = measure(options.model, devices, options.rate, Path(folder))
            rows.append([devices, "yes" if behind < 0.5 else "no", f"{max(behind, 0):.2f}", f"{cost:.0f}"])
    print(table(["devices", "kept up", "seconds behind", "gateway, us of CPU per sample"], rows))
    print_machine("onnxruntime", "paho-mqtt")


if __name__ == "__main__":
    main()
