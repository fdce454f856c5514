"""Where others' code meets gradx: wrappers around and inside, walks over trees, whole models, dtypes."""

import copy
import gc
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
import pytest

import gradx as gx
from tests.problems import aval, grads, params
from tests.test_contract import ALL, each, each_of_ours

PARAMS = {"w": jnp.ones((3, 4), jnp.bfloat16), "b": jnp.ones(4, jnp.bfloat16)}


eager_or_jit = pytest.mark.parametrize(
    "jitted", [pytest.param(False, id="eager"), pytest.param(True, id="jit", marks=pytest.mark.slow)]
)


@each
def test_a_transformation_is_a_static_node(tx):
    """Nothing is lost or rebuilt in a walk over a pytree, and no attribute of it is a leaf."""
    assert jax.tree.leaves(tx) == []
    assert jax.tree.map(lambda x: x, {"tx": tx})["tx"] is tx
    arrays, rest = eqx.partition(tx, eqx.is_array)
    assert arrays == rest == tx
    assert hash(tx) == hash(jax.tree.unflatten(jax.tree.structure(tx), []))


@each_of_ours
def test_copies_are_equal_and_do_the_same(tx):
    p = params()
    for other in (copy.copy(tx), copy.deepcopy(tx), pickle.loads(pickle.dumps(tx))):
        assert (other, hash(other), repr(other)) == (tx, hash(tx), repr(tx))
        assert aval(jax.eval_shape(other.init, p)) == aval(jax.eval_shape(tx.init, p))
    through = lambda g, s, p, tx: tx.update(g, s, p)
    with jax.numpy_dtype_promotion("standard"):
        state = jax.eval_shape(tx.init, p)
        expected = jax.eval_shape(tx.update, grads(0, p), state, p)
        assert aval(eqx.filter_eval_shape(through, grads(0, p), state, p, tx)) == aval(expected)


def cells(function, seen):
    """All that the closures of a function hold, and the closures of that."""
    if id(function) in seen:
        return
    seen[id(function)] = function
    for cell in getattr(function, "__closure__", None) or ():
        cells(cell.cell_contents, seen)
    if isinstance(function, tuple):
        for x in function:
            cells(x, seen)


@each
def test_no_closure_holds_itself(tx):
    """A transformation is freed when the last name of it is gone, without the cycle collector's help."""
    seen = {}
    for function in tx:
        cells(function, seen)
    assert id(tx) not in seen


def test_a_transformation_is_freed_at_once():
    class Seen:
        pass

    import weakref

    gc.disable()
    try:
        held = Seen()
        ref = weakref.ref(held)
        tx = gx.chain(gx.GradientTransformation(lambda params, held=held: (), lambda u, s, p=None: (u, s)))
        del held
        assert ref() is not None
        del tx
        assert ref() is None
    finally:
        gc.enable()


BORDER = [("bfloat16", "bfloat16"), ("float32", "bfloat16")]
BORDER += [
    pytest.param(*pair, marks=pytest.mark.slow) for pair in [("bfloat16", "float32"), ("float16",) * 2]
]


@each
@pytest.mark.parametrize(("param_dtype", "grad_dtype"), BORDER)
def test_an_update_has_the_dtype_that_it_has_with_optax(tx, param_dtype, grad_dtype):
    """`result_type(parameter, gradient)`, but where rounding the parameters needs float32."""
    p = params(jnp.dtype(param_dtype))
    g = jax.tree.map(lambda x: x.astype(grad_dtype), params())
    with jax.numpy_dtype_promotion("standard"):
        state = jax.eval_shape(tx.init, p)
        out, _ = jax.eval_shape(lambda g, s, p: tx.update(g, s, p), g, state, p)
        joint = jnp.promote_types(param_dtype, grad_dtype)
    expected = jnp.dtype("float32") if tx.exact else joint
    assert {x.dtype for x in jax.tree.leaves(out)} == {expected}


@each
def test_a_step_may_be_left_out_and_parameters_added_by_hand(tx):
    """As MaxText and Levanter do: both branches have one type, and so does the carry of a loop."""
    p = params(jnp.bfloat16)

    def steps(p, state, ok):
        def body(i, carry):
            p, state = carry
            g = jax.tree.map(jnp.ones_like, p)
            kept = lambda: (jax.tree.map(jnp.zeros_like, g), state)
            u, state = jax.lax.cond(ok, lambda: tx.update(g, state, p), kept)
            return jax.tree.map(lambda p, u: p + u, p, u), state

        return jax.lax.fori_loop(0, 3, body, (p, state))

    with jax.numpy_dtype_promotion("standard"):
        state = jax.eval_shape(tx.init, p)
        if tx.exact:  # it rounds the parameters by itself: `gx.step`
            with pytest.raises(TypeError, match="float32"):
                jax.eval_shape(steps, p, state, jax.ShapeDtypeStruct((), bool))
        else:
            found = jax.eval_shape(steps, p, state, jax.ShapeDtypeStruct((), bool))
            assert aval(found) == aval((p, state))


def test_only_links_that_round_the_parameters_leave_float32():
    exact = [tx for tx in ALL if tx.exact]
    names = "stochastic_rounding|kahan|split_weights|master_weights"
    assert exact == [tx for tx in ALL if any(name in repr(tx) for name in names.split("|"))]


def test_without_parameters_an_update_has_the_dtype_of_its_gradient():
    tx = gx.adam(1e-3)
    updates, _ = tx.update(PARAMS, tx.init(PARAMS))
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype("bfloat16")}


def test_parameters_keep_their_dtype_however_updates_are_added(lenient):
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3))
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    for added in (
        eqx.apply_updates(PARAMS, updates),
        jax.tree.map(lambda p, u: p + u, PARAMS, updates),
        optax.apply_updates(PARAMS, updates),
    ):
        assert aval(added) == aval(PARAMS)
    zeros = lambda: jax.tree.map(jnp.zeros_like, PARAMS)
    chosen = jax.lax.cond(True, lambda: tx.update(PARAMS, tx.init(PARAMS), PARAMS)[0], zeros)
    assert aval(chosen) == aval(PARAMS)


def test_between_links_updates_are_float32(lenient):
    seen = []
    spy = optax.stateless(lambda updates, params: seen.append(updates["w"].dtype) or updates)
    tx = gx.chain(gx.scale(1 / 3), spy, gx.groups(gx.chain(gx.scale(1.0), spy), {"b": gx.frozen()}), spy)
    tx.update(PARAMS, tx.init(PARAMS))
    assert set(seen) == {jnp.dtype("float32")}


AROUND = {
    "jit": lambda tx: optax.GradientTransformationExtraArgs(tx.init, jax.jit(tx.update)),
    "checkpoint": lambda tx: optax.GradientTransformationExtraArgs(tx.init, jax.checkpoint(tx.update)),
    "filter_jit": lambda tx: optax.GradientTransformationExtraArgs(tx.init, eqx.filter_jit(tx.update)),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 1),
    "masked": lambda tx: optax.masked(tx, {"w": True, "b": True}),
    "chain": lambda tx: optax.chain(tx),
    "partition": lambda tx: optax.partition({"all": tx}, "all"),
    "conditionally": lambda tx: optax.conditionally_transform(tx, lambda step: step < 9),
    "by hand": lambda tx: gx.GradientTransformation(tx.init, tx.update),
}
WITHIN = {
    "measured": gx.measured,
    "stacked": lambda tx: gx.stacked(tx, {"w": 0}),
    "packed": gx.packed,
    "skip_if": lambda tx: gx.skip_if(tx, gx.nonfinite()),
    "accumulate": lambda tx: gx.accumulate(tx, 1),
    "lookahead": lambda tx: gx.lookahead(tx, 4),
    "groups": lambda tx: gx.groups(tx, {"b": gx.frozen()}),
    "store": lambda tx: gx.store(tx, gx.Rounded(), min_size=99, seed=0),
    "loss scale": lambda tx: gx.dynamic_loss_scale(tx, 1.0),
}
TYPICAL = {"jit", "MultiSteps"}
F32 = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "b": jnp.ones(4)}


def updates_of(tx, jitted):
    """The updates of two steps."""
    state, out = tx.init(F32), []
    update = jax.jit(tx.update) if jitted else tx.update
    for scale in (1.0, 0.5):
        u, state = update(jax.tree.map(lambda x: scale * x, F32), state, F32)
        out.append(u)
    return out


@eager_or_jit
@pytest.mark.parametrize("within", WITHIN)
@pytest.mark.parametrize(
    "around", [k if k in TYPICAL else pytest.param(k, marks=pytest.mark.slow) for k in AROUND]
)
def test_a_foreign_wrapper_changes_nothing_whichever_runs_first(around, within, jitted, lenient):
    """A trace of the one that JAX keeps must not serve the other: `stacked` gave wrong numbers in silence."""
    inner = lambda: gx.chain(gx.clip_by_global_norm(1.0), gx.adam(0.1))  # treats each element by itself
    expected = updates_of(WITHIN[within](inner()), jitted)
    for first in (True, False):
        foreign = AROUND[around](inner())
        order = [lambda: updates_of(foreign, jitted), lambda: updates_of(WITHIN[within](foreign), jitted)]
        alone, wrapped = (order[0](), order[1]()) if first else reversed((order[1](), order[0]()))
        for found, right in ((wrapped, expected), (alone, updates_of(inner(), jitted))):
            jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), found, right)


@pytest.mark.parametrize("first", ["plain", "stacked"])
def test_a_jitted_trust_ratio_knows_its_layers(first):
    """By hand: two layers of norms 2 and 20, whose gradients have the norm 2."""
    tx = gx.scale_by_trust_ratio()
    jitted = gx.GradientTransformation(tx.init, jax.jit(tx.update))
    p, g = {"l": jnp.stack([jnp.ones((2, 2)), jnp.full((2, 2), 10.0)])}, {"l": jnp.ones((2, 2, 2))}
    ratios = lambda tx: tx.update(g, tx.init(p), p)[0]["l"][:, 0, 0]
    runs = {
        "plain": lambda: np.testing.assert_allclose(ratios(jitted), np.sqrt(50.5), rtol=1e-6),
        "stacked": lambda: np.testing.assert_allclose(ratios(gx.stacked(jitted, {"l": 0})), [1, 10]),
    }
    for name in sorted(runs, key=lambda name: name != first):
        runs[name]()


def test_optimistix_minimises():
    for tx in (gx.adam(0.1), gx.sgd(0.1), gx.chain(gx.clip(1.0), gx.sgd(0.1))):
        solver = optimistix.OptaxMinimiser(tx, rtol=1e-6, atol=1e-6)
        with jax.numpy_dtype_promotion("standard"):
            found = optimistix.minimise(lambda y, _: (y - 3.0) ** 2, solver, jnp.asarray(0.0), max_steps=5000)
        assert abs(float(found.value) - 3) < 2e-3


def test_filter_jit_loses_nothing():
    """The step of links that round, chains and groups are known after a walk over the pytree."""
    tx = gx.precision(gx.adamw(1e-3), "bf16-kahan")
    state = tx.init(PARAMS)
    step = eqx.filter_jit(lambda params, state, grads, tx: gx.step(tx)(grads, state, params)[0])
    chained = eqx.filter_jit(
        lambda p, s, g, tx: gx.chain(gx.clip(1.0), tx).update(g, (gx.EmptyState(), s), p)[0]
    )
    assert aval(step(PARAMS, state, PARAMS, tx)) == aval(PARAMS)
    assert {x.dtype for x in jax.tree.leaves(chained(PARAMS, state, PARAMS, tx))} == {jnp.dtype("float32")}
    groups = gx.groups(gx.adam(1e-3), {"^w": dict(b1=0.8)})
    mapped = jax.tree.map(lambda x: x, groups)
    assert mapped == groups
    assert str(gx.explain(mapped, PARAMS)) == str(gx.explain(groups, PARAMS))


# Parameters without a gradient: integers, functions, float0, in every link and wrapper alike.

EXTRA = {"n": jnp.arange(2), "f": jax.nn.relu, "m": 3}


def nothing(params):
    return jax.tree.map(lambda x: False, params)


WRAPPERS = WITHIN | {
    "plain": lambda tx: tx,
    "frozen": lambda tx: gx.groups(tx, {"^[nb]$": gx.frozen()}),
    "ema_params": lambda tx: gx.chain(tx, gx.ema_params(0.9)),
    "average_params": lambda tx: gx.chain(tx, gx.average_params()),
    "8-bit": lambda tx: gx.precision(tx, "8-bit"),
    "kahan": lambda tx: gx.precision(tx, "bf16-kahan"),
    "masked": lambda tx: gx.masked(tx, "no_bias_or_norm"),
    "injected": lambda tx: gx.chain(tx, gx.inject_hyperparams(gx.sgd)(1.0)),
    "selective": lambda tx: gx.selective_transform(tx, freeze_mask=nothing),
    "apply_if_finite": lambda tx: gx.apply_if_finite(tx, 3),
    "noise": lambda tx: gx.chain(gx.add_noise(0.0, 0.0, key=0), tx),
    "lbfgs": lambda tx: gx.lbfgs(0.1, linesearch=None),
    "centralize": lambda tx: gx.chain(gx.centralize(), gx.zero_nans(), gx.clip_by_block_rms(1.0), tx),
    "set_to_zero": lambda tx: gx.chain(tx, gx.set_to_zero()),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@eager_or_jit
def test_a_whole_model_is_as_good_as_its_floats(wrapper, jitted, lenient):
    tx = WRAPPERS[wrapper](gx.adamw(0.1))
    model, missing = F32 | EXTRA, dict.fromkeys(EXTRA)
    want, after = tx.update(F32, tx.init(F32), F32)
    for gradient in (F32 | missing, F32 | missing | {"n": np.zeros(2, jax.dtypes.float0)}):
        update = lambda g, s: tx.update(g, s, model)
        state = tx.init(model)
        got, new = (jax.jit(update) if jitted else update)(gradient, state)
        assert aval(new) == aval(state)
        assert len(jax.tree.leaves(new)) == len(jax.tree.leaves(after))
        jax.tree.map(lambda k: np.testing.assert_allclose(got[k], want[k], rtol=1e-6), [*F32])
        assert got["f"] is got["m"] is None
        assert jax.tree.structure(got) == jax.tree.structure(gradient)
        moved = gx.apply_updates(model, got)
        assert (moved["f"], moved["m"]) == (jax.nn.relu, 3)
        np.testing.assert_array_equal(moved["n"], [0, 1])
        np.testing.assert_allclose(gx.global_norm(gradient), gx.global_norm(F32), rtol=1e-6)


def test_step_takes_a_tree_with_integers(lenient):
    for tx in (gx.adamw(0.1), gx.precision(gx.adamw(0.1), "bf16-kahan")):
        make = lambda: {"w": jnp.ones(3, jnp.bfloat16), "n": jnp.arange(2)}
        gradient = {"w": jnp.ones(3, jnp.bfloat16), "n": np.zeros(2, jax.dtypes.float0)}
        p, _ = gx.step(tx)(gradient, tx.init(make()), make())
        np.testing.assert_array_equal(p["n"], [0, 1])
        np.testing.assert_allclose(p["w"].astype(jnp.float32), 0.9, rtol=4e-3)


def test_an_equinox_model_unfiltered(lenient):
    model = eqx.nn.MLP(2, 1, 8, 2, key=jax.random.key(0))
    floats = eqx.filter(model, eqx.is_inexact_array)
    gradient = eqx.filter_grad(lambda m: jnp.mean(jax.vmap(m)(jnp.ones((4, 2))) ** 2))(model)
    for name in ("plain", "measured", "ema_params", "average_params", "packed", "8-bit"):
        tx = WRAPPERS[name](gx.adamw(1e-2))
        want, _ = tx.update(gradient, tx.init(floats), floats)
        for state in (tx.init(floats), tx.init(model)):
            got, _ = tx.update(gradient, state, model)
            jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), got, want)


def test_a_gradient_of_integers_is_an_error_where_there_are_slots():
    tx = gx.adamw(0.1)
    with pytest.raises(
        ValueError, match=r"'n'\]: the state has no mu, because at init .* not floating point"
    ):
        tx.update({"n": jnp.arange(2)}, tx.init({"n": jnp.arange(2)}), {"n": jnp.arange(2)})


def test_none_and_the_empty_tuple_are_states_of_a_link_without_one():
    tx = gx.chain(gx.clip(1.0), gx.scale(0.5), gx.add_decayed_weights(0.1))
    for state in (None, ()):
        u, after = tx.update(F32, (state,) * 3, F32)
        assert after == (state,) * 3
        v, _ = tx.update(F32, tx.init(F32), F32)
        jax.tree.map(np.testing.assert_array_equal, u, v)


# A factory that computes a beta from an injected value.


def test_bias_corrections_are_exact_whatever_a_factory_makes_of_an_injected_value():
    """A constant gradient of 1 has the corrected average 1, however the rate of the average changes."""
    for make in (
        lambda x: gx.inject_hyperparams(lambda x: gx.ema(1 - x))(x),
        lambda x: gx.inject_hyperparams(lambda x: gx.chain(gx.ema(1 - 0.5 * x), gx.ema(0.5 + 0.1 * x)))(x),
    ):
        tx = make(lambda step: jnp.where(step % 2 == 0, 0.1, 0.6))
        state = tx.init(jnp.ones(1))
        for _ in range(6):
            updates, state = tx.update(jnp.ones(1), state)
            np.testing.assert_allclose(updates, 1, rtol=1e-6)


def test_a_state_has_weights_for_averages_that_follow_a_schedule_only():
    """What a factory computes from fixed numbers needs none: the state is that of Optax, and of 0.1.0."""

    def mine(rate, x):
        return gx.chain(gx.ema(1 - x), gx.adam(rate, b1=jnp.sqrt(0.5 * x), b2=1 - rate))

    rate = gx.linear_schedule(0.1, 0.2, 10)
    state = lambda *args: gx.inject_hyperparams(mine)(*args).init(jnp.ones(1))
    weights = lambda state: [
        sorted(s.weights) for s in jax.tree.leaves(state, is_leaf=is_corrected) if is_corrected(s)
    ]
    is_corrected = lambda s: isinstance(s, gx.CorrectedState)
    assert weights(state(0.1, 0.1)) == []
    assert weights(state(rate, 0.1)) == [["b2"]]
    assert weights(state(0.1, rate)) == [["decay"], ["b1"]]
