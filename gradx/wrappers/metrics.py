"""Metrics of an optimizer as scalars: rate, norms, clipping, trust ratios, skipped steps."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradx.core.factory import factory
from gradx.core.foreign import blank_of, observe_of, wrapper
from gradx.core.hyperparameters import Scalar
from gradx.core.ranges import one_of
from gradx.core.reports import Numbers, Report, Reports
from gradx.core.transformation import GradientTransformation, check_state
from gradx.core.tree import State, Tree, flatten, found_in, global_norm, is_missing, slash_paths
from gradx.numerics.arrays import increment
from gradx.numerics.device_axes import each_device_own, varying_like
from gradx.numerics.moving_average import lerp

__all__ = ["MeasuredState", "measured", "metrics"]


class MeasuredState(NamedTuple):
    """The metrics of the last step by name: each a float32 scalar, or a tree with one for each parameter.

    `steps` holds for each metric that is a mean the number of steps in it.
    """

    metrics: dict[str, Tree]
    steps: dict[str, jax.Array]
    inner_state: State


NORMS = ("gradient", "update", "parameter")


@factory
def measured(
    inner: optax.GradientTransformation, *, norms: str | Iterable[str] = NORMS
) -> GradientTransformation:
    """Keep the reports of a transformation and its links in the state, where `metrics` finds them.

    The updates are those of `inner`. Without `measured` none of it is computed; with it, a norm that a link
    takes anyway, such as the norm for clipping, is taken once. The reports are

        gradient_norm, update_norm, parameter_norm   of the gradients, the updates of `inner`, and `params`
        learning_rate                                the rate at this step, of each link that has one
        clip_rate                                    the share of the steps that were clipped
        trust_ratio/<path>                           one for each parameter; <path>/<layer> of stacked ones
        groups/<name>/…                              the reports of a group

    and those of other wrappers. If two reports have one name, the second has `_2`.

    Arguments:
      inner: any transformation; foreign ones report nothing.
      norms: which of the norms to take. On the CPU the norm of the gradients costs nothing besides clipping,
        and 12 bytes a parameter without it; the norm of the parameters costs 4; the norm of the updates,
        which have to be kept for it, up to 24.

    Raises ValueError for an unknown norm.

    >>> import gradx, jax.numpy as jnp
    >>> tx = gradx.measured(gradx.chain(gradx.clip_by_global_norm(1.0), gradx.sgd(0.1)))
    >>> x = jnp.array([3.0, 4.0])
    >>> _, state = tx.update(x, tx.init(x), x)
    >>> {name: round(float(value), 2) for name, value in gradx.metrics(state).items()}
    {'clip_rate': 1.0, 'gradient_norm': 5.0, 'learning_rate': 0.1, 'parameter_norm': 5.0, 'update_norm': 0.1}
    """
    norms = (norms,) if isinstance(norms, str) else tuple(norms)
    for norm in norms:
        one_of("measured", NORMS, norms=norm)
    inner_observe = observe_of("the inner transformation of measured", inner)

    def blank(params):
        return *blank_of(inner)(params), *(Report(f"{norm}_norm", 0.0) for norm in norms)

    def init(params):
        named = by_name(blank(params))
        values = {name: as_tree(r.value, params, missing=True) for name, r in named.items()}
        values = jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), jnp.float32), values)
        steps = {name: jnp.zeros((), jnp.int32) for name, r in named.items() if r.mean}
        values, steps = each_device_own((values, steps), params)
        return MeasuredState(values, steps, inner.init(params))

    def observe(updates, state, params=None, **extra):
        check_state("measured", MeasuredState, state)
        out, inner_state, reports = inner_observe(updates, state.inner_state, params, **extra)
        trees = {"gradient": updates, "update": out, "parameter": params}
        for norm in norms:
            taken = jnp.nan if trees[norm] is None else global_norm(trees[norm])
            reports = *reports, Report(f"{norm}_norm", taken)
            out = after(taken, out)
        values, steps = dict(state.metrics), dict(state.steps)
        for name, r in by_name(reports).items():
            value = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), as_tree(r.value, values[name]))
            if r.mean:
                steps[name] = varying_like(
                    jnp.where(r.news, increment(steps[name]), steps[name]), steps[name]
                )
                value = lerp(value, values[name], 1 - 1 / jnp.maximum(steps[name].astype(jnp.float32), 1))
            keep = lambda new, old, news=r.news: varying_like(jnp.where(news, new, old), old)
            values[name] = jax.tree.map(keep, value, values[name])
        return out, MeasuredState(values, steps, inner_state), reports

    return wrapper(inner, init, observe, blank)


def after(norm: Scalar, updates: Tree) -> Tree:
    """The updates, to be used after the norm is taken: else XLA copies the parameters to take it later."""
    return jax.tree.map(lambda u: jnp.where(norm < 0, jnp.zeros_like(u), u), updates)


def by_name(reports: Reports) -> dict[str, Report]:
    """Reports by name; the second of two with one name gets `_2`."""
    found: dict[str, Report] = {}
    for report in reports:
        copy, name = 1, report.name
        while name in found:
            copy += 1
            name = f"{report.name}_{copy}"
        found[name] = report
    return found


def as_tree(value: Numbers, like: Tree, *, missing: bool = False) -> Tree:
    """Scalars by path as a tree `like` another, whose leaves (or None) fill gaps; one scalar unchanged."""
    if not isinstance(value, dict):
        return value
    leaves, treedef = flatten(like)
    pairs = zip(slash_paths(like), leaves, strict=True)
    return treedef.unflatten([value.get(path, None if missing else x) for path, x in pairs])


def metrics(state: State) -> dict[str, jax.Array]:
    """The scalars that `measured` keeps, by name: float32, the same names at every step.

    Before the first step all are 0. They stay on the device until you read them; under jit, return them or
    the state from the step. Raises ValueError if `measured` is nowhere in the state, or in two places.
    """
    found = found_in(state, MeasuredState)
    if len(found) != 1:
        where = "more than one place" if found else "no place"
        raise ValueError(
            f"metrics: the state has metrics in {where}: put gradx.measured around the whole optimizer, once"
        )
    flat = {}
    for name, value in sorted(found[0].metrics.items()):  # the order that jit gives them
        pairs = zip(slash_paths(value), flatten(value)[0], strict=True)
        for path, x in pairs:
            places = [] if is_missing(x) else np.ndindex(x.shape)  # one, (), or one for each layer
            flat |= {"/".join(filter(None, [name, path, *map(str, i)])): x[i] if i else x for i in places}
    return flat
