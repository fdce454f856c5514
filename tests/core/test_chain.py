"""chain, named_chain, stateless, apply_updates: how transformations are put together."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from tests.problems import aval, grads, params


def test_a_chain_of_nothing_is_the_identity():
    p = params()
    u, state = gx.chain().update(grads(0, p), gx.chain().init(p), p)
    assert state == ()
    jax.tree.map(np.testing.assert_array_equal, u, grads(0, p))


def test_a_chain_applies_its_links_from_left_to_right():
    x = jnp.array([3.0, -0.5])
    tx = gx.chain(gx.clip(1.0), gx.scale(2.0))
    np.testing.assert_array_equal(tx.update(x, tx.init(x))[0], [2.0, -1.0])


def test_extra_arguments_reach_the_links_that_take_them(lenient):
    """Optax's polyak_sgd needs `value`; its plain links and ours ignore it."""
    x = jnp.ones(2)
    tx = gx.chain(optax.scale(2.0), gx.clip(1.0), optax.polyak_sgd(), gx.identity())
    u, _ = tx.update(x, tx.init(x), x, value=0.5)
    expected = optax.polyak_sgd()
    np.testing.assert_allclose(u, expected.update(x, expected.init(x), x, value=0.5)[0])


def test_extra_arguments_reach_objects_that_are_no_tuples(lenient):
    x = jnp.ones(2)
    steps = optax.MultiSteps(optax.polyak_sgd(), every_k_schedule=1)
    tx = gx.chain(steps, gx.identity())
    np.testing.assert_allclose(tx.update(x, tx.init(x), x, value=0.5)[0], -0.25)


@pytest.mark.parametrize("make", [optax.adamw, optax.lion, lambda rate: optax.sgd(rate, 0.9), optax.rmsprop])
def test_a_foreign_link_keeps_its_state_and_sees_float32(make, lenient):
    """By itself, Optax's state would change its dtype when a link before it gives float32."""
    p = {"w": jnp.ones(3, jnp.bfloat16)}
    for tx in (
        gx.chain(gx.clip_by_global_norm(1.0), make(0.1)),
        gx.chain(make(0.1)),
        gx.inject_hyperparams(make)(0.1),
    ):
        state = tx.init(p)
        u, after = tx.update(p, state, p)
        assert aval(after) == aval(state)
        assert u["w"].dtype == jnp.bfloat16  # at the border; between the links it is float32


def test_a_conditional_wrapper_of_optax_works_inside_a_chain(lenient):
    """Outermost, with bf16 gradients, its branches would differ in dtype."""
    p = {"w": jnp.ones(3, jnp.bfloat16)}
    tx = gx.chain(optax.apply_if_finite(gx.adamw(0.1), 2))
    u, state = tx.update(p, tx.init(p), p)
    np.testing.assert_allclose(u["w"], -0.1, rtol=1e-3)
    assert aval(state) == aval(tx.init(p))


def test_named_chain_is_chain_with_names():
    p = params()
    links = [gx.clip(0.5), gx.scale_by_adam()]
    named, plain = gx.named_chain(("clip", links[0]), ("adam", links[1])), gx.chain(*links)
    u, state = named.update(grads(0, p), named.init(p), p)
    v, expected = plain.update(grads(0, p), plain.init(p), p)
    assert list(state) == ["clip", "adam"]
    jax.tree.map(np.testing.assert_array_equal, (u, tuple(state.values())), (v, expected))


def test_stateless_with_tree_map_sees_each_parameter():
    tx = gx.stateless_with_tree_map(lambda u, p: u if p is None else u * p)
    x = {"a": jnp.array([2.0]), "b": None}
    assert tx.update(x, tx.init(x), x)[0]["a"] == 4.0
    assert tx.update(x, tx.init(x))[0]["a"] == 2.0
    assert tx.update(x, tx.init(x))[0]["b"] is None


def test_apply_updates_rounds_once_into_the_parameters_dtype():
    p = {"low": jnp.ones(2, jnp.bfloat16), "full": jnp.ones(2), "frozen": None}
    u = {"low": jnp.full(2, 0.3), "full": jnp.full(2, 0.25, jnp.bfloat16), "frozen": None}
    new = gx.apply_updates(p, u)
    assert new["low"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(new["low"], jnp.full(2, 1.3, jnp.bfloat16))
    np.testing.assert_array_equal(new["full"], jnp.full(2, 1.25))
    assert new["frozen"] is None


def test_set_to_zero_keeps_dtypes():
    u, _ = gx.set_to_zero().update({"a": jnp.ones(2, jnp.bfloat16)}, gx.EmptyState())
    assert aval(u) == aval({"a": jnp.zeros(2, jnp.bfloat16)})
    assert not jnp.any(u["a"])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: gx.chain(gx.adam), TypeError, r"link 0 of chain is not a gradient tran.*call it"),
        (
            lambda: gx.chain(gx.clip(1.0), 0.1),
            TypeError,
            r"link 1 of chain is not a gradient transformation: 0.1",
        ),
        (lambda: gx.named_chain(("a", gx.clip(1.0)), ("a", gx.clip(1.0))), ValueError, r"names must differ"),
        (
            lambda: gx.chain(gx.clip(1.0)).update(jnp.ones(1), gx.chain().init(jnp.ones(1))),
            ValueError,
            r"this chain has 1 links, and its state needs one part for each, got 0",
        ),
        (
            lambda: gx.chain(gx.clip(1.0)).update(jnp.ones(1), {}),
            ValueError,
            r"this chain has 1 links, and its state needs one part for each, got dict",
        ),
        (
            lambda: gx.named_chain(("a", gx.clip(1.0))).update(jnp.ones(1), {"b": gx.EmptyState()}),
            ValueError,
            r"the state must have the keys \['a'\], got \['b'\]",
        ),
        (
            lambda: gx.apply_updates({"w": jnp.ones(3)}, {"v": jnp.ones(3)}),
            ValueError,
            r"\['w'\] is in the parameters, but not in the updates",
        ),
        (
            lambda: gx.apply_updates({"w": jnp.ones(3)}, {"w": jnp.ones((2, 3))}),
            ValueError,
            r"the parameter at \['w'\] has shape \(3,\), its update \(2, 3\)",
        ),
        (
            lambda: gx.named_chain(gx.clip(1.0), gx.adam(0.1)),
            TypeError,
            r"named_chain takes \(name, transformation\) pairs, got clip\(1.0\)",
        ),
        (
            lambda: gx.apply_updates({"w": jnp.ones(1)}, {"w": jnp.ones(1, jnp.complex64)}),
            TypeError,
            r"a complex update of the real parameter at \['w'\]",
        ),
        (lambda: gx.adamw(), TypeError, r"adamw\(\) missing 1 required positional argument: 'learning_rate'"),
    ],
)
def test_mistakes_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
