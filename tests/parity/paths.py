"""A path of PyTorch's optimizer and one of gradx, from the same start down the same gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradx as gx
from tests.problems import grads, params


def assert_same_path(tx: Any, make_torch: Callable, steps: int = 50, atol: float = 1e-12) -> None:
    """Both in float64, compared after every step; `make_torch(parameters)` makes the optimizer."""
    import torch

    p = params(jnp.float64)
    leaves, treedef = jax.tree.flatten(p)
    theirs = [torch.nn.Parameter(torch.tensor(np.asarray(x))) for x in leaves]
    optimizer, state, update = make_torch(theirs), tx.init(p), jax.jit(tx.update)
    for i in range(steps):
        g = grads(i, p)
        for x, gradient in zip(theirs, jax.tree.leaves(g), strict=True):
            x.grad = torch.tensor(np.asarray(gradient))
        optimizer.step()
        u, state = update(g, state, p)
        p = gx.apply_updates(p, u)
        for x, y in zip(treedef.flatten_up_to(p), theirs, strict=True):
            np.testing.assert_allclose(x, y.detach().numpy(), rtol=0, atol=atol)
