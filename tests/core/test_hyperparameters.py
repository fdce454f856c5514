"""Hyperparameters: what is refused, when, and in which words; numbers, arrays and schedules agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx
from tests.problems import grads, params

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gx.adam(1e-3, b1=1.1), r"^adam: b1 must be between 0 and 1, got 1.1"),
        (lambda: gx.adam(1e-3, b1=-0.1), r"b1 must be between 0 and 1, got -0.1"),
        (lambda: gx.adam(1e-3, b2=NAN), r"b2 must be between 0 and 1, got nan"),
        (lambda: gx.adamw(1e-3, eps=-1e-8), r"eps must be at least 0 and finite, got -1e-08"),
        (lambda: gx.adamw(1e-3, eps_root=NAN), r"eps_root must be at least 0 and finite, got nan"),
        (lambda: gx.adamw(1e-3, weight_decay=-0.1), r"^adamw: weight_decay must be at least 0"),
        (
            lambda: gx.adamw(-1e-3),
            r"^adamw: learning_rate must be at least 0 and finite, got -0.001",
        ),
        (lambda: gx.sgd(NAN), r"learning_rate must be at least 0 and finite, got nan"),
        (lambda: gx.lion(INF), r"learning_rate must be at least 0 and finite, got inf"),
        (lambda: gx.sgd(np.float32(-1)), r"learning_rate must be at least 0 and finite, got -1"),
        (lambda: gx.sgd(jnp.float32(NAN)), r"learning_rate must be at least 0 and finite, got nan"),
        (lambda: gx.sgd(0.1, momentum=1.1), r"sgd: momentum must be between 0 and 1, got 1.1"),
        (lambda: gx.ema(1.1), r"ema: decay must be between 0 and 1, got 1.1"),
        (
            lambda: gx.rmsprop(0.1, decay=1.1),
            r"^rmsprop: decay must be between 0 and 1, got 1.1",
        ),
        (lambda: gx.lars(0.1, momentum=-1.0), r"lars: momentum must be between 0 and 1, got -1"),
        (lambda: gx.radam(0.1, b2=1.0), r"^radam: b2 must be at least 0 and less than 1, got 1"),
        (lambda: gx.lamb(0.1, b2=2.0), r"b2 must be between 0 and 1, got 2"),
        (lambda: gx.lion(0.1, b2=NAN), r"^lion: b2 must be between 0 and 1, got nan"),
        (lambda: gx.clip(-1.0), r"clip: max_delta must be at least 0, got -1"),
        (lambda: gx.clip_by_global_norm(-1.0), r"clip_by_global_norm: max_norm must be at least 0, got -1"),
        (lambda: gx.clip_by_global_norm(NAN), r"max_norm must be at least 0, got nan"),
        (lambda: gx.clip_by_block_rms(NAN), r"threshold must be at least 0, got nan"),
        (lambda: gx.scale(NAN), r"scale: step_size must be a number, not NaN, got nan"),
        (lambda: gx.scale_by_trust_ratio(min_norm=-1.0), r"min_norm must be at least 0 and finite"),
        (
            lambda: gx.scale_by_trust_ratio(phi_bounds=(2.0, 1.0)),
            r"phi_bounds must be \(low, high\) with 0 <= low",
        ),
        (lambda: gx.scale_by_trust_ratio(summed_decay=-1.0), r"summed_decay must be at least 0 and finite"),
        (
            lambda: gx.lars(0.1, variant="apex"),
            r"lars: variant must be 'optax', 'paper', 'mlperf' or 'nvidia', got 'apex'",
        ),
        (
            lambda: gx.lars(0.1, variant="mlperf", weight_decay_mask=gx.matrices_only),
            r"variant='mlperf' holds .* one mask serves both: give it as trust_ratio_mask and leave weight_",
        ),
        (
            lambda: gx.lamb(0.1, variant="tf"),
            r"lamb: variant must be 'paper', 'mlperf', 'nvidia' or 'nvlamb', got",
        ),
        (lambda: gx.lamb(0.1, max_grad_norm=-1.0), r"lamb: max_grad_norm must be at least 0, got -1"),
        (
            lambda: gx.scale_by_lion(variant="soft"),
            r"variant must be 'hard', 'smooth' or 'refined', got 'soft'",
        ),
        (
            lambda: gx.amsgrad(0.1, variant="all"),
            r"variant must be 'corrected', 'raw' or 'paper', got 'all'",
        ),
        (lambda: gx.nadam(0.1, momentum_decay=-1.0), r"^nadam: momentum_decay must be at least 0"),
        (
            lambda: gx.nadam(0.1, nesterov=False, momentum_decay=0.004),
            r"without nesterov there is no use for momentum_decay; leave it at None",
        ),
        (
            lambda: gx.nadam(0.1, b1=jnp.ones(2), momentum_decay=0.004),
            r"^nadam: b1 must be one number",
        ),
        (lambda: gx.adamax(0.1, b2=1.1), r"^adamax: b2 must be between 0 and 1, got 1.1"),
        (
            lambda: gx.scale_by_yogi(initial_accumulator_value=-1e-6),
            r"scale_by_yogi: initial_accumulator_value must be at least 0 and finite, got -1e-06",
        ),
        (lambda: gx.adafactor(-0.1, relative_step=True), r"adafactor: learning_rate must be at least 0"),
        (lambda: gx.torch.Adafactor(lr=-0.1), r"Adafactor: lr must be at least 0 and finite, got -0.1"),
        (lambda: gx.torch.Adagrad(lr_decay=-1.0), r"Adagrad: lr_decay must be at least 0 and finite, got -1"),
        (lambda: gx.adamw(0.1, max_learning_rate=-1.0), r"max_learning_rate must be more than 0 and finite"),
        (
            lambda: gx.scale_by_zoom_linesearch(9, max_learning_rate=-1.0),
            r"max_learning_rate must be at least 0",
        ),
        (lambda: gx.scale_by_zoom_linesearch(9, curv_rtol=-1.0), r"curv_rtol must be at least 0, got -1"),
        (
            lambda: gx.scale_by_backtracking_linesearch(9, decrease_factor=1.5),
            r"decrease_factor must be more than 0 and less than 1, got 1.5",
        ),
        (lambda: gx.minimize(jnp.sum, 1.0, max_steps=10**10), r"max_steps must be at least 0 and below 2"),
        (lambda: gx.signum(0.1, beta=1.1), r"signum: beta must be between 0 and 1, got 1.1"),
        (lambda: gx.lion(0.1, b1=1.1, b2=None), r"^lion: b1 must be between 0 and 1"),
        (lambda: gx.fromage(-0.1), r"fromage: learning_rate must be at least 0 and finite, got -0.1"),
        (lambda: gx.optimistic_adam(-0.1), r"optimistic_adam: learning_rate must be at least 0 and finite"),
        (lambda: gx.optimistic_adam(0.1, -0.1), r"optimistic_adam: optimism must be at least 0 and finite"),
        (
            lambda: gx.optimistic_gradient_descent(0.1, alpha=NAN),
            r"^optimistic_gradient_descent: alpha must be a number, not NaN",
        ),
        (lambda: gx.lamb(0.1, phi_bounds=3), r"phi_bounds must be \(low, high\) with .* got 3"),
        (lambda: gx.rprop(0.1, min_step_size=1.0, max_step_size=0.5), r"min_step_size must not be above max"),
        (lambda: gx.asgd(0.1, alpha=-1.0), r"asgd: alpha must be at least 0 and finite, got -1"),
        (lambda: gx.sgd(jnp.ones(3)), r"learning_rate must be one number, got an array of shape \(3,\)"),
    ],
)
def test_bad_values_are_refused_at_construction(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: gx.sgd("0.1"),
            r"learning_rate must be a number, a scalar array or a schedule .*, got '0.1'",
        ),
        (lambda: gx.sgd(0.1, True), r"sgd: momentum must be a number, .* got True"),
        (lambda: gx.scale_by_schedule(0.1), r"scale_by_schedule: step_size_fn must be a function, got 0.1"),
        (lambda: gx.sgd(np.complex64(1j)), r"learning_rate must be a real number"),
        (lambda: gx.sgd(None), r"learning_rate must be a number, .* got None"),
        (
            lambda: gx.adaptive_grad_clip(0.1, axis="x"),
            r"axis must be an integer or a tuple of them, got 'x'",
        ),
        (
            lambda: gx.scale_by_yogi(initial_accumulator_value=lambda step: 0.1),
            r"initial_accumulator_value must be a number, got a function",
        ),
        (lambda: gx.adagrad(0.1, lambda step: 0.1), r"initial_accumulator_value must be a number, got a fun"),
        (
            lambda: gx.rmsprop(0.1, initial_scale=lambda step: 0.1),
            r"initial_scale must be a number, got a fun",
        ),
        (lambda: gx.asgd(0.1, t0=lambda step: 1.0), r"asgd: t0 must be a number, got a function"),
        (lambda: gx.lbfgs(min_curvature=lambda step: 0.0), r"min_curvature must be a number, got a function"),
        (lambda: gx.minimize(jnp.sum, 1.0, tol=lambda step: 0.0), r"tol must be a number, got a function"),
        (
            lambda: gx.torch.Adam(betas=(0.9, 0.99, 0.1)),
            r"Adam: betas must be a pair, got \(0.9, 0.99, 0.1\)",
        ),
        (lambda: gx.torch.Rprop(etas=0.5), r"Rprop: etas must be a pair, got 0.5"),
        (lambda: gx.torch.Adafactor(eps=1e-3), r"Adafactor: eps must be a pair, got 0.001"),
        (lambda: gx.torch.Adafactor(lr="x"), r"Adafactor: lr must be a number, .*, got 'x'"),
        (
            lambda: gx.centralize(output_axis="last"),
            r"centralize: output_axis must be an integer, got 'last'",
        ),
    ],
)
def test_other_things_are_not_hyperparameters(make, message):
    with pytest.raises(TypeError, match=message):
        make()


NO_NUMBER = r"the schedule for {} must give one number for a step, got {}"


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        (lambda step: jnp.ones(3), ValueError, NO_NUMBER.format("learning_rate", r".*\[3\]")),
        (lambda step: np.ones(1), ValueError, NO_NUMBER.format("learning_rate", r"array\(\[1.\]\)")),
        (lambda step: 1j, ValueError, NO_NUMBER.format("learning_rate", "1j")),
        (lambda step: jnp.complex64(1j), ValueError, NO_NUMBER.format("learning_rate", "complex64")),
        (lambda step: {"a": 1.0}, ValueError, NO_NUMBER.format("learning_rate", "{'a': 1.0}")),
        (lambda step: None, ValueError, NO_NUMBER.format("learning_rate", "None")),
        (lambda step: True, ValueError, NO_NUMBER.format("learning_rate", "True")),
        (lambda step: step > 0, ValueError, NO_NUMBER.format("learning_rate", "bool")),
        (
            lambda: 0.1,
            TypeError,
            "learning_rate is a function, but it fails as a schedule, called with the step",
        ),
    ],
)
@pytest.mark.parametrize("jitted", [False, True])
def test_a_wrong_schedule_is_refused_by_the_first_update(schedule, error, message, jitted):
    tx, x = gx.sgd(schedule), jnp.ones(2)
    state = tx.init(x)
    with pytest.raises(error, match=f"^scale_by_learning_rate: {message}"):
        (jax.jit(tx.update) if jitted else tx.update)(x, state)


def test_a_schedule_within_a_schedule_is_blamed_alone():
    tx = gx.asgd(lambda step: 0.1, lambd=lambda: 0.1)
    state = tx.init(jnp.ones(2))
    with pytest.raises(TypeError, match=r"^add_decayed_weights: weight_decay is a function, but it fails"):
        tx.update(jnp.ones(2), state, jnp.ones(2))
    tx = gx.adamw(lambda step: 0.1, weight_decay=lambda: 0.1, decay_order="after")
    with pytest.raises(TypeError, match=r"^descend: weight_decay is a function, .* alone: (?!.*fails as)"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2))


def test_an_integer_and_a_numpy_number_are_values_of_a_schedule():
    for value in (2, np.int32(2), np.float64(2), jnp.int32(2), np.array(2.0)):
        tx = gx.sgd(lambda step, value=value: value)
        np.testing.assert_array_equal(tx.update(jnp.ones(1), tx.init(jnp.ones(1)))[0], -2.0)


def test_a_schedule_whose_numbers_are_set_later():
    """It is called by the first update, not before; each update of an eager loop calls it anew."""
    numbers = {}
    tx = gx.chain(gx.clip(1.0), gx.adamw(lambda step: numbers["rate"], weight_decay=0.0))
    state = tx.init(jnp.ones(1))
    numbers["rate"] = 0.25
    np.testing.assert_allclose(tx.update(jnp.ones(1), state, jnp.ones(1))[0], -0.25, rtol=1e-6)


@pytest.mark.parametrize(
    ("tx", "update"),
    [
        (gx.adam(0.0), 0.0),
        (gx.scale_by_adam(b1=0.0, b2=0.0, eps=0.0), 1.0),
        (gx.trace(1.0), 2.0),
        (gx.clip_by_global_norm(INF), 2.0),
        (gx.clip(0.0), 0.0),
        (gx.scale(-1.0), -2.0),
        (gx.scale_by_optimistic_gradient(alpha=-1.0), -2.0),
    ],
)
def test_the_bounds_themselves_are_allowed(tx, update):
    x = jnp.array([2.0])
    assert tx.update(x, tx.init(x), x)[0][0] == update


@pytest.mark.parametrize("kind", [np.float32, np.array, jnp.float32, lambda x: lambda step: x])
@pytest.mark.parametrize("name", ["learning_rate", "b1", "b2", "eps", "eps_root", "weight_decay"])
def test_numbers_arrays_and_schedules_agree(name, kind):
    value = {"learning_rate": 0.1, "b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-3, "weight_decay": 0.1}[
        name
    ]
    make = lambda value: gx.adamw(**{"learning_rate": 0.1, name: value})
    p = params()
    plain, other = make(value), make(kind(value))
    s, t = plain.init(p), other.init(p)
    for i in range(3):
        u, s = plain.update(grads(i, p), s, p)
        v, t = other.update(grads(i, p), t, p)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), u, v)


def test_schedules_are_called_with_the_step_from_zero(lenient):
    tx = gx.chain(gx.trace(lambda step: 0.5 * step), gx.scale_by_learning_rate(lambda step: 10.0**step))
    x = jnp.ones(1)
    state = tx.init(x)
    seen = []
    for _ in range(3):
        u, state = tx.update(x, state)
        seen.append(float(u[0]))
    np.testing.assert_allclose(seen, [-1.0, -15.0, -250.0])  # traces 1, 1 + 0.5 * 1, 1 + 1 * 1.5


def test_a_schedule_that_branches_on_the_step_serves_eager_use():
    tx = gx.sgd(lambda step: 0.1 if step < 1 else 0.01)
    x = jnp.ones(1)
    u, state = tx.update(x, tx.init(x))
    v, _ = tx.update(x, state)
    np.testing.assert_allclose([u[0], v[0]], [-0.1, -0.01], rtol=1e-6)


def test_the_step_count_saturates():
    tx = gx.scale_by_adam()
    x = jnp.ones(1)
    last = jnp.iinfo(jnp.int32).max
    state = tx.init(x)._replace(count=jnp.int32(last))
    u, state = tx.update(x, state)
    assert state.count == last
    assert jnp.isfinite(u[0])


def test_hyperparameters_do_not_widen_float32(x64):
    """A float64 scalar beside a float32 parameter takes the parameter's precision."""
    x = jnp.ones(1, jnp.float32)
    for rate in (np.float64(0.1), jnp.float64(0.1), lambda step: jnp.float64(0.1)):
        u, _ = (tx := gx.sgd(rate, momentum=rate)).update(x, tx.init(x))
        assert u.dtype == jnp.float32


def test_hyperparameters_keep_float64(x64):
    """A float64 parameter is not updated with a learning rate rounded to float32."""
    x = jnp.ones(1, jnp.float64)
    for rate in (0.1, np.float64(0.1), lambda step: jnp.float64(0.1)):
        u, _ = (tx := gx.sgd(rate)).update(x, tx.init(x))
        assert u[0] == -0.1


def test_large_integers_are_numbers():
    x = jnp.ones(1)
    assert gx.clip_by_global_norm(10**10).update(x, gx.EmptyState())[0] == 1.0


def test_a_numpy_number_is_as_precise_as_a_python_number():
    x = jnp.ones(1)
    close_to_one = np.float64(1 - 1e-9)
    u, _ = (tx := gx.scale_by_adam(b2=close_to_one)).update(x, tx.init(x))
    np.testing.assert_allclose(u, 1.0, rtol=1e-5)
