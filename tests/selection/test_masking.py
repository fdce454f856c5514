"""Masks: as trees, prefixes, functions and names; what they hide, and what they refuse."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from tests.problems import tag_reader

P = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, "norm": {"scale": jnp.ones(3)}}
ONLY_KERNEL = {"dense": {"kernel": True, "bias": False}, "norm": {"scale": False}}


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (ONLY_KERNEL, ONLY_KERNEL),
        ({"dense": True, "norm": False}, {"dense": {"kernel": True, "bias": True}, "norm": {"scale": False}}),
        (True, {"dense": {"kernel": True, "bias": True}, "norm": {"scale": True}}),
        (np.bool_(False), {"dense": {"kernel": False, "bias": False}, "norm": {"scale": False}}),
        (gx.matrices_only, ONLY_KERNEL),
        ("matrices_only", ONLY_KERNEL),
        ("no_bias_or_norm", ONLY_KERNEL),
        (lambda params: {"dense": params["norm"]["scale"].ndim == 1, "norm": False}, None),
    ],
)
def test_every_form_of_mask(mask, expected):
    tx = gx.masked(gx.scale(2.0), mask)
    u, state = jax.jit(tx.update)(P, tx.init(P), P)
    if expected is None:
        expected = {"dense": {"kernel": True, "bias": True}, "norm": {"scale": False}}
    jax.tree.map(lambda m, x: np.testing.assert_array_equal(x, 2.0 if m else 1.0), expected, u)
    assert isinstance(state, gx.MaskedState)


def test_masked_out_leaves_have_no_slots():
    state = gx.masked(gx.trace(0.9), "matrices_only").init(P)
    trace = state.inner_state.trace
    assert trace["dense"]["kernel"].shape == (2, 3)
    assert trace["dense"]["bias"] == trace["norm"]["scale"] == gx.MaskedNode()


def test_no_bias_or_norm_goes_by_name():
    """Layers stacked by a scan: their biases are matrices, and spared all the same."""
    stacked = {"layers": {"Dense_0": {"kernel": 1, "bias": 1}, "LayerNorm_0": {"weird": 1}}, "embedding": 1}
    assert gx.no_bias_or_norm(stacked) == {
        "layers": {"Dense_0": {"kernel": True, "bias": False}, "LayerNorm_0": {"weird": False}},
        "embedding": True,
    }
    assert gx.no_bias_or_norm([1, 1]) == [True, True]
    assert gx.no_bias_or_norm(1) is True


def test_masks_nest():
    inner = gx.masked(gx.scale(2.0), {"a": True, "b": gx.MaskedNode(), "c": False})
    tx = gx.masked(inner, {"a": True, "b": False, "c": True})
    x = {"a": jnp.ones(1), "b": jnp.ones(1), "c": jnp.ones(1)}
    u, _ = tx.update(x, tx.init(x), x)
    assert [float(v[0]) for v in u.values()] == [2.0, 1.0, 1.0]


def test_masks_nest_by_function_and_pass_over_none():
    tx = gx.masked(gx.masked(gx.scale(2.0), gx.matrices_only), "no_bias_or_norm")
    x = {"kernel": jnp.ones((1, 1)), "bias": jnp.ones((1, 1)), "other": jnp.ones(1), "frozen": None}
    u, _ = tx.update(x, tx.init(x), x)
    assert float(u["kernel"][0, 0]) == 2.0
    assert float(u["bias"][0, 0]) == float(u["other"][0]) == 1.0
    assert u["frozen"] is None


def test_a_mask_without_params_goes_by_the_updates():
    tx = gx.masked(gx.scale(2.0), gx.matrices_only)
    u, _ = tx.update(P, tx.init(P))
    assert float(u["dense"]["kernel"][0, 0]) == 2.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Model:
    """A tree that can be called, as a module of Equinox is."""

    w: Any
    b: Any

    def __call__(self, x):
        return self.w * x + self.b


def test_a_mask_may_be_a_tree_that_can_be_called():
    tx, ones = gx.masked(gx.scale(2.0), Model(True, False)), Model(jnp.ones(2), jnp.ones(1))
    u, _ = tx.update(ones, tx.init(ones), ones)
    assert (u.w.tolist(), u.b.tolist()) == ([2.0, 2.0], [1.0])


def test_optax_finds_the_slots_behind_a_mask_that_is_a_tree():
    tx = gx.masked(gx.trace(0.9), {"w": True, "b": False})
    state = optax.tree_map_params(tx, lambda x: x + 1, tx.init({"w": jnp.zeros(2), "b": jnp.zeros(1)}))
    assert state.inner_state.trace["w"].tolist() == [1.0, 1.0]
    assert state.inner_state.trace["b"] == gx.MaskedNode()


def test_extra_arguments_are_masked_on_request():
    inner, seen = tag_reader()
    tags = {"a": "x", "b": "y"}
    x = {"a": jnp.ones(1), "b": jnp.ones(1)}
    for compatible in (False, True):
        tx = gx.masked(inner, {"a": True, "b": False}, mask_compatible_extra_args=compatible)
        tx.update(x, tx.init(x), x, tags=tags)
    assert seen == [tags, {"a": "x", "b": gx.MaskedNode()}]


@pytest.mark.parametrize("mask", [ONLY_KERNEL, {"dense": True, "norm": False}, False], ids=str)
def test_the_state_is_that_of_optax(mask, lenient):
    ours, theirs = gx.masked(gx.trace(0.9), mask), optax.masked(optax.trace(0.9), mask)
    assert jax.tree.structure(ours.init(P)) == jax.tree.structure(theirs.init(P))


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (
            "matrices",
            ValueError,
            r"no mask is named 'matrices'; the names are \['matrices_only', 'no_bias_or_n",
        ),
        (
            {"dense": 1.0, "norm": True},
            TypeError,
            r"a mask is made of True and False, and this one holds 1.0",
        ),
        (
            lambda p: jax.tree.map(jnp.sum, p),
            TypeError,
            r"a mask is made of True and False, and this one holds",
        ),
        ({"dense": True}, ValueError, r"\['norm'\] is in the parameters, but not in the mask"),
        (
            {"dense": {"kernel": True, "b": True}, "norm": True},
            ValueError,
            r"\['dense'\]\['b'\] is in the mask, but not in the parameters",
        ),
        (
            {"dense": None, "norm": True},
            ValueError,
            r"the mask has None at \['dense'\], where there is a parameter",
        ),
    ],
)
def test_mistakes_are_named(mask, error, message):
    with pytest.raises(error, match=message):
        gx.masked(gx.scale(2.0), mask).init(P)


def test_masking_something_else_is_refused():
    with pytest.raises(
        TypeError, match=r"the inner transformation of masked is not a gradient transformation"
    ):
        gx.masked(gx.adam, True)


BOOLS = [lambda x: x, np.bool_, np.array, jnp.bool_, jnp.array]


@pytest.mark.parametrize("made", BOOLS)
def test_any_known_bool_will_do(made):
    """Python's, NumPy's and JAX's, in masks, in functions that give them, and in patterns."""
    yes, no = made(True), made(False)
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    expected = {"a": [-0.5, -0.5], "b": [0.0] * 3}
    for tx in (
        gx.chain(gx.masked(gx.sgd(0.5), {"a": yes, "b": no}), gx.freeze({"a": no, "b": yes})),
        gx.selective_transform(gx.sgd(0.5), freeze_mask=lambda params: {"a": no, "b": yes}),
        gx.groups(gx.sgd(0.5), {lambda path, x: yes if path == "b" else no: gx.frozen()}),
    ):
        u, _ = tx.update(params, tx.init(params), params)
        assert {k: x.tolist() for k, x in u.items()} == expected
        assert jax.jit(tx.update)(params, tx.init(params), params)[0]["b"].tolist() == [0.0] * 3
    assert gx.masked(gx.sgd(0.5), {"a": yes, "b": no}) == gx.masked(gx.sgd(0.5), {"a": made(True), "b": no})


def test_a_bool_that_is_not_known_is_refused():
    tx = lambda mask: gx.masked(gx.sgd(0.5), {"a": mask}).init({"a": jnp.ones(2)})
    with pytest.raises(TypeError, match=r"a mask is made of True and False, .* not known before it runs"):
        jax.jit(tx)(True)
    for mask in (jnp.ones(1, bool), np.ones((2,), bool), jnp.int32(1), 1.0):
        with pytest.raises(TypeError, match="a mask is made of True and False"):
            tx(mask)
