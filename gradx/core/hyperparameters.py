"""Hyperparameters: a number, a scalar array or a schedule, resolved at a step."""

import inspect
import types
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core.primitives import convert_element_type_p
from jax.typing import DTypeLike
from optax import ScalarOrSchedule

from gradx.core.ranges import check_stateless, scheduled

__all__ = ["ScalarOrSchedule"]

Scalar: TypeAlias = Any  # a Python number, or an array without axes
Count: TypeAlias = Any  # the number of a step, 0 at first: an integer, or an array without axes


def is_zero(value: ScalarOrSchedule) -> bool:
    """Whether a hyperparameter is always 0: an injected one may change, though it is 0 now."""
    return isinstance(value, int | float | np.number) and value == 0


# Within `following_schedules(True)`, hyperparameters that follow a schedule are given as arrays.
following_schedules: Any = jax.make_user_context(False)


def varies(value: ScalarOrSchedule) -> bool:
    """Whether a hyperparameter follows a schedule: its own, or one that an injection around it runs.

    An injection gives fixed numbers as weakly typed arrays. JAX keeps a weak type through arithmetic with
    numbers, and a strong one wins. So whatever a factory makes of its arguments, it is strongly typed only
    if it depends on a schedule (or on an array that the factory brings along, which does no harm).
    """
    if isinstance(value, jax.Array):
        return following_schedules.value and not value.weak_type
    return callable(value)


def fixed(value: Any) -> jax.Array:
    """A number for a factory, as an array of weak type."""
    x = jnp.asarray(value)
    return convert_element_type_p.bind(x, new_dtype=x.dtype, weak_type=True, sharding=None)


def value_at(owner: str, name: str, value: ScalarOrSchedule, count: Count) -> Scalar:
    """A hyperparameter at step `count`. An error about a schedule names the owner and the hyperparameter."""
    return scheduled(owner, name, value, count) if callable(value) else value


def combined(owner: str, function: Callable, **values: ScalarOrSchedule) -> ScalarOrSchedule:
    """`function` of hyperparameters, in their order: a number, or a schedule if one of them is."""
    for name, value in values.items():
        if callable(value):
            check_stateless(owner, name, value)
    if not any(map(callable, values.values())):
        return function(*values.values())
    return lambda count: function(*(value_at(owner, name, value, count) for name, value in values.items()))


def resolve(
    owner: str, given: dict[str, ScalarOrSchedule], count: Count, dtype: DTypeLike
) -> dict[str, Scalar]:
    """The values at step `count`: Python numbers as floats, other values as scalars of `dtype`."""
    return {name: as_scalar(value_at(owner, name, value, count), dtype) for name, value in given.items()}


def as_scalar(value: Scalar, dtype: DTypeLike) -> Scalar:
    """A scalar in `dtype`; a Python or NumPy number as a Python float, which takes the dtype it meets."""
    return float(value) if isinstance(value, int | float | np.number) else jnp.asarray(value, dtype)


def parameters_of(function: Callable | None) -> dict[str, bool]:
    """The parameters of a function by name, and whether each must be given."""
    if function is None:
        return {}
    if not isinstance(function, types.FunctionType) or function.__dict__:  # a wrapper has another's signature
        return signature_of(function)
    # Each call of a factory defines its functions anew: their code and the names of their defaults stay.
    kind = function.__code__, len(function.__defaults__ or ()), frozenset(function.__kwdefaults__ or ())
    if kind not in KNOWN:
        KNOWN[kind] = signature_of(function)
    return KNOWN[kind]


KNOWN: dict[tuple, dict[str, bool]] = {}


def signature_of(function: Callable) -> dict[str, bool]:
    return {k: p.default is p.empty for k, p in inspect.signature(function).parameters.items()}


def pick(owner: str, names: dict[str, bool], known: dict[str, Any]) -> dict[str, Any]:
    """The values that are known of the names that are asked for."""
    for name, required in names.items():
        if required and name not in known:
            raise TypeError(f"{owner} asks for {name!r}, and there are only {sorted(known)}")
    return {name: known[name] for name in names if name in known}
