"""Fromage (Bernstein et al. 2020, arXiv:2002.03432)."""

import jax.numpy as jnp
import optax
from optax import EmptyState, ScaleByScheduleState

from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.foreign import state_of
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.transforms.trust_ratio import scale_by_trust_ratio

__all__ = ["fromage"]


@factory
def fromage(learning_rate: ScalarOrSchedule, min_norm: ScalarOrSchedule = 1e-6) -> GradientTransformation:
    """Turn each array by about the learning rate, as an angle, and keep its norm from growing.

        d = ‖p‖ / ‖g‖ * g
        u = (p - learning_rate * d) / √(1 + learning_rate²) - p

    Arguments:
      learning_rate: the step size, or a schedule of it; about 0.01.
      min_norm: both norms count as at least this; at least 0.

    Raises ValueError if `update` is called without parameters.
    """

    def scalars(learning_rate):
        square = learning_rate * learning_rate
        root = jnp.sqrt(1 + square)
        # 1 - 1 / root, without the cancellation that would cost it half of its digits.
        return {"step": -learning_rate / root, "shrinkage": square / (root * (1 + root))}

    def turned(g, step):
        return step * g

    def shrunk(g, p, shrinkage):
        return g - shrinkage * p

    # Three links, and the states of these classes, because Optax has them.
    states: tuple = (EmptyState, EmptyState)
    if callable(learning_rate):
        states = (ScaleByScheduleState, state_of(optax.add_decayed_weights, float))
    return chain(
        scale_by_trust_ratio(min_norm),
        leafwise(states[0], turned, scalars, learning_rate=learning_rate),
        leafwise(states[1], shrunk, scalars, learning_rate=learning_rate),
    )
