"""Parameters, gradients and a probe that more than one file uses."""

import jax
import jax.numpy as jnp

import gradx as gx


def params(dtype=jnp.float32):
    """A matrix, a vector, a scalar and a frozen leaf."""
    x = jnp.linspace(-1.0, 1.0, 12, dtype=dtype)
    return {"w": x.reshape(3, 4), "b": x[:4], "layers": [x[4], None]}


def complex_params(dtype=jnp.complex64):
    """A complex matrix and scalar beside a real vector and a frozen leaf."""
    x = jnp.linspace(-1.0, 1.0, 12, dtype=jnp.finfo(dtype).dtype).reshape(3, 4)
    return {"z": jax.lax.complex(x, -x[::-1]), "b": x[0], "layers": [jax.lax.complex(x[2, 3], x[0, 1]), None]}


def grads(step, like, dtype=None):
    """Normal gradients whose norm falls 300-fold in 50 steps, as in training; complex for complex ones."""
    leaves, treedef = jax.tree.flatten(like)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), step), len(leaves))
    size = 3 * 0.9**step
    kind = lambda p: jnp.complex64 if jnp.iscomplexobj(p) else jnp.float32
    normal = lambda key, p: (size * jax.random.normal(key, p.shape, kind(p))).astype(dtype or p.dtype)
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
