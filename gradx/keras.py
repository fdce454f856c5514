"""Keras's optimizers by its names, arguments and defaults: a recipe ported gives its numbers.

Arguments for Keras's additions to a rule raise TypeError: `use_ema` and its relatives, `loss_scale_factor`,
`gradient_accumulation_steps`, `name`. Ftrl, Muon and ScheduleFreeAdamW are missing.

>>> import gradx
>>> gradx.keras.AdamW(learning_rate=1e-3, weight_decay=0.004, clipnorm=1.0)
AdamW(clipnorm=1.0)
"""

import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any, ParamSpec

from optax import EmptyState

from gradx.core.chain import chain, identity
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule, combined, is_zero
from gradx.core.ranges import FINITE, check, declare_ranges
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.numerics.arrays import real_size
from gradx.numerics.norms import norm, shrink
from gradx.optimizers.adadelta import adadelta
from gradx.optimizers.adafactor import adafactor
from gradx.optimizers.adagrad import adagrad
from gradx.optimizers.adam import scale_by_adam
from gradx.optimizers.adamax import scale_by_adamax
from gradx.optimizers.amsgrad import scale_by_amsgrad
from gradx.optimizers.lion import lion
from gradx.optimizers.nadam import nadam
from gradx.optimizers.rmsprop import rmsprop
from gradx.optimizers.sgd import sgd
from gradx.transforms.clipping import clip, clip_by_global_norm
from gradx.transforms.descent import shrink_params
from gradx.transforms.scale import scale, scale_by_learning_rate
from gradx.transforms.trust_ratio import scale_by_trust_ratio

__all__ = [
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lamb",
    "Lion",
    "Nadam",
    "RMSprop",
]

declare_ranges(epsilon_2=FINITE)
Rate = ScalarOrSchedule
Maybe = ScalarOrSchedule | None
P = ParamSpec("P")


def keras_optimizer(function: Callable[P, GradientTransformation]) -> Callable[P, GradientTransformation]:
    """Put a clip before a rule, and decoupled decay beside it, by the arguments that all of Keras's have."""
    signature = inspect.signature(function)

    @factory
    @functools.wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> GradientTransformation:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        given = call.arguments
        if (decay := given["weight_decay"]) is not None:  # before a rule computes with it
            check("gradx.keras", weight_decay=decay)
        return chain(*clipped(given), function(*args, **kwargs), decayed(given["learning_rate"], decay))

    return make


@keras_optimizer
def SGD(
    learning_rate: Rate = 0.01,
    momentum: Rate = 0.0,
    nesterov: bool = False,
    weight_decay: Maybe = None,
    clipnorm: Maybe = None,
    clipvalue: Maybe = None,
    global_clipnorm: Maybe = None,
) -> GradientTransformation:
    """keras.optimizers.SGD: the learning rate is inside the velocity."""
    return sgd(learning_rate, None if is_zero(momentum) else momentum, nesterov, rate_in_velocity=True)


@keras_optimizer
def RMSprop(
    learning_rate: Rate = 0.001,
    rho: Rate = 0.9,
    momentum: Rate = 0.0,
    epsilon: Rate = 1e-7,
    centered: bool = False,
    weight_decay: Maybe = None,
    clipnorm: Maybe = None,
    clipvalue: Maybe = None,
    global_clipnorm: Maybe = None,
) -> GradientTransformation:
    """keras.optimizers.RMSprop: epsilon under the root, the learning rate inside the velocity."""
    mass = None if is_zero(momentum) else momentum
    return rmsprop(learning_rate, rho, epsilon, eps_in_sqrt=True, centered=centered, momentum=mass)


@keras_optimizer
def Adagrad(
    learning_rate: Rate = 0.001,
    initial_accumulator_value: float = 0.1,
    epsilon: Rate = 1e-7,
    weight_decay: Maybe = None,
    clipnorm: Maybe = None,
    clipvalue: Maybe = None,
    global_clipnorm: Maybe = None,
) -> GradientTransformation:
    """keras.optimizers.Adagrad: epsilon under the root, a sum that starts at 0.1."""
    return adagrad(learning_rate, initial_accumulator_value, epsilon, eps_in_sqrt=True)


@keras_optimizer
def Adadelta(
    learning_rate: Rate = 0.001,
    rho: Rate = 0.95,
    epsilon: Rate = 1e-7,
    weight_decay: Maybe = None,
    clipnorm: Maybe = None,
    clipvalue: Maybe = None,
    global_clipnorm: Maybe = None,
) -> GradientTransformation:
    """keras.optimizers.Adadelta: a learning rate of 0.001, where the paper has 1."""
    return adadelta(learning_rate, rho, epsilon)


@keras_optimizer
def Adam(
    learning_rate: Rate = 0.001,
    beta_1: Rate = 0.9,
    beta_2: Rate = 0.999,
    epsilon: Rate = 1e-7,
    amsgrad: bool = False,
    weight_decay: Maybe = None,
    clipnorm: Maybe = None,
    clipvalue: Maybe = None,
    global_clipnorm: Maybe = None,
) -> GradientTransformation:
    """keras.optimizers.Adam: epsilon joins √nu before its correction, the paper's "epsilon hat"."""
    return adam_rule(learning_rate, beta_1, beta_2, epsilon, amsgrad)


@keras_optimizer
def AdamW(
    learning_rate: Rate = 0.001,
    weight_decay: Maybe = 0.004,
    beta_1: Rate = 0.9,
    beta_2: Rate = 0.999,
    epsilon: Rate = 1e-7,
    amsgrad: bool = False,
    clipnorm: Maybe = None,
    clipvalue: Maybe = None,
    global_clipnorm: Maybe = None,
) -> GradientTransformation:
    """keras.optimizers.AdamW: Adam with a decoupled decay of 0.004."""
    return adam_rule(learning_rate, beta_1, beta_2, epsilon, amsgrad)


@keras_optimizer
def Adamax(
    learning_rate: Rate = 0.001,
    beta_1: Rate = 0.9,
    beta_2: Rate = 0.999,
    epsilon: Rate = 1e-7,
    weight_decay: Maybe = None,
    clipnorm: Maybe = None,
    clipvalue: Maybe = None,
    global_clipnorm: Maybe = None,
) -> GradientTransformation:
    """keras.optimizers.Adamax: epsilon outside the maximum."""
    direction = scale_by_adamax(beta_1, beta_2, epsilon, eps_in_max=False)
    return chain(direction, scale_by_learning_rate(learning_rate))


@keras_optimizer
def Nadam(
    learning_rate: Rate = 0.001,
    beta_1: Rate = 0.9,
    beta_2: Rate = 0.999,
    epsilon: Rate = 1e-7,
    weight_decay: Maybe = None,
    clipnorm: Maybe = None,
    clipvalue: Maybe = None,
    global_clipnorm: Maybe = None,
) -> GradientTransformation:
    """keras.optimizers.Nadam: the momentum rises by 1 - 0.96ᵗ / 2."""
    return nadam(learning_rate, beta_1, beta_2, epsilon, momentum_decay=1.0)


@keras_optimizer
def Lion(
    learning_rate: Rate = 0.001,
    beta_1: Rate = 0.9,
    beta_2: Rate = 0.99,
    weight_decay: Maybe = None,
    clipnorm: Maybe = None,
    clipvalue: Maybe = None,
    global_clipnorm: Maybe = None,
) -> GradientTransformation:
    """keras.optimizers.Lion: without decay by default."""
    return lion(learning_rate, beta_1, beta_2, weight_decay=0.0)


@keras_optimizer
def Lamb(
    learning_rate: Rate = 0.001,
    beta_1: Rate = 0.9,
    beta_2: Rate = 0.999,
    epsilon: Rate = 1e-7,
    weight_decay: Maybe = None,
    clipnorm: Maybe = None,
    clipvalue: Maybe = None,
    global_clipnorm: Maybe = None,
) -> GradientTransformation:
    """keras.optimizers.Lamb: the decay is outside the trust ratio, and comes before it."""
    kept = left_by_decay(learning_rate, weight_decay)
    return chain(
        scale_by_adam(beta_1, beta_2, epsilon),
        scale_by_trust_ratio(trust_coefficient=kept),  # the norm of the parameters after the decay
        scale_by_learning_rate(learning_rate),
    )


@keras_optimizer
def Adafactor(
    learning_rate: Rate = 0.001,
    beta_2_decay: Rate = -0.8,
    epsilon_1: Rate = 1e-30,
    epsilon_2: Rate = 1e-3,
    clip_threshold: Rate = 1.0,
    relative_step: bool = True,
    weight_decay: Maybe = None,
    clipnorm: Maybe = None,
    clipvalue: Maybe = None,
    global_clipnorm: Maybe = None,
) -> GradientTransformation:
    """keras.optimizers.Adafactor: factors every matrix; a rate of at most 1 / √t, for any `relative_step`."""
    check("Adafactor", epsilon_2=epsilon_2)  # before it is divided
    kept = left_by_decay(learning_rate, weight_decay)  # adafactor sees the parameters after the decay
    direction = adafactor(
        learning_rate,
        min_dim_size_to_factor=0,
        decay_rate=combined("gradx.keras", operator.neg, beta_2_decay=beta_2_decay),
        clipping_threshold=clip_threshold,
        eps=epsilon_1,
        relative_step=True,
        min_scale=combined("gradx.keras", operator.truediv, epsilon_2=epsilon_2, weight_decay=kept),
        factored_axes="last",
    )
    return chain(direction, scale(kept))


def adam_rule(rate: Rate, b1: Rate, b2: Rate, eps: Rate, amsgrad: bool) -> GradientTransformation:
    """Adam or AMSGrad; epsilon joins √nu before its correction."""
    scaled = functools.partial(scale_by_amsgrad, variant="raw") if amsgrad else scale_by_adam
    return chain(scaled(b1, b2, eps, eps_hat=True), scale_by_learning_rate(rate))


def left_by_decay(rate: Rate, decay: Maybe) -> Rate:
    """The share of a parameter that the decay leaves."""
    if decay is None:
        return 1.0
    return combined("gradx.keras", lambda r, d: 1 - r * d, learning_rate=rate, weight_decay=decay)


def clipped(given: dict[str, Any]) -> list[GradientTransformation]:
    """The clip that a call asks for, if it asks for one."""
    clips = {"clipnorm": clip_each, "clipvalue": clip, "global_clipnorm": clip_by_global_norm}
    if sum(given[name] is not None for name in clips) > 1:
        raise ValueError("gradx.keras: give only one of clipnorm, clipvalue and global_clipnorm")
    return [clip_by(given[name]) for name, clip_by in clips.items() if given[name] is not None]


def decayed(rate: Rate, decay: Maybe) -> GradientTransformation:
    """Decoupled decay, of the parameters as they were before the step."""
    if decay is None:
        return identity()
    share = combined("gradx.keras", operator.mul, learning_rate=rate, weight_decay=decay)
    return shrink_params(share, after=False)


def clip_each(max_norm: Rate) -> GradientTransformation:
    """Scale each array down to a norm of at most `max_norm`."""

    def rule(g, max_norm):
        a, b = shrink(norm(g), max_norm, real_size(g))
        return g * a * b

    return leafwise(EmptyState, rule, max_norm=max_norm)
