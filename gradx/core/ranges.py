"""The values that hyperparameters may have; checked when they are given."""

import contextlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradx.core.blame import ArgumentTypeError, ArgumentValueError

__all__ = []


class Range(NamedTuple):
    """The values that a hyperparameter may have, and the words for them in an error."""

    contains: Callable[[float], bool]
    described: str


DECAY = Range(lambda x: 0 <= x < 1, "at least 0 and less than 1")
FRACTION = Range(lambda x: 0 <= x <= 1, "between 0 and 1")
INSIDE = Range(lambda x: 0 < x < 1, "more than 0 and less than 1")
FINITE = Range(lambda x: 0 <= x < math.inf, "at least 0 and finite")
POSITIVE = Range(lambda x: 0 < x < math.inf, "more than 0 and finite")
GROWTH = Range(lambda x: 1 <= x < math.inf, "at least 1 and finite")
BOUND = Range(lambda x: x >= 0, "at least 0")
NUMBER = Range(lambda x: not math.isnan(x), "a number, not NaN")


# The names that all optimizers share. `declare_ranges` adds the others, in the file of each rule.
RANGES: dict[str, Range] = {
    "learning_rate": FINITE,
    # At 1 an average stays as it starts, and needs no correction of its start.
    "b1": FRACTION,
    "b2": FRACTION,
    "b3": FRACTION,
    "momentum": FRACTION,
    "decay": FRACTION,
    "eps": FINITE,
    "eps_root": FINITE,
    "weight_decay": FINITE,
}


def declare_ranges(owner: str = "", /, **ranges: Range) -> None:
    """Say which values hyperparameters may have: in the factory `owner`, or else in every factory.

    A factory's own range takes precedence over the range of the name. Without one, any number but NaN is
    allowed.
    """
    for name, declared in ranges.items():
        key = f"{owner}.{name}" if owner else name
        if RANGES.setdefault(key, declared) != declared:
            raise ValueError(
                f"the range of {key} is declared twice, as {RANGES[key].described!r} and "
                f"{declared.described!r}: name the factory that differs"
            )


def range_of(owner: str, name: str) -> Range:
    """The range of a hyperparameter of a factory."""
    return RANGES.get(f"{owner}.{name}", RANGES.get(name, NUMBER))


def check(owner: str, **given: Any) -> None:
    """Raise if a hyperparameter has a wrong type or value; `owner` is the factory that was called."""
    for name, value in given.items():
        if callable(value):
            check_stateless(owner, name, value)
            continue  # its values are checked in `update`, where it is called first
        if type(value) is not float and type(value) is not int:
            check_kind(owner, name, value)
            if isinstance(value, Tracer):
                continue  # its value is not known yet
        valid = range_of(owner, name)
        if not valid.contains(float(value)):
            raise ArgumentValueError(owner, name, f"must be {valid.described}, got {float(value):g}", value)


def check_kind(owner: str, name: str, value: Any) -> None:
    """Raise unless a value is one real number."""
    if isinstance(value, str | bytes | bool | np.bool_) or not hasattr(value, "__float__"):
        words = "must be a number, a scalar array or a schedule (a function of the step)"
        raise ArgumentTypeError(owner, name, f"{words}, got {value!r}", value)
    if np.iscomplexobj(value):
        raise ArgumentTypeError(owner, name, f"must be a real number, got {value!r}", value)
    if np.ndim(value):
        raise ArgumentValueError(
            owner, name, f"must be one number, got an array of shape {np.shape(value)}", value
        )


def check_stateless(owner: str, name: str, schedule: Callable) -> None:
    """Raise for a schedule that has a state."""
    if hasattr(schedule, "update"):
        words = "is a stateful schedule, which needs inject_hyperparams around the factory"
        raise ArgumentTypeError(owner, name, f"{words}, got {schedule!r}", schedule)


class ScheduleError(TypeError):
    """A function given as a schedule fails when it is called with the step alone."""


def scheduled(owner: str, name: str, schedule: Callable, count: Any) -> Any:
    """The value of a schedule at step `count`. Raises unless it is one real number."""
    try:
        out = schedule(count)
    except (jax.errors.JAXTypeError, ScheduleError):
        raise  # it branches on the step, which only eager use allows; or a schedule in it has raised this
    except TypeError as e:
        raise ScheduleError(
            f"{owner}: {name} is a function, but it fails as a schedule, called with the step alone: {e}"
        ) from e
    dtype = np.result_type(out) if isinstance(out, int | float) else getattr(out, "dtype", None)
    is_real = dtype is not None and dtype.kind not in "bc" and jnp.issubdtype(dtype, np.number)
    if not is_real or np.shape(out):
        given = jax.typeof(out) if isinstance(out, jax.Array) else repr(out)
        raise ValueError(f"{owner}: the schedule for {name} must give one number for a step, got {given}")
    return out


def check_schedule(owner: str, name: str, schedule: Callable) -> None:
    """Raise unless `schedule` has no state and gives one real number for a step."""
    check_stateless(owner, name, schedule)
    with contextlib.suppress(jax.errors.JAXTypeError):  # it branches on the step: good for eager use
        step = jax.ShapeDtypeStruct((), jnp.int32)
        jax.eval_shape(lambda count: jnp.asarray(scheduled(owner, name, schedule, count)), step)


def one_of(owner: str, known: Any, **given: Any) -> None:
    """Raise unless each given value is one of the `known` ones."""
    for name, value in given.items():
        if value not in known:
            *others, last = map(repr, known)
            words = f"must be {', '.join(others)} or {last}, got {value!r}"
            raise ArgumentValueError(owner, name, words, value)


def positive_integer(owner: str, **given: Any) -> None:
    """Raise unless each is an integer of at least 1."""
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentValueError(owner, name, f"must be an integer of at least 1, got {value!r}", value)


def check_number(owner: str, **given: Any) -> None:
    """`check`, for numbers that cannot follow a schedule."""
    for name, value in given.items():
        if callable(value):
            raise ArgumentTypeError(owner, name, "must be a number, got a function", value)
    check(owner, **given)
