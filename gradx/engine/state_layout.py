"""The state of a lifted rule."""

from typing import Any, NamedTuple

import jax

__all__ = ["CorrectedState", "ScheduledState"]


class ScheduledState(NamedTuple):
    """The state of a link that has no step count of its own, but a schedule that needs one."""

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]  (Optax's name for it)
    inner_state: Any


class CorrectedState(NamedTuple):
    """The state of a link that undoes the zero start of averages whose decay rates change.

    `weights` has for each such rate the sum of the average's weights so far: 1 minus their product.
    """

    weights: dict[str, jax.Array]
    inner_state: Any
