"""Outside of jit: pure updates compile themselves and share that; a user's function runs as written."""

import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from gradx.core import compilation
from tests import trees

FEW = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
MANY = {f"layer{i}": FEW for i in range(20)}
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **kwargs: (
        compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
)


def programs(tx, tree, steps=1):
    """How many programs are compiled by some steps from a state that is there."""
    state = tx.init(tree)
    extra = {"value": jnp.ones(())}
    before = len(compiled)
    for _ in range(steps):
        _, state = tx.update(tree, state, tree, **extra)
    return len(compiled) - before


@pytest.mark.parametrize("tree", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize(
    "make",
    [
        lambda x: gx.adamw(x, b2=1 - x, weight_decay=x),
        lambda x: gx.chain(gx.clip_by_global_norm(x), gx.lamb(x)),
        lambda x: gx.accumulate(gx.adam(x), 2),
        lambda x: gx.skip_if(gx.sgd(x, momentum=0.9), gx.nonfinite()),
        lambda x: gx.adam(gx.linear_schedule(x, 0.0, 10)),
        lambda x: gx.groups(gx.sgd(x), {"b$": gx.frozen()}),
    ],
)
def test_transformations_that_differ_in_numbers_share_a_program(make, tree):
    first = programs(make(0.123), tree)
    assert first <= 3  # one beside those that tell contexts apart
    assert programs(make(0.123), tree) == programs(make(0.25), tree) == 0


def test_equal_programs_are_kept_once():
    """JAX compares the program of each call with the one that it knows, which is long unless they are one."""
    kept = set()
    for tx in (gx.adamw(0.321), gx.adamw(0.123), gx.adamw(0.1, b1=0.8)):
        leaves, treedef = jax.tree.flatten((FEW, tx.init(FEW), FEW, {}))
        kept.add(id(compilation.traced(tx, "update", leaves, treedef, (None,) * len(leaves)).program))
    assert len(kept) == 1


def test_other_numbers_give_other_results():
    """By the digits that a constant has: 0.999 in float32 is off by enough to move the result by 1e-5."""
    for tx in (gx.adamw(0.1, b1=0.91, b2=0.999), gx.adamw(0.3, b1=0.8, b2=0.9999, weight_decay=0.5)):
        state = jitted = tx.init(FEW)
        for _ in range(3):
            eager, state = tx.update(FEW, state, FEW)
            traced, jitted = jax.jit(tx.update)(FEW, jitted, FEW)
        for x, y in zip(jax.tree.leaves((eager, state)), jax.tree.leaves((traced, jitted)), strict=True):
            np.testing.assert_allclose(x, y, rtol=2.5e-7)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (gx.adam(0.1), gx.adam(0.1, nesterov=True)),
        (gx.scale_by_lion(), gx.scale_by_lion(variant="smooth")),
        (gx.sgd(gx.polynomial_schedule(0.5, 0.1, 2, 9)), gx.sgd(gx.polynomial_schedule(0.5, 0.1, 3, 9))),
    ],
)
def test_rules_that_differ_share_no_program(one, other):
    tree = {"w": jnp.arange(9.0).reshape(3, 3) ** 2}
    second = lambda tx, tree: tx.update(tree, tx.update(tree, tx.init(tree), tree)[1], tree)[0]["w"]
    eager = [second(tx, tree) for tx in (one, other)]
    for tx, found in zip((one, other), eager, strict=True):
        jitted = jax.jit(lambda tree, tx=tx: second(tx, tree))(tree)
        np.testing.assert_allclose(found, jitted, rtol=1e-6)


def test_an_eager_update_is_the_jitted_one():
    tree = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), trees.small(20, size=8))
    for tx in (gx.adamw(gx.linear_schedule(1e-2, 0.0, 5)), gx.inject_hyperparams(gx.sgd)(0.1)):
        state = tx.init(tree)
        eager, traced = tx.update(tree, state, tree), jax.jit(tx.update)(tree, state, tree)
        assert jax.tree.structure(eager) == jax.tree.structure(traced)
        for x, y in zip(jax.tree.leaves(eager), jax.tree.leaves(traced), strict=True):
            assert (x.dtype, x.weak_type) == (y.dtype, y.weak_type)
            np.testing.assert_allclose(x, y, rtol=1.2e-7)  # XLA contracts constants in another order


AROUND = {
    "accumulate": lambda tx: gx.accumulate(tx, 2, drop_nonfinite=True),
    "apply_if_finite": lambda tx: gx.apply_if_finite(tx, 3),
    "average": lambda tx: gx.chain(tx, gx.ema_params(0.9)),
    "conditionally": lambda tx: gx.conditionally_mask(tx, lambda step: step % 2 == 0),
    "groups": lambda tx: gx.groups(tx, {"w$": gx.frozen()}),
    "lookahead": lambda tx: gx.lookahead(tx, 2),
    "loss scale": lambda tx: gx.dynamic_loss_scale(tx, 4.0),
    "masked": lambda tx: gx.masked(tx, "matrices_only"),
    "measured": gx.measured,
    "MultiSteps": lambda tx: gx.MultiSteps(tx, 2),
    "named": lambda tx: gx.named_chain(("inner", tx), ("clip", gx.clip(1.0))),
    "packed": gx.packed,
    "partition": lambda tx: gx.partition({"all": tx}, "all"),
    "precision": lambda tx: gx.precision(tx, "bf16-kahan"),
    "stacked": lambda tx: gx.stacked(tx, {"w$": 0}),
    "store": lambda tx: gx.store(tx, gx.Rounded(), min_size=1, seed=0),
    "skip_if": lambda tx: gx.skip_if(tx, gx.nonfinite()),
}
INNER = {
    "plain": gx.adamw(0.1),
    "injected": gx.inject_hyperparams(gx.adamw)(0.1),
    "injected schedule": gx.inject_hyperparams(gx.adamw)(gx.linear_schedule(0.1, 0.0, 10)),
    "user's schedule": gx.adamw(lambda step: jnp.where(step < 2, 0.1, 0.05)),
    "user's factory": gx.inject_hyperparams(lambda rate: gx.adamw(rate))(0.1),
    "foreign": optax.adam(0.1),
}


@pytest.mark.parametrize(
    "inner", [k if k == "injected" else pytest.param(k, marks=pytest.mark.slow) for k in INNER]
)
@pytest.mark.parametrize("around", AROUND)
def test_the_second_step_of_a_wrapper_compiles_nothing(around, inner, lenient):
    tx = AROUND[around](INNER[inner])
    steps = 4  # both branches of what happens at every second step
    programs(tx, FEW, steps)
    assert programs(tx, FEW, steps) == 0


@pytest.mark.parametrize("tree", [FEW, MANY], ids=["few", "many"])
def test_a_users_function_runs_as_written_at_each_step(tree):
    """A rate that the loop changes: a schedule, a link, a rule, a mask and a foreign link that read it."""
    rate = [1.0]
    link = gx.stateless(lambda updates, params: jax.tree.map(lambda u: u * rate[0], updates))
    made = [
        gx.sgd(lambda step: -rate[0]),
        link,
        gx.leafwise(gx.EmptyState, lambda g: rate[0] * g),
        gx.stateless_with_tree_map(lambda u, p: rate[0] * u),
        optax.stateless(lambda updates, params: jax.tree.map(lambda u: u * rate[0], updates)),
    ]
    around = [lambda tx: tx, *(AROUND[k] for k in ("groups", "measured", "skip_if", "stacked"))]
    for tx in (wrap(gx.chain(one)) for one in made for wrap in around):
        state = tx.init(tree)
        for rate[0] in (1.0, 2.0, 4.0):
            updates, state = tx.update(tree, state, tree)
            np.testing.assert_array_equal(jax.tree.leaves(updates)[0], rate[0])


def test_equal_transformations_of_a_users_factory_may_differ():
    rate = [1.0]

    @gx.factory
    def mine():
        return gx.scale(rate[0])

    for rate[0] in (1.0, 2.0):
        assert mine().purity == 1
        np.testing.assert_array_equal(mine().update(FEW, mine().init(FEW))[0]["b"], rate[0])
    programs(mine(), FEW)
    assert programs(mine(), FEW) == 0  # it is traced again, and needs no program of its own


def test_a_schedule_that_branches_on_the_step_and_an_argument_that_is_a_function():
    tx = gx.scale_by_schedule(lambda step: 1.0 if step < 1 else 0.5)
    state = tx.init(MANY)
    for factor in (1.0, 0.5):
        updates, state = tx.update(MANY, state)
        np.testing.assert_array_equal(updates["layer0"]["w"], np.full((2, 3), factor))
    seen = []

    def update(updates, state, params=None, *, f, **extra):
        seen.append(f)
        return updates, state

    told = gx.chain(gx.GradientTransformation(lambda params: (), update))
    told.update(MANY, told.init(MANY), f=len)
    assert seen == [len]


def test_functions_among_the_parameters_do_not_matter():
    params, grads = FEW | {"f": jax.nn.relu, "n": 3}, FEW | {"f": None, "n": None}
    updates, _ = gx.sgd(0.5).update(grads, gx.sgd(0.5).init(params), params)
    assert updates["f"] is updates["n"] is None
    np.testing.assert_array_equal(updates["b"], -0.5)


def test_without_jit_values_are_seen():
    seen = []
    tx = gx.leafwise(gx.EmptyState, lambda g: seen.append(type(g)) or g)
    with jax.disable_jit():
        gx.chain(tx, gx.scale(1.0)).update(FEW, (gx.EmptyState(), gx.EmptyState()))
    assert not [kind for kind in seen if issubclass(kind, jax.core.Tracer)]


@pytest.mark.parametrize(
    "around",
    [
        jax.jit,
        lambda f: lambda updates: jax.vmap(f)(jax.tree.map(lambda x: jnp.stack([x, x]), updates)),
        lambda f: functools.partial(jax.eval_shape, f),
        lambda f: lambda *args: jax.jvp(f, args, args)[0],
        lambda f: lambda *args: jax.lax.scan(lambda c, _: (c, f(*args)), 0, None, length=1)[1],
    ],
    ids=["jit", "vmap", "eval_shape", "jvp", "scan"],
)
def test_within_a_trace_it_is_not_compiled_apart(around):
    from gradx.core.compilation import traces

    tx = gx.chain(gx.scale(5.0), gx.scale(2.0))
    before = traces.cache_info()
    around(lambda updates: tx.update(updates, tx.init(FEW))[0])(FEW)
    assert traces.cache_info() == before


def test_an_error_is_the_error_of_the_mistake_alone():
    tx = gx.adamw(1e-3)
    with pytest.raises(ValueError, match="needs the parameters") as caught:
        tx.update(MANY, tx.init(MANY))
    assert caught.value.__context__ is None


def test_another_context_is_another_trace():
    """Strict promotion raises where the ordinary one does not, whichever was traced first."""
    tx = gx.stateless  # of gradx, so that what it makes would be compiled, but for the user's function
    assert tx(lambda u, p: u).purity == 0
    tx = gx.sgd(0.5)
    with jax.enable_x64(True):
        wide = tx.update(jnp.ones(2, jnp.float64), tx.init(jnp.ones(2)))[0]
    assert (wide.dtype, tx.update(jnp.ones(2), tx.init(jnp.ones(2)))[0].dtype) == (jnp.float64, jnp.float32)


def test_threads_share_what_is_compiled():
    tx = gx.adamw(0.0123)
    programs(tx, FEW)
    found = []
    thread = threading.Thread(target=lambda: found.append(programs(gx.adamw(0.0321), FEW)))
    thread.start()
    thread.join()
    assert found == [0]
