"""What is reported is what happened; where nobody asks, nothing is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from gradx.core.reports import Report, news_if, prefixed
from tests.problems import grads, params

TX = gx.chain(gx.clip_by_global_norm(1.0), gx.lamb(gx.linear_schedule(0.1, 0.0, 10), weight_decay=0.1))


def run(tx, steps=3, update=None):
    """The updates and metrics of each step."""
    p = params()
    state, out = tx.init(p), []
    for i in range(steps):
        u, state = (update or tx.update)(grads(i, p), state, p)
        out.append((u, jax.tree.map(float, gx.metrics(state))))
        p = gx.apply_updates(p, u)
    return out


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(np.float64(x))) for x in jax.tree.leaves(tree)))


def test_metrics_are_what_happened():
    """By hand, in NumPy, from what goes in and comes out."""
    p, clipped = params(), []
    state = gx.measured(TX).init(p)
    for i in range(3):
        g = jax.tree.map(lambda x: x / (1 + 50 * (i == 1)), grads(i, p))  # all but the second are clipped
        u, state = gx.measured(TX).update(g, state, p)
        found = gx.metrics(state)
        clipped.append(norm(g) > 1)
        np.testing.assert_allclose(found["gradient_norm"], norm(g), rtol=1e-6)
        np.testing.assert_allclose(found["update_norm"], norm(u), rtol=1e-6)
        np.testing.assert_allclose(found["parameter_norm"], norm(p), rtol=1e-6)
        np.testing.assert_allclose(found["clip_rate"], np.mean(clipped), rtol=1e-6)
        rate = 0.1 * (1 - i / 10)
        np.testing.assert_allclose(found["learning_rate"], rate, rtol=1e-6)
        for path, x in {"w": u["w"], "b": u["b"], "layers/0": u["layers"][0]}.items():
            # LAMB's step is as long as learning rate times parameter, divided by what the ratio made of it.
            weights = {"w": p["w"], "b": p["b"], "layers/0": p["layers"][0]}[path]
            if norm(weights):
                assert found[f"trust_ratio/{path}"] > 0
                np.testing.assert_allclose(norm(x), rate * norm(weights), rtol=1e-5)
            else:
                assert found[f"trust_ratio/{path}"] == 1
        p = gx.apply_updates(p, u)
    assert clipped == [True, False, True]


def test_a_trust_ratio_is_that_of_its_parameter():
    p = {"small": jnp.full(4, 0.5), "large": jnp.full(9, 100.0)}
    tx = gx.measured(gx.scale_by_trust_ratio())
    _, state = tx.update(jax.tree.map(jnp.ones_like, p), tx.init(p), p)
    found = gx.metrics(state)
    assert (float(found["trust_ratio/small"]), float(found["trust_ratio/large"])) == (0.5, 100.0)


@pytest.mark.parametrize("update", [None, jax.jit], ids=["eager", "jit"])
def test_updates_are_those_of_the_inner_one(update):
    measured = gx.measured(TX)
    with_it = run(measured, update=update and update(measured.update))
    p = params()
    state = TX.init(p)
    for i, (u, _) in enumerate(with_it):
        v, state = TX.update(grads(i, p), state, p)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), u, v)
        p = gx.apply_updates(p, u)


def test_of_two_of_one_name_the_second_has_a_number():
    tx = gx.measured(gx.chain(gx.sgd(0.5), gx.scale_by_learning_rate(0.25)))
    found = run(tx, 1)[0][1]
    assert (found["learning_rate"], found["learning_rate_2"]) == (0.5, 0.25)


def test_an_injected_rate_is_that_of_the_state():
    tx = gx.measured(gx.inject_hyperparams(gx.adamw)(1e-3))
    p = params()
    state = gx.set_hyperparams(tx.init(p), learning_rate=0.5)
    _, state = tx.update(grads(0, p), state, p)
    assert gx.metrics(state)["learning_rate"] == 0.5


def test_without_parameters_there_is_no_norm_of_them():
    tx = gx.measured(gx.sgd(0.1))
    _, state = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    assert jnp.isnan(gx.metrics(state)["parameter_norm"])


def test_a_missing_gradient_keeps_the_ratio_of_before():
    p = {"a": jnp.ones(2), "b": jnp.full(2, 3.0)}
    tx = gx.measured(gx.scale_by_trust_ratio())
    _, state = tx.update(jax.tree.map(jnp.ones_like, p), tx.init(p), p)
    _, state = tx.update({"a": jnp.full(2, 4.0), "b": None}, state, p)
    assert (gx.metrics(state)["trust_ratio/a"], gx.metrics(state)["trust_ratio/b"]) == (0.25, 3.0)


def test_an_eager_update_of_many_leaves_leaks_nothing():
    """It compiles itself as a whole; a link that cannot be traced falls back, and does not leak either."""
    p = {str(i): jnp.ones(2) for i in range(20)}
    branches = gx.stateless(lambda updates, params: updates if float(updates["0"][0]) else {})
    for tx in (gx.measured(TX), gx.measured(gx.chain(TX, branches))):
        state = tx.init(p)
        for _ in range(2):
            _, state = tx.update(p, state, p)
        assert float(gx.metrics(state)["clip_rate"]) == 1


def test_a_foreign_transformation_reports_nothing(lenient):
    tx = gx.measured(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)))
    assert run(tx, 1)[0][1].keys() == {"gradient_norm", "update_norm", "parameter_norm"}


@pytest.mark.parametrize("tx", [gx.sgd(0.1), gx.chain(gx.measured(gx.sgd(0.1)), gx.measured(gx.sgd(0.1)))])
def test_metrics_are_in_one_place(tx):
    with pytest.raises(ValueError, match=r"metrics in (no|more than one) place: put gradx.measured around"):
        gx.metrics(tx.init(jnp.ones(2)))


@pytest.mark.parametrize(
    ("norms", "most"), [((), 44.1), (("gradient",), 44.1), (("gradient", "parameter"), 48.1), (None, 72.1)]
)
def test_norms_cost_what_they_must(norms, most):
    """That of the gradients is the one that clipping takes anyway."""
    p = [jax.ShapeDtypeStruct((512, 512), "float32")] * 8
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3))
    tx = gx.measured(tx) if norms is None else gx.measured(tx, norms=norms)
    assert gx.cost(tx, p, platform="cpu").moved_per_parameter <= most


def test_one_norm_can_be_named_alone():
    state = gx.measured(gx.scale(1.0), norms="update").init(jnp.ones(2))
    assert gx.metrics(state).keys() == {"update_norm"}


def test_an_unknown_norm_is_refused():
    message = "measured: norms must be 'gradient', 'update' or 'parameter', got 'loss'"
    with pytest.raises(ValueError, match=message):
        gx.measured(gx.sgd(0.1), norms=["gradient", "loss"])


def test_reports_are_returned_from_what_jax_traces_by_itself():
    """A `cond` in the middle: its branches return their reports, which are news where a condition holds."""

    def branch(x):
        return 2 * x, (Report("inner", x, mean=True),)

    def outer(x):
        out, told = jax.lax.cond(x > 0, branch, branch, x)
        return out, news_if(x > 1, prefixed("groups/a", told))

    out, (report,) = jax.jit(outer)(jnp.ones(()))
    assert (out, report.name, report.mean) == (2, "groups/a/inner", True)
    assert (float(report.value), bool(report.news)) == (1.0, False)


@pytest.mark.parametrize("traced_first", [False, True])
def test_a_jitted_inner_or_a_foreign_wrapper_keeps_its_numbers(traced_first, lenient):
    """Reports were a side effect once: a trace that JAX kept reported zeros, one that it made leaked."""
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.sgd(0.5))
    x = jnp.array([3.0, 4.0])
    for wrapped in (
        optax.GradientTransformationExtraArgs(tx.init, jax.jit(tx.update)),
        gx.GradientTransformation(tx.init, jax.jit(tx.update)),
        optax.apply_if_finite(tx, 2),
        optax.MultiSteps(tx, 1),
        optax.conditionally_mask(tx, lambda step: step < 5),
        gx.GradientTransformation(tx.init, jax.checkpoint(tx.update)),
    ):
        measured = gx.measured(wrapped)
        if traced_first:
            wrapped.update(x, wrapped.init(x), x)
        for update in (measured.update, jax.jit(measured.update)):
            u, state = update(x, measured.init(x), x)
            np.testing.assert_allclose(u, [-0.3, -0.4], rtol=1e-6)
            found = {name: round(float(value), 4) for name, value in gx.metrics(state).items()}
            assert found == {"gradient_norm": 5.0, "update_norm": 0.5, "parameter_norm": 5.0}
