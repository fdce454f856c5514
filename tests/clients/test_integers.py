"""Integers, booleans and keys among the parameters, whose gradient is there or not.

Gradient None or float0: Optax raises in most cases; gradx.optax leaves the parameter as it is. Gradient of
numbers: both add the update and truncate, but gradx.optax raises if the optimizer keeps slots: it has none.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx.optax

pytestmark = pytest.mark.usefixtures("lenient")

LEAVES = {
    "integer": lambda: jnp.arange(3),
    "bool": lambda: jnp.array([True, False]),
    "key": lambda: jax.random.key(0),
}
OPTIMIZERS = {
    "sgd": lambda optax: optax.sgd(0.5),
    "momentum": lambda optax: optax.sgd(0.5, momentum=0.9),
    "adamw": lambda optax: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)),
    "injected": lambda optax: optax.inject_hyperparams(optax.sgd)(learning_rate=0.5),
    "finite": lambda optax: optax.apply_if_finite(optax.sgd(0.5), 2),
    "micro-batches": lambda optax: optax.MultiSteps(optax.sgd(0.5), 2),
    "parts": lambda optax: optax.multi_transform(
        {"a": optax.adam(0.1)}, lambda p: jax.tree.map(lambda _: "a", p)
    ),
}
each = pytest.mark.parametrize("name", OPTIMIZERS)


def two_steps(optax, name, params, grads):
    tx = OPTIMIZERS[name](optax)
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


@each
@pytest.mark.parametrize("gradient", ["none", "float0"])
def test_without_a_gradient_they_stay(name, gradient):
    """And the others move as if they were alone."""
    leaves = {key: leaf() for key, leaf in LEAVES.items()}
    missing = {
        key: None if gradient == "none" else np.zeros(x.shape, jax.dtypes.float0) for key, x in leaves.items()
    }
    w = jnp.array([1.0, 2.0])

    @jax.jit
    def both(w):
        alone = two_steps(optax, name, {"w": w}, {"w": w})["w"]
        return two_steps(gradx.optax, name, {"w": w, **leaves}, {"w": w, **missing}), alone

    moved, alone = both(w)
    np.testing.assert_allclose(moved.pop("w"), alone, rtol=1e-5)
    for key, leaf in leaves.items():
        assert moved[key].dtype == leaf.dtype
        assert jnp.array_equal(moved[key], leaf)


KEEPS_NOTHING = {"sgd", "injected", "finite"}  # for a parameter


@each
@pytest.mark.parametrize("leaf", ["integer", "bool"])
@pytest.mark.parametrize("gradient", ["floats", "of the parameter's dtype"])
def test_with_a_gradient(name, leaf, gradient):
    """It is added and truncated as with Optax; a rule that keeps slots has none for it, and says so."""
    x = LEAVES[leaf]()
    g = jnp.ones(x.shape) if gradient == "floats" else jnp.ones_like(x)
    params, grads = {"w": jnp.ones(2), "x": x}, {"w": jnp.ones(2), "x": g}
    if name not in KEEPS_NOTHING:
        with pytest.raises(ValueError, match=r"at .*'x'.*: the state has no"):
            jax.eval_shape(lambda: two_steps(gradx.optax, name, params, grads))
        return
    peer = "sgd" if name == "finite" and gradient != "floats" else name  # Optax's branches differ in dtype
    ours, theirs = jax.jit(
        lambda: (two_steps(gradx.optax, name, params, grads), two_steps(optax, peer, params, grads))
    )()
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
