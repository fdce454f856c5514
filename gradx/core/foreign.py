"""Transformations that gradx did not make, as links."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradx.core.transformation import GradientTransformation
from gradx.core.tree import Tree
from gradx.numerics.dtypes import compute_dtype

__all__ = []


@functools.cache
def state_of(optax_factory: Callable, *args: Any, **kwargs: Any) -> Any:
    """The class of a state that Optax makes but does not export, by a call that makes one.

    Any function serves as a schedule: `state_of(optax.add_decayed_weights, float)`.
    """
    return type(jax.eval_shape(optax_factory(*args, **kwargs).init, jnp.zeros(())))


def linked(what: str, link: Any) -> Callable:
    """The update function of a link; a foreign one is made to keep the contract.

    It is given float32 or better, its state keeps the dtypes that it had, and extra arguments that it
    does not take are left out.
    """
    if not callable(getattr(link, "init", None)) or not callable(getattr(link, "update", None)):
        hint = " (call it: it is a function that makes one)" if callable(link) else ""
        raise TypeError(f"{what} is not a gradient transformation: {link!r}{hint}")
    if isinstance(link, GradientTransformation):
        return link.update
    takes_extra = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(link.update).parameters.values())
    foreign = link.update if takes_extra else optax.with_extra_args_support(link).update

    def update(updates, state, params=None, **extra):
        updates, new_state = foreign(widened(updates), state, params, **extra)
        return updates, typed_like(new_state, state)

    return update


def widened(tree: Tree) -> Tree:
    """Floating-point arrays in their compute dtypes, the rest as it is."""
    widen = lambda x: jnp.asarray(x, compute_dtype(x.dtype)) if is_inexact(x) else x
    return jax.tree.map(widen, tree)


def typed_like(new: Tree, old: Tree) -> Tree:
    """`new` in the dtypes of `old`: a foreign transformation may let its state drift."""
    if jax.tree.structure(new) != jax.tree.structure(old):
        return new
    cast = lambda n, o: n.astype(o.dtype) if is_inexact(n) and is_inexact(o) else n
    return jax.tree.map(cast, new, old)


def is_inexact(x: Any) -> bool:
    return hasattr(x, "astype") and jnp.issubdtype(x.dtype, jnp.inexact)
