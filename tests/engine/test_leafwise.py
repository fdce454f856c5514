"""The engine: dtypes in and out, structure errors, what a rule may ask for."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import zero_slot


class Slots(NamedTuple):
    a: object
    b: object


def test_a_rule_is_given_what_it_names(lenient):
    def scalars(t, rate, updates, params):
        return {"twice": 2 * rate, "total": sum(map(jnp.sum, updates)) + sum(map(jnp.sum, params)), "step": t}

    def rule(g, p, a, b, rate, twice, total, step):
        assert g.dtype == p.dtype == a.dtype == b.dtype == jnp.float32
        return g + p, a + rate + step, b + twice + total

    tx = leafwise(Slots, rule, scalars, rate=lambda step: 1.0 + step)
    p = {"x": jnp.ones(2, jnp.bfloat16), "y": jnp.zeros(())}
    u, state = tx.update(p, tx.init(p), p)
    u, state = tx.update(p, state, p)
    np.testing.assert_array_equal(u["x"], [2.0, 2.0])
    np.testing.assert_array_equal(state.inner_state.a["x"], [6.0, 6.0])  # (1 + 1) + (2 + 2)
    np.testing.assert_array_equal(state.inner_state.b["y"], 14.0)  # (2 + 4) + (4 + 4)
    assert state.count == 2


def test_a_rule_that_asks_for_what_there_is_not():
    def rule(g, a, b, rat):
        return g, a, b

    tx = leafwise(Slots, rule, rate=0.1)
    x = jnp.ones(1)
    with pytest.raises(
        TypeError, match=r"asks for 'rat', and there are only \['a', 'b', 'dtype', 'g', 'p', 'rate'\]"
    ):
        tx.update(x, tx.init(x), x)


def test_a_rule_that_returns_too_little():
    x = jnp.ones(1)
    for rule in (lambda g, a, b: (g, a), lambda g, a, b: g):
        tx = leafwise(Slots, rule)
        with pytest.raises(TypeError, match=r"the rule must return the update and then \['a', 'b'\]"):
            tx.update(x, tx.init(x))


def test_a_rule_that_changes_the_shape():
    tx = leafwise(gx.EmptyState, lambda g: g.sum())
    with pytest.raises(ValueError, match=r"at the root: an update of shape \(2,\) became one of \(\)"):
        tx.update(jnp.ones(2), gx.EmptyState())


def test_names_that_are_taken():
    with pytest.raises(
        TypeError, match=r"\['trace'\] have another meaning in a rule: rename these hyperparameters"
    ):
        leafwise(optax.TraceState, lambda g, trace: (g, trace), trace=5.0)


def test_rules_may_be_partial_or_jitted():
    def rule(g, factor, extra=1.0):
        return factor * extra * g

    for made in (functools.partial(rule, extra=2.0), jax.jit(lambda g, factor: 2.0 * factor * g)):
        u, _ = leafwise(gx.EmptyState, made, factor=3.0).update(jnp.ones(1), gx.EmptyState())
        assert u[0] == 6.0


@pytest.mark.parametrize(
    ("tx", "other", "message"),
    [
        (
            gx.trace(lambda step: 0.9),
            gx.trace(0.9),
            r"trace needs a ScheduledState, and was given a TraceState",
        ),
        (
            gx.trace(0.9),
            gx.trace(lambda step: 0.9),
            r"trace needs a TraceState, and was given a ScheduledState",
        ),
        (
            gx.masked(gx.trace(0.9), True),
            gx.trace(0.9),
            r"masked needs a MaskedState, and was given a TraceState",
        ),
        (
            gx.inject_hyperparams(gx.sgd)(0.1),
            gx.sgd(0.1),
            r"inject_hyperparams needs an InjectStateful.* a tuple",
        ),
    ],
)
def test_a_state_of_another_kind(tx, other, message):
    x = jnp.ones(1)
    with pytest.raises(TypeError, match=message):
        tx.update(x, other.init(x), x)


def test_slots_keep_the_dtype_that_was_asked_for():
    tx = gx.scale_by_adam(mu_dtype=jnp.bfloat16)
    p = {"x": jnp.ones(3, jnp.bfloat16)}
    state = tx.init(p)
    assert (state.mu["x"].dtype, state.nu["x"].dtype) == (jnp.bfloat16, jnp.float32)


def test_slots_may_be_small_trees():
    """A slot of another shape than the parameter: here a row and a column."""

    def start(p):
        return {"row": jnp.zeros(p.shape[0], jnp.bfloat16), "column": jnp.zeros(p.shape[1])}

    def rule(g, trace):
        assert trace["row"].dtype == jnp.float32
        return g, {"row": trace["row"] + g.sum(1), "column": trace["column"] + g.sum(0)}

    tx = leafwise(optax.TraceState, rule, slots={"trace": start})
    p = {"x": jnp.ones((2, 3))}
    _, state = tx.update(p, tx.init(p))
    np.testing.assert_array_equal(state.trace["x"]["row"], [3, 3])
    assert state.trace["x"]["row"].dtype == jnp.bfloat16


def test_python_numbers_are_leaves_too():
    tx = gx.adam(0.1)
    u, state = tx.update({"a": -0.5}, tx.init({"a": 1.0}), {"a": 1.0})
    np.testing.assert_allclose(u["a"], 0.1, rtol=1e-6)
    assert not state[0].mu["a"].weak_type


def test_init_works_on_shapes_alone():
    shapes = {"w": jax.ShapeDtypeStruct((2, 3), jnp.bfloat16)}
    state = jax.eval_shape(gx.adamw(1e-3).init, shapes)
    assert state[0].nu["w"].dtype == jnp.float32


W = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda tx: tx.update(W, tx.init(W)),
            ValueError,
            r"^add_decayed_weights needs the parameters: call update\(updates, state, params\)",
        ),
        (
            lambda tx: tx.update({"w": W["w"]}, tx.init(W), W),
            ValueError,
            r"\['b'\] is in the state's mu, but not in the updates. Was the state made by this",
        ),
        (
            lambda tx: tx.update({**W, "c": W["b"]}, tx.init(W), W),
            ValueError,
            r"\['c'\] is in the updates, but not in the state's mu",
        ),
        (
            lambda tx: tx.update({"w": [W["w"]], "b": W["b"]}, tx.init(W), W),
            ValueError,
            r"\['w'\]\[0\] is in the updates, but not in the state's mu",
        ),
        (
            lambda tx: tx.update({"a": (1.0, 2.0)}, tx.init({"a": [1.0, 2.0]})),
            ValueError,
            r"at \['a'\] there is a tuple in the updates, and a list in the state's mu",
        ),
        (
            lambda tx: tx.update(W, tx.init({**W, "b": jnp.ones(4)}), W),
            ValueError,
            r"scale_by_adam, at \['b'\]: mu has shape \(4,\), and should have \(3,\). Was the state made",
        ),
        (
            lambda tx: tx.update(W, tx.init({**W, "b": jnp.ones(())}), W),
            ValueError,
            r"scale_by_adam, at \['b'\]: mu has shape \(\), and should have \(3,\)",
        ),
        (
            lambda tx: tx.update(W, tx.init(W), {**W, "b": jnp.ones((1, 3))}),
            ValueError,
            r"add_decayed_weights, at \['b'\]: the update has shape \(3,\), its parameter shape \(1, 3\)",
        ),
        (
            lambda tx: tx.update(W, tx.init(W), {"w": W["w"]}),
            ValueError,
            r"\['b'\] is in the updates, but not in the parameters",
        ),
        (
            lambda tx: tx.update(W, (gx.EmptyState(), *tx.init(W)[1:]), W),
            TypeError,
            r"scale_by_adam needs a ScaleByAdamState, and was given an EmptyState",
        ),
        (
            lambda tx: tx.update({**W, "n": jnp.arange(3)}, tx.init({**W, "n": jnp.arange(3)})),
            ValueError,
            r"scale_by_adam, at \['n'\]: the state has no mu, because at init the parameter was ",
        ),
        (
            lambda tx: tx.update({**W, "b": jnp.ones(())}, tx.init(W), W),
            ValueError,
            r"scale_by_adam, at \['b'\]: an update of shape \(\) became one of \(3,\). Was the state made",
        ),
        (
            lambda tx: tx.update(W, tx.init(W), {**W, "b": None}),
            ValueError,
            r"at \['b'\]: the update has shape \(3,\), its parameter no array",
        ),
        (lambda tx: tx.update({**W, "b": "text"}, tx.init(W), W), TypeError, "'b'.*str cannot be optimized"),
    ],
)
def test_mistakes_name_the_path(call, error, message):
    with pytest.raises(error, match=message):
        call(gx.adamw(1e-3))


def test_an_error_inside_a_rule_says_where():
    def broken(g, trace):
        return jnp.dot(g, jnp.ones(7)), trace

    tx = leafwise(optax.TraceState, broken)
    with pytest.raises(TypeError) as e:
        tx.update(W, tx.init(W))
    assert "(in test_an_error_inside_a_rule_says_where, at ['b'])" in e.value.__notes__


def test_a_slot_cannot_drop_the_imaginary_part():
    with pytest.raises(TypeError, match="complex64 cannot be stored in bfloat16"):
        zero_slot(jnp.bfloat16)(jnp.ones(2, jnp.complex64))


def test_a_slot_that_starts_as_the_parameter_is_its_own_buffer():
    tx = leafwise(optax.TraceState, lambda g, trace: (g, trace), slots={"trace": lambda p: p})
    x = jnp.ones(3)
    assert tx.init(x).trace.unsafe_buffer_pointer() != x.unsafe_buffer_pointer()


def test_integer_slots_are_left_alone():
    def rule(g, trace):
        assert trace.dtype == jnp.int8
        return g, trace + jnp.int8(1)

    tx = leafwise(optax.TraceState, rule, slots={"trace": lambda p: jnp.zeros(p.shape, jnp.int8)})
    x = jnp.ones(1)
    assert tx.update(x, tx.init(x))[1].trace == 1


@pytest.mark.parametrize("dtype", [jnp.int8, bool])
def test_slots_are_floating_point(dtype):
    with pytest.raises(TypeError, match="a slot must be floating point"):
        gx.adam(0.1, mu_dtype=dtype)


def test_a_complex_gradient_of_a_real_parameter_is_refused(lenient):
    x = jnp.ones(2)
    with pytest.raises(TypeError, match="the update is complex, and the state's mu is real"):
        gx.adam(0.1).update(x * 1j, gx.adam(0.1).init(x))


@pytest.mark.parametrize("tx", [gx.adam(0.1), gx.sgd(jnp.float32(0.1), 0.9), gx.lamb(0.1)], ids=repr)
def test_strict_promotion_allows_complex_and_mixed_precision(tx, x64):
    """Strictness is for the user's own code."""
    for p, g in ((jnp.complex64, jnp.complex64), (jnp.float64, jnp.float32), (jnp.float32, jnp.float64)):
        p, g = jnp.ones(2, p), jnp.ones(2, g)
        u, state = tx.update(g, tx.init(p), p)
        assert jnp.all(jnp.isfinite(u))
        jax.tree.map(lambda a, b: a.dtype == b.dtype or pytest.fail("drift"), state, tx.init(p))


def test_numpy_gradients_and_parameters_give_jax_updates():
    g = {"w": np.full(2, 2.0, np.float32)}
    for tx in (gx.sgd(0.1), gx.adamw(0.1), gx.clip_by_global_norm(1.0)):
        u, _ = tx.update(g, tx.init(g), g)
        assert isinstance(u["w"], jax.Array)


def test_scalars_may_ask_for_extra_arguments_of_update():
    def scalars(value, scale=2.0):
        return {"factor": value * scale}

    def rule(g, factor):
        return factor * g

    tx, x = leafwise(gx.EmptyState, rule, scalars), jnp.ones(2)
    u, _ = gx.chain(gx.scale(1.0), tx).update(x, (gx.EmptyState(),) * 2, value=jnp.float32(3.0), other=1)
    np.testing.assert_array_equal(u, [6.0, 6.0])
    u, _ = tx.update(x, gx.EmptyState(), value=1.0, scale=5.0)
    np.testing.assert_array_equal(u, [5.0, 5.0])
    with pytest.raises(TypeError, match=r"needs 'value': call update\(updates, state, params, value=...\)"):
        tx.update(x, gx.EmptyState())


@pytest.mark.parametrize("inject", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda b: gx.scale_by_adam(b1=b, b2=0.999, eps=0.0),
        lambda b: gx.scale_by_adam(b1=0.9, b2=b, eps=0.0),
        lambda b: gx.ema(b),
    ],
)
def test_a_constant_gradient_gives_a_constant_update_under_scheduled_betas(make, inject, x64):
    """Optax and torch, which correct by 1 - bᵗ, give 0.0866 where 0.1 is right."""
    schedule = lambda count: jnp.where(count % 4 < 2, 0.95, 0.85)

    def factory(beta):
        return make(beta)

    tx = gx.inject_hyperparams(factory, hyperparam_dtype=jnp.float64)(schedule) if inject else make(schedule)
    g = jnp.array([0.3, -2.0])
    state, first = tx.init(g), None
    update = jax.jit(tx.update)
    for _ in range(30):
        u, after = update(g, state)
        assert jax.tree.structure(after) == jax.tree.structure(state)
        first = u if first is None else first
        state = after
        np.testing.assert_allclose(u, first, rtol=1e-12)
    np.testing.assert_allclose(abs(first), abs(g) if "ema" in repr(make(0.5)) else 1.0, rtol=1e-12)


def test_constant_betas_cost_no_state():
    x = jnp.ones(1)
    assert isinstance(gx.scale_by_adam().init(x), gx.ScaleByAdamState)
    state = gx.scale_by_adam(b1=gx.linear_schedule(0.95, 0.85, 10)).init(x)
    assert set(state.weights) == {"b1"}
    assert isinstance(state.inner_state, gx.ScaleByAdamState)


def test_fields_can_be_renamed():
    """A class that others made may call its count `t` and a slot `g`, which mean something else in a rule."""

    class State(NamedTuple):
        g: object
        t: object

    def rule(g, last, b):
        return b * last + g, g

    tx = gx.leafwise(
        State, rule, renamed={"g": "last", "t": "count"}, b=lambda step: step.astype(jnp.float32)
    )
    state = tx.init(jnp.zeros(2))
    assert (state.t.dtype, int(state.t)) == (jnp.int32, 0)
    for i in range(3):
        u, state = tx.update(jnp.full(2, 10.0**i), state)
    assert u[0] == 2 * 10 + 100
    assert state.g[0] == 100
    assert state.t == 3
