"""The recorded numbers are those that PyTorch and Keras give now."""

import os
import warnings

import jax
import numpy as np
import pytest

from tests import recorded

os.environ.setdefault("KERAS_BACKEND", "jax")
pytest.importorskip("torch", reason="torch is in the extra 'parity': make test-parity")
pytest.importorskip("keras", reason="keras is in the extra 'parity': make test-parity")


def test_the_files_hold_what_torch_and_keras_give(x64, lenient):
    from tests.recorded.__main__ import all_numbers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        numbers = all_numbers()
    for name, rows in numbers.items():
        for row, kept in zip(rows, recorded.load(name), strict=True):
            new, old = (jax.tree.leaves(x) for x in (row, kept))
            np.testing.assert_allclose(new, old, rtol=0, atol=1e-13)
