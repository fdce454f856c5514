"""Keep the updates within bounds."""

import jax.numpy as jnp
from optax import EmptyState

from gradx.core import GradientTransformation
from gradx.factory import factory
from gradx.hyper import ScalarOrSchedule
from gradx.leafwise import leafwise
from gradx.numerics import norm, real_size, shrink
from gradx.tree import norm_of

__all__ = ["clip", "clip_by_block_rms", "clip_by_global_norm"]


@factory
def clip(max_delta: ScalarOrSchedule) -> GradientTransformation:
    """Clip every element.

        u = min(max(g, -max_delta), max_delta)

    Arguments:
      max_delta: the largest magnitude allowed, at least 0.

    Complex updates are refused with TypeError: their order is not defined.
    """

    def rule(g, max_delta):
        if jnp.iscomplexobj(g):
            raise TypeError(
                "clip: complex numbers have no order; use clip_by_block_rms or clip_by_global_norm"
            )
        return jnp.clip(g, -max_delta, max_delta)

    return leafwise(EmptyState, rule, max_delta=max_delta)


@factory
def clip_by_block_rms(threshold: ScalarOrSchedule) -> GradientTransformation:
    """Scale each array down to a root mean square of at most `threshold`.

        u = g / max(1, rms(g) / threshold)

    Arguments:
      threshold: the largest root mean square allowed, at least 0.

    What is not finite is not hidden: a NaN makes its array NaN, an inf stays inf.
    """

    def rule(g, threshold):
        a, b = shrink(norm(g), threshold * max(g.size, 1) ** 0.5, real_size(g))
        return g * a * b

    return leafwise(EmptyState, rule, threshold=threshold)


@factory
def clip_by_global_norm(max_norm: ScalarOrSchedule) -> GradientTransformation:
    """Scale all updates down together to a norm of at most `max_norm` (Pascanu et al. 2013, arXiv:1211.5063).

        norm = √(Σ g²) over all arrays, in float32 or better
        u    = g * min(1, max_norm / norm)

    Arguments:
      max_norm: the largest norm allowed, at least 0; inf clips nothing.

    What is not finite is not hidden: a NaN makes every update NaN, an inf stays inf. Finite gradients
    whose norm overflows (1.8e19) keep their direction, and come out far shorter than `max_norm`.
    """

    def scalars(updates, max_norm):
        a, b = shrink(norm_of(updates), max_norm, sum(map(real_size, updates)))
        return {"a": a, "b": b}

    def rule(g, a, b):
        return g * a * b

    return leafwise(EmptyState, rule, scalars, max_norm=max_norm)
