"""The contract: a transformation is a pair of pure functions, and a third one that also reports."""

import functools
from collections.abc import Callable
from typing import Any, Self, TypeAlias

import jax
import jax.numpy as jnp
import optax
from optax import EmptyState

from gradx.core.compilation import call
from gradx.core.factory import Made
from gradx.core.reports import Blank, Reports, no_reports
from gradx.core.tree import State, Tree, as_gradients, can_move, flatten, is_float0, is_missing, movable
from gradx.numerics.dtypes import DType, promoted

__all__ = ["EmptyState", "GradientTransformation"]

Init: TypeAlias = Callable[[Tree], State]
Update: TypeAlias = Callable[..., tuple[Tree, State]]  # of (updates, state, params=None, **extra)
Observe: TypeAlias = Callable[..., tuple[Tree, State, Reports]]  # of the same
Step: TypeAlias = Callable[..., tuple[Tree, State]]  # of the same; the new parameters and the state


class GradientTransformation(Made, optax.GradientTransformationExtraArgs):
    """`init(params) -> state` and `update(updates, state, params=None, **extra) -> (updates, state)`.

    An Optax transformation in every respect, which also compares, hashes, prints and pickles by the
    call that made it: `adamw(1e-3) == adamw(1e-3)`. To JAX it is a static node of a pytree.

    Outside of `jax.jit`, an `update` that calls no function of yours compiles itself, once for all
    transformations that are equal or differ in numbers only. `jax.disable_jit()` turns that off.
    """

    # `update` before the cast to the parameters' dtypes, and with reports. One made by hand has no `observe`.
    observe: Observe
    blank: Blank = staticmethod(no_reports)
    # Gives the new parameters, where the last link rounds them: an update is then the difference of two
    # parameters, and `apply_updates` would add and round once more.
    step: Step | None = None
    # Whether it may compile itself outside of jit: False if it looks at the values of arguments.
    compiles: bool = True
    # Whether updates leave in float32: a link that rounds the parameters itself needs the exact updates.
    exact: bool = False

    def __init_subclass__(cls) -> None:
        jax.tree_util.register_static(cls)

    @classmethod
    def of(
        cls,
        init: Init,
        observe: Observe,
        blank: Blank = no_reports,
        *,
        step: Step | None = None,
        exact: bool = False,
        **facts: Any,
    ) -> Self:
        """A transformation from `observe`, which may leave updates in float32; `facts` are attributes.

        `observe` sees None for every leaf without a gradient, such as an integer.
        """

        def start(params):
            return init(movable(params))

        def update(updates, state, params=None, **extra):
            given = as_gradients(updates)
            out, state, _ = observe(given, state, movable(params, given), **extra)
            return bordered(out, updates, params, exact), state

        update.__qualname__ = observe.__qualname__ if hasattr(observe, "__qualname__") else "transformation"
        made = cls(start, update)
        made.__dict__.update(facts, observe=observe, blank=blank, step=step, exact=exact)
        return made

    def update(  # pyright: ignore[reportIncompatibleVariableOverride]  (the field of the pair)
        self, updates: Tree, state: State, params: Tree | None = None, **extra: Any
    ) -> tuple[Tree, State]:
        """The new updates and the new state."""
        return call(self, "update", updates, state, params, **extra)

    def _copy(self) -> Self:
        copy = type(self)(*self)
        copy.__dict__.update(self.__dict__)
        return copy


jax.tree_util.register_static(GradientTransformation)


def bordered(out: Tree, updates: Tree, params: Tree | None, exact: bool) -> Tree:
    """Updates as they leave gradx: in the promoted dtype of parameter and gradient, as in Optax.

    Exact updates are not cast. A gradient of float0 comes back as its own update.
    """
    us, treedef = flatten(out)
    try:
        gs = treedef.flatten_up_to(updates)
        ps = gs if params is None else treedef.flatten_up_to(params)
    except (ValueError, TypeError, KeyError):
        return out  # a function of the user's made another tree, whose dtypes are unknown
    for i, (u, g, p) in enumerate(zip(us, gs, ps, strict=True)):
        if is_missing(u):
            us[i] = g if is_float0(g) else u
        elif not exact and can_move(u) and can_move(g) and can_move(p):
            dtype = border_dtype(*(x.dtype if hasattr(x, "dtype") else jnp.result_type(x) for x in (u, g, p)))
            us[i] = u if getattr(u, "dtype", None) == dtype else jnp.asarray(u, dtype)
    return treedef.unflatten(us)


@functools.cache
def border_dtype(update: DType, gradient: DType, parameter: DType) -> DType:
    """The dtype in which an update leaves; a complex one stays complex."""
    dtype = promoted(gradient, parameter)
    loses = update.kind == "c" != dtype.kind
    return update if loses else dtype


def is_empty(state: State) -> bool:
    """Whether a state holds no array: an EmptyState, or None, () and the like, but no other state class."""
    is_other = hasattr(state, "_fields") and not isinstance(state, EmptyState)
    return not is_other and not any(hasattr(x, "dtype") for x in jax.tree.leaves(state))


HINT = ". Was the state made by this transformation's init, for these parameters?"


def check_state(owner: str, kind: type, state: State) -> None:
    """Raise unless `state` is an instance of `kind`."""
    if not isinstance(state, kind):
        needed, given = (with_article(x.__name__) for x in (kind, type(state)))
        raise TypeError(f"{owner} needs {needed}, and was given {given}{HINT}")


def with_article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
