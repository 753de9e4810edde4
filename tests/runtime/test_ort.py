import os
import subprocess
import sys

import numpy as np
import pytest

from lstm_edge_runtime.errors import FileFormatError, first_line
from lstm_edge_runtime.ort import open_session, run_by_name


@pytest.mark.parametrize(
    "package", ["lstm_edge_runtime", "lstm_edge_exporters", "lstm_edge"]
)
def test_telemetry_is_off_once_a_package_is_imported_whoever_imports_onnxruntime_later(
    package,
):
    program = (
        f"import os; import {package}; print(os.environ.get('ORT_DISABLE_TELEMETRY'))"
    )
    environment = {
        key: value
        for key, value in os.environ.items()
        if key != "ORT_DISABLE_TELEMETRY"
    }
    for given, expected in ({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0"):
        ran = subprocess.run(
            [sys.executable, "-c", program],
            env=environment | given,
            capture_output=True,
            text=True,
            check=True,
        )
        assert ran.stdout.strip() == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("first\nsecond"), "first"),
        (RuntimeError(""), "RuntimeError"),
        (RuntimeError("[ONNXRuntimeError] : 1 : FAIL : no such file"), "no such file"),
        (
            RuntimeError(
                "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while"
                " running LSTM node. Name:'lstm' Status Message: bad shape"
            ),
            "LSTM 'lstm': bad shape",
        ),
        (
            RuntimeError(
                "Non-zero status code returned while running Squeeze node. Name:''"
                " Status Message:"
                " /a/b/onnxruntime/core/providers/cpu/tensor/squeeze.h:79 virtual"
                " onnxruntime::common::Status"
                " onnxruntime::Squeeze::Compute(onnxruntime::OpKernelContext*) const"
                " axes->Shape().NumDimensions() == 1 was false. An axes tensor must be"
                " a vector."
            ),
            (
                "Squeeze '': axes->Shape().NumDimensions() == 1 was false. An axes"
                " tensor must be a vector."
            ),
        ),
        (RuntimeError("x" * 301), "x" * 300 + "..."),
    ],
)
def test_an_exception_of_any_message_gives_one_line(error, expected):
    assert first_line(error) == expected


def test_what_onnxruntime_raises_is_not_printed_as_well(path, capfd):
    with pytest.raises(FileFormatError):
        open_session(b"\x08\x07 no model")
    session = open_session(str(path("lstm")))
    with pytest.raises(Exception, match="missing from input feed"):
        run_by_name(session, {"x": np.zeros((1, 1, 3), np.float32)})
    assert capfd.readouterr() == ("", "")
