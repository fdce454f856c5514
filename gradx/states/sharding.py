"""The sharding of an optimizer's state, from the sharding of the parameters."""

import contextlib
from collections.abc import Mapping
from itertools import combinations
from math import prod
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import tree_leaves_with_path

from gradx.core.tree import Tree, flatten, is_missing, slash_path
from gradx.states.entries import Entry, entries

__all__ = ["state_sharding"]

AnyMesh: TypeAlias = Mesh | AbstractMesh
Specs: TypeAlias = list[PartitionSpec]  # of the parameters, or of the arrays of a state


def state_sharding(
    tx: optax.GradientTransformation,
    params: Tree,
    params_sharding: Tree,
    *,
    zero_axis: str | None = None,
    memory_kind: str | None = None,
) -> Tree:
    """The sharding of each array of a state, a tree like `tx.init(params)`, from the parameters' shardings.

    An array of its parameter's shape is split like the parameter; an array with some of its axes, such as
    Adafactor's means of rows, is split along those. Step counts and the like are whole on every device.

    Arguments:
      tx: any transformation of gradx or Optax.
      params: the parameters, or their shapes as `jax.ShapeDtypeStruct`.
      params_sharding: a `NamedSharding` for each parameter, or for a branch of them; all on one mesh.
      zero_axis: an axis of the mesh that the state is split over as well (ZeRO-1, Rajbhandari et al. 2020,
        arXiv:1910.02054), while the parameters stay as they are: along a parameter's first axis that divides,
        preferring axes that are not split yet. A parameter without such an axis keeps its state whole.
      memory_kind: the memory of the arrays that belong to parameters. "pinned_host" is the host's, from which
        `step` moves them to the device and back; None is the device's.

    `jax.jit(tx.init, out_shardings=...)` with it makes each device's part only, and `step` keeps it. Raises
    TypeError for another type than `NamedSharding`; ValueError for a sharding that does not fit its
    parameter, for several meshes, for a `zero_axis` that is not in the mesh or would split nothing, and for
    memory that the devices do not have.

    >>> import gradx, jax
    >>> from jax.sharding import NamedSharding, PartitionSpec
    >>> mesh = jax.make_mesh((1,), ("data",))
    >>> params = {"w": jax.ShapeDtypeStruct((8, 4), "float32")}
    >>> whole = NamedSharding(mesh, PartitionSpec())
    >>> state = gradx.state_sharding(gradx.adamw(1e-3), params, whole, zero_axis="data")
    >>> tuple(state[0].mu["w"].spec), tuple(state[0].count.spec)
    (('data',), ())
    """
    places = shardings(params, params_sharding)
    mesh, specs = places[0].mesh, [place.spec for place in places]
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(jnp.shape(p), jnp.result_type(p)), params)
    state = jax.eval_shape(tx.init, shapes)
    found = entries(state, shapes)
    parts = partition(tx, found, shapes, specs, mesh)
    if zero_axis is not None:
        whole, parts = parts, partition(tx, found, shapes, split(shapes, specs, mesh, zero_axis), mesh)
        if parts == whole:
            raise ValueError(
                f"state_sharding: zero_axis={zero_axis!r} would split nothing: no parameter that has a state "
                f"and is not split over it yet divides into {mesh.shape[zero_axis]} parts; take "
                "another axis, or leave it out"
            )
    kinds = [None if e.i is None else memory_kind for e in found]
    try:
        out = [NamedSharding(mesh, p, memory_kind=kind) for p, kind in zip(parts, kinds, strict=True)]
    except ValueError as e:
        raise ValueError(f"state_sharding: memory_kind={memory_kind!r}: {e}") from e
    return jax.tree.unflatten(jax.tree.structure(state), out)


def shardings(params: Tree, params_sharding: Tree) -> list[NamedSharding]:
    """The sharding of each parameter that is there."""
    try:
        places: list = jax.tree.leaves(jax.tree.broadcast(params_sharding, params))
    except ValueError as e:
        raise ValueError(f"state_sharding: params_sharding is not a tree like the parameters: {e}") from e
    if not places:
        raise ValueError("state_sharding: there are no parameters")
    for (path, p), place in zip(tree_leaves_with_path(params), places, strict=True):
        what = f"state_sharding: params_sharding of {slash_path(path) or 'the parameter'}"
        if not isinstance(place, NamedSharding):
            raise TypeError(f"{what} is {place!r}: give a jax.sharding.NamedSharding(mesh, spec)")
        if place.mesh != places[0].mesh:
            raise ValueError(f"{what} is on {place.mesh}, and others are on {places[0].mesh}: take one mesh")
        try:
            place.check_compatible_aval(jnp.shape(p))
            place.shard_shape(jnp.shape(p))
        except ValueError as e:
            raise ValueError(f"{what} does not fit the shape {jnp.shape(p)}: {e}") from e
    return places


def split(shapes: Tree, specs: Specs, mesh: AnyMesh, axis: str) -> Specs:
    """The partitions of the parameters, split over one more axis of the mesh."""
    if axis not in mesh.shape:
        raise ValueError(
            f"state_sharding: zero_axis={axis!r} is not an axis of the mesh, which has {list(mesh.shape)}"
        )
    leaves = jax.tree.leaves(shapes)
    return [divided(spec, p.shape, mesh.shape, axis) for p, spec in zip(leaves, specs, strict=True)]


def divided(spec: PartitionSpec, shape: tuple, sizes: Mapping[str, int], axis: str) -> PartitionSpec:
    """A partition over one more mesh axis: along an axis that divides, preferring one not split yet."""
    parts = [names(part) for part in padded(spec, shape)]
    if not any(axis in part for part in parts):
        for k in sorted(range(len(shape)), key=lambda k: bool(parts[k])):
            if shape[k] and shape[k] % prod(sizes[name] for name in (*parts[k], axis)) == 0:
                parts[k] = (*parts[k], axis)
                break
    return PartitionSpec(*(part[0] if len(part) == 1 else part or None for part in parts))


def partition(
    tx: optax.GradientTransformation, found: list[Entry], shapes: Tree, specs: Specs, mesh: AnyMesh
) -> Specs:
    """The partition of each array of a state, from the partitions of the parameters."""
    here = [i for i, p in enumerate(flatten(shapes)[0]) if not is_missing(p)]
    own = dict(zip(here, zip(jax.tree.leaves(shapes), specs, strict=True), strict=True))
    parts = []
    for e, part in zip(found, typed(tx, shapes, specs, mesh) or [()] * len(found), strict=True):
        if e.i is None:  # a count, a buffer of `packed`
            part = ()
        elif not any(part):  # whole, or made from a shape alone by foreign code
            p, spec = own[e.i]
            part = partition_like(e.array.shape, p.shape, padded(spec, p.shape), mesh.shape)
        while part and part[-1] is None:
            part = part[:-1]
        parts.append(PartitionSpec(*part))
    return parts


def typed(tx: optax.GradientTransformation, shapes: Tree, specs: Specs, mesh: AnyMesh) -> list[tuple] | None:
    """The partitions that JAX infers with the mesh in the types; None if `init` fails with such types."""
    explicit = mesh.abstract_mesh.update(axis_types=(AxisType.Explicit,) * len(mesh.axis_names))
    leaves, treedef = jax.tree.flatten(shapes)
    params = [p.update(sharding=NamedSharding(explicit, spec)) for p, spec in zip(leaves, specs, strict=True)]
    # `init` ran without such types. With them, ambiguous operations raise: a reshape, foreign code.
    with contextlib.suppress(Exception), jax.sharding.use_abstract_mesh(explicit):
        state = jax.eval_shape(tx.init, treedef.unflatten(params))
        return [() if x.sharding is None else tuple(x.sharding.spec) for x in jax.tree.leaves(state)]
    return None


def partition_like(shape: tuple, whole: tuple, parts: tuple, sizes: Mapping[str, int]) -> tuple:
    """The partition of an array that has some axes of its parameter, or blocks of them, or more axes."""
    more = len(shape) - len(whole)
    if more >= 0 and shape[more:] == whole:
        return (None,) * more + parts
    if more == 0 and all(n and length % n == 0 for n, length in zip(shape, whole, strict=True)):
        fits = lambda n, part: n % prod(sizes[name] for name in names(part)) == 0
        return tuple(part if fits(n, part) else None for n, part in zip(shape, parts, strict=True))
    kept = combinations(range(len(whole)), len(shape))
    found = {tuple(parts[k] for k in axes) for axes in kept if tuple(whole[k] for k in axes) == shape}
    return found.pop() if len(found) == 1 else ()


def names(part: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The axes of the mesh that an axis of an array is split over."""
    return part if isinstance(part, tuple) else (part,) if part else ()


def padded(spec: PartitionSpec, shape: tuple) -> tuple:
    return (*spec, *[None] * (len(shape) - len(spec)))
