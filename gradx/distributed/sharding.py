"""Where the state of an optimizer is, from where the parameters are."""

import contextlib
from itertools import combinations
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gradx.states.entries import entries
from gradx.tree import Tree, aligned, flatten, is_missing, slash_paths

__all__ = ["state_sharding"]


def state_sharding(
    tx: optax.GradientTransformation,
    params: Tree,
    params_sharding: Tree,
    *,
    zero_axis: str | None = None,
    memory_kind: str | None = None,
) -> Any:
    """The sharding of each array of a state, from that of the parameters; a tree like `tx.init(params)`.

    What has the shape of its parameter is split as that is, what has some of its axes along those, such as
    Adafactor's means of rows; step counts and the like are whole on every device.

    Arguments:
      tx: any transformation of gradx or Optax.
      params: the parameters, or their shapes as `jax.ShapeDtypeStruct`.
      params_sharding: a `NamedSharding` for each parameter, or one for all; of one mesh.
      zero_axis: an axis of the mesh that the state is split over as well (ZeRO-1, Rajbhandari et al. 2020,
        arXiv:1910.02054), while the parameters stay as they are: along the first axis of a parameter that
        divides, one that is not split yet if there is any. A parameter without one keeps its state whole.
      memory_kind: the memory that holds what belongs to a parameter, such as "pinned_host"; None for that
        of the parameters. `step` moves it to the device and back.

    `jax.jit(tx.init, out_shardings=...)` with it makes each device's part only. Raises TypeError for what is
    not a `NamedSharding`; ValueError for one that does not fit its parameter, for several meshes, for a
    `zero_axis` that is not in the mesh or would split nothing, and for memory that the devices do not have.

    >>> import gradx, jax
    >>> from jax.sharding import NamedSharding, PartitionSpec
    >>> mesh = jax.make_mesh((1,), ("data",))
    >>> params = {"w": jax.ShapeDtypeStruct((8, 4), "float32")}
    >>> whole = NamedSharding(mesh, PartitionSpec())
    >>> state = gradx.state_sharding(gradx.adamw(1e-3), params, whole, zero_axis="data")
    >>> state[0].mu["w"].spec, state[0].count.spec
    (PartitionSpec('data', None), PartitionSpec())
    """
    places = shardings(params, params_sharding)
    if not places:
        raise ValueError("state_sharding: there are no parameters")
    mesh = places[0].mesh
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(jnp.shape(p), jnp.result_type(p)), params)
    specs = [place.spec for place in places]
    found = state_specs(tx, shapes, specs, mesh)
    if zero_axis is not None:
        if zero_axis not in mesh.shape:
            raise ValueError(
                f"state_sharding: zero_axis={zero_axis!r} is not an axis of the mesh, which has {list(mesh.shape)}"
            )
        split = [
            divided(spec, p.shape, mesh, zero_axis)
            for spec, p in zip(specs, jax.tree.leaves(shapes), strict=True)
        ]
        whole, found = found, state_specs(tx, shapes, split, mesh)
        if found == whole:
            raise ValueError(
                f"state_sharding: zero_axis={zero_axis!r} would split nothing: "
                + why_nothing(specs, split, mesh, zero_axis)
            )
    state = jax.eval_shape(tx.init, shapes)
    own = [e.i is not None for e in entries(state, shapes)]
    return jax.tree.unflatten(
        jax.tree.structure(state),
        [
            NamedSharding(mesh, spec, memory_kind=memory_kind if is_own else None)
            for spec, is_own in zip(found, own, strict=True)
        ],
    )


def shardings(params: Tree, params_sharding: Tree) -> list[NamedSharding]:
    """The sharding of each parameter that is there."""
    leaves, treedef = flatten(params)
    if isinstance(params_sharding, NamedSharding):
        given = [params_sharding] * len(leaves)
    else:
        given = aligned(treedef, params_sharding, ("the parameters", "params_sharding"))
    found: list[NamedSharding] = []
    for path, p, place in zip(slash_paths(params), leaves, given, strict=True):
        if is_missing(p):
            continue
        if not isinstance(place, NamedSharding):
            raise TypeError(
                f"state_sharding: params_sharding of {path} is {place!r}: give jax.sharding.NamedSharding(mesh, "
                "spec)"
            )
        if found and place.mesh != found[0].mesh:
            raise ValueError(f"state_sharding: the mesh of {path} is {place.mesh}, of others {found[0].mesh}")
        try:
            place.shard_shape(jnp.shape(p))
        except ValueError as e:
            raise ValueError(f"state_sharding: params_sharding of {path} does not fit: {e}") from e
        found.append(place)
    return found


def state_specs(tx: Any, shapes: Tree, specs: list, mesh: Any) -> list[PartitionSpec]:
    """The partition of each array of a state."""
    state = jax.eval_shape(tx.init, shapes)
    params = jax.tree.leaves(shapes)
    position = {k: n for n, k in enumerate(i for i, p in enumerate(flatten(shapes)[0]) if not is_missing(p))}
    found = []
    traced = traced_specs(tx, shapes, specs, mesh)
    for k, e in enumerate(entries(state, shapes)):
        spec = traced[k] if traced else PartitionSpec()
        if not any(spec) and e.i is not None:
            n = position[e.i]
            spec = matched(e.array.shape, params[n].shape, specs[n])
        found.append(spec)
    return found


def traced_specs(tx: Any, shapes: Tree, specs: list, mesh: Any) -> list[PartitionSpec] | None:
    """What JAX finds on a mesh whose axes are part of the types; None where `init` cannot be typed so."""
    explicit = mesh.abstract_mesh.update(axis_types=(AxisType.Explicit,) * len(mesh.axis_names))
    leaves, treedef = jax.tree.flatten(shapes)
    typed = [p.update(sharding=NamedSharding(explicit, s)) for p, s in zip(leaves, specs, strict=True)]
    # What others wrote may raise anything there, and be right elsewhere.
    with contextlib.suppress(Exception), jax.sharding.use_abstract_mesh(explicit):
        state = jax.eval_shape(tx.init, treedef.unflatten(typed))
        return [PartitionSpec() if x.sharding is None else x.sharding.spec for x in jax.tree.leaves(state)]
    return None


def matched(shape: tuple, whole: tuple, spec: PartitionSpec) -> PartitionSpec:
    """The part of a parameter's partition for an array that has some of its axes, or more before them."""
    axes = [*spec, *[None] * (len(whole) - len(spec))]
    if shape[len(shape) - len(whole) :] == whole:
        return PartitionSpec(*[None] * (len(shape) - len(whole)), *axes)
    kept = combinations(range(len(whole)), len(shape))
    fits = {tuple(axes[k] for k in own) for own in kept if tuple(whole[k] for k in own) == shape}
    return PartitionSpec(*fits.pop()) if len(fits) == 1 else PartitionSpec()


def divided(spec: PartitionSpec, shape: tuple, mesh: Any, axis: str) -> PartitionSpec:
    """A partition over one more axis of the mesh: where it divides, and first where nothing is split yet."""
    parts = [names(part) for part in [*spec, *[None] * (len(shape) - len(spec))]]
    if any(axis in part for part in parts):
        return spec
    for k in sorted(range(len(shape)), key=lambda k: len(parts[k])):
        into = prod(mesh.shape[name] for name in (*parts[k], axis))
        if shape[k] and shape[k] % into == 0:
            new = list(spec) + [None] * (len(shape) - len(spec))
            new[k] = (*parts[k], axis) if parts[k] else axis
            return PartitionSpec(*new)
    return spec


def names(part: Any) -> tuple[str, ...]:
    """The axes of the mesh that one axis of an array is split over."""
    return () if part is None else (part,) if isinstance(part, str) else tuple(part)


def why_nothing(specs: list, split: list, mesh: Any, axis: str) -> str:
    """The cause, and how to mend it."""
    if specs != split:
        return "the state has no array of a parameter that could be; leave zero_axis out"
    if all(axis in [name for part in spec for name in names(part)] for spec in specs):
        return "it splits all parameters already, and so their state; leave zero_axis out"
    return f"no axis of a parameter can be divided into {mesh.shape[axis]} parts more; take another axis"
