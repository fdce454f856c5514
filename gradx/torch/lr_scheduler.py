"""torch's learning-rate schedulers: its names, arguments and values, with `lr` in place of the optimizer.

Each gives a schedule, or where torch drives the momentum too, a pair of them (`Cycle`). Their step is
the number of calls of torch's `scheduler.step()` so far, and here each update is one call: give the
lengths of a scheduler that torch calls once an epoch in steps (see `Run`). There is no `last_epoch`,
because the optimizer's state has the step. MultiplicativeLR is missing, because it has no formula.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from gradx.core.factory import factory
from gradx.core.ranges import one_of
from gradx.schedules.base import Schedule, at_least, constant_schedule
from gradx.schedules.combine import join_schedules, product_schedule
from gradx.schedules.cosine import cosine_decay_schedule, cosine_restarts_schedule
from gradx.schedules.cycle import Cycle, cyclic_with_momentum, one_cycle_schedule
from gradx.schedules.decay import exponential_decay, linear_schedule, polynomial_schedule, step_schedule
from gradx.schedules.piecewise import multi_step_schedule
from gradx.schedules.plateau import ReduceOnPlateau, reduce_on_plateau
from gradx.schedules.run import Run

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]


def LambdaLR(lr: float, lr_lambda: Callable[[Any], Any]) -> Schedule:
    """`lr` times a function of the step, which is traced: no `if` on the step."""
    return product_schedule([constant_schedule(lr), lr_lambda])


def StepLR(lr: float, step_size: int, gamma: float = 0.1) -> Schedule:
    """Multiplied by `gamma` every `step_size`: `step_schedule`."""
    return step_schedule(lr, step_size, gamma)


def MultiStepLR(lr: float, milestones: Sequence[int], gamma: float = 0.1) -> Schedule:
    """Multiplied by `gamma` at each milestone: `multi_step_schedule`."""
    return multi_step_schedule(lr, list(milestones), gamma)


def ConstantLR(lr: float, factor: float = 1 / 3, total_iters: int = 5) -> Schedule:
    """`lr * factor` for `total_iters` steps, then `lr`."""
    return join_schedules([constant_schedule(lr * factor), constant_schedule(lr)], [total_iters])


def LinearLR(
    lr: float, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5
) -> Schedule:
    """From `lr * start_factor` to `lr * end_factor` along a line: `linear_schedule`."""
    return linear_schedule(lr * start_factor, lr * end_factor, total_iters)


def ExponentialLR(lr: float, gamma: float) -> Schedule:
    """Multiplied by `gamma` at every step: `exponential_decay`."""
    return exponential_decay(lr, 1, gamma)


def PolynomialLR(lr: float, total_iters: int = 5, power: float = 1.0) -> Schedule:
    """To 0 along a polynomial: `polynomial_schedule`."""
    return polynomial_schedule(lr, 0.0, power, total_iters)


@factory
def CosineAnnealingLR(lr: float, T_max: int, eta_min: float = 0.0) -> Schedule:
    """From `lr` to `eta_min` along a cosine, and up again after `T_max`, where `cosine_decay_schedule` stays.

    eta_min + (lr - eta_min) * (1 + cos(π count / T_max)) / 2
    """
    at_least("CosineAnnealingLR", 1, T_max=T_max)
    fall = cosine_decay_schedule(1.0, T_max)

    def value(count):
        within = count % (2 * T_max)
        return eta_min + (lr - eta_min) * fall(jnp.minimum(within, 2 * T_max - within))

    return Schedule(value)


def CosineAnnealingWarmRestarts(lr: float, T_0: int, T_mult: int = 1, eta_min: float = 0.0) -> Schedule:
    """Cosines with restarts: `cosine_restarts_schedule`."""
    return cosine_restarts_schedule(lr, T_0, T_mult, end_value=eta_min)


class Height(NamedTuple):
    """A `scale_fn` as a mode of `cyclic_schedule`; two of the same function are equal."""

    scale_fn: Callable[[Any], Any]
    per_cycle: bool

    def __call__(self, cycle: Any, count: Any) -> Any:
        return self.scale_fn(cycle + 1 if self.per_cycle else count)  # torch's cycles count from 1


def CyclicLR(
    base_lr: float,
    max_lr: float,
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
    scale_fn: Callable[[Any], Any] | None = None,
    scale_mode: str = "cycle",
    cycle_momentum: bool = True,
    base_momentum: float = 0.8,
    max_momentum: float = 0.9,
) -> Cycle | Schedule:
    """`cyclic_with_momentum`, or its learning rate alone where `cycle_momentum` is False."""
    one_of("CyclicLR", ("cycle", "iterations"), scale_mode=scale_mode)
    height: Any = mode
    if scale_fn is not None:
        height = Height(scale_fn, scale_mode == "cycle")
    cycle = cyclic_with_momentum(
        base_lr, max_lr, step_size_up, step_size_down, height, gamma, (base_momentum, max_momentum)
    )
    return cycle if cycle_momentum else cycle.learning_rate


def OneCycleLR(
    max_lr: float,
    total_steps: int | None = None,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    cycle_momentum: bool = True,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> Cycle | Schedule:
    """`one_cycle_schedule` with torch's knots, or its learning rate alone where `cycle_momentum` is False."""
    one_of("OneCycleLR", ("cos", "linear"), anneal_strategy=anneal_strategy)
    if total_steps is None:
        if epochs is None or steps_per_epoch is None:
            raise TypeError("OneCycleLR: give total_steps, or epochs and steps_per_epoch")
        total_steps = Run(epochs, steps_per_epoch).steps
    cycle = one_cycle_schedule(
        max_lr,
        total_steps,
        pct_start,
        div_factor,
        final_div_factor,
        momentum=(base_momentum, max_momentum),
        shape="cosine" if anneal_strategy == "cos" else "linear",
        three_phase=three_phase,
        inclusive=True,
    )
    return cycle if cycle_momentum else cycle.learning_rate


def ReduceLROnPlateau(
    lr: float,
    mode: str = "min",
    factor: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    threshold_mode: str = "rel",
    cooldown: int = 0,
    min_lr: float = 0.0,
    eps: float = 1e-8,
) -> ReduceOnPlateau:
    """`reduce_on_plateau`: a stateful schedule, for `inject_hyperparams`.

    A relative threshold is of the absolute value; for values below 0, torch takes a little worse for better.
    """
    return reduce_on_plateau(
        lr, factor, patience, mode, threshold, threshold_mode, cooldown, min_value=min_lr, eps=eps
    )


def SequentialLR(schedulers: Sequence[Callable[[Any], Any]], milestones: Sequence[int]) -> Schedule:
    """One after another, each counting its own steps: `join_schedules`."""
    return join_schedules(schedulers, milestones)


def ChainedScheduler(schedulers: Sequence[Callable[[Any], Any]], lr: float) -> Schedule:
    """All schedulers at once, each made with the same `lr`: `lr` times the product of their factors.

    This is torch's result for schedulers that multiply; one that adds (with eta_min) has no such formula.
    """
    if not lr > 0:
        raise ValueError(f"ChainedScheduler: lr must be more than 0, got {lr}")
    return product_schedule([*schedulers, constant_schedule(lr ** (1 - len(schedulers)))])
