"""A rule on one array, lifted to a pytree.

This is the only place that counts steps, chooses dtypes, passes over missing leaves, resolves
hyperparameters and compares structures. A rule is a function of one parameter's arrays and the
step's scalars, all asked for by name:

    g        the gradient (or the update from the link before)
    p        the parameter; asking for it makes `params` required in `update`
    <slot>   a field of the state
    <hyper>  a hyperparameter, resolved at this step
    <scalar> what the `scalars` function gave

It closes over Python numbers only, so the same rule can be traced by XLA, vmapped over stacked
layers, or put into one fused kernel.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradx.core import GradientTransformation
from gradx.hyper import Numeric, cast, check, resolve
from gradx.numerics import compute_dtype, increment, promoted, real_dtype
from gradx.tree import aligned, flatten, is_missing, path_at

__all__ = ["ScheduledState", "leafwise", "zero_slot"]


class ScheduledState(NamedTuple):
    """The state of a link that has no step count of its own, but a schedule that needs one."""

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]  (Optax's name for it)
    inner_state: Any


def zero_slot(dtype: Any = None, *, real: bool = False) -> Callable[[jax.Array], jax.Array]:
    """How to start a slot: zeros of the parameter's shape.

    In `dtype`; by default in the parameter's own, but at least float32. `real=True` holds the
    absolute values of a complex parameter.
    """

    def start(p: jax.Array) -> jax.Array:
        own = compute_dtype(p.dtype)
        own = real_dtype(own) if real else own
        chosen = jnp.dtype(dtype or own)
        if own.kind == "c" != chosen.kind:
            raise TypeError(f"{own} cannot be stored in {chosen}: choose a complex dtype, or none")
        return jnp.zeros_like(p, dtype=chosen)

    return start


def leafwise(
    State: Any,
    rule: Callable,
    scalars: Callable | None = None,
    *,
    slots: dict[str, Callable] | None = None,
    **hyper: Numeric,
) -> GradientTransformation:
    """Lift a rule on one array to a transformation of a pytree.

    Arguments:
      State: a NamedTuple class. `count`, if it has it, is the step count (int32, 0 at first); every
        other field is a slot, one array (or small pytree) a parameter.
      rule: a function of what it names (see above), returning the update, or the update and then
        each slot in the order of `State`. Its arrays are float32 or better.
      scalars: a function returning a dict of further scalars, run once a step. Besides
        hyperparameters it may name `t` (the step, 1 at first, as a float), `updates` and `params`
        (lists of all arrays).
      slots: how each slot starts, a function of the parameter; `zero_slot()` if not given.
      hyper: the hyperparameters, each a number, a scalar array or a schedule.

    Errors of structure, dtype and missing `params` are raised by `init` and `update`, and name the
    function that defines `rule` and the parameter's path.

    >>> import gradx, jax, optax
    >>> def signum(momentum):
    ...     def rule(g, trace, momentum):
    ...         trace = momentum * trace + g
    ...         return jax.numpy.sign(trace), trace
    ...     return gradx.leafwise(optax.TraceState, rule, momentum=momentum)
    >>> tx = gradx.chain(signum(0.9), gradx.scale_by_learning_rate(1e-3))
    """
    owner = rule.__qualname__.partition(".")[0]
    rule_names, scalar_names = argument_names(rule), argument_names(scalars)
    slot_names = [name for name in State._fields if name != "count"]
    starts = {name: zero_slot() for name in slot_names} | (slots or {})
    needs_params = "p" in rule_names or "params" in scalar_names
    counts = "count" in State._fields
    scheduled = not counts and ("t" in scalar_names or any(map(callable, hyper.values())))
    check(owner, **hyper)

    def pack(count: Any, columns: dict[str, Any]) -> Any:
        if counts:
            return State(count=count, **columns)
        return ScheduledState(count, State(**columns)) if scheduled else State(**columns)

    def init(params: Any) -> Any:
        leaves, treedef = flatten(params)
        ps = {i: floating(x, owner, treedef, i) for i, x in enumerate(leaves) if not is_missing(x)}
        columns = {
            k: treedef.unflatten(replaced(leaves, {i: start(p) for i, p in ps.items()}))
            for k, start in starts.items()
        }
        return pack(jnp.zeros((), jnp.int32), columns)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        if needs_params and params is None:
            raise ValueError(f"{owner} needs the parameters: call update(updates, state, params)")
        inner = state.inner_state if scheduled and isinstance(state, ScheduledState) else state
        if not isinstance(inner, State):
            raise TypeError(f"{owner} needs a {State.__name__}, and was given a {type(inner).__name__}{HINT}")
        leaves, treedef = flatten(updates)
        gs = {i: floating(x, owner, treedef, i) for i, x in enumerate(leaves) if not is_missing(x)}
        ps = parameters(params, gs, treedef, owner) if needs_params else {}
        gs, ps = widened(gs), widened(ps)
        count = state.count if counts or scheduled else None
        known = at_step(count, gs, ps)

        columns = {
            k: aligned(treedef, getattr(inner, k), ("the updates", f"the state's {k}"), HINT)
            for k in slot_names
        }
        for i, g in gs.items():
            row = {k: column[i] for k, column in columns.items()}
            given = {"g": g, "p": ps.get(i), **widened(row)}
            given |= {k: cast(v, real_dtype(g.dtype)) for k, v in known.items()}
            leaves[i], *new = as_tuple(applied(given, row, treedef, i))
            for k, slot in zip(slot_names, new, strict=True):
                columns[k][i] = stored(slot, row[k], k, treedef, i)
        columns = {k: treedef.unflatten(column) for k, column in columns.items()}
        return treedef.unflatten(leaves), pack(None if count is None else increment(count), columns)

    def at_step(count: Any, gs: dict, ps: dict) -> dict[str, Any]:
        """The hyperparameters and scalars of this step, once for all parameters."""
        dtype = promoted(jnp.float32, *(real_dtype(g.dtype) for g in gs.values()))
        known = resolve(hyper, count, dtype)
        if scalars is None:
            return known
        t = {} if count is None else {"t": increment(count).astype(dtype)}
        trees = {"updates": list(gs.values()), "params": list(ps.values())}
        return known | scalars(**pick(owner, scalar_names, known | t | trees))

    def applied(given: dict, row: dict, treedef: Any, i: int) -> Any:
        """The rule on parameter `i`."""
        try:
            return rule(**pick(owner, rule_names, given))
        except (TypeError, ValueError) as e:
            for k, slot in row.items():  # the likely cause: a state of other parameters
                check_fit(jax.eval_shape(starts[k], given["g"]), slot, k, treedef, i)
            e.add_note(f"(in {owner}, at {path_at(treedef, i)})")
            raise

    return GradientTransformation(init, update)


HINT = ". Was the state made by this optimizer's init, for these parameters?"


def argument_names(f: Callable | None) -> tuple[str, ...]:
    return () if f is None else f.__code__.co_varnames[: f.__code__.co_argcount]


def pick(owner: str, names: tuple[str, ...], known: dict[str, Any]) -> dict[str, Any]:
    for name in names:
        if name not in known:
            raise NameError(f"{owner} asks for {name!r}, and there are only {sorted(known)}")
    return {name: known[name] for name in names}


def as_tuple(x: Any) -> tuple:
    return x if isinstance(x, tuple) else (x,)


def replaced(leaves: list, new: dict[int, Any]) -> list:
    return [new.get(i, x) for i, x in enumerate(leaves)]


def floating(x: Any, owner: str, treedef: Any, i: int) -> Any:
    """`x` as an array; an error if it is not floating point."""
    x = jnp.asarray(x) if isinstance(x, int | float | complex) else x
    dtype = getattr(x, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
        kind = type(x).__name__ if dtype is None else dtype
        raise TypeError(
            f"{owner}: {path_at(treedef, i)} is {kind}, and only floating-point arrays can be "
            "optimized; leave it out with None, gradx.masked or a filter"
        )
    return x


def parameters(params: Any, gs: dict[int, Any], treedef: Any, owner: str) -> dict[int, Any]:
    """The parameters that have an update, each of the update's shape."""
    leaves = aligned(treedef, params, ("the updates", "the parameters"))
    ps = {i: floating(leaves[i], owner, treedef, i) for i in gs}
    for i, g in gs.items():
        if ps[i].shape != g.shape:
            raise ValueError(
                f"{owner}: the update at {path_at(treedef, i)} has shape {g.shape}, "
                f"its parameter {ps[i].shape}"
            )
    return ps


def widened(arrays: Any) -> Any:
    """Arrays in their compute dtypes."""
    return jax.tree.map(lambda x: jnp.asarray(x, compute_dtype(x.dtype)), arrays)


def stored(new: Any, old: Any, name: str, treedef: Any, i: int) -> Any:
    """The new slot in the dtype of the old one; an error if it is not of the same shape."""
    check_fit(new, old, name, treedef, i)
    return jax.tree.map(lambda n, o: n.astype(o.dtype), new, old)


def check_fit(new: Any, old: Any, name: str, treedef: Any, i: int) -> None:
    shapes = [jax.tree.map(jnp.shape, slot) for slot in (old, new)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"the update at {path_at(treedef, i)} does not fit the state's {name}: that has shape "
            f"{shapes[0]}, and should have {shapes[1]}{HINT}"
        )
