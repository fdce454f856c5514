"""Schedules over the steps of a run."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradx.core.ranges import check_schedule, positive_integer
from gradx.plot.canvas import Axes, labels_of, legend, new_axes, style, thinned
from gradx.schedules.base import are_schedules
from gradx.schedules.cycle import Cycle
from gradx.schedules.run import Run

__all__ = ["plot_schedule"]


def plot_schedule(
    *schedules: Callable[[Any], Any],
    steps: int | Run,
    labels: Sequence[str] | None = None,
    ylabel: str = "learning rate",
    ax: Axes | None = None,
) -> Axes:
    """Draw schedules over the steps, or epochs, of a run; returns Matplotlib's axes.

    A value is held until the next step, as in training. In a long run each stretch of steps is drawn by its
    first, least, greatest and last value: no peak and no jump is lost.

    Arguments:
      schedules: one or more functions of the step. The momentum of a `Cycle` is drawn too, against a second
        axis on the right.
      steps: how many, at least 1; or a `Run`, and then x is in epochs if the run has `steps_per_epoch`.
      labels: a name for each schedule; by default its call, and for a `Cycle` the two hyperparameters.
      ylabel: the hyperparameter that the schedules are for.
      ax: the axes to add the lines to; new ones if not given.

    Raises ValueError or TypeError for an argument that is not a schedule, and ValueError if the number of
    labels differs from the number of schedules.

    >>> import gradx, gradx.plot
    >>> run = gradx.Run(epochs=90, steps_per_epoch=100)
    >>> warm = gradx.warmup_cosine_decay_schedule(0.0, 0.1, run.epochs(5), run.steps)
    >>> gradx.plot.plot_schedule(warm, gradx.cosine_decay_schedule(0.1, run.steps), steps=run).get_xlabel()
    'epoch'
    """
    owner = "plot_schedule"
    count = steps.steps if isinstance(steps, Run) else steps
    epoch = steps.steps_per_epoch if isinstance(steps, Run) else None
    positive_integer(owner, steps=count)
    names = labels_of(owner, "schedule", schedules, labels)
    are_schedules(owner, [s for s in schedules if not isinstance(s, Cycle)])
    drawn: list[tuple[Callable, str, bool]] = []  # the schedule, its label, whether it is a momentum
    for schedule, name in zip(schedules, names, strict=True):
        if isinstance(schedule, Cycle):
            of = f"{name}: " if labels else ""  # its call would appear twice
            drawn += [(schedule[0], f"{of}{ylabel}", False), (schedule[1], f"{of}momentum", True)]
        else:
            drawn.append((schedule, name, False))
    for schedule, name, _ in drawn:
        check_schedule(owner, name, schedule)
    curves = [values(schedule, count) for schedule, *_ in drawn]
    is_new = ax is None
    ax = new_axes() if ax is None else ax
    right = ax.twinx() if any(is_momentum for *_, is_momentum in drawn) else ax
    lines = list(ax.get_lines())
    for y, (_, name, is_momentum) in zip(curves, drawn, strict=True):
        x, y = thinned(np.arange(count + 1), y)
        into, own = right if is_momentum else ax, style(len(lines), len(x))
        lines += into.plot(x / epoch if epoch else x, y, label=name, drawstyle="steps-post", **own)
    if right is not ax:
        right.set_ylabel("momentum")
    ax.set(xlabel="epoch" if epoch else "step", ylabel=ylabel)
    ax.grid(alpha=0.3)
    legend(ax, lines, grow=is_new)
    return ax


def values(schedule: Callable[[Any], Any], count: int) -> np.ndarray:
    """A schedule at steps 0 to `count`."""
    at = jnp.arange(count + 1)
    try:
        return np.asarray(jax.jit(jax.vmap(schedule))(at), float)
    except jax.errors.JAXTypeError:  # it branches on the step
        return np.array([float(schedule(i)) for i in range(count + 1)])
