"""The correction of a zero start: exact for a Python number, and right for an array, at 0 too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradx.numerics.moving_average import correction, correction_ahead


@pytest.mark.parametrize("b", [0.0, 1e-3, 0.5, 0.9, 0.999, 0.999999])
@pytest.mark.parametrize("t", [1, 2, 1000, 2**31 - 1])
def test_is_the_formula(b, t):
    exact = 1 / (1 - np.float64(b) ** t)
    steps = jnp.asarray(t, jnp.float32)
    np.testing.assert_allclose(correction(b, steps), exact, rtol=1e-6)
    # An array of b loses digits of 1 - b before anything is computed.
    exact = 1 / (1 - np.float64(np.float32(b)) ** t)
    np.testing.assert_allclose(correction(jnp.float32(b), steps), exact, rtol=1e-5)


def test_is_one_at_zero_and_has_a_derivative_there():
    """1 / (1 - b²) = 1 + b² + ..."""
    value, slope = jax.value_and_grad(correction)(jnp.float32(0.0), jnp.float32(2.0))
    assert (value, slope) == (1.0, 0.0)


@pytest.mark.parametrize("b", [0.0, 0.5, 0.999])
def test_the_next_step_follows_from_this_one(b, x64):
    for t in range(1, 5):
        ahead = correction_ahead(b, correction(b, jnp.float64(t)))
        np.testing.assert_allclose(ahead, 1 / (1 - b ** (t + 1)), rtol=1e-9)
