"""The reports of a lifted rule: scalars of the step, and numbers of each parameter."""

import dataclasses
from typing import Literal, TypeAlias

from gradx.core.reports import Numbers, Report, Reports
from gradx.engine.leaves import Leaves
from gradx.engine.rule import Result, Scalars

__all__ = []  # internal: the engine's

Kind: TypeAlias = Literal["step", "mean", "leaf"]


@dataclasses.dataclass(frozen=True)
class Reported:
    """The reports of a rule by name, each with its kind; see `reports` of `leafwise`."""

    kinds: dict[str, Kind]

    @property
    def per_leaf(self) -> tuple[str, ...]:
        """The reports that a rule returns for each parameter, in order."""
        return tuple(name for name, kind in self.kinds.items() if kind == "leaf")

    def blank(self, leaves: Leaves) -> Reports:
        """The reports before the first step, all 0."""
        zero = lambda i, p: leaves.axes[i].zeros(p) if i in leaves.axes else 0.0
        each = {leaves.paths[i]: zero(i, p) for i, p in leaves.gs.items()} if self.per_leaf else {}
        return self.all({name: each if kind == "leaf" else 0.0 for name, kind in self.kinds.items()})

    def of(self, leaves: Leaves, known: Scalars, results: dict[int, Result]) -> Reports:
        """The reports of a step, from its scalars and the results of its rule."""
        each = {
            name: {leaves.paths[i]: result.reports[k] for i, result in results.items()}
            for k, name in enumerate(self.per_leaf)
        }
        return self.all({name: each[name] if name in each else known[name] for name in self.kinds})

    def all(self, values: dict[str, Numbers]) -> Reports:
        return tuple(Report(name, x, mean=self.kinds[name] == "mean") for name, x in values.items())
