"""How often a rule is traced, and what a step compiles to: once a shape, and in proportion to the leaves."""

import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx
from tests import trees

calls = []  # the shapes that `watched` was traced or run with


@gx.factory
def watched(factor):
    """Multiply, and say that the rule ran."""

    def rule(g, factor):
        calls.append(g if isinstance(g, jax.core.Tracer) else "run")
        return factor * g

    return gx.leafwise(gx.EmptyState, rule, factor=factor)


@pytest.fixture(autouse=True)
def fresh():
    calls.clear()


def ones(tree):
    return jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), tree)


SMALL = [jnp.ones((2, 3))] * 15 + [jnp.ones(4)] * 15


def test_a_rule_is_traced_once_for_all_leaves_of_a_shape():
    tx = watched(2.0)
    jax.jit(tx.update).lower(SMALL, tx.init(SMALL))
    assert [x.shape for x in calls] == [(2, 3), (4,)]


def test_a_number_that_changes_is_not_traced_again():
    """A Python number is a part of the program, what a schedule gives is not."""
    tx = watched(gx.linear_schedule(1.0, 0.0, 10))
    state = tx.init(SMALL)
    for _ in range(3):
        updates, state = tx.update(SMALL, state)
    np.testing.assert_allclose(updates[0], 0.8, rtol=1e-6)
    assert len(calls) == 2


def test_a_profile_shows_the_names_of_links():
    tx = gx.lamb(1e-3, weight_decay=0.1)
    p = {"w": jnp.ones(3)}
    text = jax.jit(tx.update).lower(p, tx.init(p), p).compile().as_text()
    for name in ("scale_by_adam", "add_decayed_weights", "scale_by_trust_ratio"):
        assert f"jit({name})/" in text


def test_an_update_outside_of_jit_compiles_once_for_equal_transformations():
    for factor in (0.25, 0.25, 0.5):
        tx = watched(factor)
        for _ in range(3):
            updates, _ = tx.update(SMALL, tx.init(SMALL))
        np.testing.assert_array_equal(updates[-1], np.full(4, factor))
    assert len(calls) == 2 * 2  # two shapes for each of two factors
    assert jax.tree.leaves(updates)[0].shape == (2, 3)


def test_few_leaves_are_not_worth_a_program_of_their_own():
    tx = watched(3.0)
    before = gx.core.compiled.cache_info().misses
    tx.update(SMALL[:15], tx.init(SMALL[:15]))
    assert gx.core.compiled.cache_info().misses == before
    tx.update(SMALL[:16], tx.init(SMALL[:16]))
    assert gx.core.compiled.cache_info().misses == before + 1


def test_without_jit_values_are_seen():
    tx = watched(4.0)
    with jax.disable_jit():
        tx.update(SMALL, tx.init(SMALL))
    assert calls == ["run"] * 30


@pytest.mark.parametrize(
    "around",
    [
        jax.jit,
        lambda f: lambda updates: jax.vmap(f)([jnp.stack([x, x]) for x in updates]),
        lambda f: functools.partial(jax.eval_shape, f),
        lambda f: lambda *args: jax.jvp(f, args, args)[0],
        lambda f: lambda *args: jax.lax.scan(lambda c, _: (c, f(*args)), 0, None, length=1)[1],
    ],
    ids=["jit", "vmap", "eval_shape", "jvp", "scan"],
)
def test_within_a_trace_it_is_not_compiled_apart(around):
    tx = gx.chain(watched(5.0), gx.scale(2.0))
    before = gx.core.compiled.cache_info()
    around(lambda updates: tx.update(updates, tx.init(SMALL))[0])(SMALL)
    assert gx.core.compiled.cache_info() == before


def test_what_cannot_be_traced_runs_all_the_same():
    """A schedule that branches on the step; an extra argument that is a function."""
    tx = gx.scale_by_schedule(lambda step: 1.0 if step < 1 else 0.5)
    state = tx.init(SMALL)
    for factor in (1.0, 0.5):
        updates, state = tx.update(SMALL, state)
        np.testing.assert_array_equal(updates[0], np.full((2, 3), factor))
    seen = []

    def update(updates, state, params=None, *, f, **extra):
        seen.append(f)
        return updates, state

    told = gx.chain(gx.GradientTransformation(lambda params: (), update))
    told.update(SMALL, told.init(SMALL), f=len)
    assert seen == [len]


def test_an_error_is_that_of_the_mistake_alone():
    tx = gx.adamw(1e-3)
    with pytest.raises(ValueError, match="needs the parameters") as caught:
        tx.update(SMALL, tx.init(SMALL))
    assert caught.value.__context__ is None


def test_an_eager_update_is_the_jitted_one():
    tree = ones(trees.small(20, size=8))
    for tx in (gx.adamw(gx.linear_schedule(1e-2, 0.0, 5)), gx.inject_hyperparams(gx.sgd)(0.1)):
        state = tx.init(tree)
        eager, traced = tx.update(tree, state, tree), jax.jit(tx.update)(tree, state, tree)
        assert jax.tree.structure(eager) == jax.tree.structure(traced)
        for x, y in zip(jax.tree.leaves(eager), jax.tree.leaves(traced), strict=True):
            assert (x.dtype, x.weak_type) == (y.dtype, y.weak_type)
            np.testing.assert_array_equal(x, y)


def test_threads_compile_too():
    tx, before = watched(6.0), gx.core.compiled.cache_info().misses
    thread = threading.Thread(target=lambda: tx.update(SMALL, tx.init(SMALL)))
    thread.start()
    thread.join()
    assert gx.core.compiled.cache_info().misses == before + 1


OPTIMIZERS = [
    gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(gx.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 100))),
    gx.lamb(1e-3),
    gx.chain(gx.normalize_by_update_norm(), gx.sgd(1e-2)),
    gx.lars(0.1),
]


@pytest.mark.parametrize("tx", OPTIMIZERS, ids=repr)
def test_a_program_grows_in_proportion_to_the_leaves(tx):
    """Of the optimized program: a sum over leaves that is copied into each of them grows with the square."""

    def size(leaves):
        p = trees.small(leaves, size=64)
        state = jax.eval_shape(tx.init, p)
        lowered = jax.jit(tx.update, donate_argnums=1).lower(p, state, p)
        return len(lowered.compile().as_text().splitlines())

    few, many = size(20), size(80)
    assert many <= 4.1 * few
