"""Pull the parameters towards zero."""

import optax
from optax import EmptyState

from gradx.core.factory import factory
from gradx.core.foreign import state_of
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.selection.masking import Mask, masked

__all__ = ["add_decayed_weights"]


@factory
def add_decayed_weights(weight_decay: ScalarOrSchedule = 0.0, mask: Mask = None) -> GradientTransformation:
    """Add a share of each parameter to its update: decoupled decay after a rule, L2 before it.

        u = g + weight_decay * p

    Arguments:
      weight_decay: at least 0; a schedule of the step is allowed.
      mask: which parameters decay, as in `masked`; `"matrices_only"` spares biases and normalization scales.

    Raises ValueError if `update` is called without parameters.
    """
    is_zero = isinstance(weight_decay, int | float) and not weight_decay

    def rule(g, p, weight_decay):
        return g if is_zero else g + weight_decay * p

    State = state_of(optax.add_decayed_weights, float) if callable(weight_decay) else EmptyState
    tx = leafwise(State, rule, weight_decay=weight_decay)
    return tx if mask is None else masked(tx, mask)
