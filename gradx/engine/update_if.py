"""An update that keeps the old state unless a condition holds: without `cond`, and without more bytes.

`where(ok, new, old)` on the results would be right, but costs bytes: the parameter's update uses the new
slots before the selection, so XLA computes them from the old slots a second time, and copies the old slots
for it. Hence every new array of the state is selected as soon as it is computed, and later equations read the
selected array. Where the condition holds, that is the new one; where it does not, later results are unused.

To select in between, the update is traced, and its jaxpr is evaluated equation by equation. A rule is a
nested jit, and stays one, shared by all parameters that share it. Other equations that hold a program, such
as a `cond` or a `scan`, run as they are, and their results are selected.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Literal, Var

from gradx.core.compilation import is_plain_jit, results
from gradx.core.foreign import widened
from gradx.core.reports import Reports, news_if
from gradx.core.transformation import Observe
from gradx.core.tree import Extra, State, Tree, is_missing
from gradx.numerics.device_axes import varying

__all__ = []  # internal: wrappers use `update_if`

Olds: TypeAlias = Sequence[jax.Array | None]  # for each result of a program the old value, if it has one


def update_if(
    ok: jax.Array, observe: Observe, updates: Tree, state: State, params: Tree | None, extra: Extra
) -> tuple[Tree, State, Reports]:
    """`observe(updates, state, params, **extra)`, but where `ok` is False the state is bitwise the old one.

    There the updates mean nothing. The reports are news where `ok` is True.
    """
    if not isinstance(ok, Tracer):  # outside of jit the inner update is simply called, or not
        return observe(updates, state, params, **extra) if ok else (widened(updates), state, ())
    check_shared(ok, state)
    run = lambda updates, state: observe(updates, state, params, **extra)  # extra may hold functions
    program, shapes = jax.make_jaxpr(run, return_shape=True)(updates, state)
    gs, (olds, treedef) = jax.tree.leaves(updates), jax.tree.flatten(state)
    out, after, _ = shapes
    if jax.tree.structure(after) != treedef:
        raise ValueError(
            f"the state must keep its structure, because a step may be skipped, but {treedef} became "
            f"{jax.tree.structure(after)}"
        )
    before = len(jax.tree.leaves(out))
    behind = len(program.jaxpr.outvars) - before - len(olds)
    values = evaluated(program, gs + olds, [None] * before + olds + [None] * behind, ok, len(gs))
    updates, state, reports = jax.tree.unflatten(jax.tree.structure(shapes), values)
    return updates, state, news_if(ok, reports)


def check_shared(ok: jax.Array, state: State) -> None:
    """Raise if each device would decide for itself whether to keep a state that all devices share."""
    for x in jax.tree.leaves(state):
        for axis in sorted(varying(ok) - varying(x)):
            raise ValueError(
                f"along {axis!r} each device would decide for itself whether to skip a step, but all share "
                "one state: put average_gradients in front; if only losses differ, or the parameters are "
                "slices of one model, give skip_if axis_name; if each device trains parameters of its own, "
                "call init with these: its state is each device's own too"
            )


def zero_unless(ok: jax.Array, updates: Tree) -> Tree:
    """The updates, or -0, which changes no parameter: 0 would change a parameter of -0 to 0."""
    zero = lambda u: u if is_missing(u) else lax.select(ok, u, -jnp.zeros_like(u))
    return jax.tree.map(zero, updates, is_leaf=is_missing)


def evaluated(
    program: ClosedJaxpr, arguments: list[jax.Array], olds: Olds, ok: jax.Array, gradients: int = 0
) -> list[jax.Array]:
    """The results of a program; a result with an old value (not None) is the old value unless `ok`.

    The first `gradients` of its arguments are gradients.
    """
    jaxpr = program.jaxpr
    gs, inputs = set(jaxpr.invars[:gradients]), [*jaxpr.constvars, *jaxpr.invars]
    env: dict[Var, jax.Array] = dict(zip(inputs, [*program.consts, *arguments], strict=True))
    value = lambda x: x.val if isinstance(x, Literal) else env[x]
    hidden = lambda x: lax.optimization_barrier(env[x])
    outputs = list(zip(jaxpr.outvars, olds, strict=True))
    kept = {x: old for x, old in outputs if old is not None and not isinstance(x, Literal)}
    for eqn in jaxpr.eqns:
        old = [kept.get(x) for x in eqn.outvars]
        if is_plain_jit(eqn) and any(x is not None for x in old):
            # XLA would find the square of a gradient both in a rule and in the norm that decides, and keep it
            # in memory for both. A barrier hides that the two are the same.
            given = [hidden(x) if not isinstance(x, Literal) and x in gs else value(x) for x in eqn.invars]
            new = nested(eqn.params["jaxpr"], eqn.params["name"])(given, old, ok)
        else:
            found = results(eqn, list(map(value, eqn.invars)))
            new = [selected(ok, *pair) for pair in zip(found, old, strict=True)]
        env.update(zip(eqn.outvars, new, strict=True))
    computed = env.keys() - set(inputs)
    is_done = lambda x, old: not isinstance(x, Literal) and x in computed and kept.get(x) is old
    return [value(x) if is_done(x, old) else selected(ok, value(x), old) for x, old in outputs]


@functools.lru_cache(maxsize=1024)
def nested(program: ClosedJaxpr, name: str) -> Callable:
    """`evaluated` as a nested jit, traced once for all parameters that share a program."""
    run = lambda arguments, olds, ok: evaluated(program, arguments, olds, ok)
    run.__name__ = name  # the name in a profile
    return jax.jit(run)


def selected(ok: jax.Array, new: jax.Array, old: jax.Array | None) -> jax.Array:
    return new if old is None or new is old else lax.select(ok, new, old)
