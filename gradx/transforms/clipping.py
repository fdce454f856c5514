"""Keep the updates within bounds."""

import jax
import jax.numpy as jnp
import numpy as np
from optax import EmptyState

from gradx.core.chain import identity
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.ranges import BOUND, declare_ranges
from gradx.core.transformation import GradientTransformation
from gradx.core.tree import norm_of
from gradx.engine.leafwise import leafwise
from gradx.numerics.arrays import abs_sq, real_size
from gradx.numerics.device_axes import AxisName, axis_names, check_bound, device_count
from gradx.numerics.norms import norm, safe_sqrt, shrink, size_power

__all__ = ["adaptive_grad_clip", "clip", "clip_by_block_rms", "clip_by_global_norm"]

declare_ranges(max_delta=BOUND, threshold=BOUND, max_norm=BOUND, clipping=BOUND)


@factory
def clip(max_delta: ScalarOrSchedule | None) -> GradientTransformation:
    """Clip every element.

        u = min(max(g, -max_delta), max_delta)

    Arguments:
      max_delta: the largest magnitude allowed, at least 0; None clips nothing.

    Complex updates are refused with TypeError: their order is not defined.
    """
    if max_delta is None:
        return identity()

    def rule(g, max_delta):
        if jnp.iscomplexobj(g):
            raise TypeError(
                "clip: complex numbers have no order; use clip_by_block_rms or clip_by_global_norm"
            )
        return jnp.clip(g, -max_delta, max_delta)

    return leafwise(EmptyState, rule, max_delta=max_delta)


@factory
def clip_by_block_rms(threshold: ScalarOrSchedule | None) -> GradientTransformation:
    """Scale each array down to a root mean square of at most `threshold`.

        u = g / max(1, rms(g) / threshold)

    Arguments:
      threshold: the largest root mean square allowed, at least 0; None clips nothing.

    Values that are not finite stay visible: a NaN makes its array NaN, an inf stays inf.
    """
    if threshold is None:
        return identity()

    def rule(g, threshold):
        whole = norm(g)
        a, b = shrink(whole, threshold * size_power(g.size, 0.5, whole.dtype), real_size(g))
        return g * a * b

    return leafwise(EmptyState, rule, threshold=threshold)


@factory
def clip_by_global_norm(
    max_norm: ScalarOrSchedule | None, *, eps: ScalarOrSchedule = 0.0, axis_name: AxisName | None = None
) -> GradientTransformation:
    """Scale all updates down together to a norm of at most `max_norm` (Pascanu et al. 2013, arXiv:1211.5063).

        norm = √(Σ g²) over all arrays, in float32 or better
        u    = g * min(1, max_norm / (norm + eps))

    Arguments:
      max_norm: the largest norm allowed, at least 0; inf clips nothing, and None does not even take the norm.
      eps: added to the norm, at least 0; 1e-6 clips as `torch.nn.utils.clip_grad_norm_` does.
      axis_name: the axis of the devices that hold slices of the parameters, within `jax.shard_map`; an array
        that does not vary over it counts once. Without check_vma, and under `jax.pmap`, all count as slices.

    Values that are not finite stay visible: a NaN makes every update NaN, an inf stays inf. Finite gradients
    whose norm overflows (1.8e19) keep their direction, and come out far shorter than `max_norm`.
    """
    axes = axis_names("clip_by_global_norm", axis_name)
    if max_norm is None:
        return identity()

    def scalars(updates, max_norm, eps):
        check_bound("clip_by_global_norm", axes)
        norm = norm_of(updates, axes) + eps
        a, b = shrink(norm, max_norm, sum(map(real_size, updates)) * device_count(axes))
        return {"a": a, "b": b, "clip_rate": ~(norm <= max_norm)}

    def rule(g, a, b):
        return g * a * b

    return leafwise(EmptyState, rule, scalars, reports={"clip_rate": "mean"}, max_norm=max_norm, eps=eps)


@factory
def adaptive_grad_clip(
    clipping: ScalarOrSchedule | None,
    eps: ScalarOrSchedule = 1e-3,
    axis: int | tuple[int, ...] | None = None,
) -> GradientTransformation:
    """Scale each unit down to a share of its weights' norm (AGC, Brock et al. 2021, arXiv:2102.06171).

        u = g * min(1, clipping * max(‖p‖, eps) / ‖g‖) for each unit

    Arguments:
      clipping: the largest ratio of the norms allowed, at least 0; 0.01 in the paper. None clips nothing.
      eps: the norm of a unit's weights counts as at least this, so that zeros can move; at least 0.
      axis: the axes that a norm is taken over. By default vectors and scalars are one unit; matrices and
        arrays of three axes have theirs along the first, kernels of four or five along all but the last.

    The paper leaves the last layer out: see `masked`. Values that are not finite stay visible: a NaN makes
    its unit NaN, an inf stays inf. Raises ValueError if `update` is called without parameters, and for arrays
    of six axes or more if `axis` is not given.
    """
    for i in () if axis is None else np.ravel(axis):
        if not isinstance(i, np.integer):
            raise TypeError(f"adaptive_grad_clip: axis must be an integer or a tuple of them, got {axis!r}")
    if clipping is None:
        return identity()

    def rule(g, p, clipping, eps):
        axes = unit_axes(g) if axis is None else axis
        g_norm, p_norm = unit_norm(g, axes), unit_norm(p, axes)
        a, b = shrink(g_norm, clipping * jnp.maximum(p_norm, eps), real_size(g) // max(g_norm.size, 1))
        return g * a * b

    return leafwise(EmptyState, rule, clipping=clipping, eps=eps)


def unit_axes(x: jax.Array) -> tuple[int, ...]:
    """The axes within a unit: the inputs of a neuron or a filter."""
    if sum(n != 1 for n in x.shape) <= 1:
        return tuple(range(x.ndim))
    if x.ndim > 5:
        raise ValueError(f"adaptive_grad_clip: an array of {x.ndim} axes has no usual units: give axis")
    return (0,) if x.ndim <= 3 else tuple(range(x.ndim - 1))


def unit_norm(x: jax.Array, axes: int | tuple[int, ...]) -> jax.Array:
    """The norm of each unit, with the reduced axes kept as 1."""
    return safe_sqrt(jnp.sum(abs_sq(x), axis=axes, keepdims=True))
