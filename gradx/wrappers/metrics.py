"""What an optimizer does, as scalars: rate, norms, clipping, trust ratios, skipped steps."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradx.core.factory import factory
from gradx.core.foreign import linked
from gradx.core.ranges import one_of
from gradx.core.reports import Reports, listen, pass_on, report
from gradx.core.transformation import GradientTransformation, check_state
from gradx.core.tree import Tree, flatten, found_in, global_norm, is_missing, slash_paths
from gradx.numerics.arrays import increment
from gradx.numerics.moving_average import lerp

__all__ = ["MeasuredState", "measured", "metrics"]


class MeasuredState(NamedTuple):
    """The metrics of the last step by name, each float32, or a tree of them, one for each parameter.

    `steps` has of how many steps each mean is.
    """

    metrics: dict[str, Any]
    steps: dict[str, jax.Array]
    inner_state: Any


NORMS = ("gradient", "update", "parameter")


@factory
def measured(
    inner: optax.GradientTransformation, *, norms: str | Iterable[str] = NORMS
) -> GradientTransformation:
    """Keep what a transformation and its links report in the state, where `metrics` finds it.

    The updates are those of `inner`. Where this is not used, none of it is computed; where it is, a norm
    that a link takes anyway, such as that of clipping, is taken once. Reported are

        gradient_norm, update_norm, parameter_norm   of what comes in, goes out, and is given as `params`
        learning_rate                                that of this step, as every link that has one uses it
        clip_rate                                    the share of the steps that were clipped
        trust_ratio/<path>                           one for each parameter; <path>/<layer> of stacked ones
        groups/<name>/…                              what is reported in a group

    and what other combinators say of themselves. Of two of one name the second has `_2`.

    Arguments:
      inner: any transformation; foreign ones report nothing.
      norms: which of the norms to take. On the CPU that of the gradients costs nothing beside clipping, and
        else 12 bytes a parameter, that of the parameters 4, that of the updates, which have to be kept for
        it, up to 24.

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
    inner_update = linked("the inner transformation of measured", inner)

    def init(params):
        with listen() as reports:
            inner_state = inner.init(params)
            for norm in norms:
                report(f"{norm}_norm", 0.0)
        pass_on(reports)  # to one that is around this one
        named = by_name(reports)
        values = {name: placed(value, params, missing=True) for name, (_, value, _) in named.items()}
        values = jax.tree.map(jnp.zeros_like, values)
        steps = {name: jnp.zeros((), jnp.int32) for name, (mean, *_) in named.items() if mean}
        return MeasuredState(values, steps, inner_state)

    def update(updates, state, params=None, **extra):
        check_state("measured", MeasuredState, state)
        with listen() as reports:
            out, inner_state = inner_update(updates, state.inner_state, params, **extra)
            trees = {"gradient": updates, "update": out, "parameter": params}
            for norm in norms:
                taken = jnp.nan if trees[norm] is None else global_norm(trees[norm])
                report(f"{norm}_norm", taken)
                out = after(taken, out)
        pass_on(reports)
        values, steps = dict(state.metrics), dict(state.steps)
        for name, (mean, value, news) in by_name(reports).items():
            if mean:
                steps[name] = jnp.where(news, increment(steps[name]), steps[name])
                value = lerp(value, values[name], 1 - 1 / jnp.maximum(steps[name].astype(jnp.float32), 1))
            keep = lambda new, old, news=news: jnp.where(news, new, old)
            values[name] = jax.tree.map(keep, placed(value, values[name]), values[name])
        return out, MeasuredState(values, steps, inner_state)

    return GradientTransformation(init, update)


def after(norm: Any, updates: Tree) -> Tree:
    """The updates, not before the norm is known: else XLA copies the parameters, to be read for it later."""
    return jax.tree.map(lambda u: jnp.where(norm < 0, jnp.zeros_like(u), u), updates)


def by_name(reports: Reports) -> dict[str, tuple[bool, Any, Any]]:
    """Whether a mean is wanted, the value, and whether it is news; of two of one name the second is `_2`."""
    found: dict[str, tuple[bool, Any, Any]] = {}
    for name, mean, value, news in zip(
        reports.names, reports.means, reports.values, reports.news, strict=True
    ):
        copy, full = 1, name
        while full in found:
            copy += 1
            full = f"{name}_{copy}"
        found[full] = mean, value, news
    return found


def placed(value: Any, like: Tree, *, missing: bool = False) -> Any:
    """A scalar as it is; scalars by path as a tree `like` another, whose leaves fill the gaps, or None."""
    if not isinstance(value, dict):
        return value
    leaves, treedef = flatten(like)
    pairs = zip(slash_paths(like), leaves, strict=True)
    return treedef.unflatten([value.get(path, None if missing else x) for path, x in pairs])


def metrics(state: Tree) -> dict[str, jax.Array]:
    """The scalars that `measured` keeps, by name: float32, the same names at every step.

    Before the first step all are 0. They are in the state, so they cost no transfer until they are read;
    under jit return them, or the state, from the step. Raises ValueError if `measured` is nowhere in the
    state, or in two places.
    """
    found = found_in(state, MeasuredState)
    if len(found) != 1:
        where = "more than one place" if found else "no place"
        raise ValueError(
            f"metrics: the state has metrics in {where}: put gradx.measured around the whole optimizer, once"
        )
    flat = {}
    for name, value in sorted(found[0].metrics.items()):  # as they come from under jit
        pairs = zip(slash_paths(value), flatten(value)[0], strict=True)
        for path, x in pairs:
            places = [] if is_missing(x) else np.ndindex(x.shape)  # one, (), or one for each layer
            flat |= {"/".join(filter(None, [name, path, *map(str, i)])): x[i] if i else x for i in places}
    return flat
