"""`descend`: every kind of decay in every order, under a falling rate, where the kinds differ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx

PEAK, DECAY = 0.5, 0.1
RATE = gx.linear_schedule(PEAK, 0.1, 4)

SHARES = {
    "decoupled": lambda rate: rate * DECAY,
    "independent": lambda rate: rate / PEAK * DECAY,
    "corrected": lambda rate: rate**2 / PEAK * DECAY,
}


def path(tx, p, steps=5):
    state, update, seen = tx.init(p), jax.jit(tx.update), []
    for t in range(steps):
        u, state = update(jax.tree.map(lambda x, t=t: x + t, p), state, p)
        p = gx.apply_updates(p, u)
        seen.append(p)
    return seen


def made(rate=RATE, decay=DECAY, **kwargs):
    peak = None if kwargs["decay_mode"] == "decoupled" else PEAK
    return gx.descend(gx.scale(2.0), rate, decay, max_learning_rate=peak, **kwargs)


@pytest.mark.parametrize("order", ["simultaneous", "before", "after"])
@pytest.mark.parametrize("mode", SHARES)
def test_is_the_formula(mode, order, x64):
    p = expected = np.linspace(-1.0, 2.0, 4)
    for t, seen in enumerate(path(made(decay_mode=mode, decay_order=order), jnp.asarray(p))):
        rate = PEAK - 0.1 * t
        step = rate * 2.0 * (expected + t)
        decayed = expected - step if order == "after" else expected
        expected = expected - step - SHARES[mode](rate) * decayed
        np.testing.assert_allclose(seen, expected, rtol=1e-14)


def test_l2_is_part_of_the_gradient(x64):
    p = expected = np.linspace(-1.0, 2.0, 4)
    for t, seen in enumerate(path(made(decay_mode="l2"), jnp.asarray(p))):
        expected = expected - (PEAK - 0.1 * t) * 2.0 * (expected + t + DECAY * expected)
        np.testing.assert_allclose(seen, expected, rtol=1e-14)


@pytest.mark.parametrize("mode", ["l2", *SHARES])
def test_a_mask_and_a_schedule_of_the_decay(mode, x64):
    p = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    fading = gx.linear_schedule(DECAY, 0.0, 2)
    tx = made(decay=fading, mask="matrices_only", decay_mode=mode)
    seen, without = path(tx, p), path(made(decay=0.0, decay_mode=mode), p)
    np.testing.assert_allclose([x["b"] for x in seen], [x["b"] for x in without], rtol=1e-14)
    np.testing.assert_allclose(seen[0]["w"], path(made(decay_mode=mode), p)[0]["w"], rtol=1e-14)
    assert np.all(seen[1]["w"] != path(made(decay_mode=mode), p)[1]["w"])


def test_a_constant_rate_is_its_own_peak():
    """Then independent decay is by the decay alone, and corrected is decoupled."""
    p = jnp.linspace(-1.0, 2.0, 4)
    at = lambda mode: gx.descend(gx.scale(0.0), 0.5, DECAY, decay_mode=mode)
    np.testing.assert_allclose(path(at("independent"), p, 1)[0], 0.9 * p, rtol=1e-6)
    np.testing.assert_allclose(path(at("corrected"), p)[-1], path(at("decoupled"), p)[-1], rtol=1e-6)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(decay_mode="coupled"), "descend: decay_mode must be 'decoupled', 'l2', .*, got 'coupled'"),
        (dict(decay_order="last"), "descend: decay_order must be 'simultaneous', 'before' or 'after', got"),
        (dict(decay_mode="l2", decay_order="after"), "L2 is part of the gradient, and cannot come after"),
        (dict(decay_mode="independent"), "give max_learning_rate, the highest learning rate of the sched"),
        (dict(decay_mode="corrected", max_learning_rate=0.0), "max_learning_rate must be more than 0"),
    ],
)
def test_says_what_is_wrong(kwargs, message):
    with pytest.raises(ValueError, match=message):
        gx.descend(gx.scale_by_adam(), RATE, DECAY, **kwargs)
