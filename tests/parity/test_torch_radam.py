"""RAdam is torch's, with its place of eps."""

import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx

torch = pytest.importorskip("torch", reason="torch is in the extra 'parity': make test-parity")


@pytest.mark.parametrize("size", [3.0, 1e-5], ids=["large", "small, where eps shows"])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (dict(), []),
        (dict(weight_decay=0.1), ["l2"]),
        (dict(weight_decay=0.1, decoupled_weight_decay=True), ["decoupled"]),
    ],
    ids=repr,
)
def test_radam(theirs, ours, size, x64):
    """50 steps in float64, to 1e-12."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal((4, 3))
    p = torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.RAdam([p], lr=0.01, betas=(0.8, 0.95), eps=1e-6, **theirs)
    decay = gx.add_decayed_weights(0.1)
    tx = gx.chain(
        decay if ours == ["l2"] else gx.identity(),
        gx.scale_by_radam(0.8, 0.95, 1e-6, eps_before_correction=True),
        decay if ours == ["decoupled"] else gx.identity(),
        gx.scale_by_learning_rate(0.01),
    )
    q = jnp.asarray(start)
    state = tx.init(q)
    for i in range(50):
        g = size * 0.9**i * rng.standard_normal((4, 3))
        p.grad = torch.tensor(g)
        optimizer.step()
        u, state = tx.update(jnp.asarray(g), state, q)
        q = gx.apply_updates(q, u)
        np.testing.assert_allclose(q, p.detach().numpy(), rtol=0, atol=1e-12)
