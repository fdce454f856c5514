"""skip_if: a bad step leaves no trace, and is counted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gradx as gx
from gradx.core.reports import Report
from gradx.engine import update_if as keeping
from tests.problems import aval, grads, params

CLIPPED = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(gx.linear_schedule(0.1, 0.0, 9), weight_decay=0.1))
INNER = [
    CLIPPED,
    gx.sgd(0.1),
    gx.adamw(0.1, mu_dtype=jnp.bfloat16, decay_order="after"),
    gx.scale_by_adam(b1=gx.linear_schedule(0.8, 0.9, 10)),
    gx.packed(gx.inject_hyperparams(gx.lamb)(gx.linear_schedule(0.1, 0.0, 10))),
    gx.masked(gx.adafactor(0.1, min_dim_size_to_factor=1, momentum=0.9), "matrices_only"),
    gx.lookahead(gx.noisy_sgd(0.1, key=0), 2, reset_state=True),
    gx.lbfgs(0.1, linesearch=None),
    gx.chain(optax.scale_by_adam(), gx.skip_if(gx.trace(0.9), gx.spike("gradient_norm", warmup=2))),
]


def bits(tree):
    """What is in memory: NaN equals NaN, and 0 does not equal -0."""
    plain = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return [np.asarray(plain(x)).tobytes() for x in jax.tree.leaves(tree)]


def stepper(tx):
    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(p, state, g, extra):
        u, state = tx.update(g, state, p, **extra)
        return gx.apply_updates(p, u), state

    return step


def run(tx, p, gradients, step=None, **extra):
    """Parameters and state at the end."""
    step, state = step or stepper(tx), tx.init(p)
    p = jax.tree.map(jnp.copy, p)
    for g in gradients:
        p, state = step(p, state, g, extra)
    return p, state


def spoilt(g, value=jnp.nan):
    return {**g, "b": g["b"].at[1].set(value)}


@pytest.mark.parametrize("inner", INNER, ids=repr)
def test_bad_steps_leave_no_trace(inner, lenient):
    """A run with bad steps ends, bit for bit, as the run without them: parameters, slots, counts and keys."""
    leaves_no_trace(inner)


def leaves_no_trace(inner):
    tx = gx.skip_if(inner, gx.nonfinite())
    p, step = params(), stepper(tx)
    good = [grads(i, p) for i in range(4)]
    bad = [spoilt(good[0]), spoilt(good[1], jnp.inf), good[0], good[1], spoilt(good[2], -jnp.inf), *good[2:]]
    expected, alone = run(tx, p, good, step)
    found, state = run(tx, p, [*bad, spoilt(good[3])], step)
    assert bits(found) == bits(expected)
    assert bits(state.inner_state) == bits(alone.inner_state)
    assert (int(state.total), int(state.consecutive), int(state.by_condition["nonfinite"])) == (4, 1, 4)
    assert aval(state) == aval(tx.init(p))


AROUND = {
    "chain": lambda tx: gx.chain(gx.clip_by_global_norm(1.0), tx),
    "masked": lambda tx: gx.masked(tx, "matrices_only"),
    "packed": gx.packed,
    "lookahead": lambda tx: gx.lookahead(tx, 2),
    "skip_if": lambda tx: gx.skip_if(tx, gx.spike("gradient_norm")),
    "apply_if_finite": lambda tx: gx.apply_if_finite(tx, 3),
    "dynamic_loss_scale": lambda tx: gx.dynamic_loss_scale(tx, 1.0),
    "inject": lambda tx: gx.inject_hyperparams(lambda rate: gx.chain(tx, gx.scale(rate)))(0.5),
    "optax": lambda tx: optax.chain(optax.add_decayed_weights(0.1), tx),
}


@pytest.mark.slow
@given(st.lists(st.sampled_from(sorted(AROUND)), min_size=2, max_size=4))
@settings(max_examples=40, deadline=None)
def test_bad_steps_leave_no_trace_in_any_nesting(names):
    with jax.numpy_dtype_promotion("standard"):
        inner = functools.reduce(lambda tx, name: AROUND[name](tx), names, gx.adamw(0.1))
        leaves_no_trace(inner)


@given(st.lists(st.booleans(), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None)
def test_any_pattern_of_bad_steps_leaves_no_trace(pattern):
    p = params()
    gradients = [grads(i, p) for i in range(len(pattern))]
    good = [g for g, ok in zip(gradients, pattern, strict=True) if ok]
    given = [g if ok else spoilt(g) for g, ok in zip(gradients, pattern, strict=True)]
    (expected, alone), (found, state) = (run(SKIPPING, p, g, STEP) for g in (good, given))
    assert bits((found, state.inner_state)) == bits((expected, alone.inner_state))
    assert state.total == pattern.count(False)
    assert state.consecutive == len(pattern) - 1 - max([i for i, ok in enumerate(pattern) if ok], default=-1)


SKIPPING = gx.skip_if(CLIPPED, gx.nonfinite())
STEP = stepper(SKIPPING)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "complex64"])
def test_a_skipped_parameter_keeps_its_bits(dtype, lenient):
    """The update is -0: with 0, a parameter of -0 would become 0."""
    p = jnp.array([-0.0, 0.0, 3e-5, -1.5], dtype)
    p = p if dtype != "complex64" else p * jnp.array(1j) - p
    tx = gx.skip_if(gx.adam(0.1), gx.nonfinite())
    u, _ = tx.update(jnp.full(4, jnp.nan, dtype), tx.init(p), p)
    assert bits(gx.apply_updates(p, u)) == bits(p)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_loss_that_is_not_finite_is_bad(value):
    p = params()
    tx = gx.skip_if(gx.sgd(0.1), gx.nonfinite())
    found, state = run(tx, p, [grads(0, p)], value=jnp.float32(value))
    assert bits(found) == bits(p)
    assert state.total == 1
    assert run(tx, p, [grads(0, p)], value=jnp.float32(1.0))[1].total == 0


def test_gradients_whose_norm_overflows_count_as_not_finite():
    tx = gx.skip_if(gx.sgd(0.1), gx.nonfinite())
    for size, skipped in ((1e18, 0), (1e20, 1)):
        assert tx.update(jnp.array([size]), tx.init(jnp.ones(1)))[1].total == skipped


def reference(xs, sigmas, window, warmup):
    """Which values are spikes: the docstring's rule, in float64."""
    steps, mean, variance, bad = 0, 0.0, 0.0, []
    for x in xs:
        spike = not np.isfinite(x) or (steps >= warmup and x > mean + sigmas * np.sqrt(variance))
        bad.append(spike)
        if not spike:
            steps += 1
            a = 1 / min(steps, window)
            variance = (1 - a) * (variance + a * (x - mean) ** 2)
            mean += a * (x - mean)
    return bad, mean, variance


@pytest.mark.parametrize("of", ["loss", "gradient_norm"])
def test_spikes_are_those_of_the_reference(of):
    rng = np.random.default_rng(0)
    xs = 2.0 + 0.1 * rng.normal(size=120) + np.linspace(1.0, 0.0, 120)
    xs[[10, 40, 41, 80, 100]] = [4.0, 30.0, 1e3, np.nan, 2.4]  # in the warm-up, two spikes, NaN, nothing
    xs[60] = np.inf
    tx = gx.skip_if(gx.sgd(0.1), gx.spike(of, 4.0, window=16, warmup=12))

    def step(state, x):
        g, extra = (jnp.ones(1), {"value": x}) if of == "loss" else (x[None], {})
        _, new = tx.update(g, state, **extra)
        return new, new.total > state.total

    state, bad = jax.jit(lambda s, x: jax.lax.scan(step, s, x))(tx.init(jnp.ones(1)), jnp.float32(xs))
    expected, mean, variance = reference(xs, 4.0, 16, 12)
    assert sum(expected) == 4
    assert np.flatnonzero(bad).tolist() == np.flatnonzero(expected).tolist()
    found = state.statistics[f"spike_{of}"]
    assert found.steps == 120 - sum(expected)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-3)
    assert state.by_condition[f"spike_{of}"] == sum(expected)


def test_statistics_are_float32_whatever_is_on(x64):
    tx = gx.skip_if(gx.sgd(0.1), gx.spike("gradient_norm"))
    state = tx.init(jnp.ones(1, jnp.float64))
    _, after = tx.update(jnp.ones(1, jnp.float64), state)
    assert after.statistics["spike_gradient_norm"].mean.dtype == jnp.float32
    assert aval(after) == aval(state)


@pytest.mark.parametrize("level", [0.1, -0.1])
def test_a_loss_that_stands_still_has_no_spikes_but_rises_have(level):
    tx = gx.skip_if(gx.identity(), gx.spike(warmup=2))
    step = lambda state, value: (tx.update(jnp.ones(1), state, value=value)[1], None)
    values = jnp.array([level] * 5 + [level + 2e-8] * 5 + [level + 0.1])
    state, after = jax.jit(lambda state: after_last_but_one(step, state, values))(tx.init(jnp.ones(1)))
    assert (state.total, after.total) == (0, 1)


def after_last_but_one(step, state, values):
    """The state before the last value, and after it."""
    state, _ = jax.lax.scan(step, state, values[:-1])
    return state, step(state, values[-1])[0]


def test_a_value_too_far_off_to_be_squared_spoils_no_statistics():
    tx = gx.skip_if(gx.identity(), gx.spike())
    _, state = tx.update(jnp.ones(1), tx.init(jnp.ones(1)), value=jnp.float32(1e30))
    assert state.total == 1
    assert bits(state.statistics) == bits(tx.init(jnp.ones(1)).statistics)


def test_one_bad_condition_is_enough_and_each_is_counted():
    tx = gx.skip_if(
        gx.sgd(0.1), gx.nonfinite(), gx.spike("loss", warmup=2), gx.spike("gradient_norm", warmup=2)
    )
    state, g = tx.init(jnp.ones(1)), jnp.ones(1)
    for value, g in [(1.0, g), (1.0, g), (9.0, g), (1.0, 9 * g), (jnp.nan, g), (1.0, g)]:
        _, state = tx.update(g, state, value=jnp.float32(value))
    counts = {k: int(n) for k, n in state.by_condition.items()}
    assert counts == {"nonfinite": 1, "spike_loss": 2, "spike_gradient_norm": 1}
    assert (int(state.total), int(state.consecutive)) == (3, 0)
    assert state.statistics["spike_loss"].steps == state.statistics["spike_gradient_norm"].steps == 3


def test_under_vmap_each_decides_for_itself():
    tx = gx.skip_if(gx.adam(0.1), gx.nonfinite())
    p, g = jnp.ones((2, 3)), jnp.ones((2, 3)).at[1, 0].set(jnp.nan)
    u, state = jax.jit(jax.vmap(tx.update))(g, jax.vmap(tx.init)(p), p)
    assert state.total.tolist() == [0, 1]
    assert state.inner_state[0].count.tolist() == [1, 0]
    np.testing.assert_allclose(u, [[-0.1] * 3, [0.0] * 3], rtol=1e-5)


def test_on_two_devices_a_nan_on_one_skips_on_both():
    place = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("data",)), PartitionSpec("data"))
    tx = gx.skip_if(CLIPPED, gx.nonfinite())
    p = jax.device_put(jnp.ones((4, 3)), place)
    g = jax.device_put(jnp.ones((4, 3)).at[3, 0].set(jnp.nan), place)
    u, state = jax.jit(tx.update)(g, tx.init(p), p)
    assert bits(p + u) == bits(p)
    assert state.inner_state[1][0].mu.sharding.is_equivalent_to(place, 2)
    assert not jnp.any(state.inner_state[1][0].mu)


def test_can_be_differentiated():
    """By the rate of a good step; by that of a skipped one the derivative is 0."""
    p = jnp.ones(2)

    def after(rate, g):
        tx = gx.skip_if(gx.adam(rate, eps_root=1e-8), gx.nonfinite())
        return jnp.sum(gx.apply_updates(p, tx.update(g, tx.init(p), p)[0]))

    np.testing.assert_allclose(jax.grad(after)(0.1, p), -2.0, rtol=1e-4)
    assert jax.grad(after)(0.1, p * jnp.inf) == 0.0


def test_around_a_line_search_that_is_given_functions():
    """Functions of `update` reach the inner transformation, in a trace and out of it."""
    loss = lambda x: jnp.sum((x - 3.0) ** 2)
    tx, p = gx.skip_if(gx.lbfgs(), gx.nonfinite()), jnp.zeros(2)

    def step(p, state, g):
        value = loss(p)
        u, state = tx.update(g, state, p, value=value, grad=g, value_fn=loss)
        return gx.apply_updates(p, u), state

    for f, steps in ((step, 0), (jax.jit(step), 3)):
        q, state = f(p, tx.init(p), jnp.full(2, jnp.nan))
        assert bits((q, state.inner_state)) == bits((p, tx.init(p).inner_state))
        for _ in range(steps):
            q, state = f(q, state, jax.grad(loss)(q))
        assert int(state.total) == 1
    np.testing.assert_allclose(q, 3.0, rtol=1e-4)


def test_without_jit_it_is_the_same():
    p, tx = {"b": jnp.ones(3)}, gx.skip_if(gx.chain(gx.clip(1.0), gx.trace(0.9)), gx.nonfinite())
    with jax.disable_jit():
        for g in (grads(0, p), spoilt(grads(0, p))):
            u, state = tx.update(g, tx.init(p), p)
    assert bits(gx.apply_updates(p, u)) == bits(p)
    assert state.total == 1


def test_past_the_limit_it_goes_on_skipping_and_the_host_is_told():
    tx = gx.chain(gx.masked(gx.skip_if(gx.sgd(0.1), gx.nonfinite(), max_consecutive=2), True))
    state = tx.init(jnp.ones(1))
    update = jax.jit(tx.update)
    _, state = update(jnp.array([jnp.nan]), state)
    gx.check_skips(state)
    for _ in range(2):
        u, state = update(jnp.array([jnp.nan]), state)
        assert u == 0
        with pytest.raises(RuntimeError, match=r"in a row were bad.*\(nonfinite \d\).*Look at the batches"):
            gx.check_skips(state)
    _, state = update(jnp.ones(1), state)
    with pytest.raises(RuntimeError, match=r"3 were skipped in all \(nonfinite 3\), the last 0 in a row"):
        gx.check_skips(state)


@pytest.mark.parametrize(
    "around",
    [
        lambda tx: gx.named_chain(("all", gx.packed(tx))),
        lambda tx: gx.lookahead(tx),
        lambda tx: gx.skip_if(gx.chain(tx), gx.spike("gradient_norm")),
        lambda tx: gx.apply_if_finite(tx, 9),
        lambda tx: optax.chain(optax.masked(tx, lambda p: jax.tree.map(lambda _: True, p))),
        lambda tx: gx.inject_hyperparams(lambda rate: gx.chain(tx, gx.scale(rate)))(1.0),
    ],
)
def test_the_check_finds_it_wherever_it_is(around, lenient):
    inner = gx.skip_if(gx.sgd(0.1), NEVER, max_consecutive=1)
    tx, p = around(inner), {"w": jnp.ones(2)}
    state = tx.init(p)
    gx.check_skips(state)
    _, state = tx.update(p, state, p)
    with pytest.raises(RuntimeError, match=r"1 were skipped in all \(never 1\)"):
        gx.check_skips(state)


NEVER = gx.Condition("never", lambda: (), lambda memory, step: (True, memory))


def test_the_check_passes_over_what_has_no_skips_and_reads_many_models():
    gx.check_skips(gx.adam(0.1).init(jnp.ones(1)))
    tx = gx.skip_if(gx.sgd(0.1), gx.nonfinite(), max_consecutive=1)
    _, state = jax.vmap(tx.update)(jnp.array([[1.0], [jnp.inf]]), jax.vmap(tx.init)(jnp.ones((2, 1))))
    with pytest.raises(RuntimeError, match=r"1 were skipped in all \(nonfinite 1\)"):
        gx.check_skips(state)


def test_reports_skips_and_what_the_inner_transformation_reports():
    """The inner news is no news on a skipped step."""
    told = gx.GradientTransformation.of(
        lambda params: (),
        lambda u, s, p=None, **extra: (u, s, (Report("told", 2.0),)),
        lambda params: (Report("told", 0.0),),
    )
    tx = gx.skip_if(told, gx.nonfinite())
    assert [(r.name, r.value) for r in tx.blank(jnp.ones(1))] == [("skipped", 0), ("told", 0.0)]
    for g, skipped in ((1.0, 0), (jnp.nan, 1)):
        _, _, reports = jax.jit(tx.observe)(jnp.array([g]), tx.init(jnp.ones(1)))
        assert [r.name for r in reports] == ["skipped", "told"]
        assert reports[0].value == skipped
        assert [bool(r.news) for r in reports] == [True, not skipped]


def test_a_rule_is_traced_once_for_all_leaves_of_a_shape():
    """By the engine, and once more with its slots kept."""
    traced = []

    def rule(g, trace):
        traced.append(g.shape)
        return g, trace + g

    tx = gx.skip_if(gx.leafwise(optax.TraceState, rule), gx.nonfinite())
    p = [jnp.ones((2, 3))] * 8 + [jnp.ones(4)] * 8
    before = keeping.nested.cache_info().misses
    jax.jit(tx.update).lower(p, tx.init(p))
    assert traced == [(2, 3), (4,)]
    assert keeping.nested.cache_info().misses == before + 2
    tx.update(p[:4], tx.init(p[:4]))
    tx.update(p[:4], tx.init(p[:4]))  # outside of jit: nothing is made anew
    assert keeping.nested.cache_info().misses == before + 2


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gx.skip_if(gx.sgd(0.1)), ValueError, r"needs a condition, say skip_if\(tx, nonfinite"),
        (lambda: gx.skip_if(gx.sgd(0.1), gx.nonfinite), TypeError, r"a condition is nonfinite.*\(call it"),
        (lambda: gx.skip_if(gx.sgd(0.1), 3.0), TypeError, r"a condition is nonfinite\(\) or spike.*got 3.0"),
        (lambda: gx.skip_if(gx.sgd, gx.nonfinite()), TypeError, "inner transformation of skip_if is not"),
        (lambda: gx.skip_if(gx.sgd(0.1), gx.spike(), gx.spike(sigmas=3.0)), ValueError, "have one name"),
        (lambda: gx.skip_if(gx.sgd(0.1), gx.nonfinite(), max_consecutive=0), ValueError, "at least 1, got 0"),
        (lambda: gx.spike("norm"), ValueError, "of must be 'loss' or 'gradient_norm', got 'norm'"),
        (lambda: gx.spike(sigmas=0.0), ValueError, "spike: sigmas must be more than 0 and finite, got 0"),
        (lambda: gx.spike(window=1), ValueError, "window must be at least 2: one value has no deviation"),
        (lambda: gx.spike(warmup=1.5), ValueError, "warmup must be an integer of at least 1, got 1.5"),
    ],
)  # fmt: skip
def test_errors_of_construction(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_errors_of_update():
    tx, p = gx.skip_if(gx.sgd(0.1), gx.spike()), jnp.ones(1)
    with pytest.raises(TypeError, match=r"needs the loss for spike\('loss'\): call update\(.*value=loss"):
        tx.update(p, tx.init(p))
    with pytest.raises(TypeError, match=r"skip_if needs a SkipState, and was given a tuple.*made by this"):
        tx.update(p, gx.sgd(0.1).init(p), value=1.0)
    with pytest.raises(ValueError, match=r"skip_if: value must be one number, got an array of shape \(1,\)"):
        tx.update(p, tx.init(p), value=p)
    grows = gx.GradientTransformation(lambda params: (), lambda u, s, p=None, **extra: (u, (*s, u)))
    tx = gx.skip_if(grows, gx.nonfinite())
    with pytest.raises(ValueError, match="the state must keep its structure, because a step may be skipped"):
        jax.jit(tx.update)(p, tx.init(p))


def test_conditions_are_data():
    assert gx.spike("loss") == gx.spike() != gx.spike(sigmas=3.0)
    assert len({gx.nonfinite(), gx.nonfinite(), gx.spike()}) == 2
    assert repr(gx.spike("gradient_norm", 3.0, warmup=8)) == "spike(of='gradient_norm', sigmas=3.0, warmup=8)"
