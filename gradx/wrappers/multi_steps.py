"""`accumulate` by the names that Optax has for it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from optax import ShouldSkipUpdateFunction

from gradx.core.factory import factory
from gradx.core.foreign import typed_like, widened
from gradx.core.hyperparameters import Count, Scalar
from gradx.core.transformation import GradientTransformation
from gradx.core.tree import State, Tree
from gradx.engine.leaf_checks import scalar_dtype
from gradx.numerics.norms import sums_of_squares, total
from gradx.wrappers.accumulation import (
    Every,
    Micro,
    accumulation,
    accumulator,
    added,
    check_every,
    dtype_of,
    has_updated,
    plain,
)

__all__ = ["MultiSteps", "skip_large_updates", "skip_not_finite"]


class Accumulation(GradientTransformation):
    """The result of `MultiSteps`: a transformation with the methods of Optax's."""

    inner_opt: optax.GradientTransformation

    def has_updated(self, state: State) -> jax.Array:
        """Whether the last call took a step."""
        return has_updated(state)

    def gradient_transformation(self) -> GradientTransformation:
        """This transformation itself, which forwards extra arguments."""
        return self


@factory
def MultiSteps(  # noqa: N802  (Optax's name)
    opt: optax.GradientTransformation,
    every_k_schedule: Every,
    use_grad_mean: bool = True,
    should_skip_update_fn: ShouldSkipUpdateFunction | None = None,
    accumulator_dtype: DTypeLike | None = None,
) -> Accumulation:
    """`accumulate` by Optax's name, with its arguments: the mean or the sum of micro-batches, some skipped.

    Arguments:
      opt: any transformation.
      every_k_schedule: as `every` of `accumulate`.
      use_grad_mean: the mean of the gradients; else their sum.
      should_skip_update_fn: a function `(updates, gradient_step, params) -> (bool, skip_state)`, such as
        `skip_not_finite`. A micro-batch that it skips does not count: another must come in its place.
      accumulator_dtype: the dtype of the mean or sum; None for each parameter's own, but at least float32.

    It has Optax's methods too: `has_updated(state)`, and `gradient_transformation()`, which returns itself.
    """
    check_every("MultiSteps", every_k_schedule=every_k_schedule)
    mean = accumulator(accumulator_dtype, use_grad_mean)
    skip: Any = should_skip_update_fn

    def start(params, acc_grads):
        return skip(jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.int32), params)[1] if skip else ()

    def micro(updates, state, params, extra):
        skipped, skip_state = skip(updates, state.gradient_step, params)
        if jnp.shape(skipped) or not jnp.issubdtype(jnp.result_type(skipped), jnp.bool_):
            raise ValueError(f"MultiSteps: should_skip_update_fn must return a bool first, got {skipped}")
        dtype = dtype_of(state.acc_grads)
        weight, shares = added((~skipped).astype(dtype), state.mini_step.astype(dtype))
        return Micro(~skipped, weight, shares, typed_like(skip_state, state.skip_state), {})

    tx = accumulation(
        "MultiSteps",
        opt,
        every_k_schedule,
        mean,
        start,
        micro if skip else plain,
        local=skip is not None,
        every_name="every_k_schedule",
    )
    return Accumulation.of(tx.init, tx.observe, tx.blank, exact=tx.exact, inner_opt=opt)


def skip_not_finite(
    updates: Tree, gradient_step: Count, params: Tree | None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Skip a micro-batch whose gradients are not all finite, in `MultiSteps`.

    It also gives `{"should_skip", "num_not_finite"}`, the count of inf and NaN in `updates`. `gradient_step`
    and `params` are not used.
    """
    counts = [jnp.sum(~jnp.isfinite(x), dtype=jnp.int32) for x in jax.tree.leaves(updates)]
    count = total(counts, jnp.int32).astype(jnp.int32)
    return count > 0, {"should_skip": count > 0, "num_not_finite": count}


def skip_large_updates(
    updates: Tree, gradient_step: Count, params: Tree | None, max_squared_norm: Scalar
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Skip a micro-batch whose gradients together have a large norm or a NaN, in `MultiSteps`.

    Arguments:
      updates: the gradients.
      gradient_step: not used, nor is `params`.
      params: not used.
      max_squared_norm: the least Σ|g|² that is skipped; give it by `functools.partial`.

    It also gives `{"should_skip", "norm_squared"}`.
    """
    leaves = jax.tree.leaves(widened(updates))
    dtype = scalar_dtype(dict(enumerate(leaves)))
    squared = total(sums_of_squares(leaves), dtype)
    skip = ~(squared < jnp.asarray(max_squared_norm, dtype))
    return skip, {"should_skip": skip, "norm_squared": squared}
