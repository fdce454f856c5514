"""NAdam (Dozat 2016, "Incorporating Nesterov Momentum into Adam"), and with decoupled decay, NAdamW."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from optax import ScaleByAdamState

from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule, resolve
from gradx.core.ranges import FINITE, check, declare_ranges
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import zero_slot
from gradx.numerics.arrays import abs_sq
from gradx.numerics.moving_average import correction_ahead, lerp
from gradx.optimizers.adam import scale_by_adam
from gradx.selection.masking import Mask
from gradx.transforms.scale import scale_by_learning_rate
from gradx.transforms.weight_decay import add_decayed_weights

__all__ = ["nadam", "nadamw", "scale_by_nadam"]

declare_ranges(momentum_decay=FINITE)


@factory
def scale_by_nadam(
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    momentum_decay: ScalarOrSchedule | None = None,
) -> GradientTransformation:
    """Adam that looks one step ahead, with a momentum that may warm up.

        m_t = b1 * (1 - 0.5 * 0.96^(t * momentum_decay))      or, without momentum_decay,  m_t = b1
        mu  = b1 * mu + (1 - b1) * g
        nu  = b2 * nu + (1 - b2) * g²
        d   = m_t₊₁ * mu / (1 - ∏_(i ≤ t+1) m_i) + (1 - m_t) * g / (1 - ∏_(i ≤ t) m_i)
        u   = d / (√(nu / (1 - b2ᵗ) + eps_root) + eps)

    Arguments:
      b1, b2, eps, eps_root, mu_dtype: as in `scale_by_adam`.
      nesterov: False is `scale_by_adam`, and allows no `momentum_decay`.
      momentum_decay: how fast the momentum rises from half of b1 to b1, at least 0; 0.004 in the paper
        and in PyTorch, 1 in Keras; None for a constant momentum.
    """
    if momentum_decay is None:
        return scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    if not nesterov:
        raise ValueError(
            "scale_by_nadam: without nesterov there is no use for momentum_decay; leave it at None"
        )
    check("scale_by_nadam", b1=b1, momentum_decay=momentum_decay)

    def scalars(t, b1, momentum_decay, momentum, c):
        ahead = warming(t + 1, b1, momentum_decay)  # with the b1 of this step, as in scale_by_adam
        return {"of_mu": ahead * correction_ahead(ahead, c), "of_g": (1 - momentum) * c}

    def rule(g, mu, nu, b1, b2, eps, eps_root, of_mu, of_g, c2):
        mu = lerp(g, mu, b1)
        # Dozat's algorithm 2 has a further factor b2 in nu, which no implementation has.
        nu = lerp(abs_sq(g), nu, b2)
        return (of_mu * mu + of_g * g) / (jnp.sqrt(c2 * nu + eps_root) + eps), mu, nu

    return leafwise(
        ScaleByAdamState,
        rule,
        scalars,
        slots={"mu": zero_slot(mu_dtype), "nu": zero_slot(real=True)},
        corrections={"c": "momentum", "c2": "b2"},
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        momentum_decay=momentum_decay,
        momentum=warming_schedule(b1, momentum_decay),
    )


def warming(t: Any, b1: Any, momentum_decay: Any) -> Any:
    """The momentum of step `t`, 1 at first."""
    return b1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))


def warming_schedule(b1: ScalarOrSchedule, momentum_decay: ScalarOrSchedule) -> Callable[[Any], Any]:
    """`warming` as a schedule, so that the engine keeps the product of the momenta."""
    given = {"b1": b1, "momentum_decay": momentum_decay}

    def momentum(count):
        t = jnp.asarray(count, float) + 1
        return warming(t, **resolve("scale_by_nadam", given, count, t.dtype))

    return momentum


@factory
def nadam(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    momentum_decay: ScalarOrSchedule | None = None,
) -> GradientTransformation:
    """Adam with Nesterov momentum.

        u = -learning_rate * scale_by_nadam(g)

    Arguments:
      learning_rate: the step size, or a schedule of it; 1e-4 to 3e-3.
      b1, b2, eps, eps_root, mu_dtype: as in `scale_by_adam`.
      nesterov, momentum_decay: as in `scale_by_nadam`.
    """
    return chain(
        scale_by_nadam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov, momentum_decay=momentum_decay),
        scale_by_learning_rate(learning_rate),
    )


@factory
def nadamw(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: Any = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Mask = None,
    *,
    nesterov: bool = True,
    momentum_decay: ScalarOrSchedule | None = None,
) -> GradientTransformation:
    """NAdam with decoupled weight decay.

        u = -learning_rate * (scale_by_nadam(g) + weight_decay * p)

    Arguments:
      learning_rate: the step size, or a schedule of it; 1e-4 to 3e-3.
      b1, b2, eps, eps_root, mu_dtype: as in `scale_by_adam`.
      weight_decay: the share of each parameter added to its update, at least 0; 0.01 to 0.1 for
        transformers.
      mask: which parameters decay, as in `masked`; `"matrices_only"` spares biases and normalization scales.
      nesterov, momentum_decay: as in `scale_by_nadam`.
    """
    return chain(
        scale_by_nadam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov, momentum_decay=momentum_decay),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
