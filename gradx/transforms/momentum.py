"""Remember the updates: a decaying sum, or a mean."""

from typing import Any

from optax import EmaState, TraceState

from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import zero_slot
from gradx.numerics.moving_average import lerp

__all__ = ["EmaState", "TraceState", "ema", "trace"]


@factory
def trace(
    decay: ScalarOrSchedule, nesterov: bool = False, accumulator_dtype: Any = None
) -> GradientTransformation:
    """Momentum (Polyak 1964; Nesterov form of Sutskever et al. 2013).

        trace = decay * trace + g
        u     = trace                  or, with nesterov,  decay * trace + g

    Arguments:
      decay: the share of the old value that stays at each step, between 0 and 1.
      nesterov: look one step ahead.
      accumulator_dtype: dtype of the trace; by default the parameter's, at least float32.
    """

    def rule(g, trace, decay):
        trace = decay * trace + g
        return (decay * trace + g if nesterov else trace), trace

    return leafwise(TraceState, rule, slots={"trace": zero_slot(accumulator_dtype)}, decay=decay)


@factory
def ema(
    decay: ScalarOrSchedule, debias: bool = True, accumulator_dtype: Any = None
) -> GradientTransformation:
    """An exponential moving average of the updates.

        ema = decay * ema + (1 - decay) * g
        u   = ema / (1 - decayᵗ)       or, without debias,  ema

    Arguments:
      decay: the share of the old value that stays at each step, between 0 and 1; at 1 the average stays at 0.
      debias: undo the start at zero.
      accumulator_dtype: dtype of the average; by default the parameter's, at least float32.
    """

    def rule(g, ema, decay, c=1.0):
        ema = lerp(g, ema, decay)
        return c * ema, ema

    return leafwise(
        EmaState,
        rule,
        slots={"ema": zero_slot(accumulator_dtype)},
        corrections={"c": "decay"} if debias else {},
        decay=decay,
    )
