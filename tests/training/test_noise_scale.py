"""The gradient noise scale against its formula, and against a problem whose noise is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx
from tests.problems import aval

MEAN = jnp.array([3.0, -1.0, 0.0])
SPREAD = jnp.array([2.0, 1.0, 4.0])  # of a row: tr Σ = 21, |G|² = 10


def loss(w, rows):
    """Its gradient is w - x, so that a row's is drawn from a known normal distribution."""
    return jnp.mean(jnp.sum((w[None] - rows) ** 2, axis=-1)) / 2


def step(noise_scale, state, key, rows=64, count=4):
    batch = gx.micro_batches(SPREAD[None] * jax.random.normal(key, (rows, 3)), count)
    _, gradient, squared_norms = gx.accumulate_gradients(loss, squared_norms=True)(MEAN, batch)
    return noise_scale.update(state, squared_norms, gradient, rows)


@pytest.mark.parametrize(("rows", "count"), [(64, 2), (64, 16)])
def test_both_means_are_without_bias(rows, count):
    """Of 4000 estimates from one step each, the mean is within four standard errors of the truth."""
    once = gx.gradient_noise_scale(decay=0.0)
    keys = jax.random.split(jax.random.key(0), 4000)
    found = jax.jit(jax.vmap(lambda key: step(once, once.init(), key, rows, count)))(keys)
    for values, truth in ((found.noise, 21.0), (found.signal, 10.0)):
        error = np.std(values) / len(keys) ** 0.5
        assert abs(np.mean(values) - truth) < 4 * error
        assert error < 0.02 * truth


def test_the_scale_over_the_steps():
    """Smoothed apart, the two give tr Σ / |G|², from the first steps on: their start at zero cancels."""
    noise_scale = gx.gradient_noise_scale(0.995)
    follow = lambda state, key: (step(noise_scale, state, key),) * 2
    keys = jax.random.split(jax.random.key(1), 2000)
    _, states = jax.jit(lambda s: jax.lax.scan(follow, s, keys))(noise_scale.init())
    np.testing.assert_allclose(states.scale[-1], 2.1, rtol=0.1)
    np.testing.assert_allclose(states.scale[20], 2.1, rtol=0.5)
    assert states.noise[20] < 21 / 5


def test_follows_the_paper():
    """Appendix A.1: two batch sizes and the squared norms of their gradients."""
    rng = np.random.default_rng(0)
    small, count, noise, signal = 8, 4, 0.0, 0.0
    noise_scale = gx.gradient_noise_scale(0.9)
    state = noise_scale.init()
    for _ in range(5):
        micro = 1 + rng.normal(size=(count, 7)).astype(np.float32)
        state = noise_scale.update(
            state, (micro**2).sum(1), {"w": jnp.asarray(micro.mean(0)), "none": None}, small * count
        )
        big, g_small, g_big = small * count, (micro**2).sum(1).mean(), (micro.mean(0) ** 2).sum()
        noise = 0.9 * noise + 0.1 * (g_small - g_big) / (1 / small - 1 / big)
        signal = 0.9 * signal + 0.1 * (big * g_big - small * g_small) / (big - small)
    np.testing.assert_allclose([state.noise, state.signal], [noise, signal], rtol=1e-5)
    np.testing.assert_allclose(state.scale, noise / signal, rtol=1e-5)


def test_at_the_edges():
    noise_scale = gx.gradient_noise_scale()
    state = noise_scale.init()
    assert state.scale == np.inf  # nothing is known
    update = jax.jit(noise_scale.update)
    same = update(state, jnp.ones(4), jnp.array([1.0]), 32)
    assert aval(same) == aval(state)
    assert same.scale == 0  # no noise
    assert update(state, jnp.ones(4), jnp.array([0.0]), 32).scale == np.inf  # nothing but noise
    for bad in (np.inf, np.nan):
        after = update(same, jnp.array([1.0, bad]), jnp.array([bad]), 32)
        assert [*after] == [*same]
    low = update(state, jnp.full(2, 300.0**2), jnp.array([300.0], jnp.float16), 8)
    np.testing.assert_allclose(low.signal, 0.01 * 300.0**2, rtol=1e-5)  # float16 would overflow
    assert gx.gradient_noise_scale(0.9) == gx.gradient_noise_scale(decay=0.9)
    assert repr(gx.gradient_noise_scale(0.9)) == "gradient_noise_scale(decay=0.9)"


def test_errors():
    with pytest.raises(ValueError, match="decay must be at least 0 and less than 1, got 1"):
        gx.gradient_noise_scale(1.0)
    noise_scale = gx.gradient_noise_scale()
    for norms in (jnp.ones(1), jnp.ones(()), jnp.ones((2, 2))):
        with pytest.raises(
            ValueError, match="squared_norms must be an array of two numbers or more, one for"
        ):
            noise_scale.update(noise_scale.init(), norms, jnp.ones(2), 8)


@pytest.mark.parametrize("has_aux", [False, True])
def test_the_squared_norms_of_micro_batches(has_aux):
    """Those of the gradients one by one; what is given besides is as without them."""
    params = {"w": jnp.array([1.0, 2.0]), "b": jnp.ones(())}
    rows = jax.random.normal(jax.random.key(2), (4, 3, 2))

    def loss(params, rows):
        value = jnp.mean((rows @ params["w"] + params["b"]) ** 2)
        return (value, rows.sum()) if has_aux else value

    plain = gx.accumulate_gradients(loss, has_aux=has_aux)(params, rows)
    *rest, norms = gx.accumulate_gradients(loss, has_aux=has_aux, squared_norms=True)(params, rows)
    jax.tree.map(np.testing.assert_array_equal, tuple(rest), plain)
    for i in range(4):
        out = jax.grad(loss, has_aux=has_aux)(params, rows[i])
        g = out[0] if has_aux else out
        np.testing.assert_allclose(norms[i], sum(jnp.sum(x**2) for x in g.values()), rtol=1e-5)
