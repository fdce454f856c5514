"""What the texts compute that gradx started from: each of their rules, by documented options.

They contradict each other on where eps and the learning rate stand and when the decay comes; every
variant is here as NumPy code of its own, run under a falling rate, where the variants differ.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx
from tests.problems import grads

STEPS = 30
RATE = gx.exponential_decay(0.1, 10, 0.5)


def rate(t):
    return 0.1 * 0.5 ** (t / 10)


def sgd(p, g, t, s):
    return p - rate(t) * g


def momentum(p, g, t, s):
    s["v"] = 0.9 * s.get("v", 0) + g
    return p - rate(t) * s["v"]


def momentum_inside(p, g, t, s):
    s["v"] = 0.9 * s.get("v", 0) + rate(t) * g
    return p - s["v"]


def nesterov(p, g, t, s):
    s["v"] = 0.9 * s.get("v", 0) + g
    return p - rate(t) * (0.9 * s["v"] + g)


def nesterov_inside(p, g, t, s):
    before = s.get("v", 0)
    s["v"] = 0.9 * before - rate(t) * g
    return p - 0.9 * before + 1.9 * s["v"]


def adagrad(p, g, t, s):
    s["G"] = s.get("G", 0) + g**2
    return p - rate(t) * g / (np.sqrt(s["G"]) + 1e-8)


def adagrad_inside(p, g, t, s):
    s["G"] = s.get("G", 0) + g**2
    return p - rate(t) * g / np.sqrt(s["G"] + 1e-8)


def rmsprop(p, g, t, s):
    s["v"] = 0.9 * s.get("v", 0) + 0.1 * g**2
    return p - rate(t) * g / (np.sqrt(s["v"]) + 1e-8)


def rmsprop_inside(p, g, t, s):
    s["v"] = 0.9 * s.get("v", 0) + 0.1 * g**2
    return p - rate(t) * g / np.sqrt(s["v"] + 1e-8)


def adadelta(p, g, t, s):
    s["s"] = 0.9 * s.get("s", 0) + 0.1 * g**2
    move = -np.sqrt(s.get("u", 0) + 1e-6) / np.sqrt(s["s"] + 1e-6) * g
    s["u"] = 0.9 * s.get("u", 0) + 0.1 * move**2
    return p + move


def adam(p, g, t, s):
    s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
    s["v"] = 0.999 * s.get("v", 0) + 0.001 * g**2
    m_hat, v_hat = s["m"] / (1 - 0.9 ** (t + 1)), s["v"] / (1 - 0.999 ** (t + 1))
    return p - rate(t) * m_hat / (np.sqrt(v_hat) + 1e-8)


def adamw_after(p, g, t, s):
    p = adam(p, g, t, s)
    return p - rate(t) * 0.1 * p


def adamw_simultaneous(p, g, t, s):
    return adam(p, g, t, s) - rate(t) * 0.1 * p


def l2_adam(p, g, t, s):
    return adam(p, g + 0.1 * p, t, s)


def amsgrad(p, g, t, s):
    adam(p, g, t, s)
    s["top"] = np.maximum(s.get("top", 0), s["v"] / (1 - 0.999 ** (t + 1)))
    return p - rate(t) * s["m"] / (1 - 0.9 ** (t + 1)) / (np.sqrt(s["top"]) + 1e-8)


def lion_of_one_beta(p, g, t, s):
    s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
    return p - rate(t) * np.sign(s["m"])


def lion(p, g, t, s):
    m = s.get("m", 0)
    s["m"] = 0.99 * m + 0.01 * g
    return p * (1 - rate(t) * 0.01) - rate(t) * np.sign(0.9 * m + 0.1 * g)


def lars(p, g, t, s):
    return p - rate(t) * np.linalg.norm(p) / (np.linalg.norm(g) + 1e-8) * g


def lamb_uncorrected(p, g, t, s):
    s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
    s["v"] = 0.999 * s.get("v", 0) + 0.001 * g**2
    u = s["m"] / (np.sqrt(s["v"]) + 1e-6) + 0.01 * p
    return p - rate(t) * np.linalg.norm(p) / np.linalg.norm(u) * u


ROWS = [
    (sgd, gx.sgd(RATE)),
    (momentum, gx.sgd(RATE, 0.9)),
    (momentum_inside, gx.sgd(RATE, 0.9, rate_in_velocity=True)),
    (nesterov, gx.sgd(RATE, 0.9, nesterov=True)),
    (nesterov_inside, gx.sgd(RATE, 0.9, nesterov=True, rate_in_velocity=True)),
    (adagrad, gx.adagrad(RATE, eps=1e-8)),
    (adagrad_inside, gx.adagrad(RATE, eps=1e-8, eps_in_sqrt=True)),
    (rmsprop, gx.rmsprop(RATE)),
    (rmsprop_inside, gx.rmsprop(RATE, eps_in_sqrt=True)),
    (adadelta, gx.adadelta()),
    (adam, gx.adam(RATE)),
    (adamw_after, gx.adamw(RATE, weight_decay=0.1, decay_order="after")),
    (adamw_simultaneous, gx.adamw(RATE, weight_decay=0.1)),
    (adamw_simultaneous, gx.adamw(RATE, weight_decay=0.1, decay_order="before")),
    (l2_adam, gx.adamw(RATE, weight_decay=0.1, decay_mode="l2")),
    (amsgrad, gx.amsgrad(RATE)),
    (lion_of_one_beta, gx.lion(RATE, b2=None, weight_decay=0.0)),
    (lion, gx.lion(RATE, weight_decay=0.01)),
    (lars, gx.lars(RATE, trust_coefficient=1.0, momentum=0.0, eps=1e-8)),
    (lamb_uncorrected, gx.lamb(RATE, weight_decay=0.01, bias_correction=False)),
]


@pytest.mark.parametrize(("rule", "tx"), ROWS, ids=[f"{rule.__name__}: {tx!r}" for rule, tx in ROWS])
def test_is_an_option_away(rule, tx, x64):
    p = jnp.linspace(0.5, 2.0, 6).reshape(2, 3)
    theirs, memory = np.asarray(p), {}
    state, update = tx.init(p), jax.jit(tx.update)
    for t in range(STEPS):
        g = grads(t, p)
        u, state = update(g, state, p)
        p = gx.apply_updates(p, u)
        theirs = rule(theirs, np.asarray(g), t, memory)
        np.testing.assert_allclose(p, theirs, rtol=1e-12, atol=1e-13)


def test_a_warm_up_that_increments_first(x64):
    """Warm-up and cosine whose first step has lr / warmup, not 0: a schedule shifted by one."""
    warmup, total, base, least = 10, 100, 0.3, 0.01
    ours = gx.shift_schedule(gx.warmup_cosine_decay_schedule(0.0, base, warmup, total, least), 1)
    for t in range(total):
        step = t + 1
        if step < warmup:
            expected = base * step / warmup
        else:
            progress = (step - warmup) / (total - warmup)
            expected = least + 0.5 * (base - least) * (1 + np.cos(np.pi * progress))
        np.testing.assert_allclose(ours(t), expected, rtol=1e-12)
