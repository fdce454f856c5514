"""torch.optim.Adafactor, as a call of gradx."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx

torch = pytest.importorskip("torch", reason="torch is in the extra 'parity': make test-parity")

SHAPES = [(3, 4), (5, 2), (2, 3, 4), (3, 1), (4,), ()]


def as_torch(lr=1e-2, beta2_decay=-0.8, eps=(None, 1e-3), d=1.0, weight_decay=0.0):
    """torch's defaults; its first eps is the machine epsilon if it is None."""
    return gx.adafactor(
        lr,
        min_dim_size_to_factor=0,
        decay_rate=-beta2_decay,
        clipping_threshold=d,
        weight_decay_rate=lr * weight_decay,
        eps=0.0,
        relative_step=True,
        min_scale=eps[1],
        floor="machine" if eps[0] is None else eps[0],
        factored_axes="last",
    )


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        dict(lr=0.5, weight_decay=0.1),
        dict(lr=0.3, beta2_decay=-0.5, d=2.0, eps=(1e-3, 0.7)),
        dict(lr=1.0, eps=(0.3, 1e-3)),  # so large that it bounds some elements
    ],
)
def test_it_is_torch_s_over_50_steps(kwargs, x64):
    rng = np.random.default_rng(0)
    start = [np.asarray(rng.standard_normal(shape)) for shape in SHAPES]
    theirs = [torch.nn.Parameter(torch.tensor(x)) for x in start]
    optimizer = torch.optim.Adafactor(theirs, **kwargs)
    tx = as_torch(**kwargs)
    ours = [jnp.asarray(x) for x in start]
    state, update = tx.init(ours), jax.jit(tx.update)
    for i in range(50):
        gs = [np.asarray(3 * 0.9**i * rng.standard_normal(shape)) for shape in SHAPES]
        for p, g in zip(theirs, gs, strict=True):
            p.grad = torch.tensor(g)
        optimizer.step()
        u, state = update([jnp.asarray(g) for g in gs], state, ours)
        ours = gx.apply_updates(ours, u)
        for p, q in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(p, q.detach().numpy(), rtol=0, atol=1e-12)
