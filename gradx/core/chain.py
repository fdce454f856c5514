"""A chain of links, and links that need no engine."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import EmptyState

from gradx.core.factory import factory
from gradx.core.foreign import blank_of, is_exact, observe_of, wrapper
from gradx.core.transformation import HINT, GradientTransformation
from gradx.core.tree import Leaf, State, Tree, aligned, flatten, is_missing

__all__ = ["chain", "identity", "named_chain", "set_to_zero", "stateless", "stateless_with_tree_map"]


@factory
def identity() -> GradientTransformation:
    """Pass the updates on unchanged."""
    return stateless(lambda updates, params: updates)


@factory
def set_to_zero() -> GradientTransformation:
    """Replace the updates by zeros of the same shape and dtype, so that the parameters stay."""
    return stateless(lambda updates, params: jax.tree.map(zeros_like, updates))


def zeros_like(x: Leaf) -> Leaf:
    return x if is_missing(x) else jnp.zeros_like(x)


@factory
def stateless(f: Callable[[Tree, Tree | None], Tree]) -> GradientTransformation:
    """A transformation without a state from `f(updates, params) -> updates`; `params` may be None."""

    def observe(updates, state, params=None, **extra):
        return f(updates, params), state, ()

    return GradientTransformation.of(lambda params: EmptyState(), observe)


@factory
def stateless_with_tree_map(f: Callable[[jax.Array, jax.Array | None], jax.Array]) -> GradientTransformation:
    """A transformation without a state from `f(update, parameter) -> update` on one array.

    The parameter is None where `update` is called without parameters. Missing leaves stay missing.
    """

    def over_tree(updates, params):
        leaves, treedef = flatten(updates)
        given = (
            [None] * len(leaves)
            if params is None
            else aligned(treedef, params, ("the updates", "the parameters"))
        )
        return treedef.unflatten(
            [u if is_missing(u) else f(u, p) for u, p in zip(leaves, given, strict=True)]
        )

    return stateless(over_tree)


@factory
def chain(*links: optax.GradientTransformation) -> GradientTransformation:
    """Apply the links from left to right; the state is the tuple of their states.

    Any Optax transformation is a link too, given updates in float32 or better like the others. Extra
    keyword arguments of `update` reach every link that accepts them. `chain()` is the identity.
    Raises TypeError for a link that is not a transformation.

    >>> import gradx
    >>> gradx.chain(gradx.clip_by_global_norm(1.0), gradx.adamw(1e-3, weight_decay=0.01))
    chain(clip_by_global_norm(1.0), adamw(0.001, weight_decay=0.01))
    """
    observers = [observe_of(f"link {i} of chain", link) for i, link in enumerate(links)]

    def init(params):
        return tuple(link.init(params) for link in links)

    def blank(params):
        return tuple(report for link in links for report in blank_of(link)(params))

    def observe(updates, state, params=None, **extra):
        check_states(state, len(links))
        states, reports = [], []
        for link, s in zip(observers, state, strict=True):
            updates, s, reported = link(updates, s, params, **extra)
            states.append(s)
            reports += reported
        return updates, tuple(states), tuple(reports)

    *before, last = links or (identity(),)
    if not isinstance(last, GradientTransformation) or last.step is None:
        return GradientTransformation.of(init, observe, blank, exact=is_exact(last))
    first, last_step = chain(*before).observe, last.step

    def step(updates, state, params, **extra):
        check_states(state, len(links))
        updates, states, _ = first(updates, state[:-1], params, **extra)
        params, s = last_step(updates, state[-1], params, **extra)
        return params, (*states, s)

    return GradientTransformation.of(init, observe, blank, step=step, exact=True)


def check_states(state: State, links: int) -> None:
    """Raise ValueError unless there is a state for each link of a chain."""
    if not isinstance(state, tuple) or len(state) != links:
        given = len(state) if isinstance(state, tuple) else type(state).__name__
        raise ValueError(
            f"this chain has {links} links, and its state needs one part for each, got {given}{HINT}"
        )


@factory
def named_chain(*links: tuple[str, optax.GradientTransformation]) -> GradientTransformation:
    """`chain` of (name, transformation) pairs; the state is an `OrderedDict` by name."""
    for pair in links:
        if len(pair) != 2 or not isinstance(pair[0], str):
            raise TypeError(f"named_chain takes (name, transformation) pairs, got {pair!r}")
    names = [name for name, _ in links]
    if len(set(names)) != len(names):
        raise ValueError(f"named_chain: names must differ, got {names}")
    inner: Any = chain(*(link for _, link in links))

    def init(params):
        return OrderedDict(zip(names, inner.init(params), strict=True))

    def observe(updates, state, params=None, **extra):
        if not isinstance(state, dict) or set(state) != set(names):
            got = sorted(state) if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"named_chain: the state must have the keys {names}, got {got}")
        states = tuple(state[name] for name in names)
        updates, states, reports = inner.observe(updates, states, params, **extra)
        return updates, OrderedDict(zip(names, states, strict=True)), reports

    return wrapper(inner, init, observe)
