"""A tree of which some is large enough to be stored, and a loss on it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradx as gx

RNG = np.random.default_rng(0)
NORMAL = jnp.asarray(RNG.normal(size=(64, 128)), jnp.float32)
# A matrix that is stored, and a vector and a small matrix that are not.
TARGET = {"matrix": NORMAL, "small": jnp.linspace(0.0, 1.0, 12).reshape(3, 4), "vector": NORMAL[0]}
WEIGHT = jax.tree.map(lambda x: jnp.asarray(np.exp(RNG.normal(size=x.shape)), jnp.float32), TARGET)
MODEL = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), TARGET)
FORMATS = [gx.Rounded(), gx.Blockwise()]


def start():
    return jax.tree.map(jnp.zeros_like, TARGET)


def loss(p):
    return sum(jnp.mean(WEIGHT[k] * (p[k] - TARGET[k]) ** 2) for k in TARGET)


def trained(tx, steps, p=None, state=None) -> Any:
    """Parameters and state after some steps."""
    p = start() if p is None else p
    return run(tx, steps, p, tx.init(p) if state is None else state)


@functools.partial(jax.jit, static_argnums=0)  # one program of an optimizer for all numbers of steps
def run(tx, steps, p, state):
    def step(_, carry):
        p, state = carry
        updates, state = tx.update(jax.grad(loss)(p), state, p)
        return gx.apply_updates(p, updates), state

    return jax.lax.fori_loop(0, steps, step, (p, state))


def same(a, b):
    """Every bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
