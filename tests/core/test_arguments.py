"""Extra arguments that are one number: what takes one says so, and names itself and the argument."""

import decimal
import fractions
import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import gradx as gx
from gradx.core.arguments import scalar

X = jnp.array([1.0, -2.0, 3.0])


def updated(tx, name, value, **others):
    """One step of `tx` with an extra argument."""
    return tx.update(X, tx.init(X), X, **{name: value}, **others)[0]


def searched(search, name, value):
    given = {"value": 7.0, "grad": X, "value_fn": lambda x: jnp.sum(x * x) / 2} | {name: value}
    tx = gx.chain(gx.scale(-1.0), search)
    return tx.update(X, tx.init(X), X, **given)[0]


def averaged(name, value):
    tx = gx.average_gradients("d", weight=name)
    step = lambda x: tx.update(x, tx.init(x), **{name: value})[0]
    mesh = Mesh(np.array(jax.devices()[:1]), ("d",))
    return jax.shard_map(step, mesh=mesh, in_specs=P("d"), out_specs=P())(X)


def micro_batched(name, value):
    loss = lambda w, x: jnp.sum(w * x)
    return gx.accumulate_gradients(loss, weight=lambda x: value)(X, jnp.ones((2, 3)))[1]


def stopped(name, value):
    stopping = gx.early_stopping(1)
    return stopping.update(stopping.init(X), value, X)


def noise(name, value):
    scale = gx.gradient_noise_scale()
    return scale.update(scale.init(), jnp.array([1.0, 2.0]), X, value)


def applied_at(name, value):
    return updated(gx.conditionally_mask(gx.sgd(0.1), lambda step: value), "unused", 0)


with_schedule = gx.inject_hyperparams(gx.sgd)(gx.reduce_on_plateau(0.1, patience=0, accumulation_size=1))
skipping = functools.partial(gx.skip_if, gx.sgd(0.1))
NEEDED = [  # what needs the number: its name in errors, that of the argument, and a call
    ("scale_by_polyak", "value", functools.partial(updated, gx.polyak_sgd())),
    ("scale_by_polyak", "value", functools.partial(updated, gx.scale_by_polyak(variant="sps+"))),
    ("reduce_on_plateau", "value", functools.partial(updated, with_schedule)),
    ("skip_if", "value", functools.partial(updated, skipping(gx.spike()))),
    ("accumulate", "value", functools.partial(updated, gx.accumulate(gx.sgd(0.1), 1, averaged="value"))),
    ("accumulate", "tokens", functools.partial(updated, gx.accumulate(gx.sgd(0.1), 1, weight="tokens"))),
    ("average_gradients", "tokens", averaged),
    ("accumulate_gradients", "weight", micro_batched),
    ("early_stopping", "value", stopped),
    ("gradient_noise_scale", "batch_size", noise),
    ("scale_by_zoom_linesearch", "value", functools.partial(searched, gx.scale_by_zoom_linesearch(9))),
    (
        "scale_by_backtracking_linesearch",
        "value",
        functools.partial(searched, gx.scale_by_backtracking_linesearch(9)),
    ),
    ("scale_by_zoom_linesearch", "value", functools.partial(searched, gx.lbfgs())),
    ("conditionally_mask", "the result of should_transform_fn", applied_at),
]
OPTIONAL = [
    ("skip_if", "value", functools.partial(updated, skipping(gx.nonfinite()))),
    ("skip_if", "value", functools.partial(updated, gx.dynamic_loss_scale(gx.sgd(0.1)))),
]
takers = pytest.mark.parametrize(("owner", "name", "call"), NEEDED + OPTIONAL)
NUMBERS = [5, np.float32(5), np.int64(5), np.array(5.0), jnp.array(5.0), jnp.int32(5), jnp.bfloat16(5)]
NO_NUMBERS = ["5", [5.0], np.array(["5"]), 5j, jnp.array(5j), jax.random.key(5), np.ones(1), jnp.ones(1)]


@takers
def test_any_number_is_the_number(owner, name, call):
    expected = call(name, 5.0)
    for number in NUMBERS:
        result = call(name, number)
        for x, y in zip(*map(jax.tree.leaves, (result, expected)), strict=True):
            np.testing.assert_array_equal(x, y)


@takers
@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_anything_else_is_refused(owner, name, call, value):
    with pytest.raises((TypeError, ValueError), match=f"{owner}: {name} must be one (real )?number, got"):
        call(name, value)


@pytest.mark.parametrize(("owner", "name", "call"), NEEDED)
def test_none_counts_as_not_given(owner, name, call):
    with pytest.raises(TypeError, match=f"{owner}.* ({name}|value)"):
        call(name, None)


@pytest.mark.parametrize(("owner", "name", "call"), OPTIONAL)
def test_none_is_allowed_where_nothing_is_needed(owner, name, call):
    assert call(name, None).tolist() == call("unused", 0).tolist()


@pytest.mark.parametrize("name", ["grad", "value_fn"])
def test_a_search_needs_its_other_arguments_too(name):
    for search in (gx.lbfgs(), gx.scale_by_backtracking_linesearch(9)):
        with pytest.raises(TypeError, match=f"linesearch needs '{name}'"):
            searched(search, name, None)


def test_a_rule_may_do_without():
    """An argument of `scalars` that has a default may be None."""

    def made(scalars):
        return gx.leafwise(optax.EmptyState, lambda g, c: c * g, scalars)

    optional = made(lambda value=None: {"c": 2.0 if value is None else value})
    assert updated(optional, "value", None).tolist() == (2 * X).tolist()
    assert updated(optional, "value", 3.0).tolist() == (3 * X).tolist()
    with pytest.raises(TypeError, match="needs 'value': call update"):
        updated(made(lambda value: {"c": value}), "value", None)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (True, "float32"),
        (3_000_000_000, "float32"),  # more than an int32 holds
        (np.float64(0.1), "float32"),
        (jnp.float32(2), "float32"),
        (jnp.bfloat16(2), "bfloat16"),
        (ml_dtypes.bfloat16(2), "bfloat16"),
        (fractions.Fraction(1, 4), "float32"),
        (jnp.array(True), "float32"),
    ],
)
def test_a_number_as_an_array(value, dtype):
    x = scalar("it", "value", value)
    assert (x.shape, x.dtype, x.weak_type) == ((), dtype, False)
    np.testing.assert_allclose(float(x), float(value), rtol=1e-7)
    assert scalar("it", "value", value, jnp.float32).dtype == jnp.float32


def test_in_float64(x64):
    assert scalar("it", "value", 0.1) == np.float64(0.1)
    assert scalar("it", "value", jnp.float32(0.1)).dtype == jnp.float32


def test_what_only_looks_like_a_number():
    with pytest.raises(TypeError, match=r"it: value must be one number, got Decimal\('1'\)"):
        scalar("it", "value", decimal.Decimal(1))
