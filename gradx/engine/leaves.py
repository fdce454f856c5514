"""The arrays of a tree that a rule runs on, by position."""

import dataclasses
import functools

from gradx.core.tree import Leaf, Tree, Treedef, flatten, slash_paths
from gradx.engine.layers import Axes, axes_here
from gradx.engine.leaf_checks import Arrays, params_of, present, scalar_dtype
from gradx.engine.rule import Result
from gradx.numerics.dtypes import DType

__all__ = []  # internal: the engine's


@dataclasses.dataclass(frozen=True)
class Leaves:
    """The leaves of a tree of updates, or of parameters. Only `all` includes the missing ones."""

    owner: str
    tree: Tree
    treedef: Treedef
    all: list[Leaf]
    gs: Arrays
    ps: Arrays  # the parameters of `gs`, where a rule asks for them

    @classmethod
    def of_updates(cls, owner: str, updates: Tree, params: Tree | None, needs_params: bool) -> "Leaves":
        """Updates, and their parameters if needed; an error if a leaf is not floating point."""
        if needs_params and params is None:
            raise ValueError(f"{owner} needs the parameters: call update(updates, state, params)")
        leaves, treedef = flatten(updates)
        gs = present(leaves, treedef, owner)
        ps = params_of(gs, params, treedef, owner) if needs_params else {}
        return cls(owner, updates, treedef, leaves, gs, ps)

    @classmethod
    def of_params(cls, owner: str, params: Tree) -> "Leaves":
        """Parameters; an error if a leaf is not floating point."""
        return cls.of_updates(owner, params, None, needs_params=False)

    @functools.cached_property
    def axes(self) -> dict[int, Axes]:
        """The axes of stacked layers."""
        return axes_here(self.tree)

    @functools.cached_property
    def paths(self) -> list[str]:
        """The path of each leaf."""
        return slash_paths(self.tree)

    @functools.cached_property
    def scalar_dtype(self) -> DType:
        """The dtype of scalars that all arrays share."""
        return scalar_dtype(self.gs)

    def updated(self, results: dict[int, Result]) -> Tree:
        """The tree with the updates that the rule returned."""
        return self.treedef.unflatten(
            [results[i].update if i in results else x for i, x in enumerate(self.all)]
        )
