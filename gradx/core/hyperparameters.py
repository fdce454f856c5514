"""Hyperparameters: a number, a scalar array or a schedule, resolved at a step."""

import contextlib
import contextvars
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from optax import ScalarOrSchedule

__all__ = ["ScalarOrSchedule"]


def is_zero(value: Any) -> bool:
    """Whether a hyperparameter is 0 and stays it: an injected one may change, though it is 0 now."""
    return isinstance(value, int | float | np.number) and value == 0


_varying: contextvars.ContextVar[tuple] = contextvars.ContextVar("varying", default=())


@contextlib.contextmanager
def varying(*values: Any) -> Iterator[None]:
    """Within, a transformation that is made with one of these values knows that it varies by step."""
    token = _varying.set(values)
    try:
        yield
    finally:
        _varying.reset(token)


def varies(value: Any) -> bool:
    """Whether a hyperparameter follows a schedule: its own, or that of an injection around it."""
    return callable(value) or any(value is v for v in _varying.get())


def at(value: Any, count: Any) -> Any:
    """A hyperparameter at step `count`."""
    return value(count) if callable(value) else value


def combined(function: Callable, *values: Any) -> Any:
    """`function` of hyperparameters: a number, or a schedule if one of them is."""
    if not any(map(callable, values)):
        return function(*values)
    return lambda count: function(*(at(value, count) for value in values))


def resolve(given: dict[str, ScalarOrSchedule], count: Any, dtype: Any) -> dict[str, Any]:
    """The values at step `count`: Python numbers as they are, the rest as scalars of `dtype`."""
    return {name: cast(at(value, count), dtype) for name, value in given.items()}


def cast(value: Any, dtype: Any) -> Any:
    """A scalar in `dtype`; a Python or NumPy number as a Python float, which takes the dtype it meets."""
    return float(value) if isinstance(value, int | float | np.number) else jnp.asarray(value, dtype)


def asked(function: Callable | None) -> dict[str, bool]:
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
