"""Transformations as links: foreign ones are made to keep the contract."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradx.core.compilation import call
from gradx.core.reports import Blank, no_reports
from gradx.core.transformation import GradientTransformation, Init, Observe
from gradx.core.tree import Leaf, Tree
from gradx.numerics.dtypes import compute_dtype

__all__ = []


@functools.cache
def state_of(optax_factory: Callable, *args: Any, **kwargs: Any) -> type:
    """The class of a state that Optax makes but does not export, by a call that makes one.

    Any function serves as a schedule: `state_of(optax.add_decayed_weights, float)`.
    """
    return type(jax.eval_shape(optax_factory(*args, **kwargs).init, jnp.zeros(())))


def observe_of(name: str, tx: optax.GradientTransformation) -> Observe:
    """`(updates, state, params=None, **extra) -> (updates, state, reports)` of any transformation.

    Updates may leave in float32 whatever their dtype was. A foreign transformation is given float32 or
    better, its state keeps its dtypes, and extra arguments that it does not take are left out. Raises
    TypeError, which calls it `name`, if `tx` is no transformation.
    """
    check_transformation(name, tx)
    if isinstance(tx, GradientTransformation) and hasattr(tx, "observe"):
        return functools.partial(call, tx, "observe")
    foreign = tx[1] if isinstance(tx, GradientTransformation) else tx.update
    parameters = inspect.signature(foreign).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def observe(updates, state, params=None, **extra):
        taken = extra if takes_all else {k: x for k, x in extra.items() if k in parameters}
        updates, new_state = foreign(widened(updates), state, params, **taken)
        return updates, typed_like(new_state, state), ()

    return observe


def check_transformation(name: str, tx: object) -> None:
    """Raise TypeError unless `tx` has the two functions of a transformation."""
    if not callable(getattr(tx, "init", None)) or not callable(getattr(tx, "update", None)):
        hint = " (call it: it is a function that makes one)" if callable(tx) else ""
        raise TypeError(f"{name} is not a gradient transformation: {tx!r}{hint}")


def blank_of(tx: optax.GradientTransformation) -> Blank:
    """The function from parameters to the blank reports of a transformation."""
    return tx.blank if isinstance(tx, GradientTransformation) else no_reports


def is_exact(tx: optax.GradientTransformation) -> bool:
    """Whether the updates of a transformation must be added to the parameters in float32."""
    return isinstance(tx, GradientTransformation) and tx.exact


def wrapper(
    inner: optax.GradientTransformation,
    init: Init,
    observe: Observe,
    blank: Blank | None = None,
    **facts: Any,
) -> GradientTransformation:
    """A transformation around another, with its border of dtypes and, by default, its reports."""
    blank = blank or blank_of(inner)
    return GradientTransformation.of(init, observe, blank, exact=is_exact(inner), **facts)


def widened(tree: Tree) -> Tree:
    """The tree with floating-point arrays in their compute dtypes."""
    widen = lambda x: jnp.asarray(x, compute_dtype(x.dtype)) if is_inexact(x) else x
    return jax.tree.map(widen, tree)


def typed_like(new: Tree, old: Tree) -> Tree:
    """`new` in the dtypes of `old`: a foreign transformation may let its state drift."""
    if jax.tree.structure(new) != jax.tree.structure(old):
        return new
    cast = lambda n, o: n.astype(o.dtype) if is_inexact(n) and is_inexact(o) else n
    return jax.tree.map(cast, new, old)


def is_inexact(x: Leaf) -> bool:
    return hasattr(x, "astype") and jnp.issubdtype(x.dtype, jnp.inexact)
