"""Adafactor (Shazeer & Stern 2018, arXiv:1804.04235)."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from optax import FactoredState

from gradx.codecs.squares import declare_squares
from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule, value_at
from gradx.core.ranges import FINITE, check, declare_ranges, one_of
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import zero_slot
from gradx.numerics.arrays import abs_sq
from gradx.numerics.moving_average import lerp
from gradx.selection.masking import Mask
from gradx.transforms.clipping import clip_by_block_rms
from gradx.transforms.momentum import ema
from gradx.transforms.normalization import scale_by_param_block_rms
from gradx.transforms.scale import scale, scale_by_learning_rate
from gradx.transforms.weight_decay import add_decayed_weights

__all__ = ["FactoredState", "adafactor", "scale_by_factored_rms"]

declare_ranges(epsilon=FINITE, floor=FINITE)
declare_ranges("scale_by_factored_rms", decay_rate=FINITE)
declare_squares("v_row", "v_col", "v", of=FactoredState)


zero_squares = zero_slot(real=True)


def unused(p: jax.Array) -> jax.Array:
    """Optax's stand-in for a slot that an array does not need: one zero."""
    return zero_squares(jnp.zeros(1, p.dtype))


def power_decay(step: Any, decay_rate: Any) -> Any:
    """The decay rate of the paper: 0 at step 0, then towards 1."""
    return 1 - (step + 1) ** -decay_rate


@factory
def scale_by_factored_rms(
    factored: bool = True,
    decay_rate: ScalarOrSchedule = 0.8,
    step_offset: ScalarOrSchedule = 0,
    min_dim_size_to_factor: int = 128,
    epsilon: ScalarOrSchedule = 1e-30,
    decay_rate_fn: Callable[[Any, Any], Any] = power_decay,
    *,
    floor: ScalarOrSchedule | Literal["machine"] | None = None,
    factored_axes: Literal["largest", "last"] = "largest",
) -> GradientTransformation:
    """Divide by the root mean square, kept as a mean for each row and one for each column.

        v_row = b * v_row + (1 - b) * mean over columns of (g² + epsilon),  b = 1 - t**-decay_rate
        v_col = b * v_col + (1 - b) * mean over rows of (g² + epsilon)
        u     = g / √(v_row * v_col / mean(v_row))
        arrays that are not factored:  v = b * v + (1 - b) * (g² + epsilon),  u = g / √v

    Arguments:
      factored: False keeps a mean for every element.
      decay_rate: how fast b approaches 1, at least 0; 0.8 in the paper.
      step_offset: the step at which t = 1, for a count that goes on in fine-tuning; b is 0 until then.
      min_dim_size_to_factor: arrays are factored if they have two axes of at least this length.
      epsilon: added to the squares, at least 0.
      decay_rate_fn: b as a function of `step - step_offset` (a float, 0 at first) and `decay_rate`.
      floor: least value of u's denominator, at least 0, which then bounds mean(v_row) too; "machine" is
        the machine epsilon of the dtype of the rule. With epsilon=0, this is how torch avoids 0 / 0.
      factored_axes: "largest" factors the two longest axes; "last" the last two, as torch does, if they are
        long enough.
    """
    one_of("scale_by_factored_rms", ("largest", "last"), factored_axes=factored_axes)
    if isinstance(floor, str) and floor != "machine":
        raise ValueError(f"scale_by_factored_rms: floor must be a number, 'machine' or None, got {floor!r}")
    floored = floor is not None

    def axes(x: jax.Array) -> tuple[int, int] | None:
        """The axis of the rows and the axis of the columns; None for an array that is not factored."""
        if not factored or x.ndim < 2 or not x.size:
            return None
        by_length = sorted(range(x.ndim), key=x.shape.__getitem__)
        row, column = by_length[-2:] if factored_axes == "largest" else (x.ndim - 2, x.ndim - 1)
        return (row, column) if min(x.shape[row], x.shape[column]) >= min_dim_size_to_factor else None

    def mean_slot(p, over: int):
        zeros, pair = zero_squares(p), axes(p)
        # A sum, not new zeros, so that it is sharded as the parameter is along the axes that stay.
        return unused(zeros) if pair is None else jnp.sum(zeros, axis=pair[over])

    def whole_slot(p):
        return zero_squares(p) if axes(p) is None else unused(p)

    def scalars(t, decay_rate, step_offset):
        return {"b": decay_rate_fn(jnp.maximum(t - 1 - step_offset, 0), decay_rate)}

    def rule(g, v_row, v_col, v, b, epsilon, floor=None):
        pair, least = axes(g), float(jnp.finfo(g.dtype).eps) if floor is None else floor
        if pair is None:
            v = lerp(abs_sq(g) + epsilon, v, b)
            return g * jax.lax.rsqrt(jnp.maximum(v, least * least) if floored else v), v_row, v_col, v
        row, column = pair
        # XLA:CPU keeps squares that two means share, or squares plus epsilon, as an array of 8 bytes a
        # parameter. So g is squared twice, and epsilon is added to the means.
        v_row = lerp(jnp.mean(abs_sq(g), axis=column) + epsilon, v_row, b)
        v_col = lerp(jnp.mean(abs_sq(jax.lax.optimization_barrier(g)), axis=row) + epsilon, v_col, b)
        rows, columns = jnp.expand_dims(v_row, column), jnp.expand_dims(v_col, row)
        mean = jnp.mean(rows, axis=row, keepdims=True)
        # Where squares overflowed this is large, not inf / inf: the update is 0, as without factors.
        largest = float(jnp.finfo(rows.dtype).max)
        share = jnp.where(jnp.isinf(mean), largest, rows / (jnp.maximum(mean, least) if floored else mean))
        if floored:
            return g * jax.lax.rsqrt(jnp.maximum(share * columns, least * least)), v_row, v_col, v
        return g * jax.lax.rsqrt(share) * jax.lax.rsqrt(columns), v_row, v_col, v

    own: dict[str, Any] = {} if floor is None or isinstance(floor, str) else {"floor": floor}
    return leafwise(
        FactoredState,
        rule,
        scalars,
        slots={"v_row": lambda p: mean_slot(p, 1), "v_col": lambda p: mean_slot(p, 0), "v": whole_slot},
        decay_rate=decay_rate,
        step_offset=step_offset,
        epsilon=epsilon,
        **own,
    )


@factory
def adafactor(
    learning_rate: ScalarOrSchedule | None = None,
    min_dim_size_to_factor: int = 128,
    decay_rate: ScalarOrSchedule = 0.8,
    decay_offset: ScalarOrSchedule = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: ScalarOrSchedule | None = 1.0,
    momentum: ScalarOrSchedule | None = None,
    dtype_momentum: Any = jnp.float32,
    weight_decay_rate: ScalarOrSchedule | None = None,
    eps: ScalarOrSchedule = 1e-30,
    factored: bool = True,
    weight_decay_mask: Mask = None,
    *,
    relative_step: bool = False,
    min_scale: ScalarOrSchedule = 1e-3,
    floor: ScalarOrSchedule | Literal["machine"] | None = None,
    factored_axes: Literal["largest", "last"] = "largest",
) -> GradientTransformation:
    """Adafactor: steps in proportion to the parameters, from almost no memory.

        d = scale_by_factored_rms(g)
        d = learning_rate * max(rms(p), min_scale) * d / max(1, rms(d) / clipping_threshold)
        u = -(ema(d, momentum) + weight_decay_rate * p)

    Arguments:
      learning_rate: the share of its size that an array moves in a step, or a schedule of it; 1e-3 to 1e-1.
        None for 1.
      min_dim_size_to_factor, decay_rate, factored, floor, factored_axes: as in `scale_by_factored_rms`.
      decay_offset: the `step_offset` of `scale_by_factored_rms`.
      multiply_by_parameter_scale: False makes the learning rate absolute.
      clipping_threshold: the largest root mean square of an array's direction, at least 0; None for any.
      momentum: decay rate of the mean of the updates, between 0 and 1; None for none.
      dtype_momentum: dtype of that mean; None is the parameter's, at least float32.
      weight_decay_rate: the share of each parameter taken off at each step, at least 0; not multiplied by the
        learning rate.
      eps: added to the squared gradients, at least 0.
      weight_decay_mask: which parameters decay, as in `masked`; `"matrices_only"` spares biases and
        normalization scales.
      relative_step: bound the learning rate by 1 / √t, as the paper does.
      min_scale: the size of a parameter counts as at least this, at least 0.

    Raises ValueError if `update` is called without parameters, where the size or the decay needs them.
    """
    check("adafactor", momentum=0.0 if momentum is None else momentum)
    if learning_rate is not None:  # also under the cap, which hides it from the link
        check("adafactor", learning_rate=learning_rate)
    rate = capped(learning_rate) if relative_step else learning_rate
    direction = scale_by_factored_rms(
        factored,
        decay_rate,
        decay_offset,
        min_dim_size_to_factor,
        eps,
        floor=floor,
        factored_axes=factored_axes,
    )
    links = [
        direction,
        None if clipping_threshold is None else clip_by_block_rms(clipping_threshold),
        None if rate is None else scale_by_learning_rate(rate, flip_sign=False),
        scale_by_param_block_rms(min_scale) if multiply_by_parameter_scale else None,
        None if momentum is None else ema(momentum, debias=False, accumulator_dtype=dtype_momentum),
        None if weight_decay_rate is None else add_decayed_weights(weight_decay_rate, weight_decay_mask),
        scale(-1.0),
    ]
    return chain(*(link for link in links if link is not None))


def capped(learning_rate: ScalarOrSchedule | None) -> Callable[[Any], jax.Array]:
    """The learning rate, at most 1 / √t."""

    def rate(count):
        most = jax.lax.rsqrt(jnp.asarray(count + 1, float))
        if learning_rate is None:
            return most
        own = value_at("adafactor", "learning_rate", learning_rate, count)
        return jnp.minimum(jnp.asarray(own, most.dtype), most)

    return rate
