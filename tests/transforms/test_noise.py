"""Noise: its law, its keys, and Optax's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx

LIKE = {"a": jnp.zeros((400, 500)), "b": jnp.zeros(3)}


def noises(tx, steps, like=LIKE):
    """What is added to zeros at each step."""
    state, update, out = tx.init(like), jax.jit(tx.update), []
    for _ in range(steps):
        u, state = update(like, state)
        out.append(u)
    return out


@pytest.mark.parametrize(("eta", "gamma"), [(0.01, 0.55), (4.0, 0.0)])
def test_the_variance_fades_as_the_paper_says(eta, gamma):
    """Of 200,000 numbers: the mean to 5 of its standard errors, the variance to 2 %, and no two alike."""
    drawn = [np.asarray(u["a"]) for u in noises(gx.add_noise(eta, gamma, key=1), 4)]
    for t, x in enumerate(drawn, 1):
        variance = eta / t**gamma
        np.testing.assert_allclose(x.var(), variance, rtol=0.02)
        assert abs(x.mean()) < 5 * (variance / x.size) ** 0.5
    assert abs(np.corrcoef(drawn[0].ravel(), drawn[1].ravel())[0, 1]) < 0.02


def test_a_schedule_of_the_variance():
    tx = gx.add_noise(lambda step: jnp.where(step == 1, 1.0, 0.0), 0.0, key=1)
    assert [float(u["a"].std().round(1)) for u in noises(tx, 3)] == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    "key", [3, pytest.param(jax.random.key(3), marks=pytest.mark.slow)], ids=["int", "key"]
)
def test_the_numbers_are_optax_s(key, x64, lenient):
    like = {"a": jnp.zeros((3, 4)), "none": None, "z": jnp.zeros(2, complex), "b": jnp.zeros(5)}
    ours, theirs = (noises(m.add_noise(0.1, 0.55, key), 50, like) for m in (gx, optax))
    for u, v in zip(ours, theirs, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-12), u, v)


def test_noisy_sgd_is_optax_s(x64, lenient):
    ours, theirs = (noises(m.noisy_sgd(0.1, eta=0.5, key=7), 50, jnp.zeros(9)) for m in (gx, optax))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_every_kind_of_key_gives_the_same_noise():
    kinds = [5, np.int32(5), jax.random.key(5), jax.random.PRNGKey(5), np.array(jax.random.PRNGKey(5))]
    drawn = [np.asarray(noises(gx.add_noise(1.0, 0.0, key), 2)[1]["b"]) for key in kinds]
    drawn.append(np.asarray(noises(gx.add_noise(1.0, 0.0, seed=5), 2)[1]["b"]))
    for x in drawn[1:]:
        np.testing.assert_array_equal(x, drawn[0])


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_a_donated_state_leaves_the_key_alone(make):
    tx = gx.add_noise(1.0, 0.0, make(5))
    step = jax.jit(tx.update, donate_argnums=1)
    first, _ = step(LIKE, tx.init(LIKE))
    again, state = step(LIKE, tx.init(LIKE))
    np.testing.assert_array_equal(first["b"], again["b"])
    assert jax.typeof(state.rng_key) == jax.typeof(make(5))


def test_equality_goes_by_the_key():
    make = lambda key: gx.noisy_sgd(0.1, key=key)
    assert make(jax.random.key(1)) == make(jax.random.key(1)) != make(jax.random.key(2))
    assert make(jax.random.key(1)) != make(jax.random.key(1, impl="rbg"))
    assert hash(make(jax.random.PRNGKey(1))) == hash(make(jax.random.PRNGKey(1)))


@pytest.mark.parametrize("key", [5, jax.random.key(5)])
def test_a_key_is_not_injected(key):
    """It is no number that could be changed, or rounded to float32."""
    tx = gx.inject_hyperparams(gx.noisy_sgd)(0.1, key=key)
    state = tx.init(LIKE)
    assert sorted(state.hyperparams) == ["eta", "gamma", "learning_rate"]
    u, _ = tx.update(LIKE, state)
    np.testing.assert_allclose(u["b"], noises(gx.noisy_sgd(0.1, key=5), 1)[0]["b"], rtol=1e-6)


def test_noise_is_not_rounded_to_16_bits():
    tx, g = gx.add_noise(1.0, 0.0, 0), jnp.zeros(1000, jnp.bfloat16)
    u, *_ = tx.observe(g, tx.init(g))
    assert u.dtype == jnp.float32
    assert np.any(u != u.astype(jnp.bfloat16).astype(jnp.float32))


@pytest.mark.parametrize("key", ["0", 1.0, True, jnp.zeros(2), jnp.zeros((2, 2), jnp.uint32)])
def test_what_is_no_key_is_refused(key):
    with pytest.raises(TypeError, match="key must be an integer or one random key"):
        gx.add_noise(0.1, 0.55, key)


def test_one_key_and_no_more():
    with pytest.raises(TypeError, match="give one of key and seed"):
        gx.add_noise(0.1, 0.55, 0, seed=0)
