import numpy as np
import pytest

from lstm_edge_exporters.verify.samples import Samples, check_samples
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Manifest, TensorSpec

TOKENS = Manifest((TensorSpec("tokens", "int32", ("N", "L")),), ())


@pytest.mark.parametrize("token", [4294967299, -4294967293, 2.5, 1e300])
def test_a_token_that_the_file_can_not_hold_is_refused_and_never_another(token):
    with pytest.raises(InputError, match=r"tokens holds .*, expected int32 numbers"):
        check_samples(Samples({"tokens": np.array([[1, token]])}), TOKENS)


def test_tokens_of_any_dtype_that_fit_are_taken():
    for dtype in ("int8", "uint64", "float64"):
        check_samples(Samples({"tokens": np.array([[1, 3]], dtype)}), TOKENS)
