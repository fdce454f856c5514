"""Old spellings of arguments: accepted for one release, with a DeprecationWarning."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

__all__ = []  # internal: the factories'


def renamed_arguments(**names: str) -> Callable[[Callable], Callable]:
    """Let a factory take old spellings, given as `old="new"`; write it below `@factory`.

    The factory's signature, and equality, repr and pickle of its objects know the new spelling only.
    """

    def mark(function: Any) -> Any:
        function.renamed_arguments = names
        return function

    return mark


def with_new_names(function: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments for a function, each by its new name."""
    for old, new in getattr(function, "renamed_arguments", {}).items():
        if old not in given:
            continue
        called = f"{function.__name__}: {old}= is the old spelling of {new}="
        if new in given:
            raise TypeError(f"{called}, and both are given: give {new} only")
        warnings.warn(f"{called}, and the next release removes it", DeprecationWarning, stacklevel=3)
        given = {new if k == old else k: v for k, v in given.items()}
    return given


def partial_with_new_names(function: Any) -> Any:
    """A `functools.partial` with the new names of its keywords: with an old one it has no signature."""
    if not isinstance(function, functools.partial):
        return function
    keywords = with_new_names(function.func, function.keywords)
    return functools.partial(function.func, *function.args, **keywords)
