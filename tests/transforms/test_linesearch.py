"""Optax's line searches as links: the same steps, with equality, fixed states and clear errors."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from tests.problems import aval

SEARCHES = [
    gx.scale_by_zoom_linesearch(20),
    gx.scale_by_zoom_linesearch(10, initial_guess_strategy="one", curv_rtol=0.5),
    gx.scale_by_backtracking_linesearch(15),
    gx.scale_by_backtracking_linesearch(15, store_grad=True, decrease_factor=0.5),
]
each = pytest.mark.parametrize("search", SEARCHES, ids=repr)


def loss(p):
    return jnp.sum(jnp.cosh(p["w"].astype(jnp.float32)) + p["w"].astype(jnp.float32) ** 4)


def step(tx, p, state):
    value, grad = jax.value_and_grad(loss)(p)
    u, state = tx.update(grad, state, p, value=value, grad=grad, value_fn=loss)
    return gx.apply_updates(p, u), state


@each
def test_the_steps_are_those_of_optax(search, lenient):
    theirs = eval(repr(search), {n: getattr(optax, n) for n in dir(optax) if n.startswith("scale_by")})
    p = q = {"w": jnp.array([1.0, -2.0, 0.5])}
    ours, theirs = gx.chain(gx.sgd(1.0), search), optax.chain(optax.sgd(1.0), theirs)
    s, t = ours.init(p), theirs.init(p)
    assert jax.tree.structure(s[1]) == jax.tree.structure(t[1])
    for _ in range(5):
        p, s = step(ours, p, s)
        q, t = step(theirs, q, t)
        np.testing.assert_allclose(p["w"], q["w"], rtol=1e-6, atol=1e-7)
    assert loss(p) < 0.5 * loss({"w": jnp.array([1.0, -2.0, 0.5])})


@each
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_keeps_the_contract(search, dtype):
    """Under strict promotion: fixed state, own buffers, missing leaves, one trace for equal searches."""
    with jax.enable_x64(dtype == "float64"):
        p = {"w": jnp.array([1.0, -2.0], dtype), "none": None, "masked": optax.MaskedNode()}
        tx = gx.chain(gx.sgd(1.0), search)
        state = tx.init(p)
        pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state)]
        assert len(set(pointers)) == len(pointers)
        after, new = jax.jit(lambda p, s: step(tx, p, s))(p, state)
        assert aval(new) == aval(state)
        assert aval(after) == aval(p)
        assert not any(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(new))
        assert loss(after) < loss(p)


@each
def test_compares_prints_and_pickles(search):
    assert pickle.loads(pickle.dumps(search)) == search
    assert hash(eval(repr(search), vars(gx))) == hash(search)
    assert len(set(SEARCHES)) == len(SEARCHES)


@each
def test_maps_over_slots_with_optax(search, lenient):
    tx = gx.lbfgs(linesearch=search)
    state = tx.init({"w": jnp.ones(3)})
    assert aval(optax.tree_map_params(tx, lambda x: x + 1, state)) == aval(state)


def test_says_what_is_wrong():
    search = SEARCHES[0]
    p = jnp.ones(2)
    with pytest.raises(TypeError, match="scale_by_zoom_linesearch needs 'value_fn'"):
        search.update(p, search.init(p), p, value=1.0, grad=p)
    with pytest.raises(ValueError, match="scale_by_zoom_linesearch needs the parameters"):
        search.update(p, search.init(p), value=1.0, grad=p, value_fn=jnp.sum)
    with pytest.raises(ValueError, match="max_linesearch_steps must be an integer of at least 1, got 0"):
        gx.scale_by_zoom_linesearch(0)
    with pytest.raises(
        ValueError, match=r"max_backtracking_steps must be an integer of at least 1, got 1\.5"
    ):
        gx.scale_by_backtracking_linesearch(1.5)
    with pytest.raises(ValueError, match="initial_guess_strategy must be 'keep' or 'one', got 'two'"):
        gx.scale_by_zoom_linesearch(5, initial_guess_strategy="two")
