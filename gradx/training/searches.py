"""Line searches in the state of an optimizer, and what `minimize` takes from them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from optax import ScaleByBacktrackingLinesearchState, ScaleByZoomLinesearchState

from gradx.core.tree import Tree

__all__ = []  # internal: `minimize` runs them


def searches(state: Any) -> list[Any]:
    """The states of the line searches in a state, in order."""
    is_search = lambda s: isinstance(s, ScaleByZoomLinesearchState | ScaleByBacktrackingLinesearchState)
    return [s for s in jax.tree.leaves(state, is_search) if is_search(s)]


def evaluated(value_fn: Callable, x: Tree, found: list[Any], old_value: Any, old_grad: Tree) -> tuple:
    """Value and gradient at x, and how many evaluations were spent.

    They are the last search's where it has them: one in a part of the parameters knows neither the whole
    gradient nor where the others went.
    """
    spent = jnp.asarray(sum(s.info.num_linesearch_steps for s in found))
    last = found[-1] if found else None
    if last is None or jax.tree.structure(last.grad) != jax.tree.structure(old_grad):
        return *jax.value_and_grad(value_fn)(x), 1 + spent
    stays = last.learning_rate == 0  # then it may have ended at a point where the value is NaN
    value = jnp.asarray(last.value, old_value.dtype)
    return *choose(stays, (old_value, old_grad), (value, last.grad)), spent


def all_failed(found: list[Any]) -> jax.Array:
    """Whether each search ended where it began; False if there is none."""
    return jnp.all(jnp.stack([s.learning_rate == 0 for s in found])) if found else jnp.array(False)


def any_missed(found: list[Any]) -> jax.Array:
    """Whether a search ended at a point that does not lower the value enough."""
    return jnp.any(jnp.stack([s.info.decrease_error > 0 for s in found])) if found else jnp.array(False)


def choose(first: jax.Array, a: Any, b: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(first, x, y), a, b)


USUAL = 10  # the largest element of a gradient between 2^-10 and 2^10 needs no scaling


def unit_of(largest: jax.Array) -> jax.Array:
    """A power of two that brings a gradient into the usual range when divided by; 1 within it.

    In float32, squares of slopes of 1e20 overflow, and from slopes of 1e-20 a first step is too short to move
    any parameter. A line search does not depend on the unit of the function, so that another one changes
    nothing else, and division by a power of two rounds nothing.
    """
    usable = jnp.isfinite(largest) & (largest > 0)
    _, exponent = jnp.frexp(jnp.where(usable, largest, 1.0))
    return jnp.ldexp(jnp.ones_like(largest), exponent - jnp.clip(exponent, -USUAL, USUAL))
