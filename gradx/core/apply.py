"""Adding updates to parameters."""

import jax
import jax.numpy as jnp
import optax

from gradx.core.foreign import is_inexact, observe_of
from gradx.core.transformation import GradientTransformation, Step
from gradx.core.tree import Tree, aligned, as_gradients, flatten, is_missing, movable, path_at, without_float0
from gradx.numerics.dtypes import compute_dtype, promoted

__all__ = ["apply_updates"]


def apply_updates(params: Tree, updates: Tree) -> Tree:
    """Add the updates to the parameters: `p + u`, rounded once, into the parameter's dtype.

    A parameter whose update is missing (None or masked out) does not change. Raises ValueError where
    structures or shapes differ.
    """
    ps, treedef = flatten(params)
    us = aligned(treedef, without_float0(updates), ("the parameters", "the updates"))
    for i, (p, u) in enumerate(zip(ps, us, strict=True)):
        if not is_missing(p) and not is_missing(u):
            if jnp.shape(p) != jnp.shape(u):
                raise ValueError(
                    f"apply_updates: the parameter at {path_at(treedef, i)} has shape {jnp.shape(p)}, "
                    f"its update {jnp.shape(u)}"
                )
            if jnp.iscomplexobj(u) and not jnp.iscomplexobj(p):
                raise TypeError(
                    f"apply_updates: a complex update of the real parameter at {path_at(treedef, i)}"
                )
            ps[i] = rounded_sum(p, u)
    return treedef.unflatten(ps)


def step_of(name: str, tx: optax.GradientTransformation) -> Step:
    """The function `(updates, state, params, **extra) -> (params, state)`; it rounds each parameter once."""
    observe = observe_of(name, tx)
    own = tx.step if isinstance(tx, GradientTransformation) else None

    def step(updates, state, params, **extra):
        given = as_gradients(updates)
        moving = movable(params, given)
        if own is not None:
            new, state = own(given, state, moving, **extra)
            return jax.tree.map(lambda n, p: p if n is None else n, new, params, is_leaf=is_missing), state
        updates, state, _ = observe(given, state, moving, **extra)
        return apply_updates(params, updates), state

    return step


@jax.jit  # traced once for all leaves of a shape
def rounded_sum(p: jax.Array, u: jax.Array) -> jax.Array:
    dtype = promoted(*(compute_dtype(x.dtype) if is_inexact(x) else x.dtype for x in (p, u)))
    return (p.astype(dtype) + u.astype(dtype)).astype(p.dtype)
