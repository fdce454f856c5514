"""Averages of the parameters, to evaluate with: each the last link of a chain."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradx.core.apply import apply_updates
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule, value_at
from gradx.core.ranges import BOUND, check, declare_ranges, positive_integer
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import copy_slot
from gradx.numerics.arrays import increment

__all__ = ["AverageParamsState", "average_params", "ema_params"]

declare_ranges("average_params", start=BOUND)
declare_ranges("ema_params", start=BOUND)


class AverageParamsState(NamedTuple):
    """The average of the parameters."""

    average: jax.Array


@factory
def average_params(start: ScalarOrSchedule = 0, *, every: int = 1) -> GradientTransformation:
    """Keep the mean of the parameters after every step later than `start`; the last link of a chain.

        average = average + (p + u - average) / n     for the n-th parameters that are averaged

    From the first step on it is Polyak's average; from a late step on, say `run.fraction(0.75)` of a `Run`,
    it is a tail average; with `every` as long as a schedule's cycles, it is stochastic weight averaging
    (Izmailov et al. 2018, arXiv:1803.05407). The updates pass unchanged. The average is `average` in the
    state, in float32 or better, and `eval_params` reads it. It averages parameters as `apply_updates` rounds
    them.

    Arguments:
      start: steps before the averaging begins, at least 0.
      every: average the parameters of the steps start + every, start + 2 * every, ...; at least 1. Before
        the first of them the average is the parameters.

    Raises ValueError if `update` is called without parameters.
    """
    check("average_params", start=start)
    positive_integer("average_params", every=every)

    def share(count):
        n, taken = averaged("average_params", count, start, every)
        return 1 / jnp.where(taken | (n < 1), jnp.maximum(n, 1.0), jnp.inf)

    return of_next("average_params", share=share)


@factory
def ema_params(
    decay: ScalarOrSchedule, *, debias: bool = True, start: ScalarOrSchedule = 0, every: int = 1
) -> GradientTransformation:
    """Keep an exponential moving average of the parameters; the last link of a chain.

        average = average + share * (p + u - average)
        share   = (1 - decay) / (1 - decayⁿ)     for the n-th parameters that are averaged
                  1 - decay                      without debias

    The updates pass unchanged. The average is `average` in the state, in float32 or better, and `eval_params`
    reads it. It averages parameters as `apply_updates` rounds them.

    Arguments:
      decay: how much of the average stays, between 0 and 1; 0.99 to 0.9999. If it follows a
        schedule, its product stands for decayⁿ.
      debias: forget the initial parameters, which otherwise keep a share of decayⁿ in the average.
      start: steps before the averaging begins, at least 0.
      every: average the parameters of the steps start + every, start + 2 * every, ...; at least 1. Before
        the first of them the average is the parameters.

    Raises ValueError if `update` is called without parameters.
    """
    check("ema_params", decay=decay, start=start)
    positive_integer("ema_params", every=every)

    def of_step(count):
        n, taken = averaged("ema_params", count, start, every)
        return jnp.where(taken & (n >= 1), value_at("ema_params", "decay", decay, count), 1.0)

    def waits(count):
        return jnp.where(averaged("ema_params", count, start, every)[0] < 1, 1.0, 0.0)

    def share(decay, waits, c=1.0):
        return {"share": jnp.where(waits == 1, 1.0, (1 - decay) * c)}  # till then the parameters themselves

    corrections = {"c": "decay"} if debias else None
    return of_next("ema_params", share, corrections=corrections, decay=of_step, waits=waits)


def averaged(
    owner: str, count: jax.Array, start: ScalarOrSchedule, every: int
) -> tuple[jax.Array, jax.Array]:
    """n, how many times parameters were averaged after this step (0 or less: never); whether at this step."""
    steps = jnp.asarray(increment(count), float) - jnp.asarray(value_at(owner, "start", start, count), float)
    n = jnp.floor(steps / every)
    return n, n > jnp.floor((steps - 1) / every)


def of_next(owner: str, scalars: Callable | None = None, **kwargs: Any) -> GradientTransformation:
    """Average the next parameters, rounded to their dtype: unrounded ones would be other numbers."""

    def rule(g, average, share):
        return g, jnp.where(share == 1, g, average + share * (g - average))

    rule.__qualname__ = owner  # the name in errors
    tx = leafwise(AverageParamsState, rule, scalars, slots={"average": copy_slot()}, **kwargs)

    def observe(updates, state, params=None, **extra):
        if params is None:
            raise ValueError(f"{owner} needs the parameters: call update(updates, state, params)")
        return updates, tx.observe(apply_updates(params, updates), state)[1], ()

    return GradientTransformation.of(tx.init, observe)
