"""SM3 (Anil et al. 2019, arXiv:1901.11150)."""

import functools

import jax
import jax.numpy as jnp
from optax import ScaleBySM3State

from gradx.codecs.squares import declare_squares
from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.ranges import check
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import zero_slot
from gradx.numerics.arrays import abs_sq, other_axes
from gradx.numerics.moving_average import lerp
from gradx.transforms.scale import scale_by_learning_rate

__all__ = ["ScaleBySM3State", "scale_by_sm3", "sm3"]

declare_squares("mu", of=ScaleBySM3State)  # `nu` is the momentum there


@factory
def scale_by_sm3(
    b1: ScalarOrSchedule = 0.9, b2: ScalarOrSchedule = 1.0, eps: ScalarOrSchedule = 1e-8
) -> GradientTransformation:
    """Adagrad (SM3-II) with a sum for each row and column in place of one for each element, then momentum.

        s     = min of mu[i] over all axes i + g²
        mu[i] = max of s over all axes but i
        nu    = b1 * nu + (1 - b1) * g / √(s + eps),  0 where s is 0
        u     = nu

    Arguments:
      b1: decay rate of the momentum `nu`, between 0 and 1.
      b2: the share of the sums that stays, between 0 and 1; below 1, where Adagrad is, they become means:
        b2 * min(mu) + (1 - b2) * g².
      eps: added under the square root, at least 0.

    `mu` is a list with a vector for each axis of the array; vectors and scalars keep every element's own sum.
    """

    def scalars(b2):
        return {"fresh": jnp.where(b2 == 1.0, 1.0, 1.0 - b2)}

    def rule(g, mu, nu, b1, b2, eps, fresh):
        mu = jax.tree.leaves(mu)  # a list, which Flax NNX turns into a State

        def total(g, mu):
            least = functools.reduce(jnp.minimum, [along(axis, x, g.ndim) for axis, x in enumerate(mu)])
            return b2 * least + fresh * abs_sq(g)

        s = total(g, mu)
        u = g * jnp.where(s == 0, 0.0, jax.lax.rsqrt(jnp.where(s == 0, 1.0, s + eps)))
        nu = lerp(u, nu, b1)
        most = []
        for axis in range(len(mu)):
            # Summed anew for each use, each behind one barrier more: XLA:CPU keeps a value that is used twice
            # as an array, at 12 bytes a parameter.
            g, mu = jax.lax.optimization_barrier((g, mu))
            # The sums are at least 0, so 0 is the maximum over no elements too.
            most.append(jnp.max(total(g, mu), axis=other_axes(axis, g.ndim), initial=0.0))
        return nu, most, nu

    return leafwise(ScaleBySM3State, rule, scalars, slots={"mu": sums}, b1=b1, b2=b2, eps=eps)


def sums(p: jax.Array) -> list[jax.Array]:
    """A vector of zeros for each axis of a parameter; for a scalar, one zero."""
    zeros = zero_slot(real=True)(p)
    # Sums, not new zeros, so that the vector of an axis is sharded as the parameter is along it.
    return [jnp.sum(zeros, axis=other_axes(axis, p.ndim)) for axis in range(max(p.ndim, 1))]


def along(axis: int, x: jax.Array, ndim: int) -> jax.Array:
    """A vector as an array of `ndim` axes that broadcasts along all but one."""
    return jnp.expand_dims(x, other_axes(axis, ndim))


@factory
def sm3(learning_rate: ScalarOrSchedule, momentum: ScalarOrSchedule = 0.9) -> GradientTransformation:
    """SM3: Adagrad for very large embeddings, from little more than one slot per parameter.

        u = -learning_rate * scale_by_sm3(g, b1=momentum)

    Arguments:
      learning_rate: the step size, or a schedule of it; 0.05 to 0.5, with a warm-up.
      momentum: decay rate of the mean of the updates, between 0 and 1.
    """
    check("sm3", momentum=momentum)
    return chain(scale_by_sm3(momentum), scale_by_learning_rate(learning_rate))
