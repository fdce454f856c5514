"""Named axes of devices, within `jax.shard_map` or `jax.pmap`: arrays that vary over them, and sums.

Where `shard_map` checks (check_vma=True, its default), the type of an array names the axes that it varies
over. Elsewhere nothing is known, and every array counts as varying.
"""

from typing import Any, TypeAlias

import jax
from jax import lax

__all__ = []  # internal: links take `axis_name`

AxisName: TypeAlias = str | tuple[str, ...]


def axis_names(owner: str, axis_name: AxisName | None) -> tuple[str, ...]:
    """The names as a tuple, empty for None; TypeError unless it is a name or a tuple of names."""
    names = (axis_name,) if isinstance(axis_name, str) else () if axis_name is None else axis_name
    is_names = isinstance(names, tuple | list) and all(isinstance(name, str) for name in names)
    if not is_names or (not names and axis_name is not None):
        raise TypeError(
            f"{owner}: axis_name must be the name of an axis, or a tuple of names, got {axis_name!r}"
        )
    return tuple(names)


def is_bound(axes: tuple[str, ...]) -> bool:
    """Whether all are axes of a `shard_map`, `pmap` or `vmap` around this code."""
    try:
        lax.axis_size(axes)
    except NameError:
        return False
    return True


def check_bound(owner: str, axes: tuple[str, ...]) -> None:
    """Raise ValueError unless all axes are bound."""
    for axis in axes:
        if not is_bound((axis,)):
            raise ValueError(
                f"{owner}: there is no axis {axis!r} here; axis_name is for code within jax.shard_map or "
                "jax.pmap over it. Under jit with NamedSharding, arrays are whole: leave it out"
            )


def differing(x: Any, axes: tuple[str, ...]) -> tuple[str, ...]:
    """The axes between whose devices an array may differ."""
    return tuple(axis for axis in axes if axis in varying(x) or not is_checked(axis))


def varying(x: Any) -> frozenset:
    """The axes over which an array varies by its type; the type of a mutable variable of Flax names none."""
    return getattr(jax.typeof(x).manual_axis_type, "varying", frozenset())


def varying_like(x: Any, *likes: Any) -> Any:
    """The same array, whose type varies over all axes that one of the others varies over.

    `jax.lax.scan` takes a state as its carry only if its type is the same before and after a step.
    """
    return varying_over(x, frozenset().union(*map(varying, likes)))


def each_device_own(state: Any, params: Any, together: tuple[str, ...] = ()) -> Any:
    """The state, whose arrays vary over all axes over which a parameter varies, but for those `together`."""
    axes = frozenset().union(*map(varying, jax.tree.leaves(params))).difference(together)
    return jax.tree.map(lambda x: varying_over(x, axes), state)


def varying_over(x: Any, axes: frozenset) -> Any:
    """The same array, whose type varies over these axes too."""
    missing = axes - varying(x)
    return lax.pcast(x, tuple(sorted(missing)), to="varying") if missing else x


def is_checked(axis: str) -> bool:
    """Whether types track variation over an axis: they do if the index of the device has a varying type."""
    return axis in varying(lax.axis_index(axis))


def device_count(axes: tuple[str, ...]) -> int:
    """The number of devices along all these axes together."""
    return lax.axis_size(axes) if axes else 1


def as_local(tree: Any, axes: tuple[str, ...]) -> Any:
    """Mark arrays as device-varying, so that gradients with respect to them stay local."""

    def cast(x: Any) -> Any:
        missing = tuple(axis for axis in axes if is_bound((axis,)) and axis not in differing(x, axes))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, tree)


def sum_over(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """The sum of the devices' values."""
    return lax.psum(x, axes) if axes else x


def mean_over(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """The mean of the devices' values."""
    axes = differing(x, axes)
    return lax.pmean(x, axes) if axes else x
