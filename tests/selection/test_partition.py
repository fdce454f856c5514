"""Partition, freeze and selective_transform: Optax's values and states; what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from tests.problems import aval, grads, tag_reader

P = {"dense": {"kernel": jnp.linspace(-1, 1, 6).reshape(2, 3), "bias": jnp.ones(3)}, "head": jnp.ones(2)}
TREE = {"dense": {"kernel": "a", "bias": "b"}, "head": "b"}
PREFIX = {"dense": "a", "head": "b"}


def by_shape(params):
    return jax.tree.map(lambda x: "a" if x.ndim == 2 else "b", params)


def run(tx, p=P, steps=3, **extra):
    state, update = tx.init(p), jax.jit(tx.update)
    for i in range(steps):
        u, state = update(grads(i, p), state, p, **extra)
        p = gx.apply_updates(p, u)
    return p, state


def close(x, y):
    assert jax.tree.structure(x) == jax.tree.structure(y)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), x, y)


@pytest.mark.parametrize("labels", [TREE, PREFIX, by_shape], ids=["tree", "prefix", "function"])
def test_values_and_states_are_those_of_optax(labels, lenient):
    """So that a checkpoint of Optax's goes on here."""
    ours = gx.partition({"a": gx.adam(0.1), "b": gx.sgd(0.1, momentum=0.9)}, labels)
    theirs = optax.partition({"a": optax.adam(0.1), "b": optax.sgd(0.1, momentum=0.9)}, labels)
    close(run(ours), run(theirs))
    assert aval(jax.eval_shape(ours.init, P)) == aval(jax.eval_shape(theirs.init, P))


@pytest.mark.parametrize("mask", [{"dense": True, "head": False}, True, False], ids=str)
def test_freezing_is_that_of_optax(mask, lenient):
    close(run(gx.freeze(mask)), run(optax.freeze(mask)))
    ours = gx.selective_transform(gx.adam(0.1), freeze_mask=mask)
    close(run(ours), run(optax.selective_transform(optax.adam(0.1), freeze_mask=mask)))


def test_a_mask_may_be_a_name_or_a_function():
    for mask in ("matrices_only", gx.matrices_only):
        p, state = run(gx.selective_transform(gx.adam(0.1), freeze_mask=mask))
        assert jnp.array_equal(p["dense"]["kernel"], P["dense"]["kernel"])
        assert not jnp.array_equal(p["dense"]["bias"], P["dense"]["bias"])
        assert state.inner_states["train"].inner_state[0].mu["dense"]["kernel"] == gx.MaskedNode()


def test_multi_transform_is_partition():
    assert gx.multi_transform is gx.partition


def test_other_labels_than_strings_will_do():
    tx = gx.partition({True: gx.scale(2.0), False: gx.scale(3.0)}, gx.matrices_only)
    u, _ = tx.update(P, tx.init(P), P)
    np.testing.assert_allclose(u["dense"]["kernel"], 2 * P["dense"]["kernel"])
    np.testing.assert_allclose(u["head"], 3.0)


def test_none_leaves_need_no_label():
    p = {"a": jnp.ones(2), "b": None, "c": jnp.ones(3)}
    for labels in ({"a": "x", "b": None, "c": "y"}, lambda p: jax.tree.map(lambda x: "xy"[x.size - 2], p)):
        tx = gx.partition({"x": gx.adam(0.1), "y": gx.scale(2.0)}, labels)
        u, state = tx.update(p, tx.init(p), p)
        assert u["b"] is None
        np.testing.assert_allclose(u["c"], 2.0)
        assert aval(state) == aval(tx.init(p))


def test_extra_arguments_reach_every_part_and_are_cut_on_request():
    inner, seen = tag_reader()
    tags = {"a": "x", "b": "y"}
    x = {"a": jnp.ones(1), "b": jnp.ones(1)}
    for compatible in (False, True):
        tx = gx.partition({1: inner, 2: inner}, {"a": 1, "b": 2}, mask_compatible_extra_args=compatible)
        tx.update(x, tx.init(x), x, tags=tags)
    cut = [{"a": "x", "b": gx.MaskedNode()}, {"a": gx.MaskedNode(), "b": "y"}]
    assert seen == [tags, tags, *cut]


def test_a_loss_reaches_the_part_that_needs_it():
    tx = gx.partition({"a": gx.polyak_sgd(1.0), "b": gx.sgd(0.1)}, TREE)
    p, _ = run(tx, steps=1, value=jnp.float32(0.5))
    alone = {"kernel": P["dense"]["kernel"]}
    polyak = gx.polyak_sgd(1.0)
    g = {"kernel": grads(0, P)["dense"]["kernel"]}
    u, _ = polyak.update(g, polyak.init(alone), alone, value=jnp.float32(0.5))
    np.testing.assert_allclose(p["dense"]["kernel"], alone["kernel"] + u["kernel"], rtol=1e-6)
    with pytest.raises(TypeError, match="scale_by_polyak needs 'value'"):
        run(tx, steps=1)


def test_links_of_optax_inside_keep_the_contract(lenient):
    p = jax.tree.map(lambda x: x.astype(jnp.bfloat16), P)
    tx = gx.partition({"a": optax.adam(0.1), "b": optax.sgd(0.1)}, TREE)
    state = tx.init(p)
    u, after = tx.update(grads(0, p, jnp.float32), state, p)
    assert aval(after) == aval(state)
    assert {x.dtype for x in jax.tree.leaves(u)} == {jnp.dtype("float32")}


def refusal(tx, params=P):
    """What `init` says, under eval_shape too."""
    with pytest.raises(ValueError, match=r"(partition|groups|labels)") as eager:
        tx.init(params)
    with pytest.raises(ValueError, match=r"(partition|groups|labels)") as abstract:
        jax.eval_shape(tx.init, params)
    assert str(eager.value) == str(abstract.value)
    return str(eager.value)


def test_a_label_without_a_transformation_is_an_error():
    assert refusal(gx.partition({"a": gx.adam(0.1)}, TREE)) == (
        "partition: there are transformations for ['a'], and none for the label of\n"
        "  dense/bias: 'b'\n  head: 'b'"
    )


def test_a_transformation_without_a_parameter_is_an_error():
    tx = gx.partition({"a": gx.adam(0.1), "b": gx.adam(0.1), "c": gx.sgd(0.1), "d": gx.sgd(0.1)}, TREE)
    assert refusal(tx) == (
        "partition: no parameter has the label 'c' or 'd'; the parameters are\n"
        "  dense/bias: 'b'\n  dense/kernel: 'a'\n  head: 'b'"
    )


def test_long_lists_are_cut():
    message = refusal(gx.partition({"a": gx.sgd(0.1), "b": gx.sgd(0.1)}, "a"), [jnp.ones(1)] * 150)
    assert message.count("\n") == 101
    assert message.endswith("\n  99: 'a'\n  ... and 50 more")


def test_labels_of_another_structure_are_refused():
    tx = gx.partition({"a": gx.sgd(0.1)}, {"dense": "a"})
    assert "['head'] is in the parameters, but not in the tree of labels" in refusal(tx)
    tx = gx.partition({"a": gx.sgd(0.1)}, {"dense": None, "head": "a"})
    message = "partition: the tree of labels has None at ['dense'], where there is a parameter"
    assert refusal(tx) == message


def test_a_state_of_another_partition_is_refused():
    tx = gx.partition({"a": gx.sgd(0.1), "b": gx.sgd(0.1)}, TREE)
    other = gx.partition({"all": gx.sgd(0.1)}, "all").init(P)
    with pytest.raises(
        ValueError, match=r"the state has the parts \['all'\], and the transformation \['a', 'b'"
    ):
        tx.update(P, other, P)
    with pytest.raises(TypeError, match="partition needs a PartitionState, and was given a tuple"):
        tx.update(P, (), P)


def test_what_is_no_transformation_is_refused():
    with pytest.raises(
        TypeError, match=r"the transformation for 'a' of partition is not a gradient transform"
    ):
        gx.partition({"a": gx.adam}, "a")
    with pytest.raises(
        TypeError, match=r"the optimizer of selective_transform is not a gradient transformation"
    ):
        gx.selective_transform(gx.adam, freeze_mask=True)


def test_inside_a_mask_labels_of_hidden_parameters_count_as_there():
    for labels in (TREE, by_shape):
        inner = gx.partition({"a": gx.scale(2.0), "b": gx.scale(3.0)}, labels)
        tx = gx.masked(inner, {"dense": {"kernel": True, "bias": False}, "head": False})
        u, _ = tx.update(P, tx.init(P), P)
        np.testing.assert_allclose(u["dense"]["kernel"], 2 * P["dense"]["kernel"])
        np.testing.assert_allclose(u["head"], 1.0)


WITHIN_BY_FUNCTION = {
    "partition": lambda tx: gx.partition({"a": tx}, lambda p: jax.tree.map(lambda _: "a", p)),
    "masked": lambda tx: gx.masked(tx, lambda p: jax.tree.map(lambda _: True, p)),
    "groups": lambda tx: gx.groups(tx, {}),
}


@pytest.mark.parametrize("within", WITHIN_BY_FUNCTION)
@pytest.mark.parametrize("gradient", [jnp.int32, jnp.bool_, jnp.uint8])
def test_an_integer_with_a_gradient_moves_within(within, gradient):
    """A function sees it among the parameters, so that it does not pass by: its gradient would be added."""
    tx = WITHIN_BY_FUNCTION[within](gx.sgd(0.5))
    p = {"w": jnp.ones(2), "steps": jnp.arange(3)}
    g = {"w": jnp.ones(2), "steps": jnp.ones(3, gradient)}
    step = jax.jit(lambda g, p: tx.update(g, tx.init(p), p))
    np.testing.assert_array_equal(step(g, p)[0]["steps"], jnp.full(3, -0.5))
    updates, _ = jax.eval_shape(step, g | {"steps": None}, p)
    assert updates["steps"] is None
