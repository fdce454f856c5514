"""SGD with noise in the gradients (Neelakantan et al. 2015, arXiv:1511.06807)."""

import jax

from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.transformation import GradientTransformation
from gradx.transforms.noise import add_noise
from gradx.transforms.scale import scale_by_learning_rate

__all__ = ["noisy_sgd"]


@factory
def noisy_sgd(
    learning_rate: ScalarOrSchedule,
    eta: ScalarOrSchedule = 0.01,
    gamma: ScalarOrSchedule = 0.55,
    key: jax.Array | int | None = None,
    *,
    seed: int | None = None,
) -> GradientTransformation:
    """SGD with normal noise that fades, which helps very deep networks out of poor starts.

        u = -learning_rate * (g + √(eta / tᵞ) * noise)

    Arguments:
      learning_rate: the step size, or a schedule of it; 0.01 to 1.
      eta, gamma, key, seed: as in `add_noise`.

    Raises TypeError unless one of key and seed is given.
    """
    return chain(add_noise(eta, gamma, key, seed=seed), scale_by_learning_rate(learning_rate))
