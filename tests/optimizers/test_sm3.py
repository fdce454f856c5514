"""SM3: Optax's where Optax has a value, and the law of its bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from tests.problems import grads

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "k": jnp.ones((2, 3, 4)), "b": jnp.ones(4)}


def run(tx, steps, dtype):
    p = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
    state, update, seen = tx.init(p), jax.jit(tx.update), []
    for i in range(steps):
        u, state = update(grads(i, p), state, p)
        p = gx.apply_updates(p, u)
        seen.append(p)
    return seen


@pytest.mark.parametrize("b2", [1.0, 0.9])
def test_it_is_optax_s_over_50_steps(b2, x64, lenient):
    chains = (m.chain(m.scale_by_sm3(0.9, b2), m.scale(-0.1)) for m in (gx, optax))
    for p, q in zip(*(run(tx, 50, jnp.float64) for tx in chains), strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-12), p, q)


def test_states_pass_to_optax_and_back(lenient):
    ours, theirs = gx.sm3(0.1), optax.sm3(0.1)
    mixed = pure = theirs.init(PARAMS)
    assert jax.tree.structure(ours.init(PARAMS)) == jax.tree.structure(pure)
    for i in range(6):
        u, mixed = (ours if i % 2 else theirs).update(grads(i, PARAMS), mixed, PARAMS)
        v, pure = theirs.update(grads(i, PARAMS), pure, PARAMS)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), u, v)


def test_a_scalar_is_a_vector_of_one():
    tx = gx.scale_by_sm3()
    scalar, vector = tx.init(jnp.ones(())), tx.init(jnp.ones(1))
    for g in (3.0, -1.0, 0.5):
        u, scalar = tx.update(jnp.array(g), scalar)
        v, vector = tx.update(jnp.array([g]), vector)
        assert u == v[0]


def test_the_sums_of_rows_and_columns_bound_those_of_adagrad():
    """Proposition 3: min of the sums is at least the true sum of squares, and no slot ever falls."""
    tx = gx.scale_by_sm3()
    state, total, before = tx.init(PARAMS), np.zeros((3, 4)), None
    for i in range(20):
        g = grads(i, PARAMS)
        _, state = tx.update(g, state)
        total += np.square(g["w"])
        rows, columns = (np.asarray(x) for x in state.mu["w"])
        assert np.all(np.minimum(rows[:, None], columns) >= total * (1 - 1e-5))
        assert before is None or all(np.all(x >= y) for x, y in zip((rows, columns), before, strict=True))
        before = rows, columns


def test_zero_gradients_do_not_move_and_nans_show():
    tx = gx.scale_by_sm3(eps=0.0)
    u, state = tx.update(jnp.zeros((2, 2)), tx.init(jnp.ones((2, 2))))
    assert not np.any(u)
    u, state = tx.update(jnp.full((2, 2), jnp.nan), state)
    u, _ = tx.update(jnp.ones((2, 2)), state)
    assert np.all(np.isnan(u))


def test_a_complex_parameter_goes_by_its_modulus(lenient):
    g = jnp.array([[3 + 4j, 0j]])
    tx = gx.scale_by_sm3(b1=0.0)
    u, state = tx.update(g, tx.init(g))
    np.testing.assert_allclose(u, [[0.6 + 0.8j, 0]], rtol=1e-6)
    assert [x.dtype for x in state.mu] == [jnp.float32] * 2
