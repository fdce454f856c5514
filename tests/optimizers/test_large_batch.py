"""LARS and LAMB in each variant, whole models at a time, against NumPy after each source."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx
from tests import reference

SHAPES = {"w": (3, 4), "b": (4,), "zero": (2, 2), "still": (3, 2), "scale": ()}
SPARED = [len(SHAPES[k]) < 2 for k in sorted(SHAPES)]  # jax.tree's order
LR, WD = 0.5, 0.1
ONLY = "matrices_only"

ROWS = [
    (gx.lars(LR, WD, variant="paper"), partial(reference.lars_of_the_paper, LR, WD, SPARED)),
    (
        gx.lars(LR, WD, eps=1e-7, variant="mlperf", trust_ratio_mask=ONLY),
        partial(reference.lars_of_mlperf, LR, WD, SPARED),
    ),
    (
        gx.lars(LR, WD, variant="nvidia", trust_ratio_mask=ONLY, nesterov=True),
        partial(reference.lars_of_nvidia, LR, WD, SPARED),
    ),
    (
        gx.lars(LR, WD, variant="nvidia"),
        partial(reference.lars_of_nvidia, LR, WD, [False] * 5, nesterov=False),
    ),
    (gx.lamb(LR, weight_decay=WD), partial(reference.lamb_of_the_paper, LR, WD, SPARED)),
    (
        gx.lamb(LR, weight_decay=WD, phi_bounds=(0.5, 2.0)),
        partial(reference.lamb_of_the_paper, LR, WD, SPARED, low=0.5, high=2.0),
    ),
    (
        gx.lamb(LR, weight_decay=WD, mask=ONLY, variant="mlperf"),
        partial(reference.lamb_of_mlperf, LR, WD, SPARED),
    ),
    (
        gx.lamb(LR, weight_decay=WD, mask=ONLY, variant="nvidia"),
        partial(reference.lamb_of_nvidia, LR, WD, SPARED),
    ),
    (
        gx.lamb(LR, mask=ONLY, variant="nvidia", max_grad_norm=3.0),
        partial(reference.lamb_of_nvidia, LR, 0.0, SPARED, max_grad_norm=3.0),
    ),
    (
        gx.lamb(LR, weight_decay=WD, mask=ONLY, variant="nvlamb"),
        partial(reference.lamb_of_nvidia, LR, WD, SPARED, use_nvlamb=True),
    ),
]


def gradients(rng, step):
    """Norms that fall from 10 to 0.2, past every bound; an array whose gradient is 0 now and then."""
    gs = {k: 2 * 0.9**step * rng.normal(size=shape) for k, shape in SHAPES.items()}
    return gs | {"still": gs["still"] * min(step % 3, 1)}


@pytest.mark.parametrize(("tx", "rule"), ROWS, ids=[repr(tx) for tx, _ in ROWS])
def test_follows_its_source(tx, rule, x64):
    p = {k: jnp.full(shape, 0.0 if k == "zero" else 0.7) for k, shape in SHAPES.items()}
    state, update = tx.init(p), jax.jit(tx.update)
    rng, rule = np.random.default_rng(0), rule()
    next(rule)
    for step in range(40):
        g = gradients(rng, step)
        u, state = update(g, state, p)
        expected = rule.send(tuple([np.asarray(x) for x in jax.tree.leaves(tree)] for tree in (g, p)))
        for x, y in zip(jax.tree.leaves(u), expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-14)
        p = gx.apply_updates(p, u)


def test_the_gradients_are_clipped_first_and_no_more_than_by_their_norm():
    """LAMB goes by the direction of its first gradient, but later ones weigh as they are clipped."""
    p, g = jnp.ones(2), jnp.array([3.0, 4.0])
    for kwargs, mu in ((dict(), 1.0), (dict(variant="mlperf"), 0.2), (dict(max_grad_norm=10.0), 1.0)):
        tx = gx.lamb(0.1, **kwargs)
        _, state = tx.update(g, tx.init(p), p)
        found = next(s for s in state if isinstance(s, gx.ScaleByAdamState))
        np.testing.assert_allclose(found.mu, 0.1 * mu * g, rtol=1e-6)


def test_explicit_masks_win():
    """Whatever the variant, `trust_ratio_mask` says which arrays have the ratio."""
    p = {"b": jnp.full(2, 5.0), "w": jnp.full((2, 2), 5.0)}
    g = jax.tree.map(jnp.ones_like, p)
    for variant in ("paper", "mlperf", "nvidia", "nvlamb"):
        tx = gx.lamb(0.1, mask=ONLY, trust_ratio_mask=True, variant=variant)
        u, _ = tx.update(g, tx.init(p), p)
        for x, y in zip(jax.tree.leaves(u), jax.tree.leaves(p), strict=True):
            np.testing.assert_allclose(jnp.linalg.norm(x), 0.1 * jnp.linalg.norm(y), rtol=1e-5)


def test_an_injected_decay_of_zero_may_change():
    """FusedLAMB without decay has no ratio; one that is 0 for now has."""
    p, g = jnp.full((2, 2), 5.0), jnp.ones((2, 2))
    plain = gx.lamb(0.1, variant="nvidia")
    injected = gx.inject_hyperparams(gx.lamb)(0.1, weight_decay=0.0, variant="nvidia")
    for tx, size in ((plain, 0.1), (injected, 0.5)):
        u, _ = tx.update(g, tx.init(p), p)
        np.testing.assert_allclose(u, -size, rtol=1e-4)
