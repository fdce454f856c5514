"""Dynamic loss scaling: the rule of torch, exact powers of two, and a float16 training that needs it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradx as gx
from tests.problems import grads, params

SCALED = gx.dynamic_loss_scale(gx.adam(0.1), 64.0, growth_interval=3, min_scale=16.0, max_scale=512.0)
UPDATE = jax.jit(SCALED.update)


def reference(finite, scale, interval, factor, least, most):
    """`torch.amp.GradScaler`, with bounds."""
    good, scales = 0, []
    for ok in finite:
        good = good + 1 if ok else 0
        if not ok:
            scale = max(scale / factor, least)
        elif good == interval:
            good, scale = 0, min(scale * factor, most)
        scales.append((scale, good))
    return scales


@given(st.lists(st.booleans() | st.just(True), max_size=30))
@settings(max_examples=30, deadline=None)
def test_the_scale_is_that_of_the_reference(finite):
    p = jnp.ones(2)
    state, scales = SCALED.init(p), []
    for ok in finite:
        u, state = UPDATE(state.scale * jnp.array([1.0, 1.0 if ok else jnp.inf]), state, p)
        scales.append((float(state.scale), int(state.good_steps)))
        assert bool(jnp.any(u)) == ok
    assert scales == reference(finite, 64.0, 3, 2.0, 16.0, 512.0)
    assert state.inner_state.total == finite.count(False)
    assert state.inner_state.inner_state[0].count == finite.count(True)


def test_powers_of_two_change_no_bit():
    p = params()
    scaled, plain = (
        gx.dynamic_loss_scale(gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(0.1)), scale, 2)
        for scale in (2.0**15, 1.0)
    )
    q, (s, t) = p, (scaled.init(p), plain.init(p))
    for i in range(5):
        g = grads(i, p)
        u, s = jax.jit(scaled.update)(jax.tree.map(lambda x, s=s: x * s.scale, g), s, p)
        v, t = jax.jit(plain.update)(jax.tree.map(lambda x, t=t: x * t.scale, g), t, q)
        p, q = gx.apply_updates(p, u), gx.apply_updates(q, v)
    jax.tree.map(np.testing.assert_array_equal, (p, s.inner_state), (q, t.inner_state))


def test_float16_trains_with_it_and_not_without():
    """Gradients of 1e-9: in float16 they are 0, and scaled they are not. Parameters stay in float32."""
    x = jax.random.normal(jax.random.key(0), (64, 4))
    y = x @ jnp.array([[1.0], [-2.0], [0.5], [3.0]])
    start = jnp.zeros((4, 1))

    def loss(w, x, y):
        out = x.astype(jnp.float16) @ w.astype(jnp.float16)
        return 1e-9 * jnp.mean((out - y.astype(jnp.float16)).astype(jnp.float32) ** 2)

    inner = gx.adam(0.05, eps=1e-16)
    scaled = gx.dynamic_loss_scale(inner, 2.0**60, 20, max_scale=2.0**80)  # too high at first

    @jax.jit
    def step(w, state):
        g = jax.grad(lambda w: gx.scale_loss(loss(w, x, y), state))(w)
        u, state = scaled.update(g, state, w)
        return gx.apply_updates(w, u), state

    w, state = start, scaled.init(start)
    for _ in range(300):
        w, state = step(w, state)
    gx.check_skips(state)
    assert state.inner_state.total > 0
    assert loss(w, x, y) < 1e-3 * loss(start, x, y)
    assert not jnp.any(jax.grad(loss)(start, x, y))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "complex64"])
def test_gradients_are_unscaled_in_float32(dtype):
    """1e-7 is less than float16 can hold."""
    tx = gx.dynamic_loss_scale(gx.identity(), 2.0**15)
    u, *_ = tx.observe(jnp.full(2, 2.0**-10, dtype), tx.init(jnp.ones(2, dtype)))
    np.testing.assert_array_equal(u, [2.0**-25] * 2)


def test_the_scale_is_found_in_chains_and_the_loss_widened():
    tx = gx.chain(gx.masked(gx.dynamic_loss_scale(gx.sgd(0.1), 2.0**10), True))
    state = tx.init(jnp.ones(1))
    scaled = gx.scale_loss(jnp.float16(100.0), state)
    assert (scaled.dtype, float(scaled)) == (jnp.float32, 102400.0)


def test_an_endless_overflow_is_told_on_the_host():
    tx = gx.dynamic_loss_scale(gx.sgd(0.1), 4.0, max_consecutive=3)
    state = tx.init(jnp.ones(1))
    for _ in range(3):
        gx.check_skips(state)
        _, state = tx.update(jnp.array([jnp.inf]), state)
    assert state.scale == 1.0
    with pytest.raises(RuntimeError, match=r"3 were skipped in all \(nonfinite 3\)"):
        gx.check_skips(state)


def test_reports_the_scale_of_the_step():
    tx, g = gx.dynamic_loss_scale(gx.scale(-0.1), 8.0), jnp.array([jnp.inf])
    _, state, first = tx.observe(g, tx.init(g))
    _, state, second = tx.observe(g, state)
    assert [r.name for r in (*tx.blank(g), *first, *second)] == ["loss_scale", "skipped"] * 3
    assert [float(r.value) for r in (*first, *second)] == [8.0, 1.0, 4.0, 2.0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gx.dynamic_loss_scale(gx.sgd), TypeError, "inner transformation of skip_if is not"),
        (lambda: gx.dynamic_loss_scale(gx.sgd(0.1), 0.0), ValueError, "init_scale must be more than 0"),
        (lambda: gx.dynamic_loss_scale(gx.sgd(0.1), factor=0.9), ValueError, "factor must be at least 1"),
        (
            lambda: gx.dynamic_loss_scale(gx.sgd(0.1), 0.5),
            ValueError,
            "between min_scale and max_scale, got 0.5",
        ),
        (
            lambda: gx.dynamic_loss_scale(gx.sgd(0.1), growth_interval=0),
            ValueError,
            "growth_interval must be",
        ),
        (lambda: gx.scale_loss(1.0, gx.sgd(0.1).init(jnp.ones(1))), ValueError, "this one has none"),
        (lambda: SCALED.update(jnp.ones(1), ()), TypeError, "dynamic_loss_scale needs a LossScaleState"),
        (
            lambda: gx.scale_loss(1.0, gx.chain(SCALED, SCALED).init(jnp.ones(1))),
            ValueError,
            "a state with one dynamic_loss_scale, and this one has 2",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
