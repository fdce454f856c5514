"""Hyperparameters: a number, a scalar array or a schedule, resolved at a step."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core.primitives import convert_element_type_p
from optax import ScalarOrSchedule

__all__ = ["ScalarOrSchedule"]


def is_zero(value: Any) -> bool:
    """Whether a hyperparameter is 0 and stays it: an injected one may change, though it is 0 now."""
    return isinstance(value, int | float | np.number) and value == 0


# Within `following_schedules(True)`, hyperparameters that follow a schedule are given as arrays.
following_schedules: Any = jax.make_user_context(False)


def varies(value: Any) -> bool:
    """Whether a hyperparameter follows a schedule: its own, or one that an injection around it runs.

    An injection gives fixed numbers as weakly typed arrays. JAX keeps a weak type through arithmetic with
    numbers, and a strong one wins. So whatever a factory makes of its arguments, it is strongly typed only
    if it depends on a schedule (or on an array that the factory brings along, which does no harm).
    """
    is_array = isinstance(value, jax.Array) and following_schedules.value
    return callable(value) or (is_array and not value.weak_type)


def fixed(value: Any) -> jax.Array:
    """A number for a factory, as an array of weak type."""
    x = jnp.asarray(value)
    return convert_element_type_p.bind(x, new_dtype=x.dtype, weak_type=True, sharding=None)


def value_at(value: Any, count: Any) -> Any:
    """A hyperparameter at step `count`."""
    return value(count) if callable(value) else value


def combined(function: Callable, *values: Any) -> Any:
    """`function` of hyperparameters: a number, or a schedule if one of them is."""
    if not any(map(callable, values)):
        return function(*values)
    return lambda count: function(*(value_at(value, count) for value in values))


def resolve(given: dict[str, ScalarOrSchedule], count: Any, dtype: Any) -> dict[str, Any]:
    """The values at step `count`: Python numbers as they are, the rest as scalars of `dtype`."""
    return {name: as_scalar(value_at(value, count), dtype) for name, value in given.items()}


def as_scalar(value: Any, dtype: Any) -> Any:
    """A scalar in `dtype`; a Python or NumPy number as a Python float, which takes the dtype it meets."""
    return float(value) if isinstance(value, int | float | np.number) else jnp.asarray(value, dtype)


def parameters_of(function: Callable | None) -> dict[str, bool]:
    """The names that a function asks for, and whether it must have each."""
    if function is None:
        return {}
    return {k: p.default is p.empty for k, p in inspect.signature(function).parameters.items()}


def pick(owner: str, names: dict[str, bool], known: dict[str, Any]) -> dict[str, Any]:
    """What is asked for, of what is known."""
    for name, required in names.items():
        if required and name not in known:
            raise TypeError(f"{owner} asks for {name!r}, and there are only {sorted(known)}")
    return {name: known[name] for name in names if name in known}
