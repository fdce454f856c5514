"""A state in the middle of a run, without the run."""

import jax
import jax.numpy as jnp
import numpy as np


def filled(state, step=3):
    """`state` with random positive numbers for its floats, and `step` for its integers; keys stay."""
    rng = np.random.default_rng(0)

    def one(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return x
        if jnp.issubdtype(x.dtype, jnp.integer):
            return jnp.asarray(np.full(x.shape, step), x.dtype)
        return jnp.asarray(rng.uniform(0.1, 1.0, x.shape).astype(x.dtype))

    return jax.tree.map(one, state)
