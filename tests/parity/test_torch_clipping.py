"""Clipping by the global norm as torch does it: 1e-6 in the denominator, the factor at most 1."""

import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx

torch = pytest.importorskip("torch", reason="torch is in the extra 'parity': make test-parity")

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("size", [3.0, 1.0, 1 - 5e-7, 1e-3, 1e-9, 0.0])
def test_clip_by_global_norm_is_torch_s(size, x64):
    """Norms far above and below 1, within 1e-6 of it (where torch already shrinks), and 0."""
    gs = [RNG.standard_normal(shape) for shape in [(3, 4), (4,), ()]]
    norm = np.sqrt(sum(np.sum(g**2) for g in gs))
    gs = [np.asarray(g * size / norm) for g in gs]
    ps = [torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for g in gs]
    for p, g in zip(ps, gs, strict=True):
        p.grad = torch.tensor(g)
    torch.nn.utils.clip_grad_norm_(ps, 1.0)
    us, _ = gx.clip_by_global_norm(1.0, eps=1e-6).update([jnp.asarray(g) for g in gs], gx.EmptyState())
    for u, p in zip(us, ps, strict=True):
        np.testing.assert_allclose(u, p.grad.numpy(), rtol=0, atol=1e-12)
