"""Every argument of every factory matters: other values give other updates, or another state.

Nothing is compiled: with `jax.disable_jit` equal steps take equal operations, of the same few shapes, so a
row costs about what its tracing would.
"""

import contextlib
import functools
import inspect
import io
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

import gradx as gx
from tests import probes
from tests.probes import IDLE, OWN_MEANING, PASSED_AS, PROBES, PROBLEMS, Problem, found, keys, space_of, tries
from tests.problems import aval

IS_FACTORY = gx.identity.__code__  # of all functions that `factory` made
SCHEDULES = ("gradx.schedules.", "gradx.torch.lr_scheduler")


def makers() -> list[Callable]:
    """All public functions that make a transformation, a schedule or the like."""
    functions = [
        f for space in (gx, gx.torch, gx.keras) for f in vars(space).values() if inspect.isfunction(f)
    ]
    public = [f for f in functions if getattr(gx, f.__name__, f) is f or space_of(f)]
    made = [f for f in public if f.__code__ is IS_FACTORY or f.__module__.startswith(SCHEDULES)]
    return list(dict.fromkeys(f for f in made if not f.__name__.startswith("_")))


# Optax's, under names of gradx: a search in Python, step by step, would take seconds.
SEARCHES = [gx.scale_by_backtracking_linesearch, gx.scale_by_zoom_linesearch]
ROWS = [(f, name) for f in makers() if f not in SEARCHES for name in inspect.signature(f).parameters]


def of(rows: list[tuple[Callable, str]]) -> pytest.MarkDecorator:
    """A test for each argument of these."""
    ids = [f"{space_of(f)}{f.__name__}-{name}" for f, name in rows]
    return pytest.mark.parametrize(("function", "argument"), rows, ids=ids)


class Outcome(NamedTuple):
    """What is seen of an object: numbers, and everything else, types and structure among it."""

    numbers: list[np.ndarray]
    rest: Any


@of(ROWS)
def test_every_argument_matters(function, argument):
    probe = found(PROBES, keys(function, argument))
    if probe is None:
        own = f"{function.__name__}.{argument}"
        pytest.fail(
            f"add to PROBES in tests/probes.py a value that is not the default, at {argument!r} or {own!r}"
        )
    tried = tries(function, argument, probe)
    assert len(tried) > 1, "give two values or more of an argument without a default"
    if all(receivers(function, argument, value, made) for value, made in tried):
        return
    problem = probe.problem or found(PROBLEMS, keys(function), Problem())
    if probe.raises:
        with pytest.raises(ValueError, match=probe.raises):
            outcome(tried.pop()[1], problem, False)
    outcomes = [outcome(made, problem, probe.in_state) for _, made in tried]
    pairs = itertools.combinations(range(len(tried)), 2)
    same = [(tried[i][1], tried[j][1]) for i, j in pairs if not differ(outcomes[i], outcomes[j])]
    assert bool(same) == (f"{space_of(function)}{function.__name__}.{argument}" in IDLE), same


@pytest.mark.parametrize("function", SEARCHES)
def test_a_line_search_of_optax_is_given_every_argument(function, monkeypatch):
    given = {}
    original = getattr(optax, function.__name__)
    record = lambda **arguments: given.update(arguments) or original(**arguments)
    monkeypatch.setattr(optax, function.__name__, record)
    for i, (name, parameter) in enumerate(inspect.signature(function).parameters.items()):
        default = None if parameter.default is parameter.empty else parameter.default
        value = {bool: not default, str: "one"}.get(type(default), 2 + i if default is None else 0.5 + i / 64)
        function(**{next(iter(inspect.signature(function).parameters)): 9} | {name: value})
        assert given[name] == value


@of(ROWS)
def test_an_argument_is_passed_on_by_its_name(function, argument):
    """And no neighbour's value: where a factory inside has an argument of the name, it is given this one."""
    passed = []
    for value, made in tries(function, argument, found(PROBES, keys(function, argument))):
        inside = [call for call in calls_within(made) if call.function is not function]
        given = [call.bound.arguments[argument] for call in inside if argument in call.bound.arguments]
        passed.append(not given or any(is_same(x, value) for x in given))
    assert all(passed) == (found(OWN_MEANING, keys(function, argument)[:2]) is None)


def test_every_probe_is_of_an_argument():
    """A renamed argument or factory leaves no row behind."""
    known = {key for f, name in ROWS for key in keys(f, name)}
    assert set(PROBES) | set(IDLE) | set(OWN_MEANING) <= known
    factories = {key for f in makers() for key in keys(f)}
    assert set(probes.BESIDE) | set(PROBLEMS) <= factories


def receivers(function: Callable, argument: str, value: Any, made: Any) -> list[tuple[Callable, str]]:
    """The factories inside that were given a value by its name, each with its own name of the argument.

    Then the argument matters, as their rows show: an optimizer's `b1` is not tried a second time where its
    `scale_by_...` has one.
    """
    names, found = {argument, PASSED_AS.get(argument)}, []
    for call in calls_within(made):
        for name in names & call.bound.arguments.keys():
            has_row = (call.function, name) in ROWS and call.function is not function
            if has_row and is_same(call.bound.arguments[name], value):
                found.append((call.function, name))
    return found


def calls_within(made: Any) -> Iterator[Any]:
    """The calls that made an object, and those that made what it was made of, from the outside inwards."""
    if isinstance(made, tuple | list | dict) and not hasattr(made, "_call"):
        for x in made.values() if isinstance(made, dict) else made:
            yield from calls_within(x)
    call = getattr(made, "_call", None)
    if call is not None:
        yield call
        yield from calls_within(list(call.bound.arguments.values()))
        yield from calls_within(call.returned)


def is_same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and not hasattr(a, "shape") and bool(a == b))


def differ(a: Outcome, b: Outcome) -> bool:
    """Whether types differ, or some number by more than another order of the same operations could make."""
    if a.rest != b.rest or len(a.numbers) != len(b.numbers):
        return True
    return any(not alike(x, y) for x, y in zip(a.numbers, b.numbers, strict=True))


def alike(x: np.ndarray, y: np.ndarray) -> bool:
    if x.shape != y.shape or not np.array_equal(np.isfinite(x), np.isfinite(y)):
        return False
    x, y = np.nan_to_num(x, posinf=0, neginf=0), np.nan_to_num(y, posinf=0, neginf=0)
    return bool(
        np.all(np.abs(x - y) <= 1e-4 * max(np.max(np.abs(x), initial=0), np.max(np.abs(y), initial=0)))
    )


def numbers(tree: Any) -> list[np.ndarray]:
    plain = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return [np.asarray(plain(jnp.asarray(x)), np.float64) for x in jax.tree.leaves(tree)]


@functools.cache
def outcome(made: Any, problem: Problem, in_state: bool) -> Outcome:
    """What an object that a factory made does."""
    if isinstance(made, optax.GradientTransformation):
        updates, state, printed = (trained_on_devices if problem.on_devices else trained)(made, problem)
        return Outcome(numbers((updates, state if in_state else ())), (aval((updates, state)), printed))
    with jax.disable_jit():
        for kind, watch in WATCHED.items():
            if isinstance(made, kind):
                seen = watch(made, problem)
                return seen if isinstance(seen, Outcome) else Outcome(numbers(seen), jax.tree.structure(seen))
    raise TypeError(f"say in WATCHED how to watch a {type(made).__name__}")


def of_schedule(schedule, problem):
    return jax.vmap(schedule)(jnp.arange(25))


def of_number(number, problem):
    return number


def of_plateau(schedule, problem):
    state, rates = schedule.init(), []
    for value in (-3.0, 3.0, 2.5, 2.6, 2.2, 2.2, 2.1, 2.1, 2.0, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5):
        rates.append(schedule(state))
        state = schedule.update(state, value=jnp.asarray(abs(value)))
    return rates


def of_stopping(stopping, problem):
    state, states = stopping.init(jnp.zeros(())), []
    for value in (3.0, 2.5, 2.7, 2.4, 2.6, 2.6, 1.0):
        state = stopping.update(state, value, jnp.asarray(value))
        states.append(state)
    return states


def of_noise_scale(scale, problem):
    state = scale.init()
    for squares in ([4.0, 9.0], [5.0, 8.0]):
        state = scale.update(state, jnp.asarray(squares), jnp.asarray([1.0, 2.0]), 8)
    return state


def of_condition(condition, problem):
    """Whether each step of a noisy loss, and of gradients that are not, was left out."""
    tx, x, skipped = gx.skip_if(gx.sgd(0.1), condition), jnp.ones(()), []
    state = tx.init(x)
    losses, sizes = (3.0, 2.0, 7.0, 2.5, 2.2, 3.9, 30.0, 1.0), (1.0, 2.0, 1.0, 2.0, 1.0, 1.0, 1.0, 99.0)
    for loss, g in zip(losses, sizes, strict=True):
        _, state = tx.update(g * x, state, x, value=loss)
        skipped.append((state.total, state.statistics))
    return skipped


def of_scaled(scaled, problem):
    return outcome(gx.groups(gx.sgd(0.1), {"w": dict(learning_rate=scaled)}), problem, False)


def of_injected(injected, problem):
    return outcome(injected(0.1, momentum=0.9), problem, False)


kind_of = lambda made: type(made)
WATCHED: dict[type, Callable] = {
    gx.Schedule: of_schedule,
    gx.Cycle: lambda pair, problem: [of_schedule(x, problem) for x in pair],
    float: of_number,
    kind_of(gx.reduce_on_plateau(1.0)): of_plateau,
    kind_of(gx.early_stopping(1)): of_stopping,
    kind_of(gx.gradient_noise_scale()): of_noise_scale,
    gx.Condition: of_condition,
    gx.Scaled: of_scaled,
    kind_of(gx.inject_hyperparams(gx.sgd)): of_injected,
}


class Step(NamedTuple):
    """What `update` is given."""

    updates: Any
    params: Any
    extra: dict[str, Any]


@functools.cache
def steps_of(problem: Problem) -> list[Step]:
    """The same steps for all: along a walk through an array and a vector, with a loss around it."""
    rng, shapes = np.random.default_rng(0), {"w": (4, problem.columns, 2), "b": (3,)}
    draw = lambda size: {k: jnp.asarray(size * rng.normal(size=s), problem.dtype) for k, s in shapes.items()}
    params, steps = draw(1.0), []
    for i, tokens in zip(range(max(problem.steps, 1)), itertools.cycle((1.0, 3.0, 2.0))):
        loss = functools.partial(loss_at, target=draw(1.5))
        value, g = jax.value_and_grad(loss)(params)
        grads = jax.tree.map(lambda x, i=i: x * (jnp.nan if i in problem.bad else problem.scale), g)
        extra = dict(value=value, grad=g, twin=g, tokens=jnp.asarray(tokens), value_fn=loss)
        steps.append(Step(grads, params, extra))
        params = jax.tree.map(jnp.add, params, draw(0.25))
    return steps


def loss_at(params, *, target, tokens=None, twin=None):
    """A convex loss that no line search ends at its first step."""
    far = jax.tree.leaves(jax.tree.map(lambda p, t: (p - t).astype(jnp.float32), params, target))
    return sum(jnp.sum(x * x * x * x / 4 + x * x / 2) for x in far)


def trained(tx, problem):
    """The updates of all steps, the state after them, and what was printed."""
    printed, updates, steps = io.StringIO(), [], steps_of(problem)
    if not problem.steps:
        with jax.enable_x64(problem.x64):
            return (), jax.eval_shape(tx.init, steps[0].params), ""
    with contextlib.redirect_stdout(printed), jax.disable_jit(), jax.enable_x64(problem.x64):
        state = tx.init(steps[0].params)
        for step in steps:
            u, state = tx.update(step.updates, state, step.params, **step.extra)
            updates.append(u)
        jax.effects_barrier()
    return updates, state, printed.getvalue()


def trained_on_devices(tx, problem):
    """The updates of all devices, of a mesh of two by two, where each has a share of its own in gradients."""
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("d", "e"))
    steps, P = steps_of(problem), PartitionSpec

    def run(share):
        updates, state = [], tx.init(steps[0].params)
        for step in steps:
            own = jax.tree.map(
                lambda g, raw: jnp.where(share[0] > 0, g, raw) * share[0], step.updates, step.extra["grad"]
            )
            extra = dict(value=step.extra["value"] * share[0], tokens=2 + share[0])
            u, state = tx.update(own, state, step.params, **extra)
            updates.append(jax.tree.map(lambda x: x[None], u))
        return updates

    shares = jnp.asarray([1.0, 0.5, -0.5, 2.0])
    mapped = jax.shard_map(run, mesh=mesh, in_specs=P(("d", "e")), out_specs=P(("d", "e")), check_vma=False)
    return jax.jit(mapped)(shares), (), ""
