"""Numbers that a link reports besides its updates. They are computed only if `measured` keeps them."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from gradx.core.tree import Tree

__all__ = []  # internal: a link returns them, a wrapper passes them on

Flag: TypeAlias = bool | jax.Array
Numbers: TypeAlias = Any  # one number, or a dict from the path of each parameter to its number


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Report:
    """A number of one step.

    Where `news` is False, `measured` keeps the number of the step before. `mean` asks for the mean over all
    steps.
    """

    name: str = dataclasses.field(metadata={"static": True})
    value: Numbers
    news: Flag = True
    mean: bool = dataclasses.field(default=False, metadata={"static": True})


Reports: TypeAlias = tuple[Report, ...]
# From the parameters to the names of all reports in their order; the values mean nothing.
Blank: TypeAlias = Callable[[Tree], Reports]


def no_reports(params: Tree) -> Reports:
    """The blank reports of a transformation that reports nothing."""
    return ()


def news_if(condition: Flag, reports: Reports) -> Reports:
    """Reports that are news only where a condition also holds."""
    return tuple(dataclasses.replace(r, news=r.news & condition) for r in reports)


def prefixed(prefix: str, reports: Reports) -> Reports:
    """Reports with `prefix/` before their names."""
    return tuple(dataclasses.replace(r, name=f"{prefix}/{r.name}") for r in reports)
