"""Adan (Xie et al. 2022, arXiv:2208.06677)."""

import jax.numpy as jnp
from optax import ScaleByAdanState

from gradx.codecs.squares import declare_squares
from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import zero_slot
from gradx.numerics.arrays import abs_sq
from gradx.numerics.moving_average import lerp
from gradx.selection.masking import Mask
from gradx.transforms.scale import scale_by_learning_rate
from gradx.transforms.weight_decay import add_decayed_weights

__all__ = ["ScaleByAdanState", "adan", "scale_by_adan"]

declare_squares("n", of=ScaleByAdanState)


@factory
def scale_by_adan(
    b1: ScalarOrSchedule = 0.98,
    b2: ScalarOrSchedule = 0.92,
    b3: ScalarOrSchedule = 0.99,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
) -> GradientTransformation:
    """Nesterov's look ahead from the difference of two gradients, divided by its root mean square.

        d = g - previous,  0 at the first step
        m = b1 * m + (1 - b1) * g;  v = b2 * v + (1 - b2) * d;  n = b3 * n + (1 - b3) * (g + (1 - b2) * d)²
        u = (m / (1 - b1ᵗ) + (1 - b2) * v / (1 - b2ᵗ)) / (√(n / (1 - b3ᵗ) + eps_root) + eps)

    Arguments:
      b1: decay rate of the mean of the gradients, between 0 and 1.
      b2: decay rate of the mean of their differences, between 0 and 1.
      b3: decay rate of the mean of the squares, between 0 and 1.
      eps: added to the denominator, at least 0.
      eps_root: added under the square root, at least 0; more than 0 to differentiate through the update.

    The paper writes 1 - b for each of the three, and starts `m` and `n` at the first gradient; its authors'
    code starts at 0 and corrects, like this one.
    """

    def scalars(t):
        return {"has_previous": jnp.where(t == 1, 0.0, 1.0)}

    def rule(g, m, v, n, previous, has_previous, b1, b2, b3, eps, eps_root, c1, c2, c3):
        d = has_previous * (g - previous)
        m = lerp(g, m, b1)
        v = lerp(d, v, b2)
        n = lerp(abs_sq(g + (1 - b2) * d), n, b3)
        u = (c1 * m + (1 - b2) * c2 * v) / (jnp.sqrt(c3 * n + eps_root) + eps)
        return u, m, v, n, g

    return leafwise(
        ScaleByAdanState,
        rule,
        scalars,
        slots={"n": zero_slot(real=True)},
        corrections={"c1": "b1", "c2": "b2", "c3": "b3"},
        renamed={"g": "previous", "t": "count"},
        b1=b1,
        b2=b2,
        b3=b3,
        eps=eps,
        eps_root=eps_root,
    )


@factory
def adan(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.98,
    b2: ScalarOrSchedule = 0.92,
    b3: ScalarOrSchedule = 0.99,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask = None,
) -> GradientTransformation:
    """Adan: Adam with Nesterov's momentum from gradient differences, and decoupled weight decay.

        u = -learning_rate * (scale_by_adan(g) + weight_decay * p)

    Arguments:
      learning_rate: the step size, or a schedule of it; 5 to 10 times Adam's.
      b1, b2, b3, eps, eps_root: as in `scale_by_adan`; eps_root=1e-8 by default.
      weight_decay: the share of each parameter added to its update, at least 0; 0.02 in the paper.
      mask: which parameters decay, as in `masked`; `"matrices_only"` spares biases and normalization scales.
    """
    return chain(
        scale_by_adan(b1, b2, b3, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
