"""Small arrays of one shape are computed together: a few large kernels in place of many small ones."""

from collections.abc import Callable, Hashable
from typing import Any

import jax
from jax import lax

from gradx.core.tree import Tree
from gradx.numerics.arrays import alike
from gradx.numerics.norms import in_range

__all__ = []  # internal: `packed` sets the size, the engine asks

# Within `largest_batched(n)` a rule takes arrays of up to n elements in batches, each of one shape. JAX keeps
# a trace for each n.
largest_batched: Any = jax.make_user_context(0)


def batches(arrays: dict[int, Tree]) -> list[list[int]]:
    """The positions of the arrays of each batch; by default each array is alone."""
    kinds: dict[int, Hashable] = {}
    for i, tree in arrays.items():
        leaves, treedef = jax.tree.flatten(tree)
        small = all(in_range(x.size, largest_batched.value) for x in leaves)
        kinds[i] = (treedef, *((x.shape, x.dtype) for x in leaves)) if small else i
    return alike(kinds)


def batched(function: Callable[[Tree], Tree], trees: list[Tree]) -> list[Tree]:
    """`function` of each tree; several trees are stacked, and `function` is mapped over the stack."""
    if len(trees) == 1:
        return [function(trees[0])]
    # Flat, so that XLA sees that the pieces of a buffer of `packed` make up the buffer, and copies nothing.
    flat = lambda *xs: lax.concatenate([x.ravel() for x in xs], 0).reshape(len(xs), *xs[0].shape)
    out = jax.vmap(function)(jax.tree.map(flat, *trees))
    leaves, treedef = jax.tree.flatten(out)
    cut = [lax.split(x.ravel(), [x.size // len(trees)] * len(trees)) for x in leaves]
    rows = (
        [c.reshape(x.shape[1:]) for c, x in zip(row, leaves, strict=True)] for row in zip(*cut, strict=True)
    )
    return [treedef.unflatten(row) for row in rows]
