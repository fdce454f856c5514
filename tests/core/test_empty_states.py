"""A link without a state takes None or () in its place, as Optax's do, and gives back what it was given."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from tests.problems import grads, params
from tests.test_contract import LINKS

EMPTY = [tx for tx in LINKS if type(jax.eval_shape(tx.init, params())) is optax.EmptyState]


def test_there_are_enough_of_them():
    assert len(EMPTY) >= 14


@pytest.mark.parametrize("tx", EMPTY, ids=repr)
def test_none_and_the_empty_tuple(tx):
    p = params()
    g = grads(0, p)
    expected, after = tx.update(g, tx.init(p), p)
    assert type(after) is optax.EmptyState
    for state in (None, ()):
        updates, after = tx.update(g, state, p)
        assert after is state
        assert all(jax.tree.leaves(jax.tree.map(jnp.array_equal, updates, expected)))


def test_in_a_chain_under_jit_and_in_parts():
    p = params()
    g = grads(0, p)
    tx = gx.chain(gx.clip(0.5), gx.trace(0.9), gx.scale(-0.1))
    trace = tx.init(p)[1]
    expected, _ = tx.update(g, tx.init(p), p)
    updates, after = jax.jit(tx.update)(g, (None, trace, ()), p)
    assert after[0] is None
    assert after[2] == ()
    assert all(jax.tree.leaves(jax.tree.map(jnp.array_equal, updates, expected)))
    part = gx.masked(gx.scale(-0.1), gx.matrices_only)
    assert part.update(g, optax.MaskedState(None), p)[1] == optax.MaskedState(None)


@pytest.mark.parametrize("state", [(jnp.zeros(()),), {"count": np.int32(0)}, optax.TraceState(())])
def test_another_state_is_refused(state):
    with pytest.raises(TypeError, match="scale needs a"):
        gx.scale(0.5).update(jnp.ones(1), state)


@pytest.mark.parametrize("tx", [gx.trace(0.9), gx.scale_by_learning_rate(gx.linear_schedule(1.0, 0.0, 5))])
def test_a_link_with_a_state_needs_it(tx):
    with pytest.raises(TypeError, match="was given a NoneType"):
        tx.update(jnp.ones(1), None)
