import subprocess
import sys

import onnx_ir as ir

from lstm_edge_exporters.quantize.precision import fp16_compute


def test_a_float16_file_of_the_kind_that_quantize_writes_for_a_gpu_is_lifted(network, tmp_path):
    net = network(opset=18)
    y, _ = net.recurrent("LSTM", net.add("Transpose", ["x"], perm=[1, 0, 2]), 3, 16)
    steps = net.add("Transpose", [net.squeeze(y, 1)], perm=[1, 0, 2])
    net.add("MatMul", [steps, net.weight(16, 4)], ["logits"])
    made = net.model({"x": ["N", "L", 3]}, ["logits"])
    half = ir.from_proto(fp16_compute(ir.from_proto(made)))
    half.graph.sort()  # the converter leaves them unsorted
    ir.save(half, tmp_path / "half.onnx")
    program = (
        "import sys; from lstm_edge_exporters.lift import lift;"
        "print(*(state.input for state in lift(sys.argv[1]).report.lifted))"
    )
    ran = subprocess.run(  # a process of its own: onnxruntime's crash would end this one
        [sys.executable, "-c", program, str(tmp_path / "half.onnx")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-300:]
    assert len(ran.stdout.split()) == 2
