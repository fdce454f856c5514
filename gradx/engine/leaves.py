"""The arrays of a tree that a rule runs on, each known by its position."""

import dataclasses
import functools
from typing import Any

import jax

from gradx.core.tree import Tree, flatten, slash_paths
from gradx.engine.layers import Axes, axes_here
from gradx.engine.leaf_checks import beside, present, scalar_dtype
from gradx.engine.rule import Result

__all__ = []  # internal: the engine's


@dataclasses.dataclass(frozen=True)
class Leaves:
    """A tree of updates, or of parameters; missing leaves are in `all` only."""

    owner: str
    tree: Tree
    treedef: Any
    all: list
    gs: dict[int, jax.Array]
    ps: dict[int, jax.Array]  # the parameters of `gs`, where a rule asks for them

    @classmethod
    def of_updates(cls, owner: str, updates: Tree, params: Tree | None, needs_params: bool) -> "Leaves":
        """Updates, with their parameters where these are needed; an error for leaves that cannot move."""
        if needs_params and params is None:
            raise ValueError(f"{owner} needs the parameters: call update(updates, state, params)")
        leaves, treedef = flatten(updates)
        gs = present(leaves, treedef, owner)
        ps = beside(gs, params, treedef, owner) if needs_params else {}
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
    def scalar_dtype(self) -> Any:
        """The dtype of scalars that all arrays share."""
        return scalar_dtype(self.gs)

    def updated(self, results: dict[int, Result]) -> Tree:
        """The tree of the updates that a rule gave."""
        return self.treedef.unflatten(
            [results[i].update if i in results else x for i, x in enumerate(self.all)]
        )
