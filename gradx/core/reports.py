"""Numbers that a link reports beside its updates: `measured` keeps them, and nobody else computes them."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax

__all__ = []  # internal: a link returns them, a wrapper passes them on

Numbers: TypeAlias = Any  # one number, or a dict from the path of each parameter to its number


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Report:
    """A number of one step.

    Where `news` is False the number of the step before stays; `mean` asks for the mean over all steps.
    """

    name: str = dataclasses.field(metadata={"static": True})
    value: Numbers
    news: Any = True
    mean: bool = dataclasses.field(default=False, metadata={"static": True})


Reports: TypeAlias = tuple[Report, ...]
# What a transformation will report, from the parameters: the same names in the same order, any values.
Blank: TypeAlias = Callable[[Any], Reports]


def no_reports(params: Any) -> Reports:
    """The blank reports of a transformation that reports nothing."""
    return ()


def news_if(condition: Any, reports: Reports) -> Reports:
    """Reports that are news only where a condition holds too."""
    return tuple(dataclasses.replace(r, news=r.news & condition) for r in reports)


def prefixed(prefix: str, reports: Reports) -> Reports:
    """Reports of a part, `prefix/name`."""
    return tuple(dataclasses.replace(r, name=f"{prefix}/{r.name}") for r in reports)
