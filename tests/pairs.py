"""Options two at a time: few rows in which every pair of values of two options occurs."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax

Options = dict[str, list[Any]]  # the values of each option
Allowed = Callable[[dict[str, Any]], bool]  # whether a row, or a part of one, makes sense
Pair = frozenset  # of two (option, number of the value)


def pairwise(options: Options, allowed: Allowed = lambda row: True) -> list[dict[str, Any]]:
    """Rows with a value for each option, in which each pair of values occurs that is allowed at all.

    Greedy: a row begins with a pair that is still missing, and each further value is the one that brings most
    of the missing pairs. (allpairspy, which is a library for it, forgets pairs where not all are allowed.)
    """
    rows, left = [], dict.fromkeys(pairs_of(options))
    while left:
        pair = next(iter(left))
        row = completed(options, allowed, dict(pair), left)
        found = {pair} if row is None else set(map(Pair, itertools.combinations(row.items(), 2)))
        left = {pair: None for pair in left if pair not in found}
        rows += [] if row is None else [values(options, row)]
    return rows


def pairs_of(options: Options) -> Iterator[Pair]:
    """All pairs of values of two options."""
    for a, b in itertools.combinations(options, 2):
        for i, j in itertools.product(range(len(options[a])), range(len(options[b]))):
            yield Pair([(a, i), (b, j)])


def completed(options: Options, allowed: Allowed, row: dict[str, int], left: dict) -> dict[str, int] | None:
    """The row with a value for each option, or None if none is allowed."""
    if not allowed(values(options, row)):
        return None
    name = next((name for name in options if name not in row), None)
    if name is None:
        return row
    gain = lambda i: sum(Pair([(name, i), other]) in left for other in row.items())
    for i in sorted(range(len(options[name])), key=gain, reverse=True):
        found = completed(options, allowed, row | {name: i}, left)
        if found is not None:
            return found
    return None


def values(options: Options, row: dict[str, int]) -> dict[str, Any]:
    return {name: options[name][row[name]] for name in options if name in row}


def described(row: dict[str, Any]) -> str:
    """A row by its values, short enough for the name of a test."""
    word = lambda x: getattr(x, "__name__", None) or (f"{x:g}" if type(x) is float else str(x))
    return "-".join(f"{name}={word(x)}" for name, x in row.items()).replace(" ", "")


def real(count: Any) -> Any:
    """A number of steps, in a reference or in a program, as a number to calculate with."""
    return count.astype(float) if isinstance(count, jax.Array) else float(count)
