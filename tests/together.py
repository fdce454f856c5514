"""Rows of a table in one program: twenty programs in one compile in a third of their time."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import pytest

MOST = 20  # rows in one program


class Together:
    """The fixture `together`: what a test computes for its row, compiled with the other rows of the test."""

    def __init__(self, test: pytest.Function, found: dict) -> None:
        self.test, self.found, self.calls = test, found, 0

    def __call__(self, function: Callable[..., Any], *arguments: Any, row: str = "tx") -> Any:
        """`jit(function)(row, *arguments)`; the parameter of the test that is named `row` is the row.

        The function is traced for the rows of other tests too. It may depend on the test's other parameters,
        and on nothing else. Arrays are better given as arguments: XLA computes what follows from constants
        while it compiles.
        """
        self.calls += 1  # of this test; its rows all make the same calls
        if (self.calls, self.test) not in self.found:
            tests = [item for item in self.test.session.items if self.is_like(item, row)]
            start = tests.index(self.test) // MOST * MOST
            tests = tests[start : start + MOST]
            rows = [item.callspec.params[row] for item in tests]
            keys = [(self.calls, test) for test in tests]
            self.found.update(zip(keys, results(function, rows, arguments), strict=True))
        found = self.found.pop((self.calls, self.test))
        if isinstance(found, Exception):
            raise found
        return found

    def is_like(self, other: pytest.Item, row: str) -> bool:
        """Whether both are one function of a test, with the same parameters but for the row."""
        if not isinstance(other, pytest.Function) or other.originalname != self.test.originalname:
            return False
        if other.path != self.test.path:
            return False
        ours, theirs = (dict(item.callspec.params, **{row: None}) for item in (self.test, other))
        return ours == theirs


def results(function: Callable[..., Any], rows: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """The function's results for all rows, from one program, or the error that it raised for a row."""
    errors: dict[int, Exception] = {}

    def program(*arguments: Any) -> list[Any]:
        out = []
        for i, row in enumerate(rows):
            try:
                out.append(function(row, *arguments))
            except Exception as e:
                errors[i] = e
                out.append(None)
        return out

    values = jax.jit(program)(*arguments)
    return [errors.get(i, value) for i, value in enumerate(values)]
