"""Every argument of every factory matters: other values give other updates, or another state.

Nothing is compiled: with `jax.disable_jit` equal steps take equal operations, of the same few shapes, so a
row costs about what its tracing would.
"""

import contextlib
import functools
import inspect
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

import gradx as gx
from tests import probes
from tests.probes import IDLE, PROBES, PROBLEMS, Problem, calls, found, keys, space_of
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


ROWS = [(f, name) for f in makers() for name in inspect.signature(f).parameters]
IDS = [f"{space_of(f)}{f.__name__}-{name}" for f, name in ROWS]


class Outcome(NamedTuple):
    """What is seen of an object: numbers, and everything else, types and structure among it."""

    numbers: list[np.ndarray]
    rest: Any


@pytest.mark.parametrize(("function", "argument"), ROWS, ids=IDS)
def test_every_argument_matters(function, argument):
    probe = found(PROBES, keys(function, argument))
    if probe is None:
        pytest.fail(
            f"add a value of {argument} that is not its default to PROBES in tests/probes.py, as {argument!r} "
            f"or, if it is not for all factories, as '{function.__name__}.{argument}'"
        )
    problem = probe.problem or found(PROBLEMS, keys(function), Problem())
    made = calls(function, argument, probe)
    outcomes = [outcome(x, problem, probe.in_state) for x in made]
    assert len(made) > 1, "give two values or more of an argument without a default"
    same = [
        (made[i], made[j]) for j in range(len(made)) for i in range(j) if not differ(outcomes[i], outcomes[j])
    ]
    assert bool(same) == (f"{space_of(function)}{function.__name__}.{argument}" in IDLE), same


def test_every_probe_is_of_an_argument():
    """A renamed argument or factory leaves no row behind."""
    known = {key for f, name in ROWS for key in keys(f, name)}
    assert set(PROBES) | set(IDLE) <= known
    factories = {key for f in makers() for key in keys(f)}
    assert set(probes.BESIDE) | set(PROBLEMS) <= factories


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


@functools.lru_cache(maxsize=None)
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
    for loss, g in zip(
        (3.0, 2.0, 2.5, 5.0, 2.0, 9.0, 1.0), (1.0, 2.0, 1.0, 2.0, 1.0, 1.0, 99.0), strict=True
    ):
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


@functools.cache
def start(problem: Problem) -> tuple[Any, list]:
    """The parameters, two matrices and a vector; for each step the point where its loss is 0."""
    rng, shapes = np.random.default_rng(0), {"w": (4, problem.columns, 2), "v": (3, 2), "b": (3,)}
    draw = lambda size: {k: jnp.asarray(size * rng.normal(size=s), problem.dtype) for k, s in shapes.items()}
    return draw(1.0), [draw(1.5) for _ in range(problem.steps)]


def loss_at(params, target):
    """A convex loss that no line search ends at its first step."""
    far = jax.tree.leaves(jax.tree.map(lambda p, t: (p - t).astype(jnp.float32), params, target))
    return sum(jnp.sum(x * x * x * x / 4 + x * x / 2) for x in far)


def gradient_at(params, target, size):
    def one(p, t):
        x = p - t
        return (size * (x * x * x + x)).astype(p.dtype)

    return jax.tree.map(one, params, target)


def steps_of(tx, problem, params, targets, tokens=(1.0, 3.0, 2.0)):
    """The updates of all steps, and the state after them."""
    state, updates = tx.init(params), []
    for i, target in enumerate(targets):
        g = gradient_at(
            params, target, jnp.asarray(jnp.nan if i in problem.bad else problem.scale, params["b"].dtype)
        )
        extra = dict(value=loss_at(params, target), grad=g, tokens=jnp.asarray(tokens[i % len(tokens)]))
        u, state = tx.update(g, state, params, value_fn=lambda p, t=target: loss_at(p, t), **extra)
        params = gx.apply_updates(params, u)
        updates.append(u)
    return updates, state


def trained(tx, problem):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), jax.disable_jit(), jax.enable_x64(problem.x64):
        updates, state = steps_of(tx, problem, *start(problem))
        jax.effects_barrier()
    return updates, state, printed.getvalue()


def trained_on_devices(tx, problem):
    """The updates of all devices, of a mesh of two by two, each with targets and tokens of its own."""
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("d", "e"))
    params, targets = start(problem)
    share = jnp.asarray([1.0, 0.5, -0.5, 2.0])
    P = PartitionSpec

    def run(params, share):
        mine = [jax.tree.map(lambda x: x * share[0], target) for target in targets]
        updates, _ = steps_of(tx, problem, params, mine, tokens=(2 + share[0],))
        return jax.tree.map(lambda u: u[None], updates)

    mapped = jax.shard_map(run, mesh=mesh, in_specs=(P(), P(("d", "e"))), out_specs=P(("d", "e")))
    return jax.jit(mapped)(params, share), (), ""
