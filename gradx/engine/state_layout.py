"""The state of a lifted rule: its start, its parts, and the way back from the parts."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from optax import EmptyState

from gradx.core.transformation import HINT, check_state, is_empty
from gradx.core.tree import State, aligned
from gradx.engine.layers import started
from gradx.engine.leaf_checks import Slot
from gradx.engine.leaves import Leaves
from gradx.engine.rule import Result, Slots
from gradx.numerics.arrays import increment
from gradx.numerics.device_axes import varying_like

__all__ = ["CorrectedState", "ScheduledState"]


class ScheduledState(NamedTuple):
    """The state of a link whose schedule needs a step count, around a state that has none."""

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]  (Optax's name for it)
    inner_state: State


class CorrectedState(NamedTuple):
    """The state of a link that undoes the zero start of averages whose decay rates change.

    `weights` holds for each such rate the sum of the average's weights so far: 1 minus the rates' product.
    """

    weights: dict[str, jax.Array]
    inner_state: State


Weights: TypeAlias = dict[str, jax.Array]
Starts: TypeAlias = dict[str, Callable[[jax.Array], Slot]]  # parameter -> initial slot, by name


class Parts(NamedTuple):
    """A state taken apart: each slot is a list in the order of the leaves."""

    count: Any  # None if steps are not counted
    weights: Weights
    slots: dict[str, list[Slot]]
    empty: State = EmptyState()  # the state itself, if it holds nothing

    def at(self, i: int) -> Slots:
        """The slots of one leaf."""
        return {k: column[i] for k, column in self.slots.items()}

    def after(self, weights: Weights, results: dict[int, Result]) -> "Parts":
        """The parts one step later; the slots of a missing leaf stay."""
        slots = {k: list(column) for k, column in self.slots.items()}
        for i, result in results.items():
            for k, slot in result.slots.items():
                slots[k][i] = slot
        return Parts(None if self.count is None else increment(self.count), weights, slots, self.empty)


@dataclasses.dataclass(frozen=True)
class StateLayout:
    """The places of the count, the weights and the slots in a state."""

    owner: str
    kind: type  # the class of the state
    fields: list[str]  # of that class, by the names that a rule has for them
    starts: Starts
    scheduled: bool  # steps are counted, and the class has no field for it
    weighted: list[str]

    @property
    def is_stateless(self) -> bool:
        """Whether the state holds nothing, so that None and () are states as well."""
        return self.kind is EmptyState and not self.scheduled and not self.weighted

    def init(self, leaves: Leaves) -> State:
        """The state before the first step; no two arrays share a buffer."""
        slots = {k: list(leaves.all) for k in self.starts}
        for i, p in leaves.gs.items():
            for k, start in self.starts.items():
                slot = started(start, p, leaves.axes.get(i))
                own = lambda x, p=p: varying_like(jnp.copy(x) if x is p else x, p)
                slots[k][i] = jax.tree.map(own, slot)
        weights = {k: jnp.zeros((), leaves.scalar_dtype) for k in self.weighted}
        return self.pack(Parts(jnp.zeros((), jnp.int32), weights, slots), leaves)

    def pack(self, parts: Parts, leaves: Leaves) -> State:
        """The state of these parts."""
        if self.is_stateless:
            return parts.empty
        trees = {k: leaves.treedef.unflatten(column) for k, column in parts.slots.items()}
        state = self.kind(*(parts.count if k == "count" else trees[k] for k in self.fields))
        state = ScheduledState(parts.count, state) if self.scheduled else state
        return CorrectedState(parts.weights, state) if self.weighted else state

    def unpack(self, state: State, leaves: Leaves) -> Parts:
        """The parts of a state; raises TypeError or ValueError if it is not one for these parameters."""
        if self.is_stateless and is_empty(state):
            return Parts(None, {}, {}, state)
        weights, count = {}, None
        if self.weighted:
            check_state(self.owner, CorrectedState, state)
            weights, state = state
        if self.scheduled:
            check_state(self.owner, ScheduledState, state)
            count, state = state
        check_state(self.owner, self.kind, state)
        trees = dict(zip(self.fields, state, strict=True))
        names = {k: ("the updates", f"the state's {k}") for k in self.starts}
        slots = {k: aligned(leaves.treedef, trees[k], names[k], HINT) for k in self.starts}
        return Parts(trees.get("count", count), weights, slots)
