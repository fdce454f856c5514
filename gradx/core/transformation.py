"""The contract: a gradient transformation is a pair of pure functions."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.extend.core import get_opaque_trace_state
from optax import EmptyState

from gradx.core.factory import Made
from gradx.core.layer_axes import is_layered
from gradx.core.reports import listening
from gradx.core.tree import Tree

__all__ = ["EmptyState", "GradientTransformation"]


class GradientTransformation(Made, optax.GradientTransformationExtraArgs):
    """`init(params) -> state` and `update(updates, state, params=None, **extra) -> (updates, state)`.

    An Optax transformation in every respect, which also compares, hashes, prints and pickles by the
    call that made it: `adamw(1e-3) == adamw(1e-3)`.

    Called outside of `jax.jit` for a tree of 16 leaves or more, `update` compiles itself, once for all
    equal transformations, instead of running hundreds of small programs. `jax.disable_jit()` turns that off.
    """

    def _copy(self) -> "GradientTransformation":
        plain = getattr(self.update, "plain", self.update)

        def eager(updates, state, params=None, **extra):
            many = len(jax.tree.leaves(updates)) >= MANY_LEAVES
            if many and get_opaque_trace_state() == TOP_LEVEL and not (listening() or is_layered()):
                with contextlib.suppress(TypeError, ValueError):
                    return compiled(copy)(updates, state, params, **extra)
                # What cannot be traced, such as an extra argument that is a function, still runs; what is
                # wrong raises again, without the compiler between the error and the mistake.
            return plain(updates, state, params, **extra)

        update: Any = functools.wraps(plain)(eager)
        update.plain = plain
        copy = type(self)(self.init, update)
        copy.__dict__.update(self.__dict__)
        return copy


class Applying(GradientTransformation):
    """One that can also take the step: `apply(updates, state, params, **extra) -> (params, state)`.

    Its result is that of `update` and `apply_updates`, for less, where a link that rounds the parameters is
    the last: what it emits is the difference of two numbers, which would be added up and rounded again.
    """

    apply: Callable[..., tuple[Tree, Any]]


MANY_LEAVES = 16  # fewer are done sooner one operation at a time, whose programs all trees share


TOP_LEVEL = get_opaque_trace_state()  # outside of jit, grad, vmap and the like, as when this is imported


@functools.lru_cache(maxsize=64)
def compiled(tx: Any) -> Callable:
    """The jitted update of a transformation, and of those equal to it: a notebook's cell is run again."""
    return jax.jit(tx.update.plain)


def is_empty(state: Any) -> bool:
    """Whether this is the state of a link that has none: an EmptyState, or None or () in its place."""
    return state is None or (isinstance(state, tuple) and state == ())


def keeping_empty(update: Callable) -> Callable:
    """`update` of a link without a state: it gives back the EmptyState, None or () that it was given."""

    def kept(updates, state, params=None, **extra):
        updates, _ = update(updates, EmptyState() if is_empty(state) else state, params, **extra)
        return updates, state

    return kept


HINT = ". Was the state made by this transformation's init, for these parameters?"


def check_state(owner: str, State: type, state: Any) -> None:
    """Raise unless `state` is of the class that the transformation makes."""
    if not isinstance(state, State):
        raise TypeError(f"{owner} needs a {State.__name__}, and was given a {type(state).__name__}{HINT}")
