"""Take the mean out of the updates of matrices."""

import jax.numpy as jnp
from optax import EmptyState

from gradx.core import GradientTransformation
from gradx.factory import factory
from gradx.leafwise import leafwise

__all__ = ["centralize"]


@factory
def centralize() -> GradientTransformation:
    """Subtract from each slice along the first axis its mean (Yong et al. 2020, arXiv:2004.01461).

    u = g - mean of g over all axes but the first; arrays of less than two axes pass as they are
    """

    def rule(g):
        return g - jnp.mean(g, axis=tuple(range(1, g.ndim)), keepdims=True) if g.ndim > 1 else g

    return leafwise(EmptyState, rule)
