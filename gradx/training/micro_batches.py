"""The gradient of a large batch from small ones, in one compiled step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path

from gradx.core import widened
from gradx.hyper import positive_integer
from gradx.transforms.accumulation import accumulator, added, scalar
from gradx.tree import Tree, norm_of

__all__ = ["accumulate_gradients", "micro_batches"]


def accumulate_gradients(
    loss_fn: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    weight: Callable[[Any], Any] | None = None,
    dtype: Any = None,
    squared_norms: bool = False,
) -> Callable[..., Any]:
    """`jax.value_and_grad` over micro-batches, one after the other: the memory of one, the gradient of all.

        loss, grads = Σ w (loss, grads of a micro-batch) / Σ w

    Arguments:
      loss_fn: a function `(params, batch, *args)` that gives the mean loss of a batch, and with it
        anything else if `has_aux`.
      argnums: which arguments of it to differentiate by, as in `jax.value_and_grad`; not the batch.
      has_aux: `loss_fn` gives a pair. What is beside the losses comes stacked, one for each micro-batch.
      weight: a function of a micro-batch that gives the number of tokens, or rows, that its loss is the mean
        of, where they differ; at least 0. One of weight 0 adds nothing, not even NaN.
      dtype: of what is accumulated; None for that of each parameter, but at least float32.
      squared_norms: give ‖g‖² of each micro-batch too, as a third result, for `gradient_noise_scale`.

    Called as `(params, batches, *args)`, where the first axis of all arrays in `batches` is that of the
    micro-batches, as `micro_batches` makes it. It is a `jax.lax.scan`, and belongs into a jitted step. The
    gradients are in the dtype that they are accumulated in. Raises ValueError where the first axes differ.

    >>> import gradx, jax.numpy as jnp
    >>> loss = lambda w, x: jnp.mean((w - x) ** 2)
    >>> value, grads = gradx.accumulate_gradients(loss)(0.0, gradx.micro_batches(jnp.arange(8.0), 4))
    >>> float(value), float(grads)
    (17.5, -7.0)
    """
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if any(i < 0 or i == 1 for i in positions):
        raise ValueError(
            f"accumulate_gradients: argnums must be at least 0 and not 1, the batch, got {argnums}"
        )
    graded = jax.value_and_grad(loss_fn, argnums, has_aux)
    mean = accumulator(dtype)

    def run(params: Any, batches: Any, *args: Any, **kwargs: Any) -> tuple:
        same_length(batches)
        chosen = tuple((params, batches, *args)[i] for i in positions)

        def step(carry, batch):
            so_far, before = carry
            out, grads = graded(params, batch, *args, **kwargs)
            w = jnp.ones_like(before)
            if weight is not None:
                w = scalar("accumulate_gradients", "weight", weight(batch), w.dtype)
            both, shares = added(w, before)
            _, so_far = mean.update(grads, so_far, **shares)
            norms = norm_of(widened(jax.tree.leaves(grads))) ** 2 if squared_norms else None
            return (so_far, both), (out, w, norms)

        start = mean.init(chosen[0] if isinstance(argnums, int) else chosen), jnp.zeros(())
        ((grads,), _), (out, weights, norms) = jax.lax.scan(step, start, batches)
        losses, aux = out if has_aux else (out, None)
        loss = weighted_mean(losses, weights)
        value = (loss, aux) if has_aux else loss
        return (value, grads, norms) if squared_norms else (value, grads)

    return run


def weighted_mean(losses: jax.Array, weights: jax.Array) -> jax.Array:
    """In float32 or better; without those of weight 0, which may be NaN."""
    losses = widened(losses)
    weights = weights.astype(losses.dtype)
    whole = jnp.sum(weights)
    return jnp.sum(jnp.where(weights == 0, 0, weights * losses)) / jnp.where(whole == 0, 1, whole)


def micro_batches(batch: Tree, count: int) -> Tree:
    """A batch as `count` micro-batches: arrays of shape (n, ...) become (count, n / count, ...).

    Row i goes to micro-batch i mod count, so that each has rows of every device that the batch is divided
    among, and none has to move.

    Arguments:
      batch: a tree of arrays whose first axis is that of the rows.
      count: how many, at least 1.

    Raises ValueError where the first axes differ or cannot be divided.

    >>> import gradx, jax.numpy as jnp
    >>> gradx.micro_batches(jnp.arange(6), 2).tolist()
    [[0, 2, 4], [1, 3, 5]]
    """
    positive_integer("micro_batches", count=count)
    rows = same_length(batch, "micro_batches")
    if rows % count:
        raise ValueError(
            f"micro_batches: {rows} rows cannot be divided into {count} micro-batches; pad them to "
            f"{rows + -rows % count}, with a mask that tells the loss and the weight which are real"
        )
    return jax.tree.map(lambda x: x.reshape(rows // count, count, *x.shape[1:]).swapaxes(0, 1), batch)


def same_length(batch: Tree, owner: str = "accumulate_gradients") -> int:
    """The length of the first axis of all arrays, which must be the same."""
    lengths: dict[Any, str] = {}
    for path, x in tree_flatten_with_path(batch)[0]:
        place = keystr(path) or "the root"
        lengths.setdefault(jnp.shape(x)[0] if jnp.ndim(x) else "a scalar", place)
    if len(lengths) != 1 or "a scalar" in lengths:
        found = ", ".join(f"{n} at {place}" for n, place in lengths.items())
        raise ValueError(
            f"{owner}: all arrays must have a first axis of one length, and have {found or 'none'}"
        )
    return next(iter(lengths))
