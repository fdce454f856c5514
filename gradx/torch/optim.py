"""The optimizers of torch.optim (2.13): its names, arguments, defaults and rules, without torch.

`lr` and the other numbers may be schedules. Parameters come with `init`, not before.

A complex parameter is two real numbers, as in torch: each part has its own average of squares. gradx's own
rules, such as `gradx.adam`, go by |g|²: both parts share one average. `gradx.split_real_and_imaginary` gives
them torch's numbers. torch's Adafactor refuses complex parameters; here it goes by |g|². `jax.grad` gives the
conjugate of torch's gradient: apply `jnp.conj` to it.
"""

import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp

from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule, combined, is_zero, value_at
from gradx.core.ranges import FINITE, check, check_number, declare_ranges
from gradx.core.transformation import GradientTransformation
from gradx.optimizers.adadelta import scale_by_adadelta
from gradx.optimizers.adafactor import adafactor
from gradx.optimizers.adagrad import scale_by_rss
from gradx.optimizers.adam import scale_by_adam
from gradx.optimizers.adamax import scale_by_adamax
from gradx.optimizers.amsgrad import scale_by_amsgrad
from gradx.optimizers.asgd import asgd
from gradx.optimizers.nadam import scale_by_nadam
from gradx.optimizers.radam import scale_by_radam
from gradx.optimizers.rmsprop import scale_by_rms, scale_by_stddev
from gradx.optimizers.rprop import rprop
from gradx.transforms.descent import descend
from gradx.transforms.momentum import trace
from gradx.transforms.scale import scale, scale_by_schedule
from gradx.transforms.weight_decay import add_decayed_weights
from gradx.wrappers.complex_parts import split_real_and_imaginary

__all__ = [
    "ASGD",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
]

declare_ranges(lr=FINITE, lr_decay=FINITE)
Betas = tuple[ScalarOrSchedule, ScalarOrSchedule]
P = ParamSpec("P")


def torch_optimizer(function: Callable[P, GradientTransformation]) -> Callable[P, GradientTransformation]:
    """Give an optimizer what all of torch's have: `maximize`, and two real numbers for each complex one."""
    signature = inspect.signature(function)

    @factory
    @functools.wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> GradientTransformation:
        tx = function(*args, **kwargs)
        maximize = signature.bind(*args, **kwargs).arguments.get("maximize", False)
        return split_real_and_imaginary(ascending(tx, maximize))

    return make


@torch_optimizer
def SGD(
    lr: ScalarOrSchedule = 1e-3,
    momentum: ScalarOrSchedule = 0.0,
    dampening: float = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
    nesterov: bool = False,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """torch.optim.SGD: the velocity starts at the first gradient, undampened; decay is L2."""
    check("SGD", momentum=momentum)
    check_number("SGD", dampening=dampening)
    undamped = is_zero(dampening) or isinstance(dampening, jax.Array)  # of an array it is not known
    if nesterov and (is_zero(momentum) or not undamped):
        raise ValueError("SGD: nesterov needs a momentum and no dampening")
    velocity = chain() if is_zero(momentum) else trace(momentum, nesterov)
    if not is_zero(momentum) and not is_zero(dampening):
        damped = scale_by_schedule(lambda count: jnp.where(count == 0, 1.0, 1.0 - dampening))
        velocity = chain(damped, velocity)
    return descent(velocity, lr, weight_decay)


@torch_optimizer
def Adagrad(
    lr: ScalarOrSchedule = 1e-2,
    lr_decay: float = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: ScalarOrSchedule = 1e-10,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """torch.optim.Adagrad: eps outside the root, the rate divided by 1 + count * lr_decay, L2 decay."""
    check("Adagrad", lr=lr)
    check_number("Adagrad", lr_decay=lr_decay)
    fading = lambda count: value_at("Adagrad", "lr", lr, count) / (1 + lr_decay * jnp.asarray(count, float))
    rate = lr if is_zero(lr_decay) else fading
    return descent(scale_by_rss(initial_accumulator_value, eps), rate, weight_decay)


@torch_optimizer
def RMSprop(
    lr: ScalarOrSchedule = 1e-2,
    alpha: ScalarOrSchedule = 0.99,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    momentum: ScalarOrSchedule = 0.0,
    centered: bool = False,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """torch.optim.RMSprop: eps outside the root, the rate outside the velocity, L2 decay."""
    direction = (scale_by_stddev if centered else scale_by_rms)(alpha, eps)
    if not is_zero(momentum):
        direction = chain(direction, trace(momentum))
    return descent(direction, lr, weight_decay)


@torch_optimizer
def Adadelta(
    lr: ScalarOrSchedule = 1.0,
    rho: ScalarOrSchedule = 0.9,
    eps: ScalarOrSchedule = 1e-6,
    weight_decay: ScalarOrSchedule = 0.0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """torch.optim.Adadelta, with L2 decay."""
    return descent(scale_by_adadelta(rho, eps), lr, weight_decay)


@torch_optimizer
def Adam(
    lr: ScalarOrSchedule = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
) -> GradientTransformation:
    """torch.optim.Adam: L2 decay unless decoupled; amsgrad takes the largest `nu` before its correction."""
    scaled = functools.partial(scale_by_amsgrad, variant="raw") if amsgrad else scale_by_adam
    return descent(scaled(*pair("Adam", betas=betas), eps), lr, weight_decay, decoupled_weight_decay)


@torch_optimizer
def AdamW(
    lr: ScalarOrSchedule = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-2,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """torch.optim.AdamW: Adam with decoupled decay, 0.01 by default."""
    return Adam(lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay=True)


@torch_optimizer
def NAdam(
    lr: ScalarOrSchedule = 2e-3,
    betas: Betas = (0.9, 0.999),
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    momentum_decay: float = 4e-3,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """torch.optim.NAdam: a momentum that rises, by `momentum_decay`; L2 decay unless decoupled."""
    direction = scale_by_nadam(*pair("NAdam", betas=betas), eps, momentum_decay=momentum_decay)
    return descent(direction, lr, weight_decay, decoupled_weight_decay)


@torch_optimizer
def RAdam(
    lr: ScalarOrSchedule = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """torch.optim.RAdam: eps joins the root before its correction; L2 decay unless decoupled."""
    direction = scale_by_radam(*pair("RAdam", betas=betas), eps, eps_before_correction=True)
    return descent(direction, lr, weight_decay, decoupled_weight_decay)


@torch_optimizer
def Adamax(
    lr: ScalarOrSchedule = 2e-3,
    betas: Betas = (0.9, 0.999),
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """torch.optim.Adamax, with L2 decay."""
    return descent(scale_by_adamax(*pair("Adamax", betas=betas), eps), lr, weight_decay)


@torch_optimizer
def Rprop(
    lr: ScalarOrSchedule = 1e-2,
    etas: tuple[ScalarOrSchedule, ScalarOrSchedule] = (0.5, 1.2),
    step_sizes: tuple[ScalarOrSchedule, ScalarOrSchedule] = (1e-6, 50.0),
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """torch.optim.Rprop: `etas` shrink and stretch the step sizes, within the bounds `step_sizes`."""
    return rprop(lr, *pair("Rprop", etas=etas), *pair("Rprop", step_sizes=step_sizes))


@torch_optimizer
def ASGD(
    lr: ScalarOrSchedule = 1e-2,
    lambd: ScalarOrSchedule = 1e-4,
    alpha: ScalarOrSchedule = 0.75,
    t0: float = 1e6,
    weight_decay: ScalarOrSchedule = 0.0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """torch.optim.ASGD, with L2 decay; the average, torch's `ax`, is `average` in the state."""
    return chain(add_decayed_weights(weight_decay), asgd(lr, lambd, alpha, t0))


@factory  # and no more: torch's refuses complex parameters
def Adafactor(
    lr: ScalarOrSchedule = 1e-2,
    beta2_decay: ScalarOrSchedule = -0.8,
    eps: tuple[float | None, ScalarOrSchedule] = (None, 1e-3),
    d: ScalarOrSchedule = 1.0,
    weight_decay: ScalarOrSchedule = 0.0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """torch.optim.Adafactor: every matrix is factored, the rate is at most 1 / √t, decay is decoupled.

    `eps` is a pair of floors: of the denominator (None for the machine epsilon) and of the parameters' size.
    """
    check("Adafactor", lr=lr, weight_decay=weight_decay)
    floor, min_scale = pair("Adafactor", eps=eps)
    tx = adafactor(
        lr,
        min_dim_size_to_factor=0,
        decay_rate=combined("Adafactor", operator.neg, beta2_decay=beta2_decay),
        clipping_threshold=d,
        weight_decay_rate=combined("Adafactor", operator.mul, lr=lr, weight_decay=weight_decay),
        eps=0.0,
        relative_step=True,
        min_scale=min_scale,
        floor="machine" if floor is None else floor,
        factored_axes="last",
    )
    return ascending(tx, maximize)


def descent(
    direction: GradientTransformation,
    lr: ScalarOrSchedule,
    weight_decay: ScalarOrSchedule,
    decoupled: bool = False,
) -> GradientTransformation:
    """A step along the direction, with torch's decay."""
    return descend(direction, lr, weight_decay, decay_mode="decoupled" if decoupled else "l2")


def ascending(tx: GradientTransformation, maximize: bool) -> GradientTransformation:
    """`tx`, or with `maximize`, `tx` on gradients of the other sign."""
    return chain(scale(-1.0), tx) if maximize else tx


def pair(owner: str, **given: Any) -> tuple[Any, Any]:
    """The two values of the one argument given; a third number would be taken for the next argument."""
    ((name, value),) = given.items()
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{owner}: {name} must be a pair, got {value!r}")
    return value[0], value[1]
