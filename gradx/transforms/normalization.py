"""Multiply the updates by a norm, or by the inverse of one."""

import jax.numpy as jnp
from optax import EmptyState

from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.ranges import FINITE, declare_ranges
from gradx.core.transformation import GradientTransformation
from gradx.core.tree import norm_of
from gradx.engine.leafwise import leafwise
from gradx.numerics.arrays import real_size
from gradx.numerics.device_axes import AxisName, axis_names, check_bound, device_count
from gradx.numerics.norms import norm, resize, size_power

__all__ = ["normalize_by_update_norm", "scale_by_param_block_norm", "scale_by_param_block_rms"]

declare_ranges(min_scale=FINITE)


@factory
def normalize_by_update_norm(
    scale_factor: ScalarOrSchedule = 1.0, eps: ScalarOrSchedule = 1e-6, *, axis_name: AxisName | None = None
) -> GradientTransformation:
    """Give all updates together one norm.

        norm = √(Σ g²) over all arrays, in float32 or better
        u    = g * scale_factor / (norm + eps)

    Arguments:
      scale_factor: the norm to give, any number; a negative one turns the updates around.
      eps: added to the norm, at least 0; where all is 0, zeros stay even if it is 0.
      axis_name: the axis of the devices that hold slices of the parameters, as in `clip_by_global_norm`.

    Values that are not finite stay visible: a NaN makes every update NaN, an inf stays inf. Finite gradients
    whose norm overflows (1.8e19) keep their direction, and come out far shorter than `scale_factor`.
    """
    axes = axis_names("normalize_by_update_norm", axis_name)

    def scalars(updates, scale_factor, eps):
        check_bound("normalize_by_update_norm", axes)
        size = sum(map(real_size, updates)) * device_count(axes)
        a, b = resize(norm_of(updates, axes) + eps, scale_factor, size)
        return {"a": a, "b": b}

    def rule(g, a, b):
        return g * a * b

    return leafwise(EmptyState, rule, scalars, scale_factor=scale_factor, eps=eps)


@factory
def scale_by_param_block_norm(min_scale: ScalarOrSchedule = 1e-3) -> GradientTransformation:
    """Multiply each array by the norm of its parameter.

        u = g * max(‖p‖, min_scale)

    Arguments:
      min_scale: the least factor, at least 0, so that zeros can move.

    Raises ValueError if `update` is called without parameters.
    """

    def rule(g, p, min_scale):
        return g * jnp.maximum(norm(p), min_scale)

    return leafwise(EmptyState, rule, min_scale=min_scale)


@factory
def scale_by_param_block_rms(min_scale: ScalarOrSchedule = 1e-3) -> GradientTransformation:
    """Multiply each array by the root mean square of its parameter (Adafactor, arXiv:1804.04235).

        u = g * max(rms(p), min_scale)

    Arguments:
      min_scale: the least factor, at least 0, so that zeros can move.

    Raises ValueError if `update` is called without parameters.
    """

    def rule(g, p, min_scale):
        whole = norm(p)
        return g * jnp.maximum(whole * size_power(p.size, -0.5, whole.dtype), min_scale)

    return leafwise(EmptyState, rule, min_scale=min_scale)
