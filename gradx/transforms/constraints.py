"""Keep values out of the updates that must not reach the parameters."""

import jax.numpy as jnp
from optax import NonNegativeParamsState, ZeroNansState

from gradx.core.factory import factory
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise

__all__ = ["NonNegativeParamsState", "ZeroNansState", "keep_params_nonnegative", "zero_nans"]


@factory
def zero_nans() -> GradientTransformation:
    """Replace every NaN by 0, and say in the state which arrays had one.

        found_nan = any(isnan(g))
        u         = 0 where g is NaN, else g

    An inf passes. `found_nan` is one bool for each array, about its last update.
    """

    def rule(g, found_nan):
        is_nan = jnp.isnan(g)
        return jnp.where(is_nan, 0.0, g), jnp.any(is_nan)

    return leafwise(ZeroNansState, rule, slots={"found_nan": lambda p: jnp.zeros((), bool)})


@factory
def keep_params_nonnegative() -> GradientTransformation:
    """Stop at 0 the parameters that an update would make negative: the last link of a chain.

        u = max(g, -p)

    A parameter that is negative already moves to 0, or as far above as its update takes it. Complex updates
    are refused with TypeError: their order is not defined. Raises ValueError if `update` is called
    without parameters.
    """

    def rule(g, p):
        if jnp.iscomplexobj(g):
            raise TypeError("keep_params_nonnegative: complex numbers have no order; mask them out")
        return jnp.maximum(g, -p)

    return leafwise(NonNegativeParamsState, rule)
