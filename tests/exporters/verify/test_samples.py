import numpy as np
import pytest

from lstm_edge_exporters.verify.samples import Samples, check_samples, sample_feeds
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


def test_a_sample_shorter_than_a_unit_is_named():
    manifest = Manifest(
        (TensorSpec("x", "float32", ("N", "L", 3)),),
        (),
        batch="N",
        sequence="L",
        unit=4,
    )
    samples = Samples({"x": np.zeros((3, 9, 3))}, lengths=np.array([9, 3, 4]))
    with pytest.raises(InputError, match=r"sample 1 has 3 steps, expected 4 or more"):
        sample_feeds(samples, manifest)
