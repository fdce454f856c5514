"""Schedules of `gradx.optax` whose arguments gradx reads otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx.optax

pytestmark = pytest.mark.usefixtures("lenient")


@pytest.mark.parametrize("end_value", [None, 0.3, 0.8])
@pytest.mark.parametrize("decay_rate", [0.5, 1.5])
@pytest.mark.parametrize("staircase", [False, True])
def test_a_peak_beyond_the_bound_is_reached(end_value, decay_rate, staircase, together):
    """0.8 is beyond the peak of 0.5 for a schedule that falls, and 0.3 for one that rises."""
    arguments = (0.1, 0.5, 3, 2, decay_rate, 1, staircase, end_value)
    values = lambda end_value, counts: [
        jax.vmap(m.warmup_exponential_decay_schedule(*arguments[:-1], end_value))(counts)
        for m in (optax, gradx.optax)
    ]
    theirs, ours = together(values, jnp.arange(9), row="end_value")
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
