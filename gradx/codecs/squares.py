"""Slots without an element below 0: averages and sums of squares, and step sizes.

A codec spends no bit on their signs, and a number above 0 stays above 0. Each rule declares its slots in
its own file.
"""

from typing import Any

__all__ = []  # internal: `store` asks

# Field names that mean squares in every link: the shared `nu`, and names that only classes of Optax have.
# `declare_squares` adds the others.
SQUARES = {
    "nu",
    "exp_avg_sq",  # D-Adaptation, Prodigy
    "grad_sum_sq",  # MADGRAD
}

# The squares of links whose field names mean something else. Those here are of optax.contrib.
SQUARES_OF_LINK: dict[str, set[str]] = {
    "ScaleBySimplifiedAdEMAMix": {"n"},
    "Sophia": set(),  # its `nu` averages estimates of a Hessian, of either sign
}


def declare_squares(*fields: str, of: Any = None) -> None:
    """Say which fields hold squares: all of the state class `of`, or else wherever the names stand."""
    if of is None:
        SQUARES.update(fields)
    elif SQUARES_OF_LINK.setdefault(link_name(of), set(fields)) != set(fields):
        raise ValueError(f"the squares of {of.__name__} are declared twice")


def link_name(State: Any) -> str:
    """The name of a link by its state class, as `states.entries` has it."""
    return State.__name__.removesuffix("State")


def is_positive(link: str, field: str) -> bool:
    """Whether a field of a link's state has no element below 0; both named as `states.entries` has them."""
    return field.split("/")[0] in SQUARES_OF_LINK.get(link, SQUARES)
