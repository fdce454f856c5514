"""Adafactor: Optax's in float64, what it stores, and where it could divide by zero."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from tests.problems import grads

SHAPES = {
    "kernel": (3, 3, 5, 4),
    "square": (4, 4),
    "stack": (2, 6, 5),
    "tall": (7, 2),
    "bias": (4,),
    "scale": (),
}


def params():
    keys = jax.random.split(jax.random.key(1), len(SHAPES))
    return {k: jax.random.normal(key, shape) for (k, shape), key in zip(SHAPES.items(), keys, strict=True)}


def run(tx, steps):
    p, seen = params(), []
    state, update = tx.init(p), jax.jit(tx.update)
    for i in range(steps):
        u, state = update(grads(i, p), state, p)
        p = gx.apply_updates(p, u)
        seen.append(p)
    return seen


def optax_in_float64(min_dim_size_to_factor):
    """optax.adafactor(0.1, ..., momentum=0.9), whose decay rate is float32 even for float64 parameters."""
    decay = lambda i, rate: 1.0 - jnp.asarray(i + 1, float) ** -rate
    return optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=min_dim_size_to_factor, decay_rate_fn=decay),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_learning_rate(0.1, flip_sign=False),
        optax.scale_by_param_block_rms(),
        optax.ema(0.9, debias=False),
        optax.scale(-1),
    )


@pytest.mark.parametrize("smallest", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 128))])
def test_it_is_optax_s_over_50_steps_for_every_shape(smallest, x64, lenient):
    ours = gx.adafactor(0.1, min_dim_size_to_factor=smallest, momentum=0.9, dtype_momentum=None)
    for p, q in zip(run(ours, 50), run(optax_in_float64(smallest), 50), strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-12), p, q)


def test_it_is_optax_s_own_function_to_single_precision(lenient):
    kwargs = dict(learning_rate=0.1, min_dim_size_to_factor=2, weight_decay_rate=1e-3, momentum=0.9)
    for p, q in zip(run(gx.adafactor(**kwargs), 20), run(optax.adafactor(**kwargs), 20), strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), p, q)


@pytest.mark.parametrize("smallest", [1, 2, 4, 128])
def test_slots_have_the_shapes_of_optax(smallest, lenient):
    ours, theirs = (
        m.scale_by_factored_rms(min_dim_size_to_factor=smallest).init(params()) for m in (gx, optax)
    )
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, theirs)


def test_a_large_matrix_needs_a_row_and_a_column():
    state = jax.eval_shape(gx.adafactor(1e-3).init, jax.ShapeDtypeStruct((1000, 2000), jnp.bfloat16))
    assert [x.shape for x in jax.tree.leaves(state)] == [(), (1000,), (2000,), (1,)]
    assert {str(x.dtype) for x in jax.tree.leaves(state)} == {"int32", "float32"}


@pytest.mark.parametrize("kwargs", [{}, dict(eps=0.0, floor="machine")])
@pytest.mark.parametrize("smallest", [1, 128])
def test_zero_gradients_move_nothing(kwargs, smallest):
    tx = gx.adafactor(0.1, min_dim_size_to_factor=smallest, **kwargs)
    p = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    u, _ = tx.update(jax.tree.map(jnp.zeros_like, p), tx.init(p), p)
    assert all(not np.any(x) for x in jax.tree.leaves(u))


def test_no_step_moves_an_array_by_more_than_the_rate_times_its_size():
    p = params()
    tx = gx.adafactor(0.1, min_dim_size_to_factor=1)
    rms = lambda x: np.sqrt(np.mean(np.square(x)))
    state = tx.init(p)
    for i in range(5):
        u, state = tx.update(jax.tree.map(lambda g: g * 10.0**i, grads(i, p)), state, p)
        for k in p:
            assert rms(u[k]) <= 0.1 * max(rms(p[k]), 1e-3) * (1 + 1e-5)


def test_the_offset_restarts_the_decay():
    """At step 3 with an offset of 3 the mean is forgotten: the update is that of a first step."""
    p = params()
    tx = gx.scale_by_factored_rms(step_offset=3)
    state = tx.init(p)
    for i in range(4):
        u, state = tx.update(grads(i, p), state)
    first, _ = tx.update(grads(3, p), tx.init(p))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), u, first)


def test_relative_steps_are_bounded_by_one_over_the_root_of_time():
    tx = gx.adafactor(0.5, relative_step=True, multiply_by_parameter_scale=False)
    x = jnp.ones(3)
    state, sizes = tx.init(x), []
    for _ in range(9):
        u, state = tx.update(x, state, x)
        sizes.append(-float(u[0]))
    np.testing.assert_allclose(sizes, [0.5] * 4 + [t**-0.5 for t in range(5, 10)], rtol=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(floor="eps"), "floor must be a number, 'machine' or None"),
        (dict(factored_axes="first"), "factored_axes must be 'largest' or 'last'"),
        (dict(momentum=1.1), "momentum must be between 0 and 1"),
        (dict(decay_rate=-1.0), "decay_rate must be at least 0"),
        (dict(floor=-1.0), "floor must be at least 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        gx.adafactor(0.1, **kwargs)


def test_an_array_without_elements_has_no_means():
    tx, p = gx.scale_by_factored_rms(min_dim_size_to_factor=0), jnp.ones((0, 3))
    for leaf in jax.tree.leaves(jax.jit(tx.update)(p, tx.init(p))):
        assert jnp.all(jnp.isfinite(leaf))
