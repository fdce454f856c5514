"""Parameters, gradients and a probe that more than one file uses."""

import jax
import jax.numpy as jnp

import gradx as gx


def params(dtype=jnp.float32):
    """A matrix, a vector, a scalar and a frozen leaf."""
    x = jnp.linspace(-1.0, 1.0, 12, dtype=dtype)
    return {"w": x.reshape(3, 4), "b": x[:4], "layers": [x[4], None]}


def grads(step, like, dtype=None):
    """Normal gradients whose norm falls 300-fold in 50 steps, as in training."""
    leaves, treedef = jax.tree.flatten(like)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), step), len(leaves))
    size = 3 * 0.9**step
    normal = lambda key, p: (size * jax.random.normal(key, p.shape, jnp.float32)).astype(dtype or p.dtype)
    return treedef.unflatten([normal(key, p) for key, p in zip(keys, leaves, strict=True)])


def tag_reader():
    """A transformation that needs the extra argument `tags`, and the list of what it was given."""
    seen = []

    def update(updates, state, params=None, *, tags, **extra):
        seen.append(tags)
        return updates, state

    return gx.GradientTransformation(lambda params: (), update), seen


def aval(tree):
    """Structure, shapes, dtypes and weak types of a tree, to compare."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, [(jnp.shape(x), x.dtype, bool(getattr(x, "weak_type", False))) for x in leaves]
