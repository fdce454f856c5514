"""A small regression that the programs of clients learn."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.clients.comparing import STEPS

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((16, 3)).astype(np.float32)
Y = np.tanh(X @ np.array([[1.0, -0.5], [0.3, 2.0], [-1.0, 0.5]], np.float32))


def params(dtype: Any = jnp.float32) -> dict[str, Any]:
    """Two layers, by names as Flax gives them."""
    random = np.random.default_rng(1)
    array = lambda *shape: jnp.asarray(0.5 * random.standard_normal(shape), dtype)
    layer = lambda m, n: {"kernel": array(m, n), "bias": array(n)}
    return {"encoder": layer(3, 4), "head": layer(4, 2)}


def apply(params: Any, x: Any) -> jax.Array:
    first, last = params["encoder"], params["head"]
    return jnp.tanh(x @ first["kernel"] + first["bias"]) @ last["kernel"] + last["bias"]


def loss_of(params: Any, x: Any = X, y: Any = Y) -> jax.Array:
    return jnp.mean((apply(params, x) - y) ** 2)


def trained(optax: Any, tx: Any, p: Any, loss_of: Any = loss_of, **extra: Any) -> tuple[list, Any]:
    """The usual loop: its losses, and the parameters and the state at the end. It compiles `step`."""

    @jax.jit
    def step(p, state):
        loss, grads = jax.value_and_grad(loss_of)(p)
        updates, state = tx.update(grads, state, p, **extra)
        return optax.apply_updates(p, updates), state, loss

    state, losses = tx.init(p), []
    for _ in range(STEPS):
        p, state, loss = step(p, state)
        losses.append(loss)
    return losses, (p, state)
