"""Cycles of the learning rate, and of the momentum against it (Smith 2017; Smith & Topin 2018)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from gradx.core.factory import factory
from gradx.core.ranges import one_of
from gradx.schedules.base import Schedule, at_least
from gradx.schedules.piecewise import knots_schedule, piecewise_interpolate_schedule

__all__ = [
    "Cycle",
    "cosine_onecycle_schedule",
    "cyclic_schedule",
    "cyclic_with_momentum",
    "linear_onecycle_schedule",
    "one_cycle_schedule",
]


class Cycle(NamedTuple):
    """A learning rate and a momentum (or b1) that go up and down against each other."""

    learning_rate: Schedule
    momentum: Schedule


def one_cycle_schedule(
    peak_value: float,
    transition_steps: int,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    momentum: tuple[float, float] = (0.85, 0.95),
    shape: str = "cosine",
    three_phase: bool = False,
    inclusive: bool = False,
) -> Cycle:
    """One cycle up and down, the momentum down and up (Smith & Topin 2018, arXiv:1708.07120).

        learning rate   peak_value / div_factor -> peak_value -> peak_value / div_factor / final_div_factor
        momentum        momentum[1]             -> momentum[0] -> momentum[1]

    Arguments:
      peak_value: the largest learning rate, reached after a share of `pct_start` of the steps.
      transition_steps: steps of the whole, at least 1.
      pct_start: at least 0 and less than 1, and not more than a half in three phases.
      div_factor: how many times smaller the first value is than the peak.
      final_div_factor: how many times smaller the last value is than the first.
      momentum: the smallest and the largest momentum.
      shape: how the values are joined, "cosine" or "linear".
      three_phase: fall to the first value as fast as it rose, then to the last; the momentum stays.
      inclusive: False reaches the last value at step `transition_steps`, as all schedules here do, and
        the knots are rounded down, as in Optax. True reaches it in the last of the `transition_steps`,
        and every phase is a step shorter, as in torch.

    Returns a pair: `sgd(*one_cycle_schedule(0.1, 1000))`, `adamw(pair.learning_rate, b1=pair.momentum)`.
    """
    owner = "one_cycle_schedule"
    at_least(owner, 1, transition_steps=transition_steps)
    one_of(owner, ("cosine", "linear"), shape=shape)
    if not 0 <= pct_start < 1 or (three_phase and pct_start > 0.5):
        most = "at most 0.5 in three phases" if three_phase else "less than 1"
        raise ValueError(f"{owner}: pct_start must be at least 0 and {most}, got {pct_start}")
    if not (div_factor > 0 and final_div_factor > 0):
        raise ValueError(f"{owner}: factors must be more than 0, got {div_factor} and {final_div_factor}")
    low, high = momentum

    up = pct_start * transition_steps - 1 if inclusive else int(pct_start * transition_steps)
    end = transition_steps - 1 if inclusive else transition_steps
    if up < 0:
        raise ValueError(
            f"{owner}: an inclusive cycle needs pct_start * transition_steps of at least 1, "
            f"got {pct_start} * {transition_steps}"
        )
    first = peak_value / div_factor
    last = first / final_div_factor
    # A later knot takes the place of an earlier one at the same step.
    if three_phase:
        rates = {0: first, up: peak_value, 2 * up: first, end: last}
        momenta = {0: high, up: low, 2 * up: high}
    else:
        rates = {0: first, up: peak_value, end: last}
        momenta = {0: high, up: low, end: high}
    return Cycle(knots_schedule(rates, shape), knots_schedule(momenta, shape))


@factory
def cosine_onecycle_schedule(
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """The learning rate of `one_cycle_schedule` alone, under Optax's name.

    Arguments:
      transition_steps, peak_value, pct_start, div_factor, final_div_factor: as in `one_cycle_schedule`.
    """
    at_least("cosine_onecycle_schedule", 1, transition_steps=transition_steps)
    scales = {
        int(pct_start * transition_steps): div_factor,
        int(transition_steps): 1 / (div_factor * final_div_factor),
    }
    return piecewise_interpolate_schedule("cosine", peak_value / div_factor, scales)


@factory
def linear_onecycle_schedule(
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Up, down and further down along lines: three phases of one cycle, as Optax has them.

    Arguments:
      transition_steps, peak_value, pct_start, div_factor, final_div_factor: as in `one_cycle_schedule`.
      pct_final: the share of the steps after which the value is the first again.
    """
    at_least("linear_onecycle_schedule", 1, transition_steps=transition_steps)
    scales = {
        int(pct_start * transition_steps): div_factor,
        int(pct_final * transition_steps): 1 / div_factor,
        transition_steps: 1 / final_div_factor,
    }
    return piecewise_interpolate_schedule("linear", peak_value / div_factor, scales)


# How much of the height is left in a cycle (0 first) or at a step, by the gamma of exp_range.
HEIGHTS: dict[str, Callable[[Any, Any, float], Any]] = {
    "triangular": lambda cycle, count, gamma: 1.0,
    "triangular2": lambda cycle, count, gamma: jnp.exp2(-jnp.asarray(cycle, float)),
    "exp_range": lambda cycle, count, gamma: gamma ** jnp.asarray(count, float),
}


@factory
def cyclic_schedule(
    init_value: float,
    peak_value: float,
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: str | Callable[[Any, Any], Any] = "triangular",
    gamma: float = 1.0,
) -> Schedule:
    """Up and down along lines, again and again (Smith 2017, arXiv:1506.01186).

        init_value + (peak_value - init_value) * rise * height
        height = 1  or  2^-cycle ("triangular2")  or  gamma^count ("exp_range")

    Arguments:
      init_value, peak_value: the values between which it goes; either may be the larger.
      step_size_up: steps from `init_value` to `peak_value`, at least 1.
      step_size_down: steps back, at least 1; None for as many.
      mode: "triangular", "triangular2", "exp_range", or a function of the cycle (0 first) and the step
        that gives the height.
      gamma: of "exp_range", more than 0.
    """
    owner = "cyclic_schedule"
    down = step_size_up if step_size_down is None else step_size_down
    at_least(owner, 1, step_size_up=step_size_up, step_size_down=down)
    if not callable(mode):
        one_of(owner, HEIGHTS, mode=mode)
    if not gamma > 0:
        raise ValueError(f"{owner}: gamma must be more than 0, got {gamma}")
    total = step_size_up + down

    def value(count):
        cycle, within = count // total, count % total
        rise = jnp.asarray(within, float) / step_size_up
        fall = jnp.asarray(total - within, float) / down
        height = mode(cycle, count) if callable(mode) else HEIGHTS[mode](cycle, count, gamma)
        return init_value + (peak_value - init_value) * jnp.minimum(rise, fall) * height

    return Schedule(value)


def cyclic_with_momentum(
    init_value: float,
    peak_value: float,
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: str | Callable[[Any, Any], Any] = "triangular",
    gamma: float = 1.0,
    momentum: tuple[float, float] = (0.8, 0.9),
) -> Cycle:
    """`cyclic_schedule`, and a momentum that goes down as it goes up.

    Arguments:
      init_value, peak_value, step_size_up, step_size_down, mode, gamma: as in `cyclic_schedule`.
      momentum: the smallest and the largest momentum.

    Returns a pair, as `one_cycle_schedule` does.
    """
    low, high = momentum
    shape = (step_size_up, step_size_down, mode, gamma)
    return Cycle(cyclic_schedule(init_value, peak_value, *shape), cyclic_schedule(high, low, *shape))
