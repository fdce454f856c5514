"""RAdam: when it rectifies, and how exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx
from gradx.optimizers.radam import sample_size
from tests import reference


def run(tx, g, steps):
    state, update, out = tx.init(g), jax.jit(tx.update), []
    for _ in range(steps):
        u, state = update(g, state)
        out.append(float(u[0]))
    return np.array(out)


def expected(steps, **kwargs):
    rule = reference.radam(1.0, **kwargs)
    next(rule)
    return np.array([-rule.send((np.full(1, 2.0), None))[0] for _ in range(steps)])


@pytest.mark.parametrize("b2", [0.9, 0.99, 0.999, 0.9999])
def test_is_exact_in_float32(b2):
    """To 1e-5 in 100 steps, through the change of formula too: Optax is 1e-2 off for 0.999."""
    g = jnp.full(1, 2.0)
    np.testing.assert_allclose(run(gx.scale_by_radam(b2=b2), g, 100), expected(100, b2=b2), rtol=1e-5)
    if b2 == 0.99:
        np.testing.assert_allclose(run(gx.scale_by_radam(b2=b2), g, 500), expected(500, b2=b2), rtol=1e-5)


def test_the_first_five_steps_are_the_mean_gradient():
    u = run(gx.scale_by_radam(), jnp.full(1, 2.0), 6)
    np.testing.assert_allclose(u[:5], 2.0, rtol=1e-6)
    assert 0 < u[5] < 0.1


def test_short_averages_are_never_used():
    """b2 = 0.6 is worth 4 gradients at most; nor is any at an infinite threshold."""
    for tx in (
        gx.scale_by_radam(b2=0.6, threshold=0.0),
        gx.scale_by_radam(b2=0.0),
        gx.scale_by_radam(threshold=float("inf")),
    ):
        np.testing.assert_allclose(run(tx, jnp.full(1, 2.0), 30), 2.0, rtol=1e-5)


def test_the_threshold_itself_is_enough():
    """After many steps ρ is ρ∞ to the last bit: 7 for b2 = 0.75. Then r is 1, and u the sign."""
    for threshold, last in ((7.0, 1.0), (7.001, 2.0)):
        tx = gx.scale_by_radam(b2=0.75, eps=0.0, threshold=threshold)
        np.testing.assert_allclose(run(tx, jnp.full(1, 2.0), 150)[-1], last, rtol=1e-6)


def test_a_schedule_of_b2_that_is_constant_changes_nothing(x64):
    g = jnp.full(1, 2.0)
    scheduled = gx.scale_by_radam(b2=lambda step: 0.99)
    np.testing.assert_allclose(run(scheduled, g, 50), run(gx.scale_by_radam(b2=0.99), g, 50), rtol=1e-10)


def test_the_rest_of_the_zero_start_is_the_product_of_a_schedule(x64):
    """b2 alternates between 0.9 and 0.95: ρ with their product for b2ᵗ."""
    b2 = lambda step: jnp.where(step % 2 == 0, 0.9, 0.95)
    out = run(gx.scale_by_radam(b1=0.0, b2=b2, eps=0.0), jnp.full(1, 2.0), 12)
    left = 1.0
    for t in range(1, 13):
        b = 0.9 if t % 2 else 0.95
        left *= b
        most = 2 / (1 - b) - 1
        rho = most - 2 * t * left / (1 - left)
        r = 2.0
        if rho >= 5:
            r = np.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
        np.testing.assert_allclose(out[t - 1], r, rtol=1e-9)


@pytest.mark.parametrize("b2", [0.5, 0.9, 0.99, 0.999])
def test_the_sample_size_and_its_derivative(b2):
    """By the paper's formula in float64; at many steps too, where its powers vanish."""
    t = np.array([1, 2, 10, 100, 1000, 10**6], np.float64)
    power = b2**t
    rho = (1 + b2) / (1 - b2) - 2 * t * power / (1 - power)
    slope = 2 / (1 - b2) ** 2 - 2 * t**2 * b2 ** (t - 1) / (1 - power) ** 2
    size, derivative = jax.vmap(jax.value_and_grad(sample_size), (None, 0))(jnp.float32(b2), jnp.float32(t))
    np.testing.assert_allclose(size, rho, rtol=1e-3)
    np.testing.assert_allclose(derivative, slope, rtol=2e-3, atol=1e-6)
