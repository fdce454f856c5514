"""A rule on one array, lifted to a pytree.

This is the only place that counts steps, chooses dtypes, passes over missing leaves, resolves
hyperparameters and compares structures. A rule is a function of one parameter's arrays and the
step's scalars, all asked for by name:

    g         the gradient (or the update from the link before)
    p         the parameter; asking for it makes `params` required in `update`
    <slot>    a field of the state
    <hyper>   a hyperparameter, resolved at this step
    <scalar>  what the `scalars` function gave: bias corrections, a norm over all parameters

It closes over Python numbers only, so the same rule can be traced by XLA, vmapped over stacked
layers, or put into one fused kernel.
"""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from optax import ScalarOrSchedule

from gradx.core import HINT, GradientTransformation, check_state, widened
from gradx.hyper import cast, check, resolve
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
    if dtype is not None:
        dtype = jax.dtypes.canonicalize_dtype(dtype)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(f"a slot must be floating point, and {dtype} is not")

    def start(p: jax.Array) -> jax.Array:
        own = compute_dtype(p.dtype)
        own = real_dtype(own) if real else own
        chosen = dtype or own
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
    **hyper: ScalarOrSchedule,
) -> GradientTransformation:
    """Lift a rule on one array to a transformation of a pytree.

    Arguments:
      State: a NamedTuple class. `count`, if it has it, is the step count (int32, 0 at first); every
        other field is a slot: one array (or small pytree) per parameter.
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
    >>> tx = gradx.chain(signum(0.9), gradx.scale_by_learning_rate(0.5))
    >>> params = {"w": jax.numpy.array([1.0, -2.0])}
    >>> updates, state = tx.update({"w": jax.numpy.array([0.1, 0.0])}, tx.init(params))
    >>> updates["w"].tolist()
    [-0.5, -0.0]
    """
    lifted = Lifted(State, rule, scalars, slots or {}, hyper)
    return GradientTransformation(lifted.init, lifted.update)


class Lifted:
    """A rule with all that the engine has to know of it."""

    def __init__(
        self, State: Any, rule: Callable, scalars: Callable | None, slots: dict, hyper: dict
    ) -> None:
        self.owner = getattr(rule, "__qualname__", repr(rule)).partition(".")[0]
        self.State, self.rule, self.scalars, self.hyper = State, rule, scalars, hyper
        self.starts = {name: slots.get(name, zero_slot()) for name in State._fields if name != "count"}
        self.rule_asks, self.scalars_ask = asked(rule), asked(scalars)
        self.needs_params = "p" in self.rule_asks or "params" in self.scalars_ask
        self.counts = "count" in State._fields
        self.scheduled = not self.counts and ("t" in self.scalars_ask or any(map(callable, hyper.values())))
        if taken := hyper.keys() & {"g", "p", "t", "updates", "params", *State._fields}:
            raise TypeError(f"{self.owner}: {sorted(taken)} have a meaning, and cannot name hyperparameters")
        check(self.owner, **hyper)

    def init(self, params: Any) -> Any:
        leaves, treedef = flatten(params)
        here = present(leaves, treedef, self.owner)
        columns = {k: list(leaves) for k in self.starts}
        for i, p in here.items():
            for k, start in self.starts.items():
                columns[k][i] = jax.tree.map(lambda x, p=p: jnp.copy(x) if x is p else x, start(p))
        return self.packed(jnp.zeros((), jnp.int32), columns, treedef)

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        if self.needs_params and params is None:
            raise ValueError(f"{self.owner} needs the parameters: call update(updates, state, params)")
        leaves, treedef = flatten(updates)
        gs = present(leaves, treedef, self.owner)
        ps = beside(gs, params, treedef, self.owner) if self.needs_params else {}
        gs, ps = widened(gs), widened(ps)
        count, columns = self.unpacked(state, treedef)
        known = self.at_step(count, gs, ps)
        for i, g in gs.items():
            place = Place(self.owner, treedef, i)
            slots = {k: column[i] for k, column in columns.items()}
            leaves[i], *new = self.at_leaf(place, g, ps.get(i), slots, known)
            for (k, old), slot in zip(slots.items(), new, strict=True):
                columns[k][i] = stored(slot, old, k, place)
        count = None if count is None else increment(count)
        return treedef.unflatten(leaves), self.packed(count, columns, treedef)

    def at_step(self, count: Any, gs: dict, ps: dict) -> dict[str, Any]:
        """The hyperparameters and scalars of this step, once for all parameters."""
        dtype = promoted(jnp.float32, *(real_dtype(g.dtype) for g in gs.values()))
        known = resolve(self.hyper, count, dtype)
        if self.scalars is None:
            return known
        trees = {"updates": list(gs.values()), "params": list(ps.values())}
        t = {} if count is None else {"t": increment(count).astype(dtype)}
        return known | self.scalars(**pick(self.owner, self.scalars_ask, known | trees | t))

    def at_leaf(self, place: "Place", g: Any, p: Any, slots: dict, known: dict) -> tuple:
        """The rule on one parameter: its update, then its slots."""
        known = {k: cast(v, real_dtype(g.dtype)) for k, v in known.items()}
        arrays = {"g": g, "p": p} | widened(slots)
        given = pick(self.owner, self.rule_asks, known | arrays)
        try:
            with promotion(arrays):
                out = self.rule(**given)
        except (TypeError, ValueError) as e:
            for k, slot in slots.items():  # the likely cause: a state of other parameters
                check_fit(jax.eval_shape(self.starts[k], g), slot, k, place)
            e.add_note(f"(in {place})")
            raise
        out = out if isinstance(out, tuple) else (out,)
        if len(out) != 1 + len(slots):
            raise TypeError(f"{self.owner}: the rule must return the update and then {list(slots)}")
        if out[0].shape != g.shape:
            raise ValueError(f"{place}: an update of shape {g.shape} became one of {out[0].shape}{HINT}")
        return out

    def packed(self, count: Any, columns: dict[str, list], treedef: Any) -> Any:
        """The state, from its count and its slots as lists."""
        trees = {k: treedef.unflatten(column) for k, column in columns.items()}
        if self.counts:
            return self.State(count=count, **trees)
        return ScheduledState(count, self.State(**trees)) if self.scheduled else self.State(**trees)

    def unpacked(self, state: Any, treedef: Any) -> tuple[Any, dict[str, list]]:
        """The step count, if there is one, and each slot as a list in the order of the updates."""
        check_state(self.owner, ScheduledState if self.scheduled else self.State, state)
        inner = state.inner_state if self.scheduled else state
        check_state(self.owner, self.State, inner)
        names = {k: ("the updates", f"the state's {k}") for k in self.starts}
        columns = {k: aligned(treedef, getattr(inner, k), names[k], HINT) for k in self.starts}
        return (state.count if self.counts or self.scheduled else None), columns


class Place(NamedTuple):
    """Where in which tree a parameter is; as a string, for errors."""

    owner: str
    treedef: Any
    i: int

    def __str__(self) -> str:
        return f"{self.owner}, at {path_at(self.treedef, self.i)}"


def asked(function: Callable | None) -> dict[str, bool]:
    """The names that a function asks for, and whether it must have each."""
    if function is None:
        return {}
    return {k: p.default is p.empty for k, p in inspect.signature(function).parameters.items()}


def pick(owner: str, names: dict[str, bool], known: dict[str, Any]) -> dict[str, Any]:
    """What is asked for, of what is known."""
    for name, required in names.items():
        if required and name not in known:
            raise TypeError(f"{owner} asks for {name!r}, and there are only {sorted(known)}")
    return {name: known[name] for name in names if name in known}


def present(leaves: list, treedef: Any, owner: str) -> dict[int, Any]:
    """The leaves that are there, by position, as arrays; an error if one is not floating point."""
    out = {i: x for i, x in enumerate(leaves) if not is_missing(x)}
    for i, x in out.items():
        x = out[i] = jnp.asarray(x) if isinstance(x, int | float | complex) else x
        dtype = getattr(x, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"{Place(owner, treedef, i)}: {type(x).__name__ if dtype is None else dtype} cannot be "
                "optimized, only floating point can; leave it out with None, gradx.masked or a filter"
            )
    return out


def beside(gs: dict[int, Any], params: Any, treedef: Any, owner: str) -> dict[int, Any]:
    """The parameters that have an update, each of the update's shape."""
    leaves = aligned(treedef, params, ("the updates", "the parameters"))
    ps = present([leaves[i] if i in gs else None for i in range(len(leaves))], treedef, owner)
    for i, g in gs.items():
        if i not in ps or ps[i].shape != g.shape:
            other = f"shape {ps[i].shape}" if i in ps else "no array"
            raise ValueError(
                f"{Place(owner, treedef, i)}: the update has shape {g.shape}, its parameter {other}"
            )
    return ps


def promotion(arrays: Any) -> contextlib.AbstractContextManager:
    """Ordinary promotion where arrays differ in dtype, or are complex and meet real numbers.

    Else what is set: the strict one shows whether a rule widens by accident.
    """
    dtypes = {x.dtype for x in jax.tree.leaves(arrays)}
    uniform = len(dtypes) == 1 and next(iter(dtypes)).kind != "c"
    return contextlib.nullcontext() if uniform else jax.numpy_dtype_promotion("standard")


def stored(new: Any, old: Any, name: str, place: Place) -> Any:
    """The new slot in the dtype of the old one."""
    check_fit(new, old, name, place)
    is_complex = lambda slot: any(map(jnp.iscomplexobj, jax.tree.leaves(slot)))
    if is_complex(new) and not is_complex(old):
        raise TypeError(f"{place}: the update is complex, and the state's {name} is real{HINT}")
    return jax.tree.map(lambda n, o: n.astype(o.dtype), new, old)


def check_fit(new: Any, old: Any, name: str, place: Place) -> None:
    """Raise unless a slot has the shape that it should have."""
    shapes = [jax.tree.map(jnp.shape, slot) for slot in (old, new)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{place}: {name} has shape {shapes[0]}, and should have {shapes[1]}{HINT}")
