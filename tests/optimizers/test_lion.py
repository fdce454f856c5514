"""Lion's other signs: smooth, and refined."""

import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx

SIGNS = {
    "hard": lambda x, slope: np.sign(x),
    "smooth": lambda x, slope: np.tanh(slope * x),
    "refined": lambda x, slope: np.clip(x, -1, 1),
}
GRADIENTS = np.array([[0.0, 3.0, -3.0, 20.0, -20.0, 9.0], [1.0, 6.0, -5.0, -40.0, 20.0, -9.0]], np.float32)


@pytest.mark.parametrize("variant", SIGNS)
@pytest.mark.parametrize("slope", [None, 0.25])
def test_is_the_sign_of_a_mean_or_a_smoother_one(variant, slope, together):
    """The means are below 1 and above it, on both sides of 0."""

    def steps(variant, gradients):
        given = {} if slope is None else dict(smooth_beta=slope)
        tx = gx.scale_by_lion(0.8, 0.6, variant=variant, **given)
        state, out = tx.init(gradients[0]), []
        for g in gradients:
            u, state = tx.update(g, state)
            out.append(u)
        return jnp.stack(out)

    mu = np.zeros(6)
    for g, u in zip(GRADIENTS, together(steps, jnp.asarray(GRADIENTS), row="variant"), strict=True):
        x = 0.8 * mu + 0.2 * g
        np.testing.assert_allclose(u, SIGNS[variant](x, 1.0 if slope is None else slope), rtol=1e-5)
        mu = 0.6 * mu + 0.4 * g
