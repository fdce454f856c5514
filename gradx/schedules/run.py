"""The length of a run and the size of its batches; schedule lengths and learning rates that follow."""

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

from gradx.core.ranges import one_of
from gradx.schedules.base import constant_schedule
from gradx.schedules.combine import product_schedule

__all__ = ["Run", "scale_learning_rate"]


@dataclasses.dataclass(frozen=True, init=False)
class Run:
    """The length of a run, from which the lengths of schedules follow, in epochs or as shares of the run.

    Arguments:
      epochs: passes through the data, more than 0, whole or not; or give `steps` instead.
      steps_per_epoch: updates in an epoch, an integer of at least 1; without it only `steps` and
        `fraction` are known.
      steps: updates in the whole run, an integer of at least 1.

    >>> import gradx
    >>> run = gradx.Run(epochs=90, steps_per_epoch=1251)
    >>> run.steps, run.epochs(5), run.fraction(0.1)
    (112590, 6255, 11259)
    >>> schedule = gradx.warmup_cosine_decay_schedule(0.0, 0.1, run.epochs(5), run.steps)
    """

    steps: int
    steps_per_epoch: int | None

    def __init__(
        self, epochs: float | None = None, steps_per_epoch: int | None = None, *, steps: int | None = None
    ) -> None:
        if (epochs is None) == (steps is None):
            raise TypeError("Run: give either epochs and steps_per_epoch, or steps")
        if steps_per_epoch is not None:
            steps_per_epoch = whole("Run: steps_per_epoch", steps_per_epoch)
        object.__setattr__(self, "steps_per_epoch", steps_per_epoch)
        steps = self.epochs(epochs) if epochs is not None else steps
        object.__setattr__(self, "steps", whole("Run: the number of steps", steps))

    def epochs(self, epochs: float) -> int:
        """The number of steps in some epochs, to the nearest step."""
        if self.steps_per_epoch is None:
            raise TypeError("Run: epochs have a length only with steps_per_epoch")
        if not 0 <= epochs < float("inf"):
            raise ValueError(f"Run: epochs must be at least 0 and finite, got {epochs}")
        return round(epochs * self.steps_per_epoch)

    def fraction(self, fraction: float) -> int:
        """The steps in a share of the run, between 0 and 1, to the nearest step."""
        if not 0 <= fraction <= 1:
            raise ValueError(f"Run: a fraction must be between 0 and 1, got {fraction}")
        return round(fraction * self.steps)


def whole(what: str, value: Any) -> int:
    """`value` as an int, if it is an integer of at least 1."""
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be an integer, got {value!r}: round it as the loader does") from None
    if value < 1:
        raise ValueError(f"{what} must be at least 1, got {value}")
    return value


def scale_learning_rate(
    learning_rate: float | Callable[[Any], Any],
    batch_size: int,
    base_batch_size: int = 256,
    rule: str = "linear",
) -> Any:
    """The learning rate for another batch size: times k, or √k, for a batch k times as large.

        k = batch_size / base_batch_size

    Arguments:
      learning_rate: the right one for `base_batch_size`; a number, or a schedule, which gives a schedule.
      batch_size: examples in a step, over all devices and all accumulated micro-batches; at least 1.
      base_batch_size: at least 1.
      rule: "linear", for SGD (Goyal et al. 2017, arXiv:1706.02677), with a warm-up; or "sqrt"
        (Krizhevsky 2014, arXiv:1404.5997), which keeps the variance of a step, often used with Adam.
    """
    one_of("scale_learning_rate", ("linear", "sqrt"), rule=rule)
    for name, size in (("batch_size", batch_size), ("base_batch_size", base_batch_size)):
        if not 1 <= size < float("inf"):
            raise ValueError(f"scale_learning_rate: {name} must be at least 1, got {size}")
    k = batch_size / base_batch_size
    k = k if rule == "linear" else k**0.5
    if callable(learning_rate):
        return product_schedule([learning_rate, constant_schedule(k)])
    return learning_rate * k
