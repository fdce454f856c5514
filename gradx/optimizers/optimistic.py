"""Optimistic gradients (Mokhtari et al. 2020, arXiv:1901.08511; Daskalakis et al. 2018, arXiv:1711.00141)."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.foreign import state_of
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.ranges import FINITE, check, declare_ranges
from gradx.core.transformation import GradientTransformation, check_state
from gradx.engine.leafwise import leafwise
from gradx.engine.state_layout import ScheduledState
from gradx.optimizers.adam import scale_by_adam
from gradx.transforms.scale import scale_by_learning_rate

__all__ = [
    "optimistic_adam",
    "optimistic_adam_v2",
    "optimistic_gradient_descent",
    "scale_by_optimistic_gradient",
]

declare_ranges(optimism=FINITE)


class PreviousState(NamedTuple):
    """The state that the engine keeps, with its count. Optax's state says only whether the count is 0."""

    previous_gradient: Any


@factory
def scale_by_optimistic_gradient(
    alpha: ScalarOrSchedule = 1.0, beta: ScalarOrSchedule = 1.0
) -> GradientTransformation:
    """Go on as if the gradient changed again as it just did.

        u = alpha * g + beta * (g - previous_gradient)      at first,  u = alpha * g
        previous_gradient = g

    Arguments:
      alpha: the factor of the gradient, any number.
      beta: the factor of its change, any number; 0 is no optimism.
    """

    def scalars(t, alpha, beta):
        beta = jnp.where(t == 1, 0.0, beta)
        return {"now": alpha + beta, "before": beta}

    def rule(g, previous_gradient, now, before):
        return now * g - before * previous_gradient, g

    inner = leafwise(PreviousState, rule, scalars, alpha=alpha, beta=beta)
    scheduled = callable(alpha) or callable(beta)
    State = state_of(optax.scale_by_optimistic_gradient)

    def shown(state):
        public = State(state.count == 0, state.inner_state.previous_gradient)
        return ScheduledState(state.count, public) if scheduled else public

    def observe(updates, state, params=None, **extra):
        check_state("scale_by_optimistic_gradient", ScheduledState if scheduled else State, state)
        count, state = state if scheduled else (None, state)
        check_state("scale_by_optimistic_gradient", State, state)
        if count is None:
            count = jnp.where(state.is_initial_step, 0, 1).astype(jnp.int32)
        kept = ScheduledState(count, PreviousState(state.previous_gradient))
        updates, new, reports = inner.observe(updates, kept, params, **extra)
        return updates, shown(new), reports

    return GradientTransformation.of(lambda params: shown(inner.init(params)), observe)


@factory
def optimistic_gradient_descent(
    learning_rate: ScalarOrSchedule, alpha: ScalarOrSchedule = 1.0, beta: ScalarOrSchedule = 1.0
) -> GradientTransformation:
    """Gradient descent for games, such as min-max problems, where it would go round in circles.

        u = -learning_rate * scale_by_optimistic_gradient(g)

    Arguments:
      learning_rate: the step size, or a schedule of it; 0.01 to 1.
      alpha, beta: as in `scale_by_optimistic_gradient`.
    """
    return chain(scale_by_optimistic_gradient(alpha, beta), scale_by_learning_rate(learning_rate))


@factory
def optimistic_adam(
    learning_rate: ScalarOrSchedule,
    optimism: ScalarOrSchedule | None = None,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
) -> GradientTransformation:
    """Optimistic Adam, with a separate step size for the change; new code takes `optimistic_adam_v2`.

        d = scale_by_adam(g)
        u = -(learning_rate * d + optimism * (d - previous d))

    Arguments:
      learning_rate: the step size, or a schedule of it; 1e-4 to 3e-3.
      optimism: the step size for the change, at least 0; None takes the learning rate.
      b1, b2, eps, eps_root, mu_dtype, nesterov: as in `scale_by_adam`; nesterov=True by default.
    """
    optimism = learning_rate if optimism is None else optimism
    check("optimistic_adam", learning_rate=learning_rate, optimism=optimism)
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_optimistic_gradient(alpha=learning_rate, beta=optimism),
        scale_by_learning_rate(1.0),
    )


@factory
def optimistic_adam_v2(
    learning_rate: ScalarOrSchedule,
    *,
    alpha: ScalarOrSchedule = 1.0,
    beta: ScalarOrSchedule = 1.0,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: Any = None,
    nesterov: bool = True,
) -> GradientTransformation:
    """Optimistic Adam, for games such as the training of a GAN.

        u = -learning_rate * scale_by_optimistic_gradient(scale_by_adam(g))

    Arguments:
      learning_rate: the step size, or a schedule of it; 1e-4 to 3e-3.
      alpha, beta: as in `scale_by_optimistic_gradient`.
      b1, b2, eps, eps_root, mu_dtype, nesterov: as in `scale_by_adam`; nesterov=True by default.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_optimistic_gradient(alpha, beta),
        scale_by_learning_rate(learning_rate),
    )
