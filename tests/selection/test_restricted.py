"""A line search in a part of the parameters: it sees a function of that part, the others held."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from gradx.core.display import text
from gradx.selection.held import held_paths
from gradx.selection.restricted import restricted

START = {"a": jnp.array([5.0, -4.0]), "b": jnp.array([3.0])}
ZOOM = gx.chain(gx.sgd(1.0), gx.scale_by_zoom_linesearch(15))
BACKTRACKING = gx.chain(gx.sgd(1.0), gx.scale_by_backtracking_linesearch(15))
OPTAX = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15, store_grad=True))


def loss(p):
    """Its minimum over a is where a = b / 3, so that what b is held at tells in the result."""
    return jnp.sum((p["a"] - p["b"] / 3) ** 2 * jnp.array([1.0, 2.0])) + jnp.sum(p["b"] ** 2)


def run(tx, loss=loss, start=START, steps=10, **extra):
    @jax.jit
    def step(p, state):
        value, grad = jax.value_and_grad(functools.partial(loss, **extra))(p)
        u, state = tx.update(grad, state, p, value=value, grad=grad, value_fn=loss, **extra)
        return gx.apply_updates(p, u), state

    p, state = start, tx.init(start)
    for _ in range(steps):
        p, new = step(p, state)
        assert jax.tree.structure(new) == jax.tree.structure(state)
        state = new
    return p


SOME = [
    gx.lbfgs(),
    OPTAX,
    *(pytest.param(x, marks=pytest.mark.slow) for x in (ZOOM, BACKTRACKING, optax.lbfgs())),
]


@pytest.mark.parametrize("search", SOME, ids=text)
def test_a_part_converges_and_the_rest_stays(search, lenient):
    frozen = gx.set_to_zero()
    for tx in (
        gx.groups(search, {"^b": gx.frozen()}),
        gx.partition({"l": search, "s": frozen}, {"a": "l", "b": "s"}),
        gx.selective_transform(search, freeze_mask={"a": False, "b": True}),
        gx.chain(gx.masked(search, {"a": True, "b": False}), gx.freeze({"a": False, "b": True})),
        gx.groups(gx.frozen(), {"^a": gx.masked(search, {"a": True, "b": False})}),
    ):
        p = run(tx, steps=10 if "lbfgs" in repr(search) else 40)
        assert p["b"].tolist() == [3.0]
        np.testing.assert_allclose(p["a"], 1.0, rtol=1e-3)


def test_the_steps_are_those_of_the_function_with_the_rest_closed_over():
    whole = run(gx.groups(gx.lbfgs(), {"^b": gx.frozen()}), steps=2)
    alone = run(gx.lbfgs(), lambda p: loss(p | {"b": START["b"]}), {"a": START["a"]}, steps=2)
    assert whole["a"].tolist() == alone["a"].tolist()


def test_beside_another_optimizer_and_another_search():
    """Each search holds the others at the values of this step; together they reach the common minimum."""
    for other in (gx.sgd(0.2), gx.lbfgs(), gx.adam(gx.cosine_decay_schedule(0.3, 100))):
        p = run(gx.groups(gx.lbfgs(), {"^b": other}), steps=100)
        np.testing.assert_allclose(jnp.concatenate(list(p.values())), 0.0, atol=1e-2)


def test_further_arguments_keep_their_names():
    def fit(p, x, *, y, scale=1.0):
        return scale * jnp.sum((p["a"] * x + p["b"] - y) ** 2)

    data = {"x": jnp.array([1.0, 2.0]), "y": jnp.array([4.0, 7.0])}
    p = run(gx.groups(gx.lbfgs(), {"^b": gx.frozen()}), fit, steps=5, **data)
    np.testing.assert_allclose(p["a"], [1.0, 2.0], rtol=1e-5)  # (y - 3) / x
    partial = functools.partial(fit, scale=2.0)
    assert run(gx.groups(gx.lbfgs(), {"^b": gx.frozen()}), partial, steps=5, **data)["b"] == 3.0


def test_missing_leaves_and_prefixes():
    params = {"w": {"k": jnp.array([4.0]), "n": None}, "m": optax.MaskedNode(), "b": jnp.array([2.0])}
    seen = []

    def loss(p):
        seen.append(jax.tree.structure(p))
        return jnp.sum((p["w"]["k"] - p["b"]) ** 2)

    for tx in (
        gx.masked(gx.lbfgs(), {"w": True, "m": False, "b": False}),
        gx.partition({0: gx.lbfgs(), 1: gx.set_to_zero()}, {"w": 0, "m": 1, "b": 1}),
    ):
        state = tx.init(params)
        value, grad = jax.value_and_grad(loss)(params)
        u, _ = tx.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        assert u["w"]["k"].tolist() == [-1.0]  # the first step has the length 1
    assert set(seen) == {jax.tree.structure(params)}


@pytest.mark.parametrize("search", [gx.lbfgs(), ZOOM, BACKTRACKING], ids=repr)
def test_parameters_without_an_update_are_held(search):
    """A filter gives gradients of None, and all of the parameters."""
    state = search.init(START)
    value, grad = jax.value_and_grad(loss)(START)
    for missing in (None, optax.MaskedNode()):
        for full in (grad, grad | {"b": missing}):
            given = {"value": value, "grad": full, "value_fn": loss}
            u, after = search.update(grad | {"b": missing}, state, START, **given)
            assert u["b"] == missing
            assert jax.tree.structure(after) == jax.tree.structure(state)
            assert loss({"a": START["a"] + u["a"], "b": START["b"]}) < value - 1


def test_held_parameters_have_the_precision_of_the_part():
    """A search computes on float32, and a function that demands one dtype gets one."""

    def loss(p):
        assert p["a"].dtype == p["b"].dtype
        return jax.lax.dot(p["a"] - 1, p["b"]) ** 2

    start = {k: jnp.full(3, v, jnp.bfloat16) for k, v in {"a": 5.0, "b": 2.0}.items()}
    p = run(gx.groups(gx.lbfgs(), {"^b": gx.frozen()}), loss, start, steps=5)
    np.testing.assert_allclose(p["a"].astype(jnp.float32), 1.0, rtol=1e-2)


def test_what_is_not_for_a_search_passes_as_it_is():
    part = {"a": START["a"], "b": optax.MaskedNode()}
    for extra in ({}, {"grad": START}, {"value": 1.0, "value_fn": None}):
        assert restricted(extra, part, START) is extra
    whole = {"value_fn": loss, "grad": START}
    assert restricted(whole, START, START) is whole
    assert restricted(whole, part, None) is whole


def test_a_gradient_of_another_structure_is_named():
    tx = gx.masked(gx.lbfgs(), {"a": True, "b": False})
    with pytest.raises(ValueError, match="the extra argument grad have different structures"):
        tx.update(START, tx.init(START), START, value=1.0, grad={"a": START["a"]}, value_fn=loss)


def test_held_paths():
    paths = lambda tx: {path[0].key for path in held_paths(tx, START)}
    adam, b = gx.adam(0.1), {"a": False, "b": True}
    assert paths(adam) == paths(gx.chain(adam, gx.identity())) == set()
    assert paths(gx.set_to_zero()) == {"a", "b"}
    assert paths(gx.groups(adam, {"^b": gx.frozen()})) == {"b"}
    assert paths(gx.selective_transform(adam, freeze_mask=b)) == {"b"}
    assert paths(gx.named_chain(("0", gx.freeze(b)), ("1", adam))) == {"b"}
    assert paths(gx.chain(gx.masked(gx.chain(gx.set_to_zero()), b), adam)) == {"b"}
    assert paths(gx.conditionally_mask(gx.groups(adam, {"^b": gx.frozen()}), lambda step: step > 1)) == set()
