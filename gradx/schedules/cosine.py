"""Cosine annealing, once or with restarts (Loshchilov & Hutter 2017)."""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp

from gradx.core.factory import factory
from gradx.schedules.base import Schedule, at_least, constant_schedule, fraction
from gradx.schedules.combine import join_schedules
from gradx.schedules.decay import linear_schedule
from gradx.schedules.warmup import warmup_schedule

__all__ = [
    "cosine_decay_schedule",
    "cosine_restarts_schedule",
    "sgdr_schedule",
    "warmup_cosine_decay_schedule",
]


@factory
def cosine_decay_schedule(
    init_value: float, decay_steps: int, alpha: float = 0.0, exponent: float = 1.0
) -> Schedule:
    """Down along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983), and constant after.

        init_value * ((1 - alpha) * ((1 + cos(π fraction)) / 2) ** exponent + alpha)

    Arguments:
      init_value: the value at step 0.
      decay_steps: steps to the end, at least 1.
      alpha: the last value, as a share of the first.
      exponent: the power of the cosine.
    """
    at_least("cosine_decay_schedule", 1, decay_steps=decay_steps)

    def value(count):
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * fraction(count, decay_steps)))
        return init_value * ((1 - alpha) * cosine**exponent + alpha)

    return Schedule(value)


@factory
def warmup_cosine_decay_schedule(
    init_value: float,
    peak_value: float,
    warmup_steps: int,
    decay_steps: int,
    end_value: float = 0.0,
    exponent: float = 1.0,
) -> Schedule:
    """Rise from `init_value` to `peak_value` along a line, then fall to `end_value` along half a cosine.

    Arguments:
      warmup_steps: steps of the rise, at least 0.
      decay_steps: steps of the whole, warm-up included (as in Optax); at least 1 and at least `warmup_steps`.
        The value at `decay_steps` and after is `end_value`; where both are equal, right after the rise.
      exponent: the power of the cosine.
    """
    at_least("warmup_cosine_decay_schedule", max(warmup_steps, 1), decay_steps=decay_steps)
    alpha = 0.0 if peak_value == 0 else end_value / peak_value
    if decay_steps == warmup_steps:
        rise = linear_schedule(init_value, peak_value, warmup_steps)
        return join_schedules([rise, constant_schedule(peak_value * alpha)], [warmup_steps])
    decay = cosine_decay_schedule(peak_value, decay_steps - warmup_steps, alpha, exponent)
    return warmup_schedule(decay, warmup_steps, init_value)


def sgdr_schedule(cosine_kwargs: Iterable[dict[str, Any]]) -> Schedule:
    """One `warmup_cosine_decay_schedule` after another (arXiv:1608.03983); see `cosine_restarts_schedule`.

    Arguments:
      cosine_kwargs: the arguments of each as a dict; the next begins after its `decay_steps`.
    """
    cycles = list(cosine_kwargs)
    schedules = [warmup_cosine_decay_schedule(**kwargs) for kwargs in cycles]
    ends = [sum(kwargs["decay_steps"] for kwargs in cycles[: i + 1]) for i in range(len(cycles))]
    return join_schedules(schedules, ends[:-1])  # known by this call: the iterable may be spent


@factory
def cosine_restarts_schedule(
    init_value: float,
    decay_steps: int,
    t_mult: int = 1,
    m_mult: float = 1.0,
    end_value: float = 0.0,
) -> Schedule:
    """Down along half a cosine again and again (SGDR, Loshchilov & Hutter 2017, arXiv:1608.03983).

        begin = decay_steps * (t_mult⁰ + … + t_mult^(cycle - 1))
        end_value + (init_value * m_mult^cycle - end_value)
          * (1 + cos(π (count - begin) / (decay_steps * t_mult^cycle))) / 2

    Arguments:
      init_value: the value at step 0.
      decay_steps: steps of the first cycle, at least 1; the paper's T_0.
      t_mult: how many times as long each cycle is as the one before, an integer of at least 1.
      m_mult: how many times as high each cycle starts as the one before, at least 0.
      end_value: the value towards which each cycle falls.
    """
    owner = "cosine_restarts_schedule"
    at_least(owner, 1, decay_steps=decay_steps, t_mult=t_mult)
    at_least(owner, 0, m_mult=m_mult)
    if t_mult != int(t_mult):
        raise ValueError(f"{owner}: t_mult must be an integer, got {t_mult}")

    def value(count):
        if t_mult == 1:
            cycle, within = count // decay_steps, count % decay_steps
            done = jnp.asarray(within, float) / decay_steps
            start = init_value * m_mult ** jnp.asarray(cycle, float)
        else:
            begin, length, cycle = 0, decay_steps, 0
            done, start = fraction(count, length), init_value
            while begin + length < 2**31:  # at most 31 times
                begin, length, cycle = begin + length, length * t_mult, cycle + 1
                since = jnp.asarray(jnp.maximum(count - begin, 0), float) / float(length)
                done = jnp.where(count >= begin, since, done)
                start = jnp.where(count >= begin, init_value * m_mult**cycle, start)
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * done))
        return end_value + (start - end_value) * cosine

    return Schedule(value)
