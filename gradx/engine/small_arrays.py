"""Small arrays of one shape, computed on together: a few large kernels in place of many small ones."""

import contextlib
import contextvars
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
from jax import lax

from gradx.numerics.arrays import alike
from gradx.numerics.norms import in_range

__all__ = []

_largest: contextvars.ContextVar[int] = contextvars.ContextVar("largest", default=0)


@contextlib.contextmanager
def together(max_size: int) -> Iterator[None]:
    """Within, a rule takes arrays of up to so many elements in batches, of those that have one shape."""
    token = _largest.set(max_size)
    try:
        yield
    finally:
        _largest.reset(token)


def batches(arrays: dict[int, Any]) -> list[list[int]]:
    """The positions of what is computed on together; outside of `together`, of one after the other."""
    kinds: dict[int, Hashable] = {}
    for i, tree in arrays.items():
        leaves, treedef = jax.tree.flatten(tree)
        small = all(in_range(x.size, _largest.get()) for x in leaves)
        kinds[i] = (treedef, *((x.shape, x.dtype) for x in leaves)) if small else i
    return alike(kinds)


def batched(function: Callable, trees: list) -> list:
    """`function` of each tree; of several, through their stack."""
    if len(trees) == 1:
        return [function(trees[0])]
    # Flat, so that XLA sees the buffer of `packed` in what was cut from it, and copies nothing.
    flat = lambda *xs: lax.concatenate([x.ravel() for x in xs], 0).reshape(len(xs), *xs[0].shape)
    out = jax.vmap(function)(jax.tree.map(flat, *trees))
    leaves, treedef = jax.tree.flatten(out)
    cut = [lax.split(x.ravel(), [x.size // len(trees)] * len(trees)) for x in leaves]
    rows = (
        [c.reshape(x.shape[1:]) for c, x in zip(row, leaves, strict=True)] for row in zip(*cut, strict=True)
    )
    return [treedef.unflatten(row) for row in rows]
