"""A schedule that listens: smaller when a quantity has stopped improving."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradx.core.arguments import scalar
from gradx.core.factory import Made, factory
from gradx.core.ranges import one_of
from gradx.numerics.arrays import increment
from gradx.schedules.base import at_least

__all__ = ["ReduceOnPlateauState", "reduce_on_plateau"]


class ReduceOnPlateauState(NamedTuple):
    """What `reduce_on_plateau` remembers: scalars, int32 or of the default float dtype."""

    step: jax.Array
    scale: jax.Array  # the product of the reductions so far
    best: jax.Array
    num_bad: jax.Array  # evaluations without improvement, in a row
    cooldown: jax.Array  # evaluations to ignore yet
    total: jax.Array  # of the values since the last evaluation
    num_values: jax.Array


class ReduceOnPlateau(Made):
    """A stateful schedule, for `inject_hyperparams`."""

    def __init__(
        self,
        rate: Callable[[Any], Any],
        reduced: Callable[[Any, Any], Any],
        evaluate: Callable[[ReduceOnPlateauState, Any], ReduceOnPlateauState],
        worst: float,
        accumulation_size: int,
    ) -> None:
        self.rate = rate
        self.reduced = reduced
        self.evaluate = evaluate
        self.worst = worst
        self.accumulation_size = accumulation_size

    def init(self) -> ReduceOnPlateauState:
        """The state before the first step."""
        number = lambda x: jnp.full((), x, float)
        integer = lambda: jnp.zeros((), jnp.int32)
        return ReduceOnPlateauState(
            integer(), number(1.0), number(self.worst), integer(), integer(), number(0.0), integer()
        )

    def __call__(self, state: ReduceOnPlateauState, **extra: Any) -> jax.Array:
        """The value for the step that is about to be taken."""
        return self.reduced(self.rate(state.step), state.scale)

    def update(self, state: ReduceOnPlateauState, *, value: Any = None, **extra: Any) -> ReduceOnPlateauState:
        """The state after a step that gave `value`."""
        if value is None:
            raise TypeError(
                "reduce_on_plateau needs the quantity that it watches at every step: "
                "update(updates, state, params, value=loss)"
            )
        total = state.total + scalar("reduce_on_plateau", "value", value, state.total.dtype)
        num_values = state.num_values + 1
        is_full = num_values >= self.accumulation_size
        after = self.evaluate(state, total / self.accumulation_size)
        after = jax.tree.map(lambda new, old: jnp.where(is_full, new, old), after, state)
        return after._replace(
            step=increment(state.step),
            total=jnp.where(is_full, 0.0, total),
            num_values=jnp.where(is_full, 0, num_values),
        )


@factory
def reduce_on_plateau(
    init_value: float | Callable[[Any], Any],
    factor: float = 0.1,
    patience: int = 10,
    mode: str = "min",
    threshold: float = 1e-4,
    threshold_mode: str = "rel",
    cooldown: int = 0,
    min_value: float = 0.0,
    eps: float = 1e-8,
    accumulation_size: int = 1,
) -> ReduceOnPlateau:
    """Multiply by `factor` after more than `patience` evaluations in a row that were no improvement.

        improved = value < best - least     for mode "min"
                   value > best + least     for mode "max"
        least    = threshold * |best|  or  threshold

    It stands for any number under `inject_hyperparams`; `update` needs the watched value at each step:
    `update(updates, state, params, value=loss)`. A value takes effect at the next step, as with
    torch's ReduceLROnPlateau. A value of NaN is no improvement.

    Arguments:
      init_value: the number to reduce, or a schedule of it.
      factor: more than 0 and less than 1.
      patience: how many evaluations without improvement are allowed, at least 0.
      mode: "min" if less is better, "max" if more is.
      threshold: the least improvement that counts, at least 0.
      threshold_mode: "rel", a share of the best, less than 1, or "abs".
      cooldown: evaluations after a reduction that count as neither good nor bad, at least 0.
      min_value: no reduction goes below, at least 0.
      eps: a reduction by this or less is left out, at least 0.
      accumulation_size: steps in an evaluation, at least 1; it compares their mean.

    >>> import gradx, jax.numpy as jnp
    >>> tx = gradx.inject_hyperparams(gradx.sgd)(gradx.reduce_on_plateau(1.0, factor=0.5, patience=0))
    >>> x = jnp.ones(1)
    >>> state = tx.init(x)
    >>> for loss in (3.0, 3.0, 3.0):
    ...     updates, state = tx.update(x, state, x, value=loss)
    ...     print(float(state.hyperparams["learning_rate"]))
    1.0
    1.0
    0.5
    """
    owner = "reduce_on_plateau"
    at_least(
        owner, 0, patience=patience, threshold=threshold, cooldown=cooldown, min_value=min_value, eps=eps
    )
    at_least(owner, 1, accumulation_size=accumulation_size)
    one_of(owner, ("min", "max"), mode=mode)
    one_of(owner, ("rel", "abs"), threshold_mode=threshold_mode)
    if not 0 < factor < 1:
        raise ValueError(f"{owner}: factor must be more than 0 and less than 1, got {factor}")
    if threshold_mode == "rel" and threshold >= 1:
        raise ValueError(f"{owner}: a relative threshold must be less than 1, got {threshold}")
    if callable(init_value) and hasattr(init_value, "update"):
        raise TypeError(f"{owner}: init_value must be a number or a function of the step, got {init_value!r}")
    sign = 1 if mode == "min" else -1
    rate = init_value if callable(init_value) else lambda count: init_value

    def reduced(rate, scale):
        rate = jnp.asarray(rate, scale.dtype)
        return jnp.maximum(rate * scale, jnp.minimum(rate, min_value))  # a warm-up may start lower

    def evaluate(state, value):
        least = sign * threshold
        is_share = threshold_mode == "rel"
        goal = state.best * (1 - jnp.sign(state.best) * least) if is_share else state.best - least
        improved = sign * value < sign * goal
        num_bad = jnp.where(improved | (state.cooldown > 0), 0, increment(state.num_bad))
        is_due = num_bad > patience
        now = rate(state.step)
        matters = reduced(now, state.scale) - reduced(now, state.scale * factor) > eps
        return state._replace(
            scale=jnp.where(is_due & matters, state.scale * factor, state.scale),
            best=jnp.where(improved, value, state.best),
            num_bad=jnp.where(is_due, 0, num_bad),
            cooldown=jnp.where(is_due, cooldown, jnp.maximum(state.cooldown - 1, 0)),
        )

    return ReduceOnPlateau(rate, reduced, evaluate, sign * float("inf"), accumulation_size)
