"""Errors about an argument: a factory that passed it on puts its own name, and the argument's, into them."""

from typing import Any, Self

__all__ = []  # internal: of checks, and of `factory`


class ArgumentError(Exception):
    """An argument is wrong: the function that was given it, its name, the words that follow, its value."""

    def __init__(self, owner: str, name: str, words: str, value: Any) -> None:
        super().__init__(f"{owner}: {name} {words}")
        self.owner, self.name, self.words, self.value = owner, name, words, value

    def passed_by(self, owner: str, given: dict[str, Any]) -> Self:
        """The error of a function that passed the value on; else this one."""
        if owner == self.owner:
            return self
        names = [name for argument, x in given.items() for name in places(argument, x, self.value)]
        if not names:
            return self
        name = self.name if self.name in names else names[0]
        return type(self)(owner, name, self.words, self.value)

    def __reduce__(self) -> Any:
        return type(self), (self.owner, self.name, self.words, self.value)


class ArgumentValueError(ArgumentError, ValueError):
    """An argument has a value that is not allowed."""


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument has a type that is not allowed."""


def places(name: str, given: Any, value: Any) -> list[str]:
    """The names of an object in an argument: its own, or as an item of a pair."""
    if given is value:
        return [name]
    items = enumerate(given) if type(given) in (tuple, list) else ()
    return [f"{name}[{i}]" for i, item in items if item is value]
