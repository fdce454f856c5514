"""A rise along a line, and the schedules that follow it."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from gradx.core.factory import factory
from gradx.core.ranges import one_of
from gradx.schedules.base import SHAPES, Schedule, at_least, constant_schedule, fraction, left
from gradx.schedules.decay import exponential_decay

__all__ = [
    "inverse_sqrt_schedule",
    "warmup_constant_schedule",
    "warmup_exponential_decay_schedule",
    "warmup_schedule",
    "wsd_schedule",
]


@factory
def warmup_schedule(schedule: Callable[[Any], Any], warmup_steps: int, init_value: float = 0.0) -> Schedule:
    """Rise from `init_value` to the first value of `schedule` along a line, then follow it.

    Arguments:
      schedule: any schedule; its step 0 comes after the warm-up.
      warmup_steps: at least 0; 0 is no warm-up.
      init_value: the value at step 0.
    """
    at_least("warmup_schedule", 0, warmup_steps=warmup_steps)

    def value(count):
        rise = fraction(count, max(warmup_steps, 1))
        start = init_value + (schedule(jnp.zeros((), jnp.int32)) - init_value) * rise
        return jnp.where(count < warmup_steps, start, schedule(jnp.maximum(count - warmup_steps, 0)))

    return Schedule(value)


@factory
def warmup_constant_schedule(init_value: float, peak_value: float, warmup_steps: int) -> Schedule:
    """Rise from `init_value` to `peak_value` in `warmup_steps`, and stay."""
    return warmup_schedule(constant_schedule(peak_value), warmup_steps, init_value)


@factory
def warmup_exponential_decay_schedule(
    init_value: float,
    peak_value: float,
    warmup_steps: int,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: float | None = None,
) -> Schedule:
    """Rise from `init_value` to `peak_value` along a line, then follow `exponential_decay`.

    The steps of the decay, `transition_begin` among them, count from the end of the warm-up.
    """
    decay = exponential_decay(
        peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value
    )
    return warmup_schedule(decay, warmup_steps, init_value)


@factory
def inverse_sqrt_schedule(
    init_value: float, peak_value: float, warmup_steps: int, timescale: float | None = None
) -> Schedule:
    """Rise to `peak_value`, then fall with the root of the steps (Vaswani et al. 2017, arXiv:1706.03762).

        peak_value * √(timescale / (timescale + count - warmup_steps))    after the warm-up

    With `timescale` None and peak_value = 1 / √(width * warmup_steps) this is the Transformer's schedule,
    peak_value * √(warmup_steps / count); with init_value = peak_value it is T5's (arXiv:1910.10683).
    Zhai et al. 2022 (arXiv:2106.04560) have a timescale.

    Arguments:
      init_value: the value at step 0.
      peak_value: the value at step `warmup_steps`.
      warmup_steps: steps of the rise, at least 0.
      timescale: a third of the steps after the warm-up in which the value halves, more than 0; None for
        `warmup_steps`.
    """
    at_least("inverse_sqrt_schedule", 0, warmup_steps=warmup_steps)
    scale = warmup_steps if timescale is None else timescale
    if not scale > 0:
        raise ValueError(
            f"inverse_sqrt_schedule: timescale must be more than 0, got {timescale} with {warmup_steps} "
            f"steps of warm-up"
        )

    def decay(count):
        return peak_value * jnp.sqrt(scale / (jnp.asarray(count, float) + scale))

    return warmup_schedule(decay, warmup_steps, init_value)


@factory
def wsd_schedule(
    init_value: float,
    peak_value: float,
    warmup_steps: int,
    stable_steps: int,
    decay_steps: int,
    end_value: float = 0.0,
    shape: str = "1-sqrt",
) -> Schedule:
    """Warm-up, stable, decay: rise, stay, fall (MiniCPM, arXiv:2404.06395; Hägele et al., arXiv:2405.18392).

        end_value + (peak_value - end_value) * fall(x)    for x from 0 to 1 in the decay
        fall(x) = 1 - x  or  (1 + cos(π x)) / 2  or  1 - √x

    Arguments:
      init_value: the value at step 0.
      peak_value: the value at step `warmup_steps` and in the `stable_steps` after it.
      warmup_steps, stable_steps, decay_steps: the length of each part, at least 0, 0 and 1.
      end_value: the value after the decay.
      shape: how it falls: "linear", "cosine" or "1-sqrt", the best of the three in Hägele et al. 2024.
    """
    owner = "wsd_schedule"
    at_least(owner, 0, warmup_steps=warmup_steps, stable_steps=stable_steps)
    at_least(owner, 1, decay_steps=decay_steps)
    one_of(owner, SHAPES, shape=shape)

    def after(count):
        fall = SHAPES[shape](left(count, stable_steps, stable_steps + decay_steps))
        return end_value + (peak_value - end_value) * fall

    return warmup_schedule(after, warmup_steps, init_value)
