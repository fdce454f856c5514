"""dynamic_loss_scale against torch's GradScaler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx

torch = pytest.importorskip("torch", reason="torch is in the extra 'parity': make test-parity")


def test_scales_and_steps_are_those_of_torch():
    """Good steps, overflows, a NaN: at each the same parameter and the same scale."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=3)
    w = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.5)
    tx = gx.dynamic_loss_scale(gx.sgd(0.5), 2.0**16, 3, max_scale=2.0**30)
    p, update = jnp.ones(1), jax.jit(tx.update)
    state = tx.init(p)
    for g in [1.0] * 8 + [np.inf] * 2 + [0.25] * 4 + [np.nan] + [1.0] * 3:
        optimizer.zero_grad()
        scaler.scale((w * g).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        grad = jax.grad(lambda p, s=state, g=g: gx.scale_loss(jnp.sum(p * g), s))(p)
        u, state = update(grad, state, p)
        p = gx.apply_updates(p, u)
        assert float(p[0]) == w.item()
        assert float(state.scale) == scaler.get_scale()
