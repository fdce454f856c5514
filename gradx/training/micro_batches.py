"""The gradient of a large batch from small ones, in one compiled step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jax.tree_util import keystr, tree_flatten_with_path
from optax import EmptyState

from gradx.core.arguments import scalar
from gradx.core.foreign import typed_like, widened
from gradx.core.ranges import positive_integer
from gradx.core.tree import Tree, norm_of
from gradx.numerics.device_axes import AxisName, as_local, axis_names, is_bound
from gradx.transforms.average_gradients import device_mean
from gradx.wrappers.accumulation import accumulator, added

__all__ = ["accumulate_gradients", "micro_batches"]


def accumulate_gradients(
    loss_fn: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    weight: Callable[[Any], Any] | None = None,
    dtype: Any = None,
    axis_name: AxisName | None = None,
    mesh: Any = None,
    squared_norms: bool = False,
) -> Callable[..., Any]:
    """`jax.value_and_grad` over micro-batches, one after the other: the memory of one, the gradient of all.

        loss, grads = Σ w (loss, grads of a micro-batch) / Σ w

    Arguments:
      loss_fn: a function `(params, batch, *args)` that gives the mean loss of a batch, or if `has_aux`,
        a pair of it and anything else.
      argnums: which arguments of it to differentiate by, as in `jax.value_and_grad`; not the batch.
      has_aux: `loss_fn` gives a pair. The second parts come stacked, one for each micro-batch.
      weight: a function from a micro-batch to the number of tokens, or rows, that its loss is the mean of,
        where they differ; at least 0. A micro-batch of weight 0 adds nothing, not even NaN.
      dtype: the dtype of the sums; None for each parameter's dtype, but at least float32.
      axis_name: the axis of devices that the rows are divided over, or a tuple of axes. Each device adds up
        the gradients of its rows, and after the last micro-batch the sums are reduced, once, by the weights.
        The axis belongs to the `jax.shard_map` or `jax.pmap` around; or to `mesh`, for arrays under jit with
        NamedSharding, which without `axis_name` are reduced for every micro-batch.
      mesh: the mesh of that axis, where no `shard_map` or `pmap` is around; None for that of `jax.set_mesh`.
        The parameters are then whole on each device of the axis; other axes divide them as before.
        Second parts, and ‖g‖², come one for each micro-batch of each device.
      squared_norms: give ‖g‖² of each micro-batch too, as a third result, for `gradient_noise_scale`.

    Call the result as `(params, batches, *args)`, where the first axis of all arrays in `batches` counts the
    micro-batches, as `micro_batches` makes it. It is a `jax.lax.scan`, and belongs into a jitted step. The
    gradients are in the dtype of the sums. Raises ValueError where the first axes differ.

    >>> import gradx, jax.numpy as jnp
    >>> loss = lambda w, x: jnp.mean((w - x) ** 2)
    >>> value, grads = gradx.accumulate_gradients(loss)(0.0, gradx.micro_batches(jnp.arange(8.0), 4))
    >>> float(value), float(grads)
    (17.5, -7.0)
    """
    owner = "accumulate_gradients"
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if any(i < 0 or i == 1 for i in positions):
        raise ValueError(f"{owner}: argnums must be at least 0 and not 1, the batch, got {argnums}")
    graded = jax.value_and_grad(loss_fn, argnums, has_aux)
    mean = accumulator(dtype)
    axes = axis_names(owner, axis_name)

    def run(params: Any, batches: Any, *args: Any, **kwargs: Any) -> tuple:
        same_length(batches)
        given = dict(enumerate((params, batches, *args)))

        def scanned(chosen, batches):
            def step(carry, batch):
                so_far, before = carry
                out, grads = graded(*(given | chosen | {1: batch}).values(), **kwargs)
                w = jnp.ones_like(before)
                if weight is not None:
                    w = scalar(owner, "weight", weight(batch), w.dtype)
                both, shares = added(w, before)
                _, so_far = mean.update(grads, so_far, **shares)
                squared = norm_of(widened(jax.tree.leaves(grads))) ** 2 if squared_norms else None
                return (so_far, both), (out, w, squared)

            like = chosen[argnums] if isinstance(argnums, int) else tuple(chosen[i] for i in positions)
            start = as_local((mean.init(like), jnp.zeros(())), axes)
            ((grads,), whole), (out, weights, squared) = jax.lax.scan(step, start, batches)
            losses, aux = out if has_aux else (out, None)
            loss = weighted_mean(losses, weights)
            if axes:
                (loss, sums), _ = device_mean(axes).update((loss, grads), EmptyState(), weight=whole)
                grads = typed_like(sums, grads)
            value = (loss, aux) if has_aux else loss
            return (value, grads, squared) if squared_norms else (value, grads)

        on_device = lambda chosen, batches: scanned(as_local(chosen, axes), batches)
        outside = axes and not is_bound(axes)
        run_on = over_mesh(on_device, axes, mesh, has_aux, squared_norms) if outside else on_device
        return run_on({i: given[i] for i in positions}, batches)

    return run


def over_mesh(
    on_device: Callable, axes: tuple[str, ...], mesh: Any, has_aux: bool, squared_norms: bool
) -> Callable:
    """`on_device` with the rows divided over a mesh, and the parameters whole on each device."""
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    for axis in axes:
        if axis not in mesh.axis_names:
            raise ValueError(
                f"accumulate_gradients: there is no axis {axis!r} here; call it within jax.shard_map or "
                "jax.pmap over it, or give the mesh that the batches are divided over: mesh=mesh"
            )
    value = (P(), P(axes)) if has_aux else P()
    out_specs = (value, P(), P(axes)) if squared_norms else (value, P())
    specs = {"in_specs": (P(), P(None, axes)), "out_specs": out_specs}
    return jax.shard_map(on_device, mesh=mesh, axis_names=set(axes), **specs)


def weighted_mean(losses: jax.Array, weights: jax.Array) -> jax.Array:
    """The mean of the losses in float32 or better, without losses of weight 0, which may be NaN."""
    losses = widened(losses)
    weights = weights.astype(losses.dtype)
    whole = jnp.sum(weights)
    return jnp.sum(jnp.where(weights == 0, 0, weights * losses)) / jnp.where(whole == 0, 1, whole)


def micro_batches(batch: Tree, count: int) -> Tree:
    """A batch as `count` micro-batches: arrays of shape (n, ...) become (count, n / count, ...).

    Row i goes to micro-batch i mod count, so each micro-batch has rows of every device that the batch is
    divided among, and no row has to move.

    Arguments:
      batch: a tree of arrays whose first axis counts the rows.
      count: how many micro-batches, at least 1.

    Raises ValueError where the first axes differ or cannot be divided.

    >>> import gradx, jax.numpy as jnp
    >>> gradx.micro_batches(jnp.arange(6), 2).tolist()
    [[0, 2, 4], [1, 3, 5]]
    """
    owner = "micro_batches"
    positive_integer(owner, count=count)
    rows = same_length(batch, owner)
    if rows % count:
        raise ValueError(
            f"{owner}: {rows} rows cannot be divided into {count} micro-batches; pad them to "
            f"{rows + -rows % count}, with a mask that tells the loss and the weight which rows are real"
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
