"""tree_map_params: each array of a slot, with what belongs to its parameter; all states."""

import jax
import jax.numpy as jnp
import optax
import pytest

import gradx as gx
from gradx.core.tree import is_missing
from tests.problems import params
from tests.test_contract import ALL

P = {"a": {"w": jnp.ones((4, 6)), "b": jnp.ones(6)}, "c": {"w": jnp.ones((4, 6)), "b": jnp.ones(6)}}
NAMES = {"a": {"w": "a/w", "b": "a/b"}, "c": {"w": "c/w", "b": "c/b"}}
OTHERS = [
    gx.packed(gx.adam(0.1)),
    gx.chain(gx.clip(1.0), gx.packed(gx.adam(0.1))),
    gx.store(gx.adam(0.1), gx.Blockwise(), min_size=1, seed=0),
    gx.precision(gx.adam(0.1), "8-bit", seed=0),
    gx.sm3(0.1),
    gx.adafactor(0.1, min_dim_size_to_factor=2),
    gx.groups(gx.adam(0.1), {"b$": gx.frozen()}),
    gx.masked(gx.adam(0.1), {"a": True, "c": False}),
]


@pytest.mark.parametrize("tx", [*ALL, *OTHERS], ids=repr)
def test_nothing_changes_where_the_function_changes_nothing(tx):
    p = P if tx in OTHERS else params()
    shapes = jax.eval_shape(tx.init, p)
    out = gx.tree_map_params(tx, lambda x, _: x, shapes, p)
    assert jax.tree.all(jax.tree.map(lambda x, y: x is y, out, shapes))


@pytest.mark.parametrize("tx", OTHERS, ids=repr)
def test_an_array_is_mapped_with_what_belongs_to_its_parameter(tx):
    out = gx.tree_map_params(
        tx, lambda x, name: name, tx.init(P), NAMES, transform_non_params=lambda x: "none"
    )
    found = jax.tree.leaves(out)
    assert set(found) <= {"none", "a/w", "a/b", "c/w", "c/b"}
    assert ("none" in found) == (repr(tx) != "sm3(0.1)")  # the step count
    is_packed = "packed" in repr(tx)
    assert ("a/w" in found) == (not is_packed)  # a buffer is of many


def test_of_each_slot():
    tx = gx.groups(gx.adam(0.1), {"b$": gx.sgd(0.1, momentum=0.9)})
    sizes = jax.tree.map(jnp.size, P)
    out = gx.tree_map_params(tx.init, lambda x, *at: at, tx.init(P), NAMES, sizes, transform_non_params=str)
    is_pair = lambda x: isinstance(x, tuple) and len(x) == 2 and isinstance(x[0], str)
    flat = jax.tree.leaves(out, is_leaf=is_pair)
    assert flat.count(("a/w", 24)) == flat.count(("c/w", 24)) == 2
    assert flat.count(("a/b", 6)) == flat.count(("c/b", 6)) == 1


def test_is_that_of_optax_on_what_both_take():
    tx = gx.chain(gx.clip(1.0), gx.adamw(gx.linear_schedule(0.1, 0.0, 10)))
    state = tx.init(P)
    double = lambda x, p: x + 2 * p
    for is_leaf in (None, lambda x: isinstance(x, optax.MaskedNode)):
        given = dict(transform_non_params=lambda x: x + 1, is_leaf=is_leaf)
        ours = gx.tree_map_params(tx, double, state, P, **given)
        theirs = optax.tree_map_params(tx, double, state, P, **given)
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        assert jax.tree.all(jax.tree.map(jnp.array_equal, ours, theirs))


def test_what_a_mask_leaves_out_is_not_given_unless_asked_for():
    tx = gx.masked(gx.adam(0.1), {"a": True, "c": False})
    seen = []
    gx.tree_map_params(tx, lambda x: seen.append(x) or x, tx.init(P))
    assert len(seen) == 4
    gx.tree_map_params(tx, lambda x: seen.append(x) or x, tx.init(P), is_leaf=is_missing)
    assert sum(map(is_missing, seen)) == 2


def test_a_tree_that_lacks_a_parameter():
    tx = gx.adam(0.1)
    with pytest.raises(ValueError, match=r"a slot has an array at \['c'\]\['b'\], and rest has none"):
        gx.tree_map_params(tx, lambda x, name: name, tx.init(P), {"a": NAMES["a"], "c": {"w": "c/w"}})
