"""What is particular to each of Adam's relatives, to signs, Fromage and optimistic gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from tests.problems import grads, params

B1, B2 = gx.linear_schedule(0.8, 0.95, 5), gx.linear_schedule(0.9, 0.99, 5)
SCHEDULED = [
    (gx.adam, dict(b1=B1, b2=B2, eps_hat=True)),
    (gx.amsgrad, dict(b1=B1, b2=B2)),
    (gx.amsgrad, dict(b1=B1, b2=B2, variant="raw")),
    (gx.nadam, dict(b1=B1, b2=B2)),
    (gx.nadam, dict(b1=B1, b2=B2, momentum_decay=0.004)),
    (gx.nadamw, dict(b1=B1, momentum_decay=gx.linear_schedule(0.0, 1.0, 5))),
    (gx.adamax, dict(b1=B1, b2=B2)),
    (gx.adamaxw, dict(b1=B1, b2=B2)),
    (gx.yogi, dict(b1=B1, b2=B2)),
    (gx.adabelief, dict(b1=B1, b2=B2, eps=1e-8, nesterov=True)),
    (gx.signum, dict(beta=B1)),
    (gx.lion, dict(b1=B1, b2=None)),
    (gx.fromage, dict(min_norm=B1)),
    (gx.optimistic_gradient_descent, dict(alpha=B1, beta=B2)),
    (gx.optimistic_adam, dict(optimism=gx.linear_schedule(0.0, 0.1, 5))),
    (gx.optimistic_adam_v2, dict(beta=B2)),
]
each_scheduled = pytest.mark.parametrize(("optimizer", "kwargs"), SCHEDULED)


def updates(tx, gradients, p):
    """The update of each step, and the last state."""
    state, seen = tx.init(p), []
    for g in gradients:
        u, state = tx.update(g, state, p)
        seen.append(u)
    return seen, state


def close(a, b, rtol=2e-5, atol=1e-7):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


@each_scheduled
def test_a_schedule_and_its_injection_agree(optimizer, kwargs):
    p = params()
    gradients = [grads(i, p) for i in range(4)]
    plain, injected = optimizer(0.1, **kwargs), gx.inject_hyperparams(optimizer)(0.1, **kwargs)
    close(updates(plain, gradients, p)[0], updates(injected, gradients, p)[0])


@each_scheduled
def test_16_bit_parameters_move_as_the_same_parameters_in_float32(optimizer, kwargs):
    low = params(jnp.bfloat16)
    full = jax.tree.map(lambda x: x.astype(jnp.float32), low)
    gradients = [grads(i, low) for i in range(3)]
    made = optimizer(0.1, **kwargs)
    tx = gx.GradientTransformation(made.init, lambda *args: made.observe(*args)[:2])  # before it is rounded
    widened = jax.tree.map(lambda x: x.astype(jnp.float32), gradients)
    close(updates(tx, gradients, low)[0], updates(tx, widened, full)[0], rtol=1e-6)


@pytest.mark.parametrize("tx", [gx.scale_by_amsgrad(B1, B2), gx.scale_by_adamax(B1, B2)], ids=repr)
def test_scheduled_betas_keep_the_correction_exact(tx):
    """A constant gradient has a mean of itself, whatever the weights."""
    x = jnp.array([2.0])
    close(updates(tx, [x] * 6, x)[0], [jnp.ones(1)] * 6)


def test_eps_hat_is_the_formula_of_keras_where_gradients_are_small():
    g = jnp.array([1e-6])
    root = np.sqrt(0.001) * 1e-6
    close(updates(gx.scale_by_adam(eps=1e-7, eps_hat=True), [g], g)[0], [[root / (root + 1e-7)]])
    close(updates(gx.scale_by_adam(eps=1e-7), [g], g)[0], [[1e-6 / (1e-6 + 1e-7)]])


@pytest.mark.parametrize("variant", ["corrected", "raw", "paper"])
def test_the_denominator_of_amsgrad_never_falls(variant):
    tx = gx.scale_by_amsgrad(b2=0.5, variant=variant)
    x = jnp.ones(1)
    state, tops = tx.init(x), []
    for g in (1.0, 4.0, 0.1, 0.1, 2.0, 0.1):
        _, state = tx.update(g * x, state)
        tops.append(float(state.nu_max[0]))
    assert tops == sorted(tops)
    assert tops[1] == tops[-1]


def test_amsgrad_of_the_paper_corrects_nothing():
    x = jnp.array([3.0])
    paper = gx.scale_by_amsgrad(variant="paper")
    for variant in ("corrected", "raw"):
        same = gx.scale_by_amsgrad(bias_correction_mu=False, bias_correction_nu=False, variant=variant)
        close(updates(paper, [x, 2 * x, x], x)[0], updates(same, [x, 2 * x, x], x)[0], rtol=1e-6)


def test_nadam_keeps_the_product_of_the_momenta_that_were():
    x = jnp.ones(1)
    _, state = updates(gx.scale_by_nadam(b1=B1, momentum_decay=1.0), [x] * 5, x)
    momenta = [float(B1(t - 1)) * (1 - 0.5 * 0.96**t) for t in range(1, 6)]
    np.testing.assert_allclose(state.weights["momentum"], 1 - np.prod(momenta), rtol=1e-5)
    assert isinstance(state.inner_state, gx.ScaleByAdamState)


def test_without_nesterov_nadam_is_adam():
    x = jnp.array([1.0, -2.0])
    plain, adam = gx.nadam(0.1, nesterov=False), gx.adam(0.1)
    close(updates(plain, [x, -x], x)[0], updates(adam, [x, -x], x)[0], rtol=0, atol=0)


def test_yogi_moves_its_second_moment_by_no_more_than_the_square():
    tx = gx.scale_by_yogi(b2=0.9, initial_accumulator_value=1.0)
    for g, nu in ((3.0, 1.0 + 0.1 * 9.0), (0.5, 1.0 - 0.1 * 0.25), (1.0, 1.0)):
        x = jnp.array([g])
        np.testing.assert_allclose(tx.update(x, tx.init(x))[1].nu, [nu], rtol=1e-6)


def test_adabelief_of_a_16_bit_parameter_without_gradient(lenient):
    """eps = 1e-16 is 0 in float16: Optax divides 0 by 0."""
    p, g = jnp.ones(1, jnp.float16), jnp.zeros(1, jnp.float16)
    assert jnp.isnan(updates(optax.adabelief(0.1), [g], p)[0][0])
    assert updates(gx.adabelief(0.1), [g], p)[0][0] == 0.0


def test_lion_of_one_beta_is_signum(lenient):
    x = jnp.array([1.0, -2.0, 0.5])
    gradients = [x, -2 * x, x, 0.3 * x, -x]
    lion = updates(gx.lion(0.1, b1=0.7, b2=None, weight_decay=0.0), gradients, x)[0]
    close(lion, updates(gx.signum(0.1, 0.7), gradients, x)[0], rtol=0, atol=0)
    close(lion, updates(optax.signum(0.1, 0.7), gradients, x)[0], rtol=0, atol=0)


def test_fromage_turns_by_the_learning_rate_and_keeps_the_norm():
    p, g = jnp.array([3.0, 0.0]), jnp.array([0.0, -7.0])
    turned = gx.apply_updates(p, updates(gx.fromage(0.1), [g], p)[0][0])
    np.testing.assert_allclose(jnp.linalg.norm(turned), 3.0, rtol=1e-6)
    np.testing.assert_allclose(jnp.arctan2(turned[1], turned[0]), np.arctan(0.1), rtol=1e-5)


def test_optimistic_gradients_settle_where_gradients_go_round():
    """min over x, max over y of x * y, whose gradients are y and -x."""
    distance = {}
    for name, tx in (("plain", gx.sgd(0.3)), ("optimistic", gx.optimistic_gradient_descent(0.3))):
        p = {"x": jnp.array(1.0), "y": jnp.array(1.0)}
        state = tx.init(p)
        for _ in range(100):
            u, state = tx.update({"x": p["y"], "y": -p["x"]}, state, p)
            p = gx.apply_updates(p, u)
        distance[name] = float(gx.global_norm(p))
    assert distance["plain"] > 10
    assert distance["optimistic"] < 0.1


def test_the_first_gradient_has_no_change():
    x = jnp.array([2.0])
    tx = gx.scale_by_optimistic_gradient(alpha=lambda step: 1 + step, beta=0.5)
    seen, state = updates(tx, [x, 3 * x, 3 * x], x)
    close(seen, [[2.0], [2 * 6.0 + 0.5 * 4.0], [3 * 6.0]])
    assert not state.inner_state.is_initial_step
    assert state.count == 3


def test_a_foreign_state_is_refused():
    x = jnp.ones(1)
    with pytest.raises(
        TypeError, match="scale_by_optimistic_gradient needs a ScaleByOptimisticGradientState"
    ):
        gx.scale_by_optimistic_gradient().update(x, gx.EmptyState())
