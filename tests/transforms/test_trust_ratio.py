"""The trust ratio in its variants, against the formula written out, and at its edges."""

import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx

P, G = jnp.array([3.0, 4.0]), jnp.array([0.6, 0.8])  # norms 5 and 1
INF, NAN = float("inf"), float("nan")


def ratio(p=P, g=G, **kwargs):
    tx = gx.scale_by_trust_ratio(**kwargs)
    return np.asarray(tx.update(g, tx.init(p), p)[0] / g)


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({}, 5.0),
        ({"trust_coefficient": 0.001}, 0.005),
        ({"eps": 1.0}, 2.5),
        ({"min_norm": 2.0}, 2.5),
        ({"phi_bounds": (0.0, 2.0)}, 2.0),
        ({"phi_bounds": (10.0, 20.0)}, 10.0),
    ],
)
def test_each_option(kwargs, expected):
    np.testing.assert_allclose(ratio(**kwargs), expected, rtol=1e-6)


def test_the_summed_denominator_adds_two_norms():
    """‖g‖ + λ‖p‖ is not ‖g + λp‖ unless the two are parallel."""
    g, decay = jnp.array([0.8, -0.6]), 0.1
    tx = gx.scale_by_trust_ratio(summed_decay=decay)
    u, _ = tx.update(g, tx.init(P), P)
    np.testing.assert_allclose(u, 5.0 / (1.0 + 0.1 * 5.0) * (g + 0.1 * P), rtol=1e-6)


@pytest.mark.parametrize("bad", [0.0, INF, NAN])
@pytest.mark.parametrize("phi_bounds", [None, (0.1, 2.0)])
def test_a_norm_of_zero_or_not_finite_gives_one(bad, phi_bounds):
    p = jnp.full(2, bad)
    np.testing.assert_array_equal(ratio(p=p, phi_bounds=phi_bounds), 1.0)
    tx = gx.scale_by_trust_ratio(phi_bounds=phi_bounds)
    np.testing.assert_array_equal(tx.update(p, tx.init(P), P)[0], p)


def test_a_float16_norm_does_not_overflow():
    p = jnp.full(4, 300, jnp.float16)
    tx = gx.scale_by_trust_ratio()
    u, _ = tx.update(jnp.full(4, 0.5, jnp.float16), tx.init(p), p)
    np.testing.assert_allclose(u, 300.0, rtol=1e-6)


def test_each_layer_has_its_own_ratio():
    p = {"a": P, "b": 10 * P}
    tx = gx.scale_by_trust_ratio()
    u, _ = tx.update({"a": G, "b": G}, tx.init(p), p)
    np.testing.assert_allclose(u["a"], 5 * G, rtol=1e-6)
    np.testing.assert_allclose(u["b"], 50 * G, rtol=1e-6)


def test_lars_and_lamb_spare_vectors_on_request():
    """With masks, a bias has neither ratio nor decay: LAMB treats it as Adam does, LARS as momentum."""
    p = {"w": jnp.full((2, 2), 3.0), "b": jnp.full(2, 7.0)}
    g = {"w": jnp.ones((2, 2)), "b": jnp.full(2, 0.3)}
    only = gx.matrices_only
    lamb = gx.lamb(0.1, weight_decay=0.5, mask=only, trust_ratio_mask=only)
    adam = gx.adam(0.1, eps=1e-6)
    lars = gx.lars(0.1, weight_decay=0.5, weight_decay_mask=only, trust_ratio_mask=only)
    sgd = gx.sgd(0.1, momentum=0.9)
    for ours, plain in ((lamb, adam), (lars, sgd)):
        u, _ = ours.update(g, ours.init(p), p)
        v, _ = plain.update(g, plain.init(p), p)
        np.testing.assert_allclose(u["b"], v["b"], rtol=1e-6)
        assert not np.allclose(u["w"], v["w"])


def test_lamb_does_not_lose_its_learning_rate():
    """The learning rate comes after the ratio, which would cancel it ."""
    tx = gx.lamb(0.01)
    u, _ = tx.update(G, tx.init(P), P)
    np.testing.assert_allclose(np.linalg.norm(u), 0.01 * 5, rtol=1e-5)
