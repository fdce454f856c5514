"""A rule on one array, lifted to a pytree."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from optax import EmptyState, ScalarOrSchedule

from gradx.core.arguments import needed
from gradx.core.foreign import widened
from gradx.core.hyperparameters import asked, cast, pick, resolve, varies
from gradx.core.ranges import check
from gradx.core.reports import apart, listening, report
from gradx.core.transformation import HINT, GradientTransformation, check_state, keeping_empty
from gradx.core.tree import aligned, flatten, slash_paths
from gradx.engine.layers import axes_here, ruled, started
from gradx.engine.leaf_checks import Place, beside, check_fit, present, promotion, scalar_dtype, stored
from gradx.engine.slot_starts import zero_slot
from gradx.engine.small_arrays import batched, batches
from gradx.engine.state_layout import CorrectedState, ScheduledState
from gradx.numerics.arrays import increment
from gradx.numerics.device_axes import varying_like
from gradx.numerics.dtypes import compute_dtype, real_dtype
from gradx.numerics.moving_average import correction, lerp

__all__ = ["leafwise"]


def leafwise(
    State: Any,
    rule: Callable,
    scalars: Callable | None = None,
    *,
    slots: dict[str, Callable] | None = None,
    corrections: dict[str, str] | None = None,
    renamed: dict[str, str] | None = None,
    reports: dict[str, Literal["step", "mean", "leaf"]] | None = None,
    **hyper: ScalarOrSchedule,
) -> GradientTransformation:
    """Lift a rule on one array to a transformation of a pytree.

    Arguments:
      State: a NamedTuple class. `count`, if it has it, is the step count (int32, 0 at first); every
        other field is a slot: one array (or small pytree) per parameter.
      rule: a function of what it names (see above), returning the update, or the update and then
        each slot in the order of `State`. Its arrays are float32 or better.
      scalars: a function returning a dict of further scalars, run once a step. Besides
        hyperparameters and corrections it may name `t` (the step, 1 at first, as a float), `updates`
        and `params` (lists of all arrays); what else it names, such as `value`, must be given to
        `update` by that name.
      slots: how each slot starts, a function of the parameter, of each element apart where it is of its
        shape; `zero_slot()` if not given.
      corrections: scalar -> hyperparameter, say `{"c1": "b1"}` for c1 = 1 / (1 - b1ᵗ), the factor that
        undoes the zero start of an average. If b1 follows a schedule, its product stands for b1ᵗ.
      renamed: field of the state -> what it is called here, where a class that others made has fields
        whose names have another meaning in a rule, say `{"t": "count", "g": "previous"}`.
      reports: metrics, for `measured`, besides the learning rate: "step" for what `scalars` gives, "mean" if
        its mean over the steps is meant, "leaf" for what the rule reports, once for each parameter.
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
    given = slots or {}, corrections or {}, renamed or {}, reports or {}
    lifted = Lifted(State, rule, scalars, *given, hyper)
    has_state = State is not EmptyState or lifted.scheduled or lifted.weighted
    return GradientTransformation(lifted.init, lifted.update if has_state else keeping_empty(lifted.update))


class Lifted:
    """A rule with all that the engine has to know of it."""

    def __init__(
        self,
        State: Any,
        rule: Callable,
        scalars: Any,
        slots: dict,
        corrections: dict,
        renamed: dict,
        reports: dict,
        hyper: dict,
    ) -> None:
        self.owner = getattr(rule, "__qualname__", repr(rule)).partition(".")[0]
        self.State, self.rule, self.scalars, self.hyper = State, rule, scalars, hyper
        self.fields = [renamed.get(name, name) for name in State._fields]
        self.starts = {name: slots.get(name, zero_slot()) for name in self.fields if name != "count"}
        self.rule_asks, self.scalars_ask = asked(rule), asked(scalars)
        self.needs_params = bool({"p", "dtype"} & self.rule_asks.keys()) or "params" in self.scalars_ask
        self.corrections = corrections
        self.weighted = sorted({k for k in corrections.values() if varies(hyper[k])})
        self.counts = "count" in self.fields
        needs_count = "t" in self.scalars_ask or any(map(callable, hyper.values()))
        needs_count |= not set(corrections.values()) <= set(self.weighted)
        self.scheduled = needs_count and not self.counts
        meant = {"g", "p", "dtype", "t", "updates", "params", *self.fields}
        taken = (hyper.keys() | corrections.keys()) & meant
        if taken:
            raise TypeError(f"{self.owner}: {sorted(taken)} have a meaning, and cannot name hyperparameters")
        check(self.owner, **hyper)
        self.reports = {k: "step" for k in hyper if k == "learning_rate"} | reports
        one = lambda leaf, *scalars: ruled(lambda *x: apart(self.at_leaf)(*x, *scalars), *leaf)
        leaves = lambda inputs, *scalars: batched(lambda leaf: one(leaf, *scalars[:2]), inputs)
        leaves.__name__ = self.owner  # what a profile shows
        # Traced once for all leaves of a shape, and once more where reports are wanted.
        self.leaves = jax.jit(leaves, static_argnums=(2, 3))

    def init(self, params: Any) -> Any:
        leaves, treedef = flatten(params)
        here = present(leaves, treedef, self.owner)
        axes, paths = axes_here(params), list(enumerate(slash_paths(params) if listening() else []))
        columns = {k: list(leaves) for k in self.starts}
        for i, p in here.items():
            for k, start in self.starts.items():
                slot = started(start, p, axes.get(i))
                own = lambda x, p=p: varying_like(jnp.copy(x) if x is p else x, p)
                columns[k][i] = jax.tree.map(own, slot)
        weights = {k: jnp.zeros((), scalar_dtype(here)) for k in self.weighted}
        for name, kind in self.reports.items():
            each = {path: axes[i].zeros(here[i]) if i in axes else 0.0 for i, path in paths if i in here}
            report(name, each if kind == "leaf" else 0.0, mean=kind == "mean")
        return self.packed(jnp.zeros((), jnp.int32), weights, columns, treedef)

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        if self.needs_params and params is None:
            raise ValueError(f"{self.owner} needs the parameters: call update(updates, state, params)")
        leaves, treedef = flatten(updates)
        gs = present(leaves, treedef, self.owner)
        ps = beside(gs, params, treedef, self.owner) if self.needs_params else {}
        count, weights, columns = self.unpacked(state, treedef)
        known, weights = self.at_step(count, weights, gs, ps, extra)
        names = slash_paths(updates) if listening() else []
        each: dict[str, dict[str, Any]] = {name: {} for name, kind in self.reports.items() if kind == "leaf"}
        scalars = functools.cache(lambda dtype: self.at_dtype(known, dtype))
        axes = axes_here(updates)
        slots_of = lambda i: {k: column[i] for k, column in columns.items()}
        inputs = {i: (g, ps.get(i), slots_of(i), axes.get(i)) for i, g in gs.items()}
        for run in batches(inputs):
            place = Place(self.owner, treedef, run[0])
            g, _, slots, layers = inputs[run[0]]
            try:
                out = self.leaves([inputs[i] for i in run], *scalars(g.dtype), listening())
            except (TypeError, ValueError) as e:
                for k, slot in slots.items():  # the likely cause: a state of other parameters
                    start = functools.partial(started, self.starts[k], axes=layers)
                    check_fit(jax.eval_shape(start, ps.get(run[0], g)), slot, k, place)
                e.add_note(f"(in {place})")
                raise
            for i, ((u, new), told) in zip(run, out, strict=True):
                if u.shape != g.shape:
                    raise ValueError(f"{place}: an update of shape {g.shape} became one of {u.shape}{HINT}")
                leaves[i] = u
                for k, slot in new.items():
                    columns[k][i] = slot
                for name, value in zip(told.names, told.values, strict=True):
                    each[name][names[i]] = value
        for name, values in each.items():
            report(name, values)
        count = None if count is None else increment(count)
        return treedef.unflatten(leaves), self.packed(count, weights, columns, treedef)

    def at_step(self, count: Any, weights: dict, gs: dict, ps: dict, extra: dict) -> tuple[dict, dict]:
        """The hyperparameters and scalars of this step, once for all parameters; the new weights."""
        dtype = scalar_dtype(gs)
        known = resolve(self.hyper, count, dtype)
        t: Any = None if count is None else increment(count).astype(dtype)
        new = {k: lerp(jnp.ones((), w.dtype), w, cast(known[k], w.dtype)) for k, w in weights.items()}
        for name, k in self.corrections.items():
            known[name] = cast(1 / new[k], dtype) if k in new else correction(known[k], t)
        if self.scalars is not None:
            trees = {k: x for k, x in {"updates": gs, "params": ps}.items() if k in self.scalars_ask}
            trees = {k: list(x.values()) for k, x in widened(trees).items()}
            given = extra | known | trees | ({} if t is None else {"t": t})
            for name, required in self.scalars_ask.items():
                if required:
                    needed(self.owner, name, given.get(name))
            known |= self.scalars(**pick(self.owner, self.scalars_ask, given))
        for name, kind in self.reports.items():
            if kind != "leaf":
                report(name, known[name], mean=kind == "mean")
        return known, new

    def at_dtype(self, known: dict, dtype: Any) -> tuple[dict, tuple]:
        """What the rule asks for of the scalars, for leaves of one dtype: arrays; Python numbers."""
        asked_for = pick(self.owner, self.rule_asks, known | dict.fromkeys(["g", "p", "dtype", *self.starts]))
        dtype = real_dtype(compute_dtype(dtype))
        scalars = {k: cast(known[k], dtype) for k in asked_for if k in known}
        numbers = {k: v for k, v in scalars.items() if isinstance(v, float)}
        return {k: v for k, v in scalars.items() if k not in numbers}, tuple(numbers.items())

    def at_leaf(self, g: Any, p: Any, slots: dict, scalars: dict, numbers: tuple) -> tuple[Any, dict]:
        """The rule on one parameter: its update and its slots."""
        arrays = widened({"g": g, "p": p} | slots)
        own = {} if p is None else {"dtype": p.dtype}
        given = pick(self.owner, self.rule_asks, dict(numbers) | scalars | arrays | own)
        with promotion(arrays):
            out = self.rule(**given)
        u, *new = out if isinstance(out, tuple) else (out,)
        if len(new) != len(slots):
            raise TypeError(f"{self.owner}: the rule must return the update and then {list(self.starts)}")
        return u, {k: stored(n, slots[k], k, self.owner) for k, n in zip(self.starts, new, strict=True)}

    def packed(self, count: Any, weights: dict, columns: dict[str, list], treedef: Any) -> Any:
        """The state, from its count, the weights of its averages, and its slots as lists."""
        trees = {k: treedef.unflatten(column) for k, column in columns.items()}
        state = self.State(*(count if k == "count" else trees[k] for k in self.fields))
        state = ScheduledState(count, state) if self.scheduled else state
        return CorrectedState(weights, state) if self.weighted else state

    def unpacked(self, state: Any, treedef: Any) -> tuple[Any, dict, dict[str, list]]:
        """What `packed` was given; each slot as a list in the order of the updates."""
        weights, count = {}, None
        if self.weighted:
            check_state(self.owner, CorrectedState, state)
            weights, state = state
        if self.scheduled:
            check_state(self.owner, ScheduledState, state)
            count, state = state
        check_state(self.owner, self.State, state)
        trees = dict(zip(self.fields, state, strict=True))
        names = {k: ("the updates", f"the state's {k}") for k in self.starts}
        columns = {k: aligned(treedef, trees[k], names[k], HINT) for k in self.starts}
        return trees.get("count", count), weights, columns
