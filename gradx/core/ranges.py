"""What hyperparameters may be; checked when they are given."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

__all__ = []

_DECAY = (lambda x: 0 <= x < 1, "at least 0 and less than 1")


_FRACTION = (lambda x: 0 <= x <= 1, "between 0 and 1")


_FINITE = (lambda x: 0 <= x < math.inf, "at least 0 and finite")


_POSITIVE = (lambda x: 0 < x < math.inf, "more than 0 and finite")


_BOUND = (lambda x: x >= 0, "at least 0")


_NUMBER = (lambda x: not math.isnan(x), "a number, not NaN")


# What a name may be, wherever it is used. One that is not here may be any number but NaN.
RANGES = {
    "learning_rate": _FINITE,
    "b1": _DECAY,
    "b2": _DECAY,
    "b3": _DECAY,
    "momentum": _FRACTION,
    "decay": _FRACTION,
    "ema.decay": _DECAY,  # its correction divides by 1 - decayᵗ, as may those of the two below
    "scale_by_rms.decay": _DECAY,
    "scale_by_stddev.decay": _DECAY,
    "rho": _DECAY,
    "eta_minus": _FRACTION,
    "eta_plus": (lambda x: 1 <= x < math.inf, "at least 1 and finite"),
    "min_step_size": _FINITE,
    "max_step_size": _BOUND,
    "initial_scale": _FINITE,
    "lambd": _FINITE,
    "asgd.alpha": _FINITE,
    "t0": _BOUND,
    "average_params.start": _BOUND,
    "ema_params.start": _BOUND,
    "ema_params.decay": _DECAY,
    "gradient_noise_scale.decay": _DECAY,
    "eps": _FINITE,
    "eps_root": _FINITE,
    "weight_decay": _FINITE,
    "summed_decay": _FINITE,
    "trust_coefficient": _FINITE,
    "min_norm": _FINITE,
    "max_norm": _BOUND,
    "max_grad_norm": _BOUND,
    "scale_by_sm3.b2": _FRACTION,  # 1 sums, as Adagrad does
    "sm3.momentum": _DECAY,
    "adafactor.momentum": _DECAY,
    "scale_by_factored_rms.decay_rate": _FINITE,
    "epsilon": _FINITE,
    "floor": _FINITE,
    "min_scale": _FINITE,
    "clipping": _BOUND,
    "eta": _FINITE,
    "max_delta": _BOUND,
    "threshold": _BOUND,
    "initial_accumulator_value": _FINITE,
    "momentum_decay": _FINITE,
    "optimism": _FINITE,
    "signum.beta": _DECAY,
    "slow_step_size": _FRACTION,
    "max_learning_rate": _BOUND,
    "descend.max_learning_rate": _POSITIVE,
    "lr_decay": _FINITE,
    "scaling": _FINITE,
    "min_curvature": _DECAY,
    "tol": _FINITE,
    "max_steps": (lambda x: 0 <= x < 2**31, "at least 0 and below 2**31"),
    "lr": _FINITE,
    "slope_rtol": (lambda x: 0 < x < 1, "more than 0 and less than 1"),
    "curv_rtol": (lambda x: 0 < x < 1, "more than 0 and less than 1"),
    "decrease_factor": (lambda x: 0 < x < 1, "more than 0 and less than 1"),
    "increase_factor": (lambda x: 1 <= x < math.inf, "at least 1 and finite"),
    "approx_dec_rtol": _FINITE,
    "stepsize_precision": _FINITE,
    "atol": _FINITE,
    "rtol": _FINITE,
    "min_lr": (lambda x: 0 < x < math.inf, "more than 0 and finite"),
    "max_lr": _FINITE,
    "smoothing": _DECAY,
    "divergence": (lambda x: x > 1, "more than 1"),
    "sigmas": _POSITIVE,
    "max_consecutive_errors": _BOUND,
    "init_scale": _POSITIVE,
    "dynamic_loss_scale.min_scale": _POSITIVE,
    "max_scale": _POSITIVE,
    "dynamic_loss_scale.factor": (lambda x: 1 < x < math.inf, "more than 1 and finite"),
}


def check(owner: str, **given: Any) -> None:
    """Raise if a hyperparameter cannot be meant; `owner` is the factory that was called."""
    for name, value in given.items():
        if callable(value):
            check_schedule(owner, name, value)
            continue
        if isinstance(value, str | bytes | bool | np.bool_) or not hasattr(value, "__float__"):
            raise TypeError(
                f"{owner}: {name} must be a number, a scalar array or a schedule (a function of the "
                f"step), got {value!r}"
            )
        if np.iscomplexobj(value):
            raise TypeError(f"{owner}: {name} must be a real number, got {value!r}")
        if np.ndim(value):
            raise ValueError(f"{owner}: {name} must be one number, got an array of shape {np.shape(value)}")
        if isinstance(value, Tracer):
            continue  # its value is not known yet
        is_valid, described = RANGES.get(f"{owner}.{name}", RANGES.get(name, _NUMBER))
        if not is_valid(float(value)):
            raise ValueError(f"{owner}: {name} must be {described}, got {float(value):g}")


def check_schedule(owner: str, name: str, schedule: Callable) -> None:
    """Raise unless `schedule` gives one real number for a step."""
    if hasattr(schedule, "update"):
        raise TypeError(
            f"{owner}: {name} is a stateful schedule, which needs inject_hyperparams around the factory, "
            f"got {schedule!r}"
        )
    try:
        out = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32))
    except jax.errors.JAXTypeError:
        return  # it branches on the step: not jittable, but good enough for eager use
    except TypeError as e:
        raise TypeError(
            f"{owner}: {name} is a function, called with the step alone, as a schedule is, and failed: {e}"
        ) from e
    is_real = hasattr(out, "dtype") and out.dtype.kind not in "bc" and jnp.issubdtype(out.dtype, np.number)
    if not is_real or out.shape:
        raise ValueError(f"{owner}: the schedule for {name} must give one number for a step, got {out}")


def one_of(owner: str, known: Any, **given: Any) -> None:
    """Raise unless a given value is one of those that are `known`."""
    for name, value in given.items():
        if value not in known:
            *others, last = map(repr, known)
            raise ValueError(f"{owner}: {name} must be {', '.join(others)} or {last}, got {value!r}")


def positive_integer(owner: str, **given: Any) -> None:
    """Raise unless each is an integer of at least 1."""
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{owner}: {name} must be an integer of at least 1, got {value!r}")


def check_number(owner: str, **given: Any) -> None:
    """`check`, for what cannot follow a schedule."""
    for name, value in given.items():
        if callable(value):
            raise TypeError(f"{owner}: {name} must be a number, got a function")
    check(owner, **given)
