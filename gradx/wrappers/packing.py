"""Slots of small arrays in a few shared buffers, so that a step hands the runtime fewer arrays."""

import itertools
from collections.abc import Callable
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.core import Tracer
from optax import MaskedNode

from gradx.codecs.stored import is_stored
from gradx.core.factory import factory
from gradx.core.foreign import blank_of, is_exact, observe_of
from gradx.core.ranges import positive_integer
from gradx.core.transformation import HINT, GradientTransformation, check_state
from gradx.core.tree import State, Tree, Treedef, aligned, path_at
from gradx.engine.small_arrays import largest_batched
from gradx.numerics.arrays import alike
from gradx.numerics.dtypes import DType

__all__ = ["PackedState", "pack_state", "packed", "unpack_state"]


class PackedState(NamedTuple):
    """The shared buffers, flat, and the inner state with a `MaskedNode` where an array went into one."""

    buffers: tuple[jax.Array, ...]
    inner_state: State


class Packed(GradientTransformation):
    """The result of `packed`: a transformation that knows where each array of its state is."""

    layout_of: Callable[[Tree], "Layout"]


@factory
def packed(inner: optax.GradientTransformation, *, max_size: int = 4096) -> GradientTransformation:
    """Keep the small arrays of a state in shared buffers; the updates stay the same.

    A step with a thousand small arrays spends most of its time handing them over, not computing. Here small
    arrays of one shape share buffers, sixteen in each, and rules compute on them together. That copies their
    gradients, so large arrays are not packed; nor are scalars, such as injected hyperparameters, and random
    keys. Put it around a whole optimizer, clipping included. The results are the same; under jit the last bit
    may differ, because XLA contracts multiply-adds kernel by kernel.

    Arguments:
      inner: any transformation.
      max_size: the most elements of an array that is packed, at least 1.

    A buffer holds slots of many parameters, so packed slots must not be sharded: `init` raises ValueError for
    sharded slots; under jit it cannot see the sharding, and XLA replicates the buffers. `update` without
    parameters uses the shapes of the updates. `unpack_state` gives back the state of `inner`.

    >>> import gradx, jax, jax.numpy as jnp
    >>> params = [jnp.ones(8)] * 100
    >>> for tx in (gradx.adamw(1e-3), gradx.packed(gradx.adamw(1e-3))):
    ...     print(len(jax.tree.leaves(tx.init(params))))
    201
    15
    """
    positive_integer("packed", max_size=max_size)
    inner_observe = observe_of("the inner transformation of packed", inner)

    def layout_of(params):
        return Layout(jax.eval_shape(inner.init, params), jax.tree.structure(params), max_size)

    def init(params):
        state = inner.init(params)
        if not jax.tree.leaves(params):  # nothing to pack; optax.tree_map_params comes this way
            return PackedState(params, state)
        return layout_of(params).pack(state)

    def observe(updates, state, params=None, **extra):
        layout = layout_of(updates if params is None else params)
        with largest_batched(max_size):
            updates, new, reports = inner_observe(updates, layout.unpack(state), params, **extra)
        buffers, inner_state = layout.pack(new)
        new = PackedState(buffers or state.buffers, inner_state)  # of no parameters: as init had it
        return updates, new, reports

    return Packed.of(init, observe, blank_of(inner), exact=is_exact(inner), layout_of=layout_of)


def unpack_state(tx: optax.GradientTransformation, state: State, params: Tree) -> State:
    """The state of `inner` from the state of `packed(inner)`; `pack_state` goes back.

    Use it to look at a slot, and for checkpoints that do not depend on the packing.

    Arguments:
      tx: the result of `packed`; TypeError if it is anything else.
      state: its state.
      params: the parameters, or their shapes as `jax.ShapeDtypeStruct`.

    >>> import gradx, jax.numpy as jnp
    >>> params = {"w": jnp.ones(2), "b": jnp.ones(2)}
    >>> tx = gradx.packed(gradx.sgd(0.1, momentum=0.9))
    >>> _, state = tx.update(params, tx.init(params), params)
    >>> gradx.unpack_state(tx, state, params)[0].trace["b"].tolist()
    [1.0, 1.0]
    """
    return layout_for("unpack_state", tx, params).unpack(state)


def pack_state(tx: optax.GradientTransformation, state: State, params: Tree) -> PackedState:
    """The state of `packed(inner)` from a state of `inner`, say from a checkpoint made without packing.

    Arguments:
      tx: the result of `packed`; TypeError if it is anything else.
      state: a state of the transformation inside.
      params: the parameters, or their shapes as `jax.ShapeDtypeStruct`.

    Raises ValueError if the state is not one for these parameters, or is sharded.
    """
    return layout_for("pack_state", tx, params).pack(state)


def layout_for(owner: str, tx: optax.GradientTransformation, params: Tree) -> "Layout":
    if not isinstance(tx, Packed):
        raise TypeError(f"{owner} needs the result of gradx.packed, got {tx!r}")
    return tx.layout_of(params)


def grouped(slots: list[dict[int, jax.Array]], max_size: int) -> list[list[int]]:
    """The groups of arrays that share a buffer: first by slot and shape, then the rest by dtype."""
    groups: list[list[int]] = []
    alone: dict[int, DType] = {}
    for slot in slots:
        for run in alike({i: (x.dtype, x.shape) for i, x in slot.items() if packable(x, max_size)}):
            groups.append(run) if len(run) > 1 else alone.update({run[0]: slot[run[0]].dtype})
    return groups + [run for run in alike(alone) if len(run) > 1]


def packable(x: jax.Array, max_size: int) -> bool:
    key = jnp.issubdtype(x.dtype, jax.dtypes.extended)
    size = prod(x.shape)
    return not key and x.shape != () and isinstance(size, int) and size <= max_size


class Layout:
    """The place of each array of a state: a function of shapes and dtypes, and so the same at all steps."""

    def __init__(self, state: State, params: Treedef, max_size: int) -> None:
        self.avals, self.treedef = jax.tree.flatten(state)
        position = itertools.count()
        is_slot = lambda x: jax.tree.structure(x, is_leaf=is_stored) == params
        trees = jax.tree.leaves(state, is_leaf=is_slot)
        slots = [{next(position): x for x in jax.tree.leaves(tree)} for tree in trees]
        self.groups = grouped(slots, max_size)

    def pack(self, state: State) -> PackedState:
        """Copy the small arrays of an ordinary state into buffers."""
        leaves = aligned(self.treedef, state, ("the inner state that init makes", "the one given"), HINT)
        buffers = []
        for group in self.groups:
            for i in group:
                self.check(i, leaves[i])
            flat = [jnp.ravel(leaves[i]).astype(self.avals[i].dtype) for i in group]
            buffers.append(lax.concatenate(flat, 0))
            for i in group:
                leaves[i] = MaskedNode()
        return PackedState(tuple(buffers), self.treedef.unflatten(leaves))

    def unpack(self, state: State) -> State:
        """The ordinary state."""
        check_state("packed", PackedState, state)
        have = [(jnp.shape(x), x.dtype) for x in jax.tree.leaves(state.buffers)]
        sizes = [[prod(self.avals[i].shape) for i in group] for group in self.groups]
        should = [((sum(s),), self.avals[g[0]].dtype) for s, g in zip(sizes, self.groups, strict=True)]
        if have != should:
            raise ValueError(
                f"packed: the state has the buffers {described(have)}, and for these parameters should have "
                f"{described(should)}{HINT} If update was called without params, give them."
            )
        names = ("the inner state that init makes", "the one given")
        leaves = aligned(self.treedef, state.inner_state, names, HINT)
        for group, size, buffer in zip(self.groups, sizes, state.buffers, strict=True):
            for i, x in zip(group, lax.split(buffer, size), strict=True):
                leaves[i] = x.reshape(self.avals[i].shape)
        return self.treedef.unflatten(leaves)

    def check(self, i: int, x: jax.Array) -> None:
        """Raise for an array of another shape, or one that is visibly divided among devices."""
        place = lambda: f"packed: in the inner state, the array at {path_at(self.treedef, i)}"
        if jnp.shape(x) != self.avals[i].shape:
            raise ValueError(
                f"{place()} has shape {jnp.shape(x)}, and should have {self.avals[i].shape}{HINT}"
            )
        sharding = None if isinstance(x, Tracer) else getattr(x, "sharding", None)
        if sharding is not None and not sharding.is_fully_replicated:
            raise ValueError(
                f"{place()} is sharded ({sharding}), and a buffer would gather it: replicate it, or take a "
                f"max_size below its {prod(x.shape)} elements"
            )


def described(buffers: list[tuple]) -> str:
    return "[" + ", ".join(f"{dtype}{list(shape)}" for shape, dtype in buffers) + "]"
