"""The mean of the gradients that each device computed."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from optax import EmptyState

from gradx.core.arguments import argument
from gradx.core.factory import factory
from gradx.core.transformation import GradientTransformation
from gradx.core.tree import Tree, flatten, is_missing, path_at
from gradx.engine.leaf_checks import scalar_dtype
from gradx.engine.leafwise import leafwise
from gradx.numerics.device_axes import AxisName, axis_names, check_bound, differing

__all__ = ["average_gradients"]


@factory
def average_gradients(axis_name: AxisName, *, weight: str | None = None) -> GradientTransformation:
    """Take the mean of the gradients that the devices of a named axis have, each of its own rows.

        u = Σ w g / Σ w  over the devices of the axis, added in float32 or better

    Arguments:
      axis_name: the axis of `jax.shard_map` or `jax.pmap` that the rows are divided over, or a tuple of axes.
      weight: the name of an extra argument of `update`, say `"num_tokens"`: how much a device's gradient
        weighs, a number of at least 0. Where each is a mean over tokens, the result is the mean over
        all tokens. A device of weight 0 adds nothing, not even NaN; where all weights are 0, the result is 0.

    It is for local gradients. Under jit with NamedSharding gradients never are local. In `jax.shard_map` with
    check_vma=True, its default, `jax.grad` by parameters that all devices share is already the sum over the
    devices: differentiate by `jax.lax.pcast(params, axis_name, to="varying")` instead. Raises
    ValueError for a gradient that does not vary over the axis, because it would come out too large by the
    number of devices, and where there is no such axis.

    >>> import gradx, jax, jax.numpy as jnp
    >>> from jax.sharding import PartitionSpec as P
    >>> tx = gradx.chain(gradx.average_gradients("data"), gradx.sgd(1.0))
    >>> def step(w, x):
    ...     local = jax.lax.pcast(w, "data", to="varying")
    ...     grads = jax.grad(lambda w: jnp.mean((w - x) ** 2))(local)
    ...     return tx.update(grads, tx.init(w), w)[0]
    >>> mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    >>> x = jnp.ones(len(jax.devices()))
    >>> print(jax.shard_map(step, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())(jnp.zeros(()), x))
    2.0
    """
    owner = "average_gradients"
    axes = axis_names(owner, axis_name)
    if not axes:
        raise TypeError(f"{owner}: axis_name must be the name of an axis, got None")
    if not isinstance(weight, str | None):
        raise TypeError(f"{owner}: weight names an argument of update, got {weight!r}")
    mean = device_mean(axes)

    def observe(updates, state, params=None, **extra):
        check_local(owner, updates, axes)
        dtype = scalar_dtype(dict(enumerate(jax.tree.leaves(updates))))
        w = argument(owner, weight, extra, dtype) if weight else 1.0
        return mean.observe(updates, state, weight=w)

    return GradientTransformation.of(mean.init, observe)


def device_mean(axes: tuple[str, ...]) -> Any:
    """The mean over devices, each of which gives its `weight`."""

    def scalars(weight):
        # Not used before the gradients are added, so that one all-reduce takes both.
        whole = lax.psum(weight, axes)
        return {"weight": weight, "scale": 1 / jnp.where(whole == 0, 1, whole)}

    def rule(g, weight, scale):
        return lax.psum(jnp.where(weight == 0, 0, weight * g), axes) * scale

    return leafwise(EmptyState, rule, scalars)


def check_local(owner: str, updates: Tree, axes: tuple[str, ...]) -> None:
    """Raise ValueError unless all axes are there, and each gradient may differ between their devices."""
    check_bound(owner, axes)
    leaves, treedef = flatten(updates)
    for i, g in enumerate(leaves):
        for axis in () if is_missing(g) else sorted(set(axes) - set(differing(g, axes))):
            raise ValueError(
                f"{owner}, at {path_at(treedef, i)}: the gradient does not vary over {axis!r}. jax.grad by "
                "parameters that all devices share is the sum over them already; take it by "
                f"jax.lax.pcast(params, {axis!r}, to='varying') for local ones"
            )
