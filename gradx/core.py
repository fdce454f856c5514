"""The contract: a gradient transformation is a pair of pure functions, and a chain is a list of them."""

import contextlib
import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import get_opaque_trace_state
from optax import EmptyState

from gradx.factory import Made, factory
from gradx.layers import is_layered
from gradx.numerics import compute_dtype, promoted
from gradx.reports import listening
from gradx.tree import Tree, aligned, flatten, is_missing, path_at

__all__ = [
    "EmptyState",
    "GradientTransformation",
    "apply_updates",
    "chain",
    "identity",
    "named_chain",
    "set_to_zero",
    "stateless",
    "stateless_with_tree_map",
]


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


@factory
def identity() -> GradientTransformation:
    """Pass the updates on as they are."""
    return stateless(lambda updates, params: updates)


@factory
def set_to_zero() -> GradientTransformation:
    """Replace the updates by zeros of the same shape and dtype, so that the parameters stay."""
    return stateless(lambda updates, params: jax.tree.map(jnp.zeros_like, updates))


@factory
def stateless(f: Callable[[Tree, Tree | None], Tree]) -> GradientTransformation:
    """A transformation without a state from `f(updates, params) -> updates`; `params` may be None."""

    def update(updates, state, params=None, **extra):
        return f(updates, params), state

    return GradientTransformation(lambda params: EmptyState(), update)


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
    Raises TypeError for what is not a transformation.

    >>> import gradx
    >>> gradx.chain(gradx.clip_by_global_norm(1.0), gradx.adamw(1e-3, weight_decay=0.01))
    chain(clip_by_global_norm(1.0), adamw(0.001, weight_decay=0.01))
    """
    updates_of = [linked(f"link {i} of chain", link) for i, link in enumerate(links)]

    def init(params):
        return tuple(link.init(params) for link in links)

    def through(functions, updates, state, params, extra):
        if not isinstance(state, tuple) or len(state) != len(links):
            raise ValueError(
                f"this chain has {len(links)} links and was given a state of "
                f"{len(state) if isinstance(state, tuple) else type(state).__name__}{HINT}"
            )
        states = []
        for link, s in zip(functions, state, strict=True):
            updates, s = link(updates, s, params, **extra)
            states.append(s)
        return updates, tuple(states)

    def update(updates, state, params=None, **extra):
        return through(updates_of, updates, state, params, extra)

    if not links or not isinstance(links[-1], Applying):
        return GradientTransformation(init, update)
    tx, last = Applying(init, update), links[-1].apply
    tx.apply = lambda updates, state, params, **extra: through(
        [*updates_of[:-1], last], updates, state, params, extra
    )
    return tx


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

    def update(updates, state, params=None, **extra):
        if not isinstance(state, dict) or set(state) != set(names):
            got = sorted(state) if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"named_chain: the state must have the keys {names}, got {got}")
        updates, states = inner.update(updates, tuple(state[name] for name in names), params, **extra)
        return updates, OrderedDict(zip(names, states, strict=True))

    return GradientTransformation(init, update)


HINT = ". Was the state made by this transformation's init, for these parameters?"


def check_state(owner: str, State: type, state: Any) -> None:
    """Raise unless `state` is of the class that the transformation makes."""
    if not isinstance(state, State):
        raise TypeError(f"{owner} needs a {State.__name__}, and was given a {type(state).__name__}{HINT}")


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


def apply_updates(params: Tree, updates: Tree) -> Tree:
    """Add the updates to the parameters: `p + u`, rounded once, into the parameter's dtype.

    A parameter whose update is missing (None or masked out) stays as it is. Raises ValueError where
    structures or shapes differ.
    """
    ps, treedef = flatten(params)
    us = aligned(treedef, updates, ("the parameters", "the updates"))
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


def applied(what: str, tx: Any) -> Callable:
    """`update` and `apply_updates` as one function `(updates, state, params, **extra) -> (params, state)`."""
    update = linked(what, tx)
    if isinstance(tx, Applying):
        return tx.apply

    def apply(updates, state, params, **extra):
        updates, state = update(updates, state, params, **extra)
        return apply_updates(params, updates), state

    return apply


@jax.jit  # traced once for all leaves of a shape
def rounded_sum(p: jax.Array, u: jax.Array) -> jax.Array:
    dtype = promoted(*(compute_dtype(x.dtype) if is_inexact(x) else x.dtype for x in (p, u)))
    return (p.astype(dtype) + u.astype(dtype)).astype(p.dtype)
