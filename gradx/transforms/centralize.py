"""Take the mean out of the updates."""

import jax.numpy as jnp
from optax import EmptyState

from gradx.core.factory import factory
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.numerics.arrays import other_axes

__all__ = ["centralize"]


@factory
def centralize(*, output_axis: int = 0) -> GradientTransformation:
    """Subtract its mean from each unit's gradient (Yong et al. 2020, arXiv:2004.01461).

        u = g - mean(g) over all axes but output_axis; vectors and scalars pass

    Arguments:
      output_axis: the axis along which the units lie: 0 as in Optax and for the weights of torch, -1 for
        the kernels of Flax and Keras.

    Raises ValueError where an array of two axes or more has no such axis.
    """
    if isinstance(output_axis, bool) or not isinstance(output_axis, int):
        raise TypeError(f"centralize: output_axis must be an integer, got {output_axis!r}")

    def rule(g):
        if g.ndim < 2:
            return g
        if not -g.ndim <= output_axis < g.ndim:
            raise ValueError(f"centralize: output_axis is {output_axis}, and there are {g.ndim} axes")
        return g - jnp.mean(g, axis=other_axes(output_axis % g.ndim, g.ndim), keepdims=True)

    return leafwise(EmptyState, rule)
