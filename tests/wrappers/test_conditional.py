"""Optax's conditionals: its values and its states, without `cond`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from tests.problems import grads, params

EVERY_OTHER = lambda step: step % 2 == 0
PAIRS = {
    "apply_if_finite": lambda m: m.apply_if_finite(m.adam(0.1), 2),
    "conditionally_transform": lambda m: m.conditionally_transform(m.trace(0.9), EVERY_OTHER),
    "conditionally_mask": lambda m: m.conditionally_mask(m.adamw(0.1), EVERY_OTHER),
}


def run(tx, p, gradients, **extra):
    """Updates and states of every step."""
    state, seen, update = tx.init(p), [], jax.jit(tx.update)
    for g in gradients:
        u, state = update(g, state, p, **extra)
        p = gx.apply_updates(p, u)
        seen.append((u, state))
    return seen


@pytest.mark.parametrize("make", PAIRS.values(), ids=PAIRS)
def test_is_that_of_optax(make, lenient):
    """Updates and states of every step, in classes, counts and values, NaN included."""
    p = params()
    gradients = [grads(i, p) for i in range(9)]
    for i in (1, 3, 4, 5) if "finite" in repr(make(gx)) else ():
        gradients[i]["w"] = gradients[i]["w"].at[0, 0].set([jnp.nan, jnp.inf][i % 2])
    ours, theirs = run(make(gx), p, gradients), run(make(optax), p, gradients)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), ours, theirs)


def test_after_too_many_errors_the_update_is_applied():
    tx = gx.apply_if_finite(gx.sgd(1.0), 2)
    seen = run(tx, jnp.ones(1), [jnp.array([jnp.inf])] * 3)
    assert [float(u[0]) for u, _ in seen] == [0.0, 0.0, -jnp.inf]
    assert [int(s.notfinite_count) for _, s in seen] == [1, 2, 3]


def test_finite_gradients_whose_norm_overflows_are_finite():
    (_, state), = run(gx.apply_if_finite(gx.sgd(1.0), 2), jnp.ones(1), [jnp.array([1e20])])  # fmt: skip
    assert state.last_finite


def test_goes_around_16_bit_gradients():
    p = jnp.ones(2, jnp.bfloat16)
    for tx in (
        gx.apply_if_finite(gx.sgd(0.1), 2),
        gx.conditionally_transform(gx.sgd(0.1), lambda step: False),
    ):
        u, _ = tx.update(p, tx.init(p), p)
        assert u.dtype == jnp.bfloat16


@pytest.mark.parametrize("forward", [False, True])
def test_a_condition_is_given_the_extra_arguments_if_asked(forward):
    asked = lambda step, **extra: extra.get("value", 9.0) < 2.0
    tx = gx.conditionally_mask(gx.sgd(1.0), asked, forward)
    (u, state), = run(tx, jnp.ones(1), [jnp.ones(1)], value=1.0)  # fmt: skip
    assert (float(u[0]), int(state.step)) == (-1.0 if forward else 0.0, 1)


def test_what_does_not_apply_is_left_bitwise():
    p = jnp.array([-0.0, 1.0])
    tx = gx.conditionally_mask(gx.adam(0.1), lambda step: False)
    u, state = tx.update(jnp.array([jnp.nan, 1.0]), tx.init(p), p)
    assert np.signbit(p + u).tolist() == [True, False]
    assert not any(map(jnp.any, jax.tree.leaves(state.inner_state)))


def test_counts_errors_in_reports():
    tx, g = gx.apply_if_finite(gx.scale(-1.0), 2), jnp.array([jnp.nan])
    _, _, reports = tx.observe(g, tx.init(g))
    assert [r.name for r in (*tx.blank(g), *reports)] == ["skipped"] * 2
    assert [int(r.value) for r in reports] == [1]


def test_errors():
    with pytest.raises(
        ValueError, match="apply_if_finite: max_consecutive_errors must be at least 0, got -1"
    ):
        gx.apply_if_finite(gx.sgd(0.1), -1)
    with pytest.raises(TypeError, match="the inner transformation of conditionally_mask is not a gradient"):
        gx.conditionally_mask(gx.sgd, EVERY_OTHER)
    with pytest.raises(TypeError, match="apply_if_finite needs an ApplyIfFiniteState, and was given a tuple"):
        gx.apply_if_finite(gx.sgd(0.1), 1).update(jnp.ones(1), gx.sgd(0.1).init(jnp.ones(1)))
