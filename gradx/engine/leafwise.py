"""A rule on one array, lifted to a pytree.

Only the engine counts steps, chooses dtypes, skips missing leaves, resolves hyperparameters and
compares structures. A rule is a function of one parameter's arrays and the step's scalars, all
asked for by name:

    g         the gradient (or the update from the link before)
    p         the parameter; asking for it makes `params` required in `update`
    dtype     the dtype of the parameter, before `p` is widened
    <slot>    a field of the state
    <hyper>   a hyperparameter, resolved at this step
    <scalar>  a number that the `scalars` function gave, such as a norm over all parameters; a bias correction

It closes over Python numbers only, so the same rule can be traced by XLA, vmapped over stacked
layers, or put into one fused kernel.

An update has four parts, split by when each is known: the rule and its parameters (`Rule`), the scalars of a
step (`StepValues`), the layout of the state (`StateLayout`), and the run over the leaves.
"""

import functools
from collections.abc import Callable

import jax
from optax import ScalarOrSchedule

from gradx.core.transformation import HINT, GradientTransformation
from gradx.engine.layers import started
from gradx.engine.leaf_checks import Place, check_fit
from gradx.engine.leaves import Leaves
from gradx.engine.reports import Kind, Reported
from gradx.engine.rule import Inputs, Result, Rule, Scalars
from gradx.engine.slot_starts import zero_slot
from gradx.engine.small_arrays import batches
from gradx.engine.state_layout import Parts, Starts, StateLayout
from gradx.engine.step_values import StepValues

__all__ = ["leafwise"]


def leafwise(
    State: type,
    rule: Callable,
    scalars: Callable | None = None,
    *,
    slots: dict[str, Callable] | None = None,
    corrections: dict[str, str] | None = None,
    renamed: dict[str, str] | None = None,
    reports: dict[str, Kind] | None = None,
    **hyper: ScalarOrSchedule,
) -> GradientTransformation:
    """Lift a rule on one array to a transformation of a pytree.

    Arguments:
      State: a NamedTuple class. `count`, if it has it, is the step count (int32, 0 at first); every
        other field is a slot: one array (or small pytree) per parameter.
      rule: a function whose parameters have the names above. It returns the update, or the update and then
        each slot in the order of `State`. Its arrays are float32 or better.
      scalars: a function returning a dict of further scalars, run once a step. Besides
        hyperparameters and corrections it may name `t` (the step, 1 at first, as a float), `updates`
        and `params` (lists of all arrays). Any other parameter, such as `value`, must be given to
        `update` by that name.
      slots: how each slot starts: a function parameter -> initial slot; `zero_slot()` if not given. If the
        slot has the parameter's shape, each element may depend on its own element only.
      corrections: scalar -> hyperparameter, say `{"c1": "b1"}` for c1 = 1 / (1 - b1ᵗ), the factor that
        undoes the zero start of an average. If b1 follows a schedule, its product stands for b1ᵗ.
      renamed: field of the state -> its name in the rule, for a class of another library whose field names
        have another meaning in a rule, say `{"t": "count", "g": "previous"}`.
      reports: metrics, for `measured`, besides the learning rate: "step" for a scalar that `scalars` gives,
        "mean" for its mean over the steps, "leaf" for a number of each parameter, which the rule returns
        after the slots.
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
    owner = getattr(rule, "__qualname__", repr(rule)).partition(".")[0]
    fields: list[str] = [(renamed or {}).get(name) or name for name in State._fields]
    starts = {name: (slots or {}).get(name, zero_slot()) for name in fields if name != "count"}
    rates: dict[str, Kind] = {k: "step" for k in hyper if k == "learning_rate"}
    reported = Reported(rates | (reports or {}))
    lifted = Rule(owner, rule, tuple(starts), reported.per_leaf)
    step = StepValues(owner, hyper, corrections or {}, scalars)
    step.check({"g", "p", "dtype", "t", "updates", "params", *fields})
    scheduled = "count" not in fields and step.needs_count
    layout = StateLayout(owner, State, fields, starts, scheduled, step.weighted)

    def init(params):
        return layout.init(Leaves.of_params(owner, params))

    def blank(params):
        return reported.blank(Leaves.of_params(owner, params))

    def observe(updates, state, params=None, **extra):
        needs_params = lifted.needs_params or "params" in step.parameters
        leaves = Leaves.of_updates(owner, updates, params, needs_params)
        parts = layout.unpack(state, leaves)
        known, weights = step.at(parts.count, parts.weights, leaves, extra)
        results = run(lifted, leaves, parts, known, starts)
        new = parts.after(weights, results)
        return leaves.updated(results), layout.pack(new, leaves), reported.of(leaves, known, results)

    return GradientTransformation.of(init, observe, blank)


def run(rule: Rule, leaves: Leaves, parts: Parts, known: Scalars, starts: Starts) -> dict[int, Result]:
    """The results of the rule by position: leaf by leaf, or for a batch of small leaves together."""
    scalars = functools.cache(lambda dtype: rule.scalars(known, dtype))
    inputs = {i: Inputs(g, leaves.ps.get(i), parts.at(i), leaves.axes.get(i)) for i, g in leaves.gs.items()}
    results: dict[int, Result] = {}
    for positions in batches(inputs):
        first, place = inputs[positions[0]], Place(leaves.owner, leaves.treedef, positions[0])
        try:
            out = rule.run([inputs[i] for i in positions], *scalars(first.g.dtype))
        except (TypeError, ValueError) as e:
            check_slots(first, starts, place)  # the likely cause: a state of other parameters
            e.add_note(f"(in {place})")
            raise
        for i, result in zip(positions, out, strict=True):
            if result.update.shape != first.g.shape:
                raise ValueError(
                    f"{place}: an update of shape {first.g.shape} became one of {result.update.shape}{HINT}"
                )
            results[i] = result
    return results


def check_slots(inputs: Inputs, starts: Starts, place: Place) -> None:
    """Raise ValueError for a slot with another shape than `init` gives it."""
    for name, slot in inputs.slots.items():
        start = functools.partial(started, starts[name], axes=inputs.axes)
        check_fit(jax.eval_shape(start, inputs.g if inputs.p is None else inputs.p), slot, name, place)
