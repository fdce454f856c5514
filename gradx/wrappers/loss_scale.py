"""Loss scaling, which keeps small gradients from vanishing in float16 (Micikevicius et al. 2018)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradx.core.factory import factory
from gradx.core.foreign import is_inexact, widened, wrapper
from gradx.core.ranges import GROWTH, POSITIVE, check_number, declare_ranges, positive_integer
from gradx.core.reports import Report
from gradx.core.transformation import GradientTransformation, check_state
from gradx.core.tree import State, found_in
from gradx.numerics.arrays import increment
from gradx.numerics.device_axes import each_device_own
from gradx.numerics.dtypes import compute_dtype
from gradx.wrappers.skipping import SkipState, nonfinite, skip_if

__all__ = ["LossScaleState", "dynamic_loss_scale", "scale_loss"]

declare_ranges(init_scale=POSITIVE, max_scale=POSITIVE)
declare_ranges("dynamic_loss_scale", min_scale=POSITIVE, factor=GROWTH)


class LossScaleState(NamedTuple):
    """The scale, the number of good steps since it last changed, and the state of `skip_if`."""

    scale: jax.Array
    good_steps: jax.Array
    inner_state: SkipState


@factory
def dynamic_loss_scale(
    inner: optax.GradientTransformation,
    init_scale: float = 2.0**15,
    growth_interval: int = 2000,
    factor: float = 2.0,
    min_scale: float = 1.0,
    max_scale: float = 2.0**24,
    *,
    max_consecutive: int = 30,
) -> GradientTransformation:
    """Undo the scale of `scale_loss`, and find the largest that does not overflow (arXiv:1710.03740).

        u, state = inner(g / scale, state)         if the gradients are finite; else -0, state, and
        scale    = max(scale / factor, min_scale)
        scale    = min(scale * factor, max_scale)  after growth_interval finite ones in a row

    Arguments:
      inner: any transformation; a whole optimizer. It sees gradients in float32 or better, unscaled.
      init_scale: the first scale; like `factor` a power of 2, so that scaling rounds nothing.
      growth_interval: the number of good steps after which the scale grows, at least 1.
      factor: the factor by which it grows and shrinks, at least 1; 1 keeps the first scale.
      min_scale, max_scale: the bounds of the scale, more than 0.
      max_consecutive: the number of bad steps in a row after which `check_skips` raises, at least 1.

    The rule is that of `torch.amp.GradScaler`. A step that overflows is skipped, as by
    `skip_if(inner, nonfinite())`. Give `update` the unscaled loss as `value`.
    """
    owner = "dynamic_loss_scale"
    positive_integer(owner, growth_interval=growth_interval)
    check_number(owner, init_scale=init_scale, factor=factor, min_scale=min_scale, max_scale=max_scale)
    if not min_scale <= init_scale <= max_scale:
        raise ValueError(
            f"{owner}: init_scale must be between min_scale and max_scale, got {init_scale:g}, {min_scale:g} "
            f"and {max_scale:g}"
        )
    skipping: Any = skip_if(inner, nonfinite(), max_consecutive=max_consecutive)

    def init(params):
        scale, good_steps = jnp.full((), init_scale, jnp.float32), jnp.zeros((), jnp.int32)
        return each_device_own(LossScaleState(scale, good_steps, skipping.init(params)), params)

    def blank(params):
        return Report("loss_scale", 0), *skipping.blank(params)

    def observe(updates, state, params=None, **extra):
        check_state(owner, LossScaleState, state)
        inverse = 1 / state.scale
        unscale = lambda g: g * inverse.astype(g.dtype) if is_inexact(g) else g
        unscaled = jax.tree.map(unscale, widened(updates))
        updates, inner_state, reports = skipping.observe(unscaled, state.inner_state, params, **extra)
        ok = inner_state.consecutive == 0
        good_steps = jnp.where(ok, increment(state.good_steps), 0)
        grows = good_steps >= growth_interval
        larger = jnp.where(grows, jnp.minimum(state.scale * factor, max_scale), state.scale)
        scale = jnp.where(ok, larger, jnp.maximum(state.scale / factor, min_scale))
        new = LossScaleState(scale, jnp.where(grows, 0, good_steps), inner_state)
        return updates, new, (Report("loss_scale", state.scale), *reports)

    return wrapper(inner, init, observe, blank)


def scale_loss(loss: jax.Array, state: State) -> jax.Array:
    """The loss times the scale of `dynamic_loss_scale`, in float32 or better; differentiate this.

    Arguments:
      loss: a scalar; float32 leaves the scale more room than float16, whose largest number is 65,504.
      state: the state of `dynamic_loss_scale`, or any state around it.

    Raises ValueError unless there is one scale in the state.

    >>> import gradx, jax, jax.numpy as jnp
    >>> params = jnp.ones(2, jnp.float16)
    >>> tx = gradx.dynamic_loss_scale(gradx.sgd(1e6))
    >>> state = tx.init(params)
    >>> loss = lambda params: 1e-9 * jnp.sum(params.astype(jnp.float32))
    >>> jax.grad(loss)(params).tolist()  # too small for float16
    [0.0, 0.0]
    >>> grads = jax.grad(lambda params: gradx.scale_loss(loss(params), state))(params)
    >>> updates, state = tx.update(grads, state, params)
    >>> [f"{u:.0e}" for u in updates]
    ['-1e-03', '-1e-03']
    """
    scales = [found.scale for found in found_in(state, LossScaleState)]
    if len(scales) != 1:
        raise ValueError(
            f"scale_loss needs a state with one dynamic_loss_scale, and this one has {len(scales) or 'none'}"
        )
    loss = jnp.asarray(loss)
    return loss.astype(compute_dtype(loss.dtype)) * scales[0].astype(compute_dtype(loss.dtype))
