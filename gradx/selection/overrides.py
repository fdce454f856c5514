"""Make a transformation again, from the call that made it, with other hyperparameters."""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import optax

from gradx.core.display import text
from gradx.core.factory import Call, Made, factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.ranges import check
from gradx.core.renaming import with_new_names
from gradx.schedules.base import constant_schedule
from gradx.schedules.combine import product_schedule

__all__ = ["Scaled", "scaled"]

Changes: TypeAlias = dict[str, Any]  # hyperparameters by name


class Scaled(Made):
    """A multiple of a hyperparameter of the default of `groups`."""

    def __init__(self, of: Callable[[str, object], object]) -> None:
        self.of = of  # (the hyperparameter's name in errors, its value) -> the new value


@factory
def scaled(factor: ScalarOrSchedule) -> Scaled:
    """A multiple of the default's hyperparameter, a number or a schedule: for a group of `groups`.

    Arguments:
      factor: the factor; not NaN. A schedule is allowed, say for a group that thaws.

    The product is taken when the groups are made. Do not inject the default's number, whose groups would keep
    the old product: inject the function that makes the groups.

    >>> import gradx
    >>> tx = gradx.groups(gradx.sgd(0.1), {"^head/": dict(learning_rate=gradx.scaled(0.5))})
    """
    check("scaled", factor=factor)

    def of(name, value):
        is_number = hasattr(value, "__float__") and not isinstance(value, bool | np.bool_)
        is_schedule = callable(value) and not hasattr(value, "update")  # else one with a state
        if not is_number and not is_schedule:
            raise TypeError(
                f"{name} is {text(value)}, and only a number or a function of the step can be scaled: give "
                "the group a value"
            )
        factors: list[Any] = [factor, value]
        if not any(map(callable, factors)):
            return factors[0] * factors[1]
        return product_schedule([x if callable(x) else constant_schedule(x) for x in factors])

    return Scaled(of)


def links_in(value: Any) -> Iterator[optax.GradientTransformation]:
    """The transformations that an argument is or holds."""
    if isinstance(value, optax.GradientTransformation):
        yield value
    elif type(value) in (list, tuple, dict):
        for x in value.values() if type(value) is dict else value:
            yield from links_in(x)


def calls_in(tx: object) -> Iterator[Call]:
    """The call that made a transformation, then the calls that made the transformations in its arguments."""
    call = getattr(tx, "_call", None)
    if call is not None:
        yield call
        for argument in call.bound.arguments.values():
            for link in links_in(argument):
                yield from calls_in(link)


def hyperparameters(call: Call) -> dict[str, Any]:
    """The named arguments of a call, without transformations."""
    kinds = {k: p.kind for k, p in call.bound.signature.parameters.items()}
    many = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return {k: v for k, v in call.bound.arguments.items() if kinds[k] not in many and not any(links_in(v))}


def overridden(
    owner: str, tx: optax.GradientTransformation, changes: Changes
) -> optax.GradientTransformation:
    """A transformation with some hyperparameters changed, each in the link that has it."""
    calls = list(calls_in(tx))
    if changes and not calls:
        raise TypeError(
            f"{owner}: {text(tx)} was not made by a factory of gradx, so its hyperparameters are not known: "
            "give a transformation in place of a dict, or decorate its factory with gradx.factory"
        )
    changes = renewed(calls, changes)
    for name in changes:
        found = [text(call.function) for call in calls if name in hyperparameters(call)]
        if not found:
            names = sorted({name for call in calls for name in hyperparameters(call)})
            raise KeyError(f"{owner}: no link of {text(tx)} has {name!r}; there are {names}")
        if len(found) > 1:
            raise ValueError(
                f"{owner}: {name!r} is an argument of {' and of '.join(found)}: give a transformation in "
                "place of a dict"
            )
    return with_changes(tx, changes)


def renewed(calls: list[Call], changes: Changes) -> Changes:
    """The changes, each by the new name of its hyperparameter."""
    known = {name for call in calls for name in hyperparameters(call)}
    for call in calls:
        kept = {k: v for k, v in changes.items() if k in known}
        changes = kept | with_new_names(call.function, {k: v for k, v in changes.items() if k not in known})
    return changes


def with_changes(value: Any, changes: Changes) -> Any:
    """An argument whose transformations are made again with the changed hyperparameters."""
    if type(value) in (list, tuple):
        return type(value)(with_changes(x, changes) for x in value)
    if type(value) is dict:
        return {k: with_changes(x, changes) for k, x in value.items()}
    call = getattr(value, "_call", None)
    if call is None or not isinstance(value, optax.GradientTransformation):
        return value
    arguments = OrderedDict((k, with_changes(x, changes)) for k, x in call.bound.arguments.items())
    for name in changes.keys() & hyperparameters(call).keys():
        new, old = changes[name], arguments[name]
        what = f"the {name} of {text(call.function)}"
        arguments[name] = new.of(what, old) if isinstance(new, Scaled) else new
    bound = inspect.BoundArguments(call.bound.signature, arguments)
    return call.function(*bound.args, **bound.kwargs)
